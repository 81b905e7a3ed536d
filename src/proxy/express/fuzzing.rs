//! What must hold of the lane's heads, whatever comes: for `server::fuzzing`.

use super::classify::Seen;
use super::head::Head;
use super::response::Response;
use super::table::{Rows, Table};
use crate::filter::Fields;

/// Name and value of each line, which holds nothing that would end it.
fn lines(written: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some(text) = written.strip_suffix(b"\r\n") else {
        assert!(written.is_empty(), "a line without an end");
        return Vec::new();
    };
    let mut all = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.contains(&b'\r') && !line.contains(&0), "{}", line.escape_ascii());
        let colon = line.windows(2).position(|two| two == b": ").unwrap_or_else(|| panic!("{}", line.escape_ascii()));
        all.push((line[..colon].to_vec(), line[colon + 2..].to_vec()));
    }
    all
}

fn told(table: &Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    table.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn written(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    table.write_to(0..0, &mut out);
    out
}

/// A request's head that the strict reader let pass: it is written as it was told, and stays one whatever filters do.
pub(crate) fn request(bytes: &[u8], rows: Rows) {
    let (method, target) = (rows.method, rows.target);
    let mut head = Head { fields: Table::of_request(bytes, rows), method, target };
    let _ = Seen::of(&head.fields, &[]);
    let before = told(&head.fields);
    assert_eq!(lines(&written(&head.fields)), before);
    let mut copy = Head::default();
    head.copy_to(&mut copy);
    assert_eq!(written(&copy.fields), written(&head.fields));
    if let Some((name, value)) = before.first() {
        let name = String::from_utf8_lossy(name).into_owned();
        // Refused or right, but never more than one field.
        let added = usize::from(head.fields.add(&name, value).is_ok());
        assert_eq!(lines(&written(&head.fields)).len(), before.len() + added);
        let others = before.iter().filter(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes())).count();
        assert!(head.fields.set(&name, b"a\r\nb: c").is_err());
        let set = usize::from(head.fields.set(&name, b"new").is_ok());
        assert_eq!(lines(&written(&head.fields)).len(), others + set);
        head.fields.remove(&name);
        assert_eq!(lines(&written(&head.fields)).len(), others);
    }
    let mut out = Vec::new();
    copy.write_to(&mut out);
    assert!(out.ends_with(&written(&copy.fields)));
}

/// What an endpoint sends: a head is found wherever it is cut, and what goes on of it is a head again, with one framing.
pub(crate) fn response(cut: usize, bytes: &[u8]) {
    let mut all = bytes.to_vec();
    let whole = Response::read(&mut all);
    let mut part = bytes[..cut.min(bytes.len())].to_vec();
    match Response::read(&mut part) {
        Ok(None) => assert_eq!(part, &bytes[..cut.min(bytes.len())], "what waits is kept"),
        Ok(Some(early)) => assert!(matches!(&whole, Ok(Some(whole)) if told(&whole.fields) == told(&early.fields))),
        Err(_) => assert!(whole.is_err() || matches!(&whole, Ok(Some(_))), "more bytes never make half of a head of it"),
    }
    let Ok(Some(mut response)) = whole else { return };
    let framing = response.framing(false);
    response.strip_hop_by_hop();
    response.strip_framing();
    assert!(!response.fields.has(b"connection") && !response.fields.has(b"keep-alive"));
    let fields = told(&response.fields);
    assert_eq!(lines(&written(&response.fields)), fields);
    let mut out = Vec::new();
    response.write_to(&mut out);
    out.extend_from_slice(b"\r\n");
    let Ok(Some(again)) = Response::read(&mut out) else { panic!("what was written is no head: {}", out.escape_ascii()) };
    assert_eq!(again.body(), b"");
    assert_eq!(again.status, response.status);
    if !response.is_informational() && response.status != 204 && !response.is_http10 {
        // How the body ends is not changed by what is taken off.
        assert_eq!(again.framing(false).map(|(ends, _)| ends), framing.map(|(ends, _)| ends));
    }
}
