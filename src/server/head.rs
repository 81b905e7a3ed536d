//! The end of an HTTP/1 head, and how the body after it is framed: as much of a request as the connection loop must know.
//!
//! Pingora parses the head in full later. Both must agree on where it ends and on what follows, so everything that two
//! parsers could read differently is refused here.

use memchr::{memchr, memchr_iter, memchr2};

use crate::config::ListenerLimits;
use crate::server::chunks::Chunks;

/// Room for method and version beside the target.
const AROUND_TARGET: usize = 64;

/// What follows the part of HTTP/2's preface that looks like a head.
const PREFACE_END: &[u8] = b"SM\r\n\r\n";

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

/// Looks for a head at the beginning of `bytes`. Bytes before `seen` have been looked at before.
pub(super) fn scan(bytes: &[u8], seen: usize, limits: &ListenerLimits) -> Scan {
    let line = limits.uri_size + AROUND_TARGET;
    let Some(length) = end_of_head(bytes, seen.saturating_sub(3)) else {
        return match bytes.first() {
            Some(first) if !first.is_ascii_alphabetic() && !is_token(*first) => Scan::Refused(400, "bad_request_line"),
            _ if bytes.len() > limits.header_size => Scan::Refused(431, "head_too_large"),
            _ if bytes.len() > line && !bytes[..line].contains(&b'\n') => Scan::Refused(414, "target_too_long"),
            _ => Scan::Partial,
        };
    };
    if length > limits.header_size {
        return Scan::Refused(431, "head_too_large");
    }
    let head = &bytes[..length];
    if head == b"PRI * HTTP/2.0\r\n\r\n" {
        // The whole of it (RFC 9113 §3.4), so that nobody waits for the rest without a deadline.
        return match &bytes[length..] {
            rest if rest.starts_with(PREFACE_END) => Scan::Http2,
            rest if PREFACE_END.starts_with(rest) => Scan::Partial,
            _ => Scan::Refused(400, "bad_preface"),
        };
    }
    match read(head, limits) {
        Ok(body) => Scan::Head { length, body },
        Err((status, reason)) => Scan::Refused(status, reason),
    }
}

fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    memchr_iter(b'\n', &bytes[from..]).map(|at| from + at + 1).find(|end| bytes[from..*end].ends_with(b"\r\n\r\n"))
}

fn read(head: &[u8], limits: &ListenerLimits) -> Result<Body, (u16, &'static str)> {
    let mut rest = Some(&head[..head.len() - 4]);
    let mut first = true;
    let mut fields = 0;
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut upgrade = false;
    while let Some(text) = rest {
        // Every line but the last, whose end is left out here, ends in CR LF: a bare LF or CR is read differently elsewhere.
        let line = match memchr2(b'\r', b'\n', text) {
            None => {
                rest = None;
                text
            }
            Some(end) if text[end..].starts_with(b"\r\n") => {
                rest = Some(&text[end + 2..]);
                &text[..end]
            }
            Some(end) if text[end] == b'\n' => return Err((400, "bare_line_feed")),
            Some(_) => return Err((400, "bare_carriage_return")),
        };
        if std::mem::take(&mut first) {
            request_line(line, limits.uri_size)?;
            continue;
        }
        fields += 1;
        if fields > limits.headers {
            return Err((431, "too_many_headers"));
        }
        let colon = memchr(b':', line).ok_or((400, "bad_header"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Without an early end, so that many bytes are looked at at once.
        let controls = value.iter().fold(false, |found, byte| found | (*byte < 0x20 && *byte != b'\t') | (*byte == 0x7f));
        if name.is_empty() || controls || !name.iter().all(|byte| is_token(*byte)) {
            return Err((400, "bad_header"));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() || chunked {
                return Err((400, "ambiguous_length"));
            }
            length = Some(number(value).ok_or((400, "bad_content_length"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || length.is_some() {
                return Err((400, "ambiguous_length"));
            }
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err((400, "bad_transfer_encoding"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = true;
        }
    }
    Ok(match (chunked, length) {
        (true, _) => Body::Chunked(Chunks::new()),
        (false, Some(length)) if length > 0 => Body::Length(length),
        _ if upgrade => Body::Open,
        _ => Body::Length(0),
    })
}

fn request_line(line: &[u8], uri_size: usize) -> Result<(), (u16, &'static str)> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let sound = method.is_some_and(|method| !method.is_empty() && method.iter().all(|byte| is_token(*byte)))
        && target.is_some_and(|target| !target.is_empty() && target.iter().all(u8::is_ascii_graphic))
        && parts.next().is_none();
    if target.is_some_and(|target| target.len() > uri_size) {
        return Err((414, "target_too_long"));
    }
    match version {
        _ if !sound => Err((400, "bad_request_line")),
        // A tunnel to wherever the client says is a forward proxy's work.
        _ if method == Some(b"CONNECT") => Err((405, "connect")),
        // It would show a script what only the browser should know (RFC 9110 §9.3.8).
        _ if method == Some(b"TRACE") => Err((405, "trace")),
        _ if !target.is_some_and(is_target) => Err((400, "bad_target")),
        Some(b"HTTP/1.1" | b"HTTP/1.0") => Ok(()),
        Some(version) if version.starts_with(b"HTTP/") => Err((505, "bad_version")),
        _ => Err((400, "bad_request_line")),
    }
}

/// Whether these visible characters may stand in a target: what must be encoded there (RFC 3986 §3.3, §3.4) and is no part of any
/// client's bad habits. Pingora's parser takes no others, and would refuse them in its own words.
fn is_target(target: &[u8]) -> bool {
    let path = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path);
    !path.iter().any(|byte| matches!(byte, b'<' | b'>' | b'`')) && !query.iter().any(|byte| matches!(byte, b'<' | b'>' | b'"'))
}

/// A content length: digits only (RFC 9112 §6.3).
fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(value).ok()?.parse().ok() } else { None }
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2): looked up, since a head has hundreds of them.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut place = 0;
    while place < others.len() {
        table[others[place] as usize] = true;
        place += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn scanned(text: &str) -> Scan {
        scan(text.as_bytes(), 0, &limits())
    }

    fn limits() -> ListenerLimits {
        Limits::default().or(&Limits::default())
    }

    #[test]
    fn finds_the_end_and_the_framing() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", Body::Length(0)),
            ("GET / HTTP/1.0\r\n\r\n", Body::Length(0)),
            ("POST / HTTP/1.1\r\nContent-Length:  12 \r\n\r\n", Body::Length(12)),
            ("POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n", Body::Chunked(Chunks::new())),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Body::Open),
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
    fn a_head_in_pieces_is_found_at_every_cut() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..text.len() {
            assert_eq!(scan(&text[..cut], 0, &limits()), Scan::Partial);
            assert_eq!(scan(text, cut, &limits()), Scan::Head { length: text.len(), body: Body::Length(0) });
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
            ("GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", "bad_header"),
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
        assert_eq!(scanned("CONNECT a:80 HTTP/1.1\r\n\r\n"), Scan::Refused(405, "connect"));
        assert_eq!(scanned("TRACE / HTTP/1.1\r\n\r\n"), Scan::Refused(405, "trace"));
        assert_eq!(scanned("GET / HTTP/3.0\r\n\r\n"), Scan::Refused(505, "bad_version"));
    }

    #[test]
    fn pingora_reads_every_target_that_passes() {
        for byte in 0x21..0x7f_u8 {
            for target in [[b'/', b'a', byte], [b'/', b'?', byte]] {
                let read = pingora_http::RequestHeader::build("GET", &target, None).is_ok();
                assert!(read || !is_target(&target), "{}", target.escape_ascii());
            }
        }
    }

    #[test]
    fn heads_are_bounded() {
        let limits = limits();
        let line = limits.uri_size + AROUND_TARGET;
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(limits.uri_size));
        assert_eq!(scanned(&long), Scan::Refused(414, "target_too_long"));
        let longer = "GET /".to_owned() + &"a".repeat(line);
        assert_eq!(scanned(&longer), Scan::Refused(414, "target_too_long"));
        let fits = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(limits.uri_size - 1));
        assert!(matches!(scanned(&fits), Scan::Head { .. }));
        let large = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(limits.header_size));
        assert_eq!(scanned(&large), Scan::Refused(431, "head_too_large"));
        assert_eq!(scanned(&large[..=limits.header_size]), Scan::Refused(431, "head_too_large"));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(limits.headers + 1));
        assert_eq!(scanned(&many), Scan::Refused(431, "too_many_headers"));
    }
}
