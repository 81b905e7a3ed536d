//! The end of an HTTP/1 head, and how the body after it is framed: as much of a request as the connection loop must know.
//!
//! Everything that two parsers could read differently is refused here, before Pingora sees a byte. Pingora parses the head once more,
//! into its own types; tests show that it takes whatever passes here, with the same meaning.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2, memchr2_iter};

use crate::config::ListenerLimits;
use crate::proxy::{self, Chunks, Rows};
use crate::types::is_token;

/// Room for method and version beside the target.
const AROUND_TARGET: usize = 64;

/// HTTP/2's preface (RFC 9113 §3.4), whose beginning looks like a head.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_HEAD: usize = 18;

/// No name of a field is longer; nor does Pingora keep one of 64 KiB.
const MAX_NAME: usize = 256;

/// A status and a reason code.
type Refusal = (u16, &'static str);

/// How a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// After so many bytes; often none.
    Length(u64),
    /// By its chunks.
    Chunked(Chunks),
    /// Never: the connection may become a tunnel.
    Open,
}

impl Body {
    /// As the express lane must know it. `None`: it carries no tunnels.
    pub(super) fn framing(&self) -> Option<proxy::Framing> {
        match self {
            Self::Length(0) => Some(proxy::Framing::Empty),
            Self::Length(length) => Some(proxy::Framing::Length(*length)),
            Self::Chunked(_) => Some(proxy::Framing::Chunked),
            Self::Open => None,
        }
    }
}

/// What a connection has sent so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// No whole head yet.
    Partial,
    /// A head of this length.
    Head { length: usize, body: Body },
    /// HTTP/2's preface (RFC 9113 §3.4), or its beginning.
    Http2,
    /// No HTTP that can be trusted: the status and the reason code.
    Refused(u16, &'static str),
}

/// Looks for a head at the beginning of `bytes`. Bytes before `seen` have been looked at before. Of a whole head `rows` learns where its
/// parts are.
pub(super) fn scan(bytes: &[u8], seen: usize, limits: &ListenerLimits, rows: &mut Rows) -> Scan {
    if bytes.starts_with(&PREFACE[..PREFACE_HEAD]) {
        // The whole of it, so that nobody waits for the rest without a deadline.
        return match bytes {
            whole if whole.starts_with(PREFACE) => Scan::Http2,
            part if PREFACE.starts_with(part) => Scan::Partial,
            _ => Scan::Refused(400, "bad_preface"),
        };
    }
    let line = limits.uri_size + AROUND_TARGET;
    let Some(length) = end_of_head(bytes, seen.saturating_sub(3)) else {
        return match bytes.first() {
            Some(first) if !first.is_ascii_alphabetic() && !is_token(*first) => Scan::Refused(400, "bad_request_line"),
            _ if bytes.len() > limits.header_size => Scan::Refused(431, "head_too_large"),
            _ if bytes.len() > line && !bytes[..line].contains(&b'\n') => Scan::Refused(414, "target_too_long"),
            _ => match fault(bytes, seen, limits) {
                Some((status, reason)) => Scan::Refused(status, reason),
                None => Scan::Partial,
            },
        };
    };
    if length > limits.header_size {
        return Scan::Refused(431, "head_too_large");
    }
    match read(&bytes[..length], limits, rows) {
        Ok(body) => Scan::Head { length, body },
        Err((status, reason)) => Scan::Refused(status, reason),
    }
}

/// Why a connection would refuse this request, of which nothing has been sent but the head: what is asked where there is no connection.
pub(crate) fn verdict(head: &[u8], limits: &ListenerLimits) -> Option<(u16, &'static str)> {
    match scan(head, 0, limits, &mut Rows::default()) {
        Scan::Refused(status, reason) => Some((status, reason)),
        Scan::Head { body: Body::Length(length), .. } if limits.body_size.is_some_and(|limit| length > limit) => {
            Some((413, "body_too_large"))
        }
        Scan::Head { .. } | Scan::Http2 | Scan::Partial => None,
    }
}

/// Whether there is a head of HTTP/1 at the beginning of `bytes`, of which those before `seen` have been looked at; `None`: not the whole of one. For
/// who wants nothing else of the strict reader.
pub(crate) fn arrived(bytes: &[u8], seen: usize, limits: &ListenerLimits) -> Option<Result<(), Refusal>> {
    match scan(bytes, seen, limits, &mut Rows::default()) {
        Scan::Partial => None,
        Scan::Head { .. } => Some(Ok(())),
        Scan::Http2 => Some(Err((400, "bad_version"))),
        Scan::Refused(status, reason) => Some(Err((status, reason))),
    }
}

/// What is wrong already with a head that is not whole: with its first line, or with how lines end. Without it whoever ends lines in another way would
/// be left to wait.
fn fault(bytes: &[u8], seen: usize, limits: &ListenerLimits) -> Option<Refusal> {
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let from = seen.saturating_sub(1);
    let ends = memchr2_iter(b'\r', b'\n', &bytes[from..]).map(|at| from + at);
    for at in ends {
        match bytes[at] {
            b'\n' if at == 0 || bytes[at - 1] != b'\r' => return Some((400, "bare_line_feed")),
            b'\r' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => return Some((400, "bare_carriage_return")),
            _ => {}
        }
    }
    let line = memchr(b'\n', bytes).filter(|end| *end >= seen)?;
    RequestLine::read(&bytes[..line - 1], limits.uri_size).err()
}

fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', &bytes[from..]).map(|at| from + at + 1).find(|end| bytes[from..*end].ends_with(b"\r\n\r\n"))
}

fn read(head: &[u8], limits: &ListenerLimits, rows: &mut Rows) -> Result<Body, Refusal> {
    let (line, mut rest) = split_line(&head[..head.len() - 4])?;
    let request = RequestLine::read(line, limits.uri_size)?;
    rows.begin(&place(head, request.method), &place(head, request.target), request.is_http10);
    let mut fields = 0;
    let mut framing = Framing::default();
    let mut host = None;
    while let Some(text) = rest {
        let line;
        (line, rest) = split_line(text)?;
        fields += 1;
        if fields > limits.headers {
            return Err((431, "too_many_headers"));
        }
        let (name, value) = field(line)?;
        rows.field(head, &place(head, name), &place(head, value));
        // Names that mean something here are told apart by their length first: few others are as long as one of them.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => host = only(host, value)?,
            // No other goes on: behind one of those comes the next request.
            7 if name.eq_ignore_ascii_case(b"upgrade") => framing.upgrade = value.eq_ignore_ascii_case(b"websocket"),
            10 if name.eq_ignore_ascii_case(b"connection") => framing.nominated |= nominates_upgrade(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => framing.length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => framing.transfer_encoding(value)?,
            _ => {}
        }
    }
    request.agree_with(host)?;
    framing.body(request.is_http10)
}

/// Where a part of a head is.
fn place(head: &[u8], part: &[u8]) -> Range<usize> {
    let at = part.as_ptr().addr() - head.as_ptr().addr();
    at..at + part.len()
}

/// The only host: of two that agree, somebody else may have read the other (RFC 9112 §3.2).
fn only<'a>(earlier: Option<&[u8]>, host: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    if earlier.is_some() { Err((400, "two_hosts")) } else { Ok(Some(host)) }
}

/// The next line, and what follows it. Every line but the last, whose end is left out, ends in CR LF: a bare LF or CR is read
/// differently elsewhere.
fn split_line(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), Refusal> {
    match memchr2(b'\r', b'\n', text) {
        None => Ok((text, None)),
        Some(end) if text[end..].starts_with(b"\r\n") => Ok((&text[..end], Some(&text[end + 2..]))),
        Some(end) if text[end] == b'\n' => Err((400, "bare_line_feed")),
        Some(_) => Err((400, "bare_carriage_return")),
    }
}

/// A field's name and value. A line that begins with a blank has no name: so ends every folding (RFC 9112 §5.2).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = memchr(b':', line).ok_or((400, "bad_header"))?;
    let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
    // Without an early end, so that many bytes are looked at at once.
    let controls = value.iter().fold(false, |found, byte| found | (*byte < 0x20 && *byte != b'\t') | (*byte == 0x7f));
    let sound = !name.is_empty() && name.len() <= MAX_NAME && !controls && name.iter().all(|byte| is_token(*byte));
    if sound { Ok((name, value)) } else { Err((400, "bad_header")) }
}

/// Without the blanks around it (RFC 9110 §5.6.3): a form feed, say, is none.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn nominates_upgrade(value: &[u8]) -> bool {
    value.len() >= b"upgrade".len()
        && value.split(|byte| *byte == b',').any(|option| trimmed(option).eq_ignore_ascii_case(b"upgrade"))
}

/// What the fields say of the body's end.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    /// To a WebSocket.
    upgrade: bool,
    /// By `Connection`, without which an upgrade is none (RFC 9110 §7.8).
    nominated: bool,
}

impl Framing {
    /// One field, one number (RFC 9112 §6.3): of two that say the same, somebody else may have read the first only.
    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.length.is_some() || self.chunked {
            return Err((400, "ambiguous_length"));
        }
        self.length = Some(number(value).ok_or((400, "bad_content_length"))?);
        Ok(())
    }

    /// One field, and nothing but `chunked`.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || self.length.is_some() {
            return Err((400, "ambiguous_length"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err((400, "bad_transfer_encoding"));
        }
        self.chunked = true;
        Ok(())
    }

    fn body(self, is_http10: bool) -> Result<Body, Refusal> {
        match (self.chunked, self.length) {
            // Unknown there: the framing is faulty (RFC 9112 §6.1).
            (true, _) if is_http10 => Err((400, "bad_transfer_encoding")),
            (true, _) => Ok(Body::Chunked(Chunks::new())),
            (false, Some(length)) if length > 0 => Ok(Body::Length(length)),
            // HTTP/1.0 knows no upgrade (RFC 9110 §7.8).
            _ if self.upgrade && self.nominated && !is_http10 => Ok(Body::Open),
            _ => Ok(Body::Length(0)),
        }
    }
}

/// What a request line says.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    is_http10: bool,
    /// Of a target in absolute form (RFC 9112 §3.2.2).
    authority: Option<&'a [u8]>,
}

impl<'a> RequestLine<'a> {
    fn read(line: &'a [u8], uri_size: usize) -> Result<Self, Refusal> {
        let bad = (400, "bad_request_line");
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), None) = (method, target, parts.next()) else { return Err(bad) };
        if target.len() > uri_size {
            return Err((414, "target_too_long"));
        }
        let sound = !method.is_empty()
            && method.len() <= MAX_NAME
            && method.iter().all(|byte| is_token(*byte))
            && !target.is_empty()
            && target.iter().all(u8::is_ascii_graphic);
        let is_http10 = match version {
            _ if !sound => return Err(bad),
            Some(b"HTTP/1.1") => false,
            Some(b"HTTP/1.0") => true,
            Some(version) if version.starts_with(b"HTTP/") => return Err((505, "bad_version")),
            _ => return Err(bad),
        };
        // In any spelling: methods have case, but not everybody knows.
        match method.len() {
            // A tunnel to wherever the client says is a forward proxy's work.
            7 if method.eq_ignore_ascii_case(b"CONNECT") => return Err((405, "method")),
            // It would show a script what only the browser should know (RFC 9110 §9.3.8).
            5 if method.eq_ignore_ascii_case(b"TRACE") => return Err((405, "method")),
            _ => {}
        }
        Ok(Self { method, target, is_http10, authority: target_authority(method, target).ok_or((400, "bad_target"))? })
    }

    /// Whom the request is for must be said once (RFC 9112 §3.2).
    fn agree_with(&self, host: Option<&[u8]>) -> Result<(), Refusal> {
        if !self.is_http10 && host.is_none_or(<[u8]>::is_empty) {
            return Err((400, "no_host"));
        }
        let Some(host) = host else { return Ok(()) };
        // Whether it is a host is found out where HTTP/2's is looked at too; here is what Pingora would refuse in its own words.
        if host.contains(&b'@') {
            return Err((400, "bad_host"));
        }
        match self.authority {
            Some(authority) if authority != host => Err((400, "host_disagrees")),
            _ => Ok(()),
        }
    }
}

/// The authority of a target, if it has one. `None`: it is no target, or no server's. Pingora's parser takes every other, which
/// tests show.
#[expect(clippy::option_option, reason = "no target, and a target without an authority")]
fn target_authority<'a>(method: &[u8], target: &'a [u8]) -> Option<Option<&'a [u8]>> {
    if target[0] == b'/' {
        return is_path_and_query(target).then_some(None);
    }
    if target == b"*" {
        return (method == b"OPTIONS").then_some(None);
    }
    let after_scheme = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|start| &target[start.len()..])
    })?;
    let end = after_scheme.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(after_scheme.len());
    let (authority, rest) = after_scheme.split_at(end);
    let named = !authority.is_empty() && http::uri::Authority::try_from(authority).is_ok() && !authority.contains(&b'@');
    (named && is_path_and_query(rest)).then_some(Some(authority))
}

/// Whether these visible characters may stand in a target: what must be encoded there (RFC 3986 §3.3, §3.4) and is no part of any
/// client's bad habits. A fragment is never sent (RFC 9112 §3.2).
fn is_path_and_query(target: &[u8]) -> bool {
    let path = memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at(path);
    !path.iter().any(|byte| matches!(byte, b'<' | b'>' | b'`' | b'#'))
        && !query.iter().any(|byte| matches!(byte, b'<' | b'>' | b'"' | b'#'))
}

/// A content length: digits only (RFC 9112 §6.3), of which a leading zero makes an octal number for some.
fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    let digits = digits && (value[0] != b'0' || value.len() == 1);
    if digits { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn scanned(text: &str) -> Scan {
        scan(text.as_bytes(), 0, &limits(), &mut Rows::default())
    }

    fn limits() -> ListenerLimits {
        Limits::default().or(&Limits::default())
    }

    #[test]
    fn finds_the_end_and_the_framing() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", Body::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Body::Length(0)),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:  12 \r\n\r\n", Body::Length(12)),
            ("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n", Body::Chunked(Chunks::new())),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: x, Upgrade\r\n\r\n", Body::Open),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgraded\r\n\r\n", Body::Length(0)),
            ("GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Body::Length(0)),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", Body::Length(0)),
            ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", Body::Length(0)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Body::Length(0)),
        ];
        for (text, body) in cases {
            let length = text.find("\r\n\r\n").unwrap() + 4;
            assert_eq!(scanned(text), Scan::Head { length, body }, "{text}");
        }
        assert_eq!(scanned("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest"), Scan::Http2);
        assert_eq!(scanned("PRI * HTTP/2.0\r\n\r\nSM"), Scan::Partial);
        assert_eq!(scanned("PRI * HTTP/2.0\r\n\r\nGET"), Scan::Refused(400, "bad_preface"));
        assert_eq!(scanned("GET / HTTP/1.1\r\nHost"), Scan::Partial);
        assert_eq!(scanned("G"), Scan::Partial);
    }

    #[test]
    fn nobody_waits_for_the_rest_of_what_is_wrong_already() {
        for (text, reason) in [
            ("GET / HTTP/1.1\nHost: a\n\n", "bare_line_feed"),
            ("GET / HTTP/1.1\r\nHost: a\n\n", "bare_line_feed"),
            ("GET / HTTP/1.1\rHost: a\r\r", "bare_carriage_return"),
            ("GET /\r\n", "bad_request_line"),
            ("GET / HTTP/2.0\r\n", "bad_version"),
        ] {
            let refusal = |scanned| match scanned {
                Scan::Refused(_, reason) => Some(reason),
                _ => None,
            };
            assert_eq!(refusal(scanned(text)), Some(reason), "{text:?}");
            // However it came.
            let found =
                (1..=text.len()).find_map(|end| refusal(scan(&text.as_bytes()[..end], end - 1, &limits(), &mut Rows::default())));
            assert_eq!(found, Some(reason), "{text:?}");
        }
        for text in ["PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r", "GET / HTTP/1.1\r", "GET / HTTP/1.1\r\nHost: a\r\n\r"] {
            assert_eq!(scanned(text), Scan::Partial, "{text:?}");
        }
    }

    #[test]
    fn a_head_in_pieces_is_found_at_every_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..text.len() {
            assert_eq!(scan(&text[..cut], 0, &limits(), &mut Rows::default()), Scan::Partial);
            assert_eq!(
                scan(text, cut, &limits(), &mut Rows::default()),
                Scan::Head { length: text.len(), body: Body::Length(0) }
            );
        }
    }

    #[test]
    fn so_is_a_preface() {
        for cut in 1..PREFACE.len() {
            assert_eq!(scan(&PREFACE[..cut], 0, &limits(), &mut Rows::default()), Scan::Partial);
            assert_eq!(scan(PREFACE, cut, &limits(), &mut Rows::default()), Scan::Http2);
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for (text, reason) in [
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", "bare_line_feed"),
            ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "bare_line_feed"),
            ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare_carriage_return"),
            ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "bare_carriage_return"),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "ambiguous_length"),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "ambiguous_length"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "ambiguous_length"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "bad_transfer_encoding"),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "bad_content_length"),
            ("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", "bad_content_length"),
            ("GET / HTTP/1.1\r\nContent-Length : 1\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\nHost\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\nHost: a\x0c\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", "bad_header"),
            ("GET / HTTP/1.1\r\n\r\n", "no_host"),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "no_host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "two_hosts"),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "bad_host"),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "host_disagrees"),
            ("GET http://a/ HTTP/1.0\r\nHost:\r\n\r\n", "host_disagrees"),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_transfer_encoding"),
            ("GET * HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET a:80 HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET ftp://a/ HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET http:/a HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET http://u@a/ HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET /a#b HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET /a?b#c HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET /a?b=\"c\" HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET /<a> HTTP/1.1\r\n\r\n", "bad_target"),
            ("GET  / HTTP/1.1\r\n\r\n", "bad_request_line"),
            ("GET /a b HTTP/1.1\r\n\r\n", "bad_request_line"),
            ("GET /\r\n\r\n", "bad_request_line"),
            ("\r\nGET / HTTP/1.1\r\n\r\n", "bad_request_line"),
            ("\x16\x03\x01", "bad_request_line"),
            (" GET / HTTP/1.1\r\n\r\n", "bad_request_line"),
        ] {
            assert_eq!(scanned(text), Scan::Refused(400, reason), "{text:?}");
        }
        assert_eq!(scanned("CONNECT a:80 HTTP/1.1\r\n\r\n"), Scan::Refused(405, "method"));
        assert_eq!(scanned("TRACE / HTTP/1.1\r\n\r\n"), Scan::Refused(405, "method"));
        assert_eq!(scanned("GET / HTTP/3.0\r\n\r\n"), Scan::Refused(505, "bad_version"));
    }

    #[test]
    fn heads_are_bounded() {
        let limits = limits();
        let line = limits.uri_size + AROUND_TARGET;
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(limits.uri_size));
        assert_eq!(scanned(&long), Scan::Refused(414, "target_too_long"));
        let longer = "GET /".to_owned() + &"a".repeat(line);
        assert_eq!(scanned(&longer), Scan::Refused(414, "target_too_long"));
        let fits = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(limits.uri_size - 1));
        assert!(matches!(scanned(&fits), Scan::Head { .. }));
        let large = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(limits.header_size));
        assert_eq!(scanned(&large), Scan::Refused(431, "head_too_large"));
        assert_eq!(scanned(&large[..=limits.header_size]), Scan::Refused(431, "head_too_large"));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(limits.headers + 1));
        assert_eq!(scanned(&many), Scan::Refused(431, "too_many_headers"));
    }
}
