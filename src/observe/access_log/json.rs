//! A line as a JSON object (RFC 8259): what has no value is left out.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::digits::{address, decimal, hexadecimal, thousandths};
use super::stamp::Moment;
use crate::observe::{Connect, Event};

/// Appends the object.
pub(super) fn write(event: &Event<'_>, moment: Moment<'_>, out: &mut String) {
    let mut object = Object { out };
    object.out.push_str("{\"time\":\"");
    moment.rfc3339(object.out);
    object.out.push_str("\",\"id\":\"");
    hexadecimal(event.id, object.out);
    object.out.push('"');
    object.ip("client_ip", event.client_ip());
    if let Some(port) = event.client_port() {
        object.number("client_port", port.into());
    }
    object.ip("peer_ip", event.proxy_ip());
    object.text("listener", event.listener);
    object.text("scheme", event.scheme);
    if let Some(tls) = event.tls {
        object.text("tls_version", tls.version());
        object.text("tls_cipher", tls.cipher());
        object.some("tls_sni", tls.server_name());
        if tls.is_resumed() {
            object.out.push_str(",\"tls_resumed\":true");
        }
    }
    if let Some(certificate) = event.certificate() {
        object.text("client_cert_subject", certificate.subject());
        object.text("client_cert_fingerprint", certificate.fingerprint());
    }
    object.known("protocol", event.protocol);
    object.known("method", event.method);
    object.known("host", event.host);
    object.known("path", event.path);
    object.some("query", event.query);
    object.bytes("user_agent", event.user_agent);
    object.bytes("referer", event.referer);
    if let Some(status) = event.status {
        object.number("status", status.into());
    }
    object.number("request_bytes", event.received);
    object.number("response_bytes", event.sent);
    object.millis("duration_ms", event.duration);
    object.millis("routed_ms", event.timing.routed);
    match event.timing.connect {
        Some(Connect::Opened(took)) => object.millis("connect_ms", Some(took)),
        Some(Connect::Reused) => object.out.push_str(",\"reused\":true"),
        None => {}
    }
    object.millis("response_ms", event.timing.response);
    object.some("route", event.route);
    object.some("upstream", event.upstream);
    object.some("endpoint", event.endpoint);
    if event.tries > 0 {
        object.number("tries", event.tries.into());
    }
    if !event.notes.is_empty() {
        object.key("notes");
        for (index, note) in event.notes.iter().enumerate() {
            object.out.push(if index == 0 { '[' } else { ',' });
            string(note, object.out);
        }
        object.out.push(']');
    }
    object.some("reason", event.reason());
    if let Some(failure) = &event.failure {
        object.text("party", failure.party);
        object.known("detail", failure.message);
    }
    object.out.push('}');
}

struct Object<'a> {
    out: &'a mut String,
}

impl Object<'_> {
    /// Keys are our own, and need no escapes.
    fn key(&mut self, key: &str) {
        self.out.push_str(",\"");
        self.out.push_str(key);
        self.out.push_str("\":");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        string(value, self.out);
    }

    /// Text that is empty where nothing is known.
    fn known(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    fn some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// What is no UTF-8 becomes U+FFFD.
    fn bytes(&mut self, key: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.text(key, &String::from_utf8_lossy(value));
        }
    }

    fn ip(&mut self, key: &str, value: Option<IpAddr>) {
        if let Some(ip) = value {
            self.key(key);
            self.out.push('"');
            address(ip, self.out);
            self.out.push('"');
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        decimal(value, self.out);
    }

    fn millis(&mut self, key: &str, value: Option<Duration>) {
        if let Some(value) = value {
            self.key(key);
            millis(value, self.out);
        }
    }
}

/// Milliseconds with three decimals.
pub(super) fn millis(duration: Duration, out: &mut String) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    decimal(micros / 1000, out);
    out.push('.');
    thousandths(micros % 1000, out);
}

/// A string. Beyond what JSON asks for, it escapes all that a terminal or a reader of lines may take for more than text: DEL,
/// the C1 controls, and the two line separators of Unicode.
fn string(text: &str, out: &mut String) {
    out.push('"');
    // Nearly all text is plain ASCII.
    if text.bytes().all(|byte| PLAIN[usize::from(byte)]) {
        out.push_str(text);
    } else {
        escaped(text, out);
    }
    out.push('"');
}

/// Bytes that stand for themselves, whatever stands beside them.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    table
};

fn escaped(text: &str, out: &mut String) {
    let mut from = 0;
    for (at, c) in text.char_indices() {
        if !matches!(c, '"' | '\\' | '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        out.push_str(&text[from..at]);
        from = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => {
                // Writing to a String can't fail.
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
        }
    }
    out.push_str(&text[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::testing::{line, refused, sound};
    use super::*;
    use crate::observe::Failure;

    #[test]
    fn a_sound_request() {
        assert_eq!(
            line(&sound(), write),
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
        let line = line(&event, write);
        assert!(line.contains(r#","client_ip":"203.0.113.9","peer_ip":"192.0.2.7","listener""#), "{line}");
    }

    #[test]
    fn a_refused_request() {
        assert_eq!(
            line(&refused(), write),
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
        let line = line(&event, write);
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
        let line = line(&event, write);
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
            let line = line(&event, write);
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
