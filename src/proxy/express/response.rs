//! An endpoint's response: its head, read as strictly as anything that frames a body must be, and how the body after it ends.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::Header;

use super::spare;
use super::table::{Piece, Row, Table, alike, options};
use crate::filter::{Field, Fields, InvalidField, ResponseHead};
pub(super) use crate::proxy::judge::Ends;
use crate::proxy::judge::{self, FIELDS_MAX, Refused, ends, number, place};

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
    seen: Seen,
}

/// Which fields came that must be seen to, noted while they were read.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    /// How many of these there are, and the value of the first.
    lengths: (u16, Piece),
    codings: (u16, Piece),
    connections: (u16, Piece),
    /// Others that are a matter of one connection.
    hop_by_hop: bool,
    via: bool,
}

impl Seen {
    /// Few names have the length of one of these.
    fn note(&mut self, name: &[u8], value: Piece) {
        let again = |seen: &mut (u16, Piece)| {
            if seen.0 == 0 {
                seen.1 = value;
            }
            seen.0 += 1;
        };
        match name.len() {
            3 => self.via |= alike(name, b"via"),
            2 | 7 | 16 => self.hop_by_hop |= is_hop_by_hop(name),
            10 if alike(name, b"connection") => again(&mut self.connections),
            10 => self.hop_by_hop |= is_hop_by_hop(name),
            14 if alike(name, b"content-length") => again(&mut self.lengths),
            14 => self.hop_by_hop |= is_hop_by_hop(name),
            17 if alike(name, b"transfer-encoding") => again(&mut self.codings),
            _ => {}
        }
    }
}

impl Response {
    /// Reads a head at the beginning of `text`, which is taken. `Ok(None)`: it is not whole yet, and stays.
    pub(super) fn read(text: &mut Vec<u8>) -> Result<Option<Self>, Refused> {
        let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_MAX];
        let mut read = httparse::Response::new(&mut []);
        let Some(length) = judge::head(&mut read, text, &mut space)? else { return Ok(None) };
        let range = |part: &[u8]| -> Range<usize> {
            let at = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
            at..at + part.len()
        };
        let status = read.code.unwrap_or(0);
        judge::status(status)?;
        let is_http10 = read.version == Some(0);
        let reason = read.reason.map(|reason| Piece::new(&range(reason.as_bytes())));
        let mut rows = spare::rows();
        let mut seen = Seen::default();
        for field in read.headers.iter() {
            let value = range(field.value);
            seen.note(field.name.as_bytes(), Piece::new(&value));
            rows.push(Row::of(text, &range(field.name.as_bytes()), &value));
        }
        let end = text.len();
        let fields = Table::new(std::mem::take(text), rows);
        let read = Self { fields, status, reason, is_http10, length, end, seen };
        if read.is_informational() {
            judge::informational(read.fields.iter())?;
        }
        Ok(Some(read))
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
        let text = self.fields.text();
        let plain = match (self.seen.lengths, self.seen.codings) {
            ((0, _), (0, _)) => Some((None, false)),
            ((1, value), (0, _)) => number(value.of(text)).map(|length| (Some(length), false)),
            ((0, _), (1, value)) if !self.is_http10 && value.of(text).eq_ignore_ascii_case(b"chunked") => Some((None, true)),
            _ => None,
        };
        let ends = match plain {
            Some((length, chunked)) => place(self.status, to_head, length, chunked),
            None => ends(self.status, self.is_http10, to_head, self.fields.iter())?,
        };
        Ok((ends, ends != Ends::WithConnection && self.is_persistent()))
    }

    /// The one value of `Connection`, if there is but one.
    fn connection(&self) -> Option<&[u8]> {
        (self.seen.connections.0 == 1).then(|| self.seen.connections.1.of(self.fields.text()))
    }

    fn is_persistent(&self) -> bool {
        match self.connection() {
            None if self.seen.connections.0 == 0 => return !self.is_http10,
            Some(value) if value.eq_ignore_ascii_case(b"keep-alive") => return true,
            _ => {}
        }
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
        let names_nothing = |value: &[u8]| value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close");
        if self.connection().is_some_and(names_nothing) {
            self.fields.take_away_name(b"connection");
        } else if self.seen.connections.0 > 0 {
            // `keep-alive` is taken off by itself.
            let is_named = |option: &&[u8]| !is_framing(option) && !option.eq_ignore_ascii_case(b"keep-alive");
            let nominated: Vec<Vec<u8>> = options(&self.fields).filter(is_named).map(<[u8]>::to_vec).collect();
            for name in nominated {
                self.fields.take_away_name(&name);
            }
            self.fields.take_away_name(b"connection");
        }
        if self.seen.hop_by_hop {
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
        let text = self.fields.text();
        write_status(self.status, out);
        match self.reason {
            Some(reason) => out.extend_from_slice(reason.of(text)),
            None => out.extend_from_slice(phrase(self.status).as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
        self.fields.write_to(0..0, out);
    }

    /// Whether `Via` came with it.
    pub(super) fn has_via(&self) -> bool {
        self.seen.via
    }

    /// How many lengths there are, and what the first says.
    pub(super) fn length(&self) -> (usize, Option<u64>) {
        let mut lengths = self.fields.all(b"content-length");
        let first = lengths.next();
        (usize::from(first.is_some()) + lengths.count(), first.and_then(number))
    }
}

/// The beginning of a status line.
pub(super) fn write_status(status: u16, out: &mut Vec<u8>) {
    let digit = |number: u16| b'0' + (number % 10) as u8;
    let mut line = *b"HTTP/1.1 000 ";
    line[9..12].copy_from_slice(&[digit(status / 100), digit(status / 10), digit(status)]);
    out.extend_from_slice(&line);
}

pub(super) fn phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default()
}

/// Apart from `Connection`, which is seen to by itself, and from what frames the body.
fn is_hop_by_hop(name: &[u8]) -> bool {
    [&b"keep-alive"[..], b"proxy-connection", b"te", b"trailer", b"upgrade", b"http2-settings"]
        .iter()
        .any(|other| alike(name, other))
}

fn is_framing(option: &[u8]) -> bool {
    [&b"content-length"[..], b"transfer-encoding", b"connection", b"close"].iter().any(|name| option.eq_ignore_ascii_case(name))
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
    use crate::proxy::judge::HEAD_MAX;

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
            assert_eq!(framing(&format!("Content-Length: {fields}\r\n")), Err(Refused::Length), "{fields}");
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
            assert_eq!(framing(fields).map_err(Refused::reason), Err("ambiguous_response"), "{fields}");
        }
        let old = read("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n").unwrap().unwrap();
        assert_eq!(old.framing(false), Ok((Ends::After(1), true)));
        assert_eq!(old.framing(true), Ok((Ends::AtOnce, true)));
        let old = read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert!(old.framing(false).is_err());
    }

    #[test]
    fn a_head_in_pieces_is_found_at_every_cut() {
        let text = "HTTP/1.1 404 Not Here\r\nX-A: 1  2\r\nContent-Length:3\r\n\r\nabc";
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
        assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 404 Not Here\r\nX-A: 1  2\r\nContent-Length: 3\r\n");
    }

    #[test]
    fn heads_are_bounded() {
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_MAX))).err(), Some(Refused::TooLarge));
        assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(300))).err(), Some(Refused::TooLarge));
        assert_eq!(read("HTTP/2 200\r\n\r\n").err(), Some(Refused::Line));
    }

    #[test]
    fn fields_of_the_other_connection_stay_there() {
        let text = "HTTP/1.1 200 OK\r\nConnection: X-A, content-length\r\nX-A: 1\r\nKeep-Alive: 5\r\nTE: x\r\nHTTP2-Settings: A\r\nX-B: 2\r\n\r\n";
        let mut head = read(text).unwrap().unwrap();
        head.strip_hop_by_hop();
        assert_eq!(head.fields.iter().collect::<Vec<_>>(), [(&b"X-B"[..], &b"2"[..])]);
    }
}
