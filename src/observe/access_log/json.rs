//! A line as a JSON object (RFC 8259): what has no value is left out.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::digits::{Line, address, decimal, hexadecimal, thousandths};
use super::stamp::Moment;
use crate::observe::{Connect, Event};

/// A key as it stands in a line, with what is around it. Keys are our own, and need no escapes.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// Likewise, with the quote that begins a text.
macro_rules! text {
    ($name:literal) => {
        concat!(",\"", $name, "\":\"").as_bytes()
    };
}

/// What a line has room for at once: hardly one is longer.
const ROOM: usize = 640;

/// Appends the object, and ends the line.
pub(super) fn write_line(event: &Event<'_>, moment: Moment<'_>, out: &mut Vec<u8>) {
    out.reserve(ROOM);
    write(event, moment, out);
    out.push(b'\n');
}

/// Appends the object.
fn write(event: &Event<'_>, moment: Moment<'_>, out: &mut Vec<u8>) {
    let mut object = Object { out };
    object.out.extend_from_slice(b"{\"time\":\"");
    moment.rfc3339(object.out);
    object.out.extend_from_slice(b"\",\"id\":\"");
    hexadecimal(event.id, object.out);
    object.out.push(b'"');
    object.ip(text!("client_ip"), event.client_ip());
    if let Some(port) = event.client_port() {
        object.number(key!("client_port"), port.into());
    }
    object.ip(text!("peer_ip"), event.proxy_ip());
    object.text(text!("listener"), event.listener);
    object.word(text!("scheme"), event.scheme);
    if let Some(tls) = event.tls {
        object.text(text!("tls_version"), tls.version());
        object.text(text!("tls_cipher"), tls.cipher());
        object.some(text!("tls_sni"), tls.server_name());
        if tls.is_resumed() {
            object.out.extend_from_slice(b",\"tls_resumed\":true");
        }
    }
    if let Some(certificate) = event.certificate() {
        object.text(text!("client_cert_subject"), certificate.subject());
        object.text(text!("client_cert_fingerprint"), certificate.fingerprint());
    }
    if !event.protocol.is_empty() {
        object.word(text!("protocol"), event.protocol);
    }
    object.known(text!("method"), event.method);
    object.known(text!("host"), event.host);
    object.known(text!("path"), event.path);
    object.some(text!("query"), event.query);
    object.bytes(text!("user_agent"), event.user_agent);
    object.bytes(text!("referer"), event.referer);
    if let Some(status) = event.status {
        object.number(key!("status"), status.into());
    }
    object.number(key!("request_bytes"), event.received);
    object.number(key!("response_bytes"), event.sent);
    object.millis(key!("duration_ms"), event.duration);
    object.millis(key!("routed_ms"), event.timing.routed);
    match event.timing.connect {
        Some(Connect::Opened(took)) => object.millis(key!("connect_ms"), Some(took)),
        Some(Connect::Reused) => object.out.extend_from_slice(b",\"reused\":true"),
        None => {}
    }
    object.millis(key!("response_ms"), event.timing.response);
    object.some(text!("route"), event.route);
    object.some(text!("upstream"), event.upstream);
    object.some(text!("endpoint"), event.endpoint);
    if event.tries > 0 {
        object.number(key!("tries"), event.tries.into());
    }
    if !event.notes.is_empty() {
        object.out.extend_from_slice(key!("notes"));
        for (index, note) in event.notes.iter().enumerate() {
            object.out.extend_from_slice(if index == 0 { b"[\"" } else { b",\"" });
            string(note, object.out);
        }
        object.out.push(b']');
    }
    object.some(text!("reason"), event.reason());
    if let Some(failure) = &event.failure {
        object.text(text!("party"), failure.party);
        object.known(text!("detail"), failure.message);
    }
    object.out.push(b'}');
}

struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn text(&mut self, key: &[u8], value: &str) {
        self.out.extend_from_slice(key);
        string(value, self.out);
    }

    /// A word of the program, which needs no escapes.
    fn word(&mut self, key: &[u8], value: &'static str) {
        self.out.extend_from_slice(key);
        ended(value.as_bytes(), self.out);
    }

    /// Text that is empty where nothing is known.
    fn known(&mut self, key: &[u8], value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    fn some(&mut self, key: &[u8], value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// What is no UTF-8 becomes U+FFFD.
    fn bytes(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value else { return };
        self.out.extend_from_slice(key);
        if is_plain(value) {
            ended(value, self.out);
        } else {
            string(&String::from_utf8_lossy(value), self.out);
        }
    }

    fn ip(&mut self, key: &[u8], value: Option<IpAddr>) {
        if let Some(ip) = value {
            self.out.extend_from_slice(key);
            address(ip, self.out);
            self.out.push(b'"');
        }
    }

    fn number(&mut self, key: &[u8], value: u64) {
        self.out.extend_from_slice(key);
        decimal(value, self.out);
    }

    fn millis(&mut self, key: &[u8], value: Option<Duration>) {
        if let Some(value) = value {
            self.out.extend_from_slice(key);
            millis(value, self.out);
        }
    }
}

/// Milliseconds with three decimals.
pub(super) fn millis(duration: Duration, out: &mut impl Line) {
    decimal(duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into()), out);
    let micros = duration.subsec_micros() % 1000;
    out.ascii(b".");
    thousandths(micros.into(), out);
}

/// A string whose first quote is there. Beyond what JSON asks for, it escapes all that a terminal or a reader of lines may take for more than text: DEL,
/// the C1 controls, and the two line separators of Unicode.
fn string(text: &str, out: &mut Vec<u8>) {
    // Nearly all text is plain ASCII.
    if is_plain(text.as_bytes()) {
        return ended(text.as_bytes(), out);
    }
    escaped(text, out);
    out.push(b'"');
}

fn ended(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(text);
    out.push(b'"');
}

/// Whether all bytes stand for themselves. Without an early end, so that many are looked at at once.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & matches!(byte, b' ' | b'!' | b'#'..=b'[' | b']'..=b'~'))
}

fn escaped(text: &str, out: &mut Vec<u8>) {
    let mut from = 0;
    for (at, c) in text.char_indices() {
        if !matches!(c, '"' | '\\' | '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[from..at]);
        from = at + c.len_utf8();
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            other => {
                // Writing to a Vec can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::testing::{refused, sound};
    use super::*;
    use crate::observe::Failure;
    use crate::observe::access_log::stamp::Stamp;

    fn line(event: &Event<'_>) -> String {
        let mut line = Vec::new();
        write(event, Stamp::new().at(event.time), &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_sound_request() {
        assert_eq!(
            line(&sound()),
            concat!(
                r#"{"time":"2026-01-02T03:04:05.678Z","id":"0123456789abcdef0123456789abcdef","#,
                r#""client_ip":"192.0.2.7","client_port":4711,"listener":"main","scheme":"http","protocol":"HTTP/1.1","#,
                r#""method":"GET","host":"example.com","path":"/a%20b","query":"x=1&y","user_agent":"curl/8.5.0","#,
                r#""referer":"https://example.org/?q=%22","status":200,"request_bytes":3,"response_bytes":1234,"#,
                r#""duration_ms":12.345,"routed_ms":0.021,"connect_ms":0.304,"response_ms":11.000,"#,
                r#""route":"all","upstream":"api","endpoint":"10.0.0.1:8080","tries":1}"#,
            )
        );
    }

    #[test]
    fn a_client_behind_a_proxy() {
        let event = Event { client: Some("203.0.113.9:0".parse().unwrap()), ..sound() };
        let line = line(&event);
        assert!(line.contains(r#","client_ip":"203.0.113.9","peer_ip":"192.0.2.7","listener""#), "{line}");
    }

    #[test]
    fn a_refused_request() {
        assert_eq!(
            line(&refused()),
            concat!(
                r#"{"time":"2026-01-02T03:04:05.678Z","id":"0123456789abcdef0123456789abcdef","listener":"main","#,
                r#""scheme":"http","status":400,"request_bytes":0,"response_bytes":60,"reason":"bad_request_line","#,
                r#""party":"client"}"#,
            )
        );
    }

    #[test]
    fn a_failure_with_notes_on_a_connection_from_the_pool() {
        let mut event = sound();
        let notes = ["over 100/s".into(), "a \"b\"".into()];
        event.notes = &notes;
        event.timing.connect = Some(Connect::Reused);
        event.status = None;
        event.failure = Some(Failure { party: "upstream", reason: "connection_broken", message: "read: reset\n" });
        let line = line(&event);
        let end = r#""tries":1,"notes":["over 100/s","a \"b\""],"reason":"connection_broken","party":"upstream","detail":"read: reset\n"}"#;
        assert!(line.ends_with(end), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["reused"], value.get("status"), value.get("connect_ms")), (&json!(true), None, None));
    }

    #[test]
    fn hostile_bytes() {
        let mut event = sound();
        event.user_agent = Some(b"a\"b\\c\xff\x1b[2J\tz");
        event.path = "/\u{9b}\u{7f}\u{2028}\n\0";
        let line = line(&event);
        assert!(line.contains("\"user_agent\":\"a\\\"b\\\\c\u{fffd}\\u001b[2J\\tz\""), "{line}");
        assert!(line.contains(r#""path":"/\u009b\u007f\u2028\n\u0000""#), "{line}");
    }

    proptest! {
        #[test]
        fn every_line_is_one_object_and_gives_back_what_went_in(
            agent in any::<Vec<u8>>(), path in any::<String>(), host in any::<String>(), query in any::<Option<String>>(),
            detail in any::<String>(), note in any::<String>(), status in any::<Option<u16>>(), sent in any::<u64>(), micros in any::<u32>(),
        ) {
            let notes = [note.clone().into()];
            let event = Event {
                user_agent: Some(&agent),
                path: &path,
                host: &host,
                query: query.as_deref(),
                status,
                sent,
                duration: Some(Duration::from_micros(micros.into())),
                notes: &notes,
                failure: Some(Failure { party: "us", reason: "internal", message: &detail }),
                ..sound()
            };
            let line = line(&event);
            prop_assert!(!line.chars().any(char::is_control));
            let value: Value = serde_json::from_str(&line).unwrap();
            let text = |key: &str| value.get(key).map_or("", |value| value.as_str().unwrap()).to_owned();
            prop_assert_eq!(text("user_agent"), String::from_utf8_lossy(&agent));
            prop_assert_eq!((text("path"), text("host"), text("detail")), (path, host, detail));
            prop_assert_eq!(value.get("query").map(|query| query.as_str().unwrap().to_owned()), query);
            prop_assert_eq!(&value["notes"], &json!([note]));
            prop_assert_eq!(value["response_bytes"].as_u64(), Some(sent));
            prop_assert_eq!(value.get("status").and_then(Value::as_u64), status.map(u64::from));
        }
    }
}
