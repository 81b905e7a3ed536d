//! An endpoint's response: its head, read as strictly as anything that frames a body must be, and how the body after it ends.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::{Header, ParserConfig, Status};

use super::table::{Piece, Row, Table, options};
use crate::filter::{Field, Fields, InvalidField, ResponseHead};

/// Bytes of a head at most.
const HEAD_MAX: usize = 64 * 1024;
/// Fields at most.
const FIELDS_MAX: usize = 256;

/// A response's head.
pub(super) struct Response {
    pub(super) fields: Table,
    pub(super) status: u16,
    /// `None`: the phrase of the status.
    reason: Option<Piece>,
    pub(super) is_http10: bool,
    /// How long the head is, in the bytes that were read.
    length: usize,
    /// How many were read.
    end: usize,
}

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// There is none.
    AtOnce,
    After(u64),
    WithChunks,
    /// With the connection.
    WithConnection,
}

/// Others may read it in another way.
const AMBIGUOUS: Refused = "ambiguous_response";

/// What can't be relied on: the reason code.
pub(super) type Refused = &'static str;

impl Response {
    /// Reads a head at the beginning of `text`, which is taken. `Ok(None)`: it is not whole yet, and stays.
    pub(super) fn read(text: &mut Vec<u8>) -> Result<Option<Self>, Refused> {
        let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
        let mut read = httparse::Response::new(&mut []);
        let mut parser = ParserConfig::default();
        // What the general way takes.
        parser.allow_spaces_after_header_name_in_responses(true);
        parser.allow_obsolete_multiline_headers_in_responses(true);
        let length = match parser.parse_response_with_uninit_headers(&mut read, text, &mut space) {
            Ok(Status::Complete(length)) if length <= HEAD_MAX => length,
            Ok(Status::Partial) if text.len() <= HEAD_MAX => return Ok(None),
            Ok(_) => return Err("response_head_too_large"),
            Err(_) => return Err("invalid_response"),
        };
        let place = |part: &[u8]| -> Range<usize> {
            let at = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
            at..at + part.len()
        };
        let status = read.code.unwrap_or(0);
        if !(100..600).contains(&status) {
            return Err(if status < 100 { "invalid_response" } else { AMBIGUOUS });
        }
        let is_http10 = read.version == Some(0);
        let reason = read.reason.map(|reason| Piece::new(&place(reason.as_bytes())));
        let mut rows = Vec::with_capacity(read.headers.len() + 8);
        let mut folded = false;
        for field in read.headers.iter() {
            folded |= memchr::memchr3(b'\r', b'\n', 0, field.value).is_some();
            rows.push(Row::new(&place(field.name.as_bytes()), &place(field.value)));
        }
        let end = text.len();
        let mut fields = Table::new(std::mem::take(text), rows);
        if folded {
            fields.unfold();
        }
        Ok(Some(Self { fields, status, reason, is_http10, length, end }))
    }

    /// What has come behind the head.
    pub(super) fn body(&self) -> &[u8] {
        &self.fields.text()[self.length..self.end]
    }

    pub(super) fn is_informational(&self) -> bool {
        self.status < 200
    }

    /// How its body ends, and whether the connection may carry another exchange afterwards.
    pub(super) fn framing(&self, to_head: bool) -> Result<(Ends, bool), Refused> {
        let (mut length, mut chunked) = (None, false);
        for (name, value) in self.fields.iter() {
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    if length.is_some() || chunked {
                        return Err(self.several_lengths());
                    }
                    length = Some(number(value).ok_or_else(|| self.several_lengths())?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    if length.is_some() || chunked || self.is_http10 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(AMBIGUOUS);
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        let ends = match length {
            _ if to_head || matches!(self.status, 204 | 304) => Ends::AtOnce,
            _ if chunked => Ends::WithChunks,
            Some(0) => Ends::AtOnce,
            Some(length) => Ends::After(length),
            None => Ends::WithConnection,
        };
        Ok((ends, ends != Ends::WithConnection && self.is_persistent()))
    }

    /// Lengths that all say the same are ambiguous; others are none.
    fn several_lengths(&self) -> Refused {
        let mut lengths =
            self.fields.all(b"content-length").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let first = lengths.next().and_then(number);
        if first.is_some() && lengths.all(|length| number(length) == first) { AMBIGUOUS } else { "invalid_response" }
    }

    fn is_persistent(&self) -> bool {
        let mut keeps = !self.is_http10;
        for option in options(&self.fields) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        keeps
    }

    /// Takes off what is between two hops, and what `Connection` nominates.
    pub(super) fn strip_hop_by_hop(&mut self) {
        let (mut connection, mut others) = (false, false);
        for (name, _) in self.fields.iter() {
            match name.len() {
                10 if name.eq_ignore_ascii_case(b"connection") => connection = true,
                2 | 7 | 10 | 16 => others |= is_hop_by_hop(name),
                _ => {}
            }
        }
        if connection {
            let nominated: Vec<Vec<u8>> =
                options(&self.fields).filter(|option| !is_framing(option)).map(<[u8]>::to_vec).collect();
            for name in nominated {
                self.fields.take_away_name(&name);
            }
            self.fields.take_away_name(b"connection");
        }
        if others {
            self.fields.take_away(is_hop_by_hop);
        }
    }

    /// Takes the framing off a head that has no body (RFC 9110 §8.6).
    pub(super) fn strip_framing(&mut self) {
        if self.is_informational() || self.status == 204 {
            self.fields.take_away_name(b"content-length");
            self.fields.take_away_name(b"transfer-encoding");
        }
    }

    /// Writes the status line and the fields.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        match self.reason {
            Some(reason) => {
                write_status(self.status, out);
                out.extend_from_slice(reason.of(self.fields.text()));
            }
            None => {
                write_status(self.status, out);
                out.extend_from_slice(phrase(self.status).as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
        self.fields.write_to(out);
    }
}

/// The beginning of a status line.
pub(super) fn write_status(status: u16, out: &mut Vec<u8>) {
    let digit = |number: u16| b'0' + (number % 10) as u8;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
}

pub(super) fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}

/// Apart from `Connection`, which is seen to by itself, and from what frames the body.
fn is_hop_by_hop(name: &[u8]) -> bool {
    [&b"keep-alive"[..], b"proxy-connection", b"te", b"trailer", b"upgrade"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn is_framing(option: &[u8]) -> bool {
    [&b"content-length"[..], b"transfer-encoding", b"connection", b"close"].iter().any(|name| option.eq_ignore_ascii_case(name))
}

/// Digits, and nothing but digits.
fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

impl Fields for Response {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.fields.each(visit);
    }
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.fields.set(name, value)
    }
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.fields.add(name, value)
    }
    fn remove(&mut self, name: &str) -> bool {
        self.fields.remove(name)
    }
    fn set_field(&mut self, field: &Field) {
        self.fields.set_field(field);
    }
    fn add_field(&mut self, field: &Field) {
        self.fields.add_field(field);
    }
}

impl ResponseHead for Response {
    fn status(&self) -> u16 {
        self.status
    }

    fn set_status(&mut self, status: u16) -> Result<(), InvalidField> {
        if !(200..600).contains(&status) {
            return Err(InvalidField::Status(status));
        }
        self.status = status;
        self.reason = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Response>, Refused> {
        Response::read(&mut text.as_bytes().to_vec())
    }

    fn framing(fields: &str) -> Result<(Ends, bool), Refused> {
        read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap().unwrap().framing(false)
    }

    #[test]
    fn a_body_ends_in_one_way() {
        assert_eq!(framing("Content-Length: 5\r\n"), Ok((Ends::After(5), true)));
        assert_eq!(framing("Content-Length: 0\r\nConnection: x, close\r\n"), Ok((Ends::AtOnce, false)));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok((Ends::WithChunks, true)));
        assert_eq!(framing(""), Ok((Ends::WithConnection, false)));
        for fields in ["+5", "", "5, 6", "99999999999999999999", "5\r\nContent-Length: 6"] {
            assert_eq!(framing(&format!("Content-Length: {fields}\r\n")), Err("invalid_response"), "{fields}");
        }
        for fields in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            assert_eq!(framing(fields), Err("ambiguous_response"), "{fields}");
        }
        let old = read("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n").unwrap().unwrap();
        assert_eq!(old.framing(false), Ok((Ends::After(1), true)));
        assert_eq!(old.framing(true), Ok((Ends::AtOnce, true)));
        let old = read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert!(old.framing(false).is_err());
    }

    #[test]
    fn a_head_in_pieces_is_found_at_every_cut() {
        let text = "HTTP/1.1 404 Not Here\r\nX-A: 1\r\n 2\r\nContent-Length:3\r\n\r\nabc";
        let end = text.len() - 3;
        for cut in 0..end {
            let mut part = text.as_bytes()[..cut].to_vec();
            assert!(Response::read(&mut part).unwrap().is_none());
            assert_eq!(part, &text.as_bytes()[..cut]);
        }
        let head = read(text).unwrap().unwrap();
        assert_eq!((head.status, head.length), (404, end));
        let mut out = Vec::new();
        head.write_to(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 404 Not Here\r\nX-A: 1 2\r\nContent-Length: 3\r\n");
    }

    #[test]
    fn heads_are_bounded() {
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_MAX))).err(), Some("response_head_too_large"));
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(300))).err(), Some("invalid_response"));
        assert_eq!(read("HTTP/2 200\r\n\r\n").err(), Some("invalid_response"));
    }

    #[test]
    fn fields_of_the_other_connection_stay_there() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-A, content-length\r\nX-A: 1\r\nKeep-Alive: 5\r\nTE: x\r\nX-B: 2\r\n\r\n";
        let mut head = read(text).unwrap().unwrap();
        head.strip_hop_by_hop();
        assert_eq!(head.fields.iter().collect::<Vec<_>>(), [(&b"X-B"[..], &b"2"[..])]);
    }
}
