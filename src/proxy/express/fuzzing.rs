//! What must hold of the lane's heads, whatever comes: for `server::fuzzing`.

use http::{Method, Version};
use pingora_http::RequestHeader;

use super::classify::{Seen, why_general};
use super::head::Head;
use super::response::Response;
use super::table::{Rows, Table};
use super::{Express, Framing};
use crate::filter::{Exchange, Fields, RequestId};
use crate::proxy::ctx::Connection;
use crate::proxy::enter::{Admitted, Arrival, Entrance};

impl Express {
    /// Open or closed, whatever the environment says.
    pub(crate) fn opened(self, is_open: bool) -> Self {
        Self { is_open, ..self }
    }
}

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

/// A head that the strict reader let pass, before the classifier: what it admits the general way takes for the same request of the same
/// client, to the same route, and explains as one for the lane. Whether it is admitted.
pub(crate) fn classify(express: &Express, bytes: &[u8], (rows, again): (Rows, Rows), connection: &Connection) -> bool {
    let mut head = general_head(bytes, again);
    let Some(admitted) = express.admit_line(bytes, rows, Framing::Empty, connection) else { return false };
    let snapshot = express.common.store.load();
    let entrance = Entrance { listener: connection.index, peer: connection.client.ip() };
    let mut exchange = Exchange::new(RequestId::mint(), connection.client, connection.scheme);
    let arrival = Arrival::new(&head, &mut exchange, entrance, &snapshot);
    let Admitted { target, unmerged } =
        arrival.admit(&mut head, &express.common.via, &snapshot).unwrap_or_else(|error| panic!("refused elsewhere: {error:?}"));
    exchange.target = target;
    let route = arrival.route(&mut head, &mut exchange, unmerged, &snapshot);
    let route = route.unwrap_or_else(|error| panic!("another route elsewhere: {error:?}"));
    assert_eq!(route.name, admitted.route.name);
    assert_eq!(why_general(&head, &route), None);
    let said = |exchange: &Exchange| {
        let target = &exchange.target;
        let parts = [target.method().as_str(), target.host(), target.path(), target.query().unwrap_or("-")];
        (parts.map(str::to_owned), exchange.client.address, exchange.scheme)
    };
    assert_eq!(said(&exchange), said(&admitted.exchange));
    // What is sent is what was matched.
    let mut out = Vec::new();
    admitted.head.write_to(&mut out);
    let line = [head.method.as_str().as_bytes(), b" ", head.raw_path(), b" HTTP/1.1\r\n"].concat();
    assert!(out.starts_with(&line), "{} {}", out.escape_ascii(), line.escape_ascii());
    true
}

/// The head as Pingora makes one of it.
fn general_head(text: &[u8], rows: Rows) -> RequestHeader {
    let (method, target, version) = (rows.method, rows.target, if rows.is_http10 { Version::HTTP_10 } else { Version::HTTP_11 });
    let method = Method::from_bytes(method.of(text)).unwrap_or_else(|error| panic!("no method: {error}"));
    let mut head = RequestHeader::build(method, target.of(text), None).unwrap_or_else(|error| panic!("no head: {error}"));
    head.set_version(version);
    for (name, value) in Table::of_request(text, rows).iter() {
        let name = String::from_utf8_lossy(name).into_owned();
        let value = pingora_http::header_value_from_raw(bytes::Bytes::copy_from_slice(value));
        head.append_header(name, value).unwrap_or_else(|error| panic!("no field: {error}"));
    }
    head
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
