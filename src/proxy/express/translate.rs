//! Heads between HTTP/2, whose framing hands over maps, and the lane, which has bytes.

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};

use super::head::Head;
use super::response::Response;
use super::table::{Piece, Table};
use super::{Framing, spare};
use crate::filter::{ReplyHead, ResponseHead};
use crate::proxy::bounds::bounded;
use crate::proxy::ctx::Connection;
use crate::proxy::head::authority;
use crate::proxy::judge::Refused;
use crate::proxy::settle::number;

/// The head of a stream's request as HTTP/1 writes it (RFC 9113 §8.3.1), and how the body after it ends. `None`: the general way has
/// something to say of it.
pub(super) fn request(head: &RequestHeader, empty: bool, connection: &Connection) -> Option<(Head, Framing)> {
    bounded(head, connection).ok()?;
    let (method, target) = (head.method.as_str(), head.raw_path());
    if !target.starts_with(b"/") || !target.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    if ["TRACE", "CONNECT"].iter().any(|refused| method.eq_ignore_ascii_case(refused)) {
        return None;
    }
    let host = authority(head);
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        Some(length) => Some(number(length)?),
        None => None,
    };
    if host.is_empty() || lengths.next().is_some() {
        return None;
    }
    let framing = match length {
        _ if empty => Framing::Empty,
        Some(length) => Framing::Length(length),
        None => Framing::Stream,
    };
    let mut text = spare::text(ROOM);
    text.extend_from_slice(method.as_bytes());
    let method = 0..text.len();
    text.push(b' ');
    let at = text.len();
    text.extend_from_slice(target);
    let target = at..text.len();
    text.extend_from_slice(b" HTTP/1.1\r\n");
    let mut fields = Table::new(text, spare::rows());
    fields.append(b"Host", host.as_bytes());
    let mut crumbs = false;
    for (name, value) in &head.headers {
        if *name == COOKIE {
            // It may come in crumbs, which nobody else knows (RFC 9113 §8.2.3).
            if !std::mem::replace(&mut crumbs, true) {
                fields.append_with(COOKIE.as_str().as_bytes(), |text| join(head, text));
            }
        } else if *name != HOST {
            fields.append(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    Some((Head { fields, method: Piece::new(&method), target: Piece::new(&target) }, framing))
}

/// As much as most heads take, with what is put in place.
const ROOM: usize = 1536;

fn join(head: &RequestHeader, text: &mut Vec<u8>) {
    for (at, crumb) in head.headers.get_all(COOKIE).iter().enumerate() {
        if at > 0 {
            text.extend_from_slice(b"; ");
        }
        text.extend_from_slice(crumb.as_bytes());
    }
}

/// A response's head for the framing. It puts `Date` in place itself, and takes off what is a matter of HTTP/1.
pub(super) fn response(response: &Response) -> Result<ResponseHeader, Refused> {
    let invalid = Refused::Value;
    let mut head = ResponseHeader::build_no_case(response.status, Some(response.fields.count() + 1)).map_err(|_| invalid)?;
    for (name, value) in response.fields.iter() {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else { return Err(invalid) };
        head.append_header(name, value).map_err(|_| invalid)?;
    }
    Ok(head)
}

/// Likewise, of an answer of our own.
pub(super) fn reply(reply: &ReplyHead) -> Result<ResponseHeader, &'static str> {
    let fields = reply.fields();
    let invalid = "an answer that is none";
    let mut head = ResponseHeader::build_no_case(reply.status(), Some(fields.len() + 1)).map_err(|_| invalid)?;
    for (name, value) in fields.iter() {
        head.append_header(name.clone(), value.clone()).map_err(|_| invalid)?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::filter::{Client, Scheme};
    use crate::observe::Observers;
    use crate::proxy::{Clock, Pace, StreamBounds};

    fn connection() -> Connection {
        Connection {
            listener: "a".into(),
            index: Some(0),
            client: Client::direct(None),
            scheme: Scheme::Http,
            tls: None,
            clock: Arc::new(Clock::new()),
            tunnel_idle: Some(Duration::ZERO),
            body_size: Some(100),
            stream: Some(StreamBounds { header_size: 1000, uri_size: 100, headers: 10, pace: Pace::default() }),
            last: false,
            observers: Arc::new(Observers::default()),
        }
    }

    fn asked(method: &str, target: &str, fields: &[(&'static str, &str)], empty: bool) -> Option<(String, Framing)> {
        let mut head = RequestHeader::build_no_case(method, target.as_bytes(), None).unwrap();
        for (name, value) in fields.iter() {
            head.append_header(*name, *value).unwrap();
        }
        request(&head, empty, &connection()).map(|(head, framing)| {
            let mut out = Vec::new();
            head.write_to(&mut out);
            (String::from_utf8(out).unwrap(), framing)
        })
    }

    #[test]
    fn a_head_is_written_as_http_1_would() {
        let fields = [("host", "a.example"), ("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("x-a", "")];
        let written = "GET /a?b=%20 HTTP/1.1\r\nHost: a.example\r\ncookie: a=1; b=2\r\nx-a: 1\r\nx-a: \r\n";
        assert_eq!(asked("GET", "/a?b=%20", &fields, true), Some((written.to_owned(), Framing::Empty)));
    }

    #[test]
    fn a_body_ends_as_was_said_or_with_its_stream() {
        let framing = |fields: &[(&'static str, &str)], empty| {
            let fields = [&[("host", "a")], fields].concat();
            asked("POST", "/", &fields, empty).map(|(_, framing)| framing)
        };
        assert_eq!(framing(&[], true), Some(Framing::Empty));
        assert_eq!(framing(&[], false), Some(Framing::Stream));
        assert_eq!(framing(&[("content-length", "12")], false), Some(Framing::Length(12)));
        for lengths in
            [&[("content-length", "012")][..], &[("content-length", "1"), ("content-length", "1")], &[("content-length", "101")]]
        {
            assert_eq!(framing(lengths, false), None, "{lengths:?}");
        }
    }

    #[test]
    fn what_needs_a_word_of_its_own_goes_the_general_way() {
        let long = "a".repeat(200);
        for (method, target, fields) in [
            ("GET", "*", &[("host", "a")][..]),
            ("GET", "http://a/", &[("host", "a")]),
            ("TRACE", "/", &[("host", "a")]),
            ("GET", "/", &[]),
            ("GET", "/", &[("host", "a"), ("x-a", " 1")]),
            ("GET", "/\u{e9}", &[("host", "a")]),
            ("GET", &format!("/{long}"), &[("host", "a")]),
        ] {
            assert_eq!(asked(method, target, fields, true), None, "{method} {target}");
        }
    }
}
