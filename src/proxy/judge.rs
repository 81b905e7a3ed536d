//! Whether an endpoint's head has one meaning, and where its body ends: looked at before a byte of the response reaches the client, and the
//! same for each way in which requests are carried.

use std::mem::MaybeUninit;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use pingora_http::ResponseHeader;

/// Bytes of an endpoint's head at most.
pub(super) const HEAD_MAX: usize = 64 * 1024;
/// Fields of it at most.
pub(super) const FIELDS_MAX: usize = 256;
/// Informational responses before the final one at most: as many as a client may have to read for nothing.
pub(super) const INFORMATIONAL_MAX: u8 = 16;

/// What can't be relied on: the reason code.
pub(super) type Refused = &'static str;

/// Others may read it in another way.
const AMBIGUOUS: Refused = "ambiguous_response";
pub(super) const INVALID: Refused = "invalid_response";
pub(super) const TOO_LARGE: Refused = "response_head_too_large";

/// The reason code at the end of what an error says.
pub(super) fn known(text: &str) -> Option<Refused> {
    [AMBIGUOUS, INVALID, TOO_LARGE, "informational_flood", "http2_flood"].into_iter().find(|reason| text.ends_with(reason))
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

/// Reads a head at the beginning of `text`, and says how long it is. `Ok(None)`: it is not whole yet.
///
/// It is read strictly, as a client's is: each line ends in CR LF (RFC 9112 §2.2), none is folded (§5.2), and no blank stands before a colon
/// (§5.1). All these have been read in two ways, and passing them on mended would only hide that from the next one.
///
/// # Errors
/// It is none, it is too large, or others may read it in another way.
pub(super) fn head<'head, 'text>(
    read: &mut httparse::Response<'head, 'text>,
    text: &'text [u8],
    space: &'head mut [MaybeUninit<Header<'text>>],
) -> Result<Option<usize>, Refused> {
    match ParserConfig::default().parse_response_with_uninit_headers(read, text, space) {
        Ok(Status::Complete(length)) if length > HEAD_MAX => Err(TOO_LARGE),
        Ok(Status::Complete(length)) if has_bare_line_feed(&text[..length]) => Err(AMBIGUOUS),
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) if text.len() <= HEAD_MAX => Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(TOO_LARGE),
        Err(_) => Err(INVALID),
    }
}

/// Whether a line ends in a line feed alone. Without an early end, so that many bytes are looked at at once.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let Some((first, rest)) = head.split_first() else { return false };
    head.iter().zip(rest).fold(*first == b'\n', |found, (before, byte)| found | ((*byte == b'\n') & (*before != b'\r')))
}

/// Whether a status is one.
///
/// # Errors
/// It is not.
pub(super) fn status(code: u16) -> Result<(), Refused> {
    match code {
        0..100 => Err(INVALID),
        100..600 => Ok(()),
        _ => Err(AMBIGUOUS),
    }
}

/// Where the body behind a final head ends.
///
/// # Errors
/// It is said in two ways, or in none that is known.
pub(super) fn ends<'a>(
    status: u16,
    is_http10: bool,
    to_head: bool,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
) -> Result<Ends, Refused> {
    let (mut length, mut chunked) = (None, false);
    for (name, value) in fields.clone() {
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() || chunked {
                    return Err(several_lengths(fields));
                }
                length = Some(number(value).ok_or_else(|| several_lengths(fields.clone()))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if length.is_some() || chunked || is_http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(AMBIGUOUS);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    Ok(place(status, to_head, length, chunked))
}

/// [`ends`], where it is said once.
pub(super) fn place(status: u16, to_head: bool, length: Option<u64>, chunked: bool) -> Ends {
    match length {
        _ if to_head || matches!(status, 204 | 304) => Ends::AtOnce,
        _ if chunked => Ends::WithChunks,
        Some(0) => Ends::AtOnce,
        Some(length) => Ends::After(length),
        None => Ends::WithConnection,
    }
}

/// Whether what an informational head says of a body, which it has not, can be read: it is taken off then.
///
/// # Errors
/// It can't.
pub(super) fn informational<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), Refused> {
    let (mut lengths, mut codings) = (0, 0);
    for (name, value) in fields {
        let (count, is_sound) = match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => (&mut lengths, number(value).is_some()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => (&mut codings, value.eq_ignore_ascii_case(b"chunked")),
            _ => continue,
        };
        *count += 1;
        if *count > 1 || !is_sound {
            return Err(INVALID);
        }
    }
    Ok(())
}

/// Lengths that all say the same are ambiguous; others are none.
fn several_lengths<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Refused {
    let mut lengths = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let first = lengths.next().and_then(number);
    if first.is_some() && lengths.all(|length| number(length) == first) { AMBIGUOUS } else { INVALID }
}

/// Digits, and nothing but digits. A leading zero makes an octal number for some.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || (value.len() > 1 && value[0] == b'0') {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Judges a head as Pingora shows it, of an endpoint on HTTP/1 or HTTP/2.
///
/// # Errors
/// The reason code: nobody can rely on what it says.
pub(super) fn judge(head: &ResponseHeader) -> Result<(), Refused> {
    let (mut size, mut lengths, mut codings) = (0, 0, 0);
    let mut sound = head.status.as_u16() < 600;
    let over_http2 = head.version == Version::HTTP_2;
    for (name, value) in &head.headers {
        let value = value.as_bytes();
        size += name.as_str().len() + value.len();
        if *name == CONTENT_LENGTH {
            lengths += 1;
            sound &= number(value).is_some();
        } else if *name == TRANSFER_ENCODING {
            codings += 1;
            sound &= value.eq_ignore_ascii_case(b"chunked") && head.version == Version::HTTP_11;
        }
        if over_http2 && is_padded(value) {
            return Err(INVALID);
        }
    }
    if size > HEAD_MAX || head.headers.len() > FIELDS_MAX {
        return Err(TOO_LARGE);
    }
    if sound && lengths + codings <= 1 { Ok(()) } else { Err(AMBIGUOUS) }
}

/// Whether a blank stands around a value: over HTTP/2 it would be part of it, and is taken off elsewhere (RFC 9113 §8.2.1).
fn is_padded(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.first()) || is_blank(value.last())
}

/// Judges what an endpoint on HTTP/2 says behind the body: nothing that frames or steers a message may stand there (RFC 9110 §6.5.1).
///
/// # Errors
/// The reason code.
pub(super) fn trailers(fields: &HeaderMap) -> Result<(), Refused> {
    const IN_FRONT: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > HEAD_MAX || fields.len() > FIELDS_MAX {
        return Err(TOO_LARGE);
    }
    if fields.keys().any(|name| IN_FRONT.contains(&name.as_str())) {
        return Err(AMBIGUOUS);
    }
    if fields.values().any(|value| is_padded(value.as_bytes())) { Err(INVALID) } else { Ok(()) }
}

/// Takes the framing off a head that has no body (RFC 9110 §8.6).
pub(super) fn strip_framing(head: &mut ResponseHeader) {
    if head.status.is_informational() || head.status == StatusCode::NO_CONTENT {
        head.remove_header(&CONTENT_LENGTH);
        head.remove_header(&TRANSFER_ENCODING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(fields: &[(&'static str, &str)]) -> Result<(), &'static str> {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in fields {
            // As Pingora makes it of what came: unchecked.
            let value = pingora_http::header_value_from_raw(bytes::Bytes::copy_from_slice(value.as_bytes()));
            head.append_header(*name, value).unwrap();
        }
        judge(&head)
    }

    #[test]
    fn one_framing_is_enough() {
        assert_eq!(judged(&[("content-length", "5")]), Ok(()));
        assert_eq!(judged(&[("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(judged(&[("set-cookie", "a"), ("set-cookie", "b")]), Ok(()));
        for fields in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "05")],
            &[("content-length", "")],
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity")],
        ] {
            assert_eq!(judged(fields), Err("ambiguous_response"), "{fields:?}");
        }
        assert_eq!(judged(&[("x-a", &"a".repeat(HEAD_MAX))]), Err(TOO_LARGE));
    }

    #[test]
    fn over_http2_a_value_is_all_that_stands_there() {
        let judged = |value: &'static str| {
            let mut head = ResponseHeader::build(200, None).unwrap();
            head.set_version(Version::HTTP_2);
            head.append_header("x-a", value).unwrap();
            judge(&head)
        };
        assert_eq!((judged("a b"), judged("")), (Ok(()), Ok(())));
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert_eq!(judged(value), Err(INVALID), "{value:?}");
        }
    }

    #[test]
    fn fields_are_counted() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for _ in 0..=FIELDS_MAX {
            assert_eq!(judge(&head), Ok(()));
            head.append_header("x-a", "").unwrap();
        }
        assert_eq!(judge(&head), Err(TOO_LARGE));
    }

    #[test]
    fn trailers_frame_nothing() {
        let judged = |name: &'static str, value: &'static str| {
            trailers(&HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))]))
        };
        assert_eq!((judged("grpc-status", "0"), judged("x-a", "")), (Ok(()), Ok(())));
        for name in ["content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade"] {
            assert_eq!(judged(name, "1"), Err(AMBIGUOUS), "{name}");
        }
        assert_eq!(judged("x-a", " 1"), Err(INVALID));
    }

    fn read(text: &str) -> Result<Option<usize>, Refused> {
        let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        head(&mut httparse::Response::new(&mut []), text.as_bytes(), &mut space)
    }

    #[test]
    fn a_head_is_read_in_one_way() {
        assert_eq!(read("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbo\ndy"), Ok(Some(25)));
        for text in ["", "HTTP/1.1 200 OK\r\nA: b\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r"] {
            assert_eq!(read(text), Ok(None), "{text:?}");
        }
        for text in
            ["\nHTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\n\r\n", "HTTP/1.1 200 OK\r\nA: b\n\r\n", "HTTP/1.1 200 OK\r\n\n"]
        {
            assert_eq!(read(text), Err(AMBIGUOUS), "{text:?}");
        }
        for line in ["A : b", "A\t: b", "A: b\r\n c", "A: b\r\n\tc", " A: b", "A: b\rc", "A: b\0c", "A"] {
            assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n")), Err(INVALID), "{line:?}");
        }
    }

    #[test]
    fn old_endpoints_know_no_chunks_and_nobody_knows_status_600() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("transfer-encoding", "chunked").unwrap();
        head.set_version(Version::HTTP_10);
        assert!(judge(&head).is_err());
        assert!(judge(&ResponseHeader::build(600, None).unwrap()).is_err());
    }
}
