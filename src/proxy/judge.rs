//! Whether an endpoint's head has one meaning, and where its body ends: looked at before a byte of the response reaches the client, and the
//! same for each way in which requests are carried.

use std::mem::MaybeUninit;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{StatusCode, Version};
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
const INVALID: Refused = "invalid_response";

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
        Ok(Status::Complete(length)) if length > HEAD_MAX => Err("response_head_too_large"),
        Ok(Status::Complete(length)) if has_bare_line_feed(&text[..length]) => Err(AMBIGUOUS),
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) if text.len() <= HEAD_MAX => Ok(None),
        Ok(Status::Partial) => Err("response_head_too_large"),
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
    for (name, value) in &head.headers {
        let value = value.as_bytes();
        size += name.as_str().len() + value.len();
        if *name == CONTENT_LENGTH {
            lengths += 1;
            sound &= value.iter().all(u8::is_ascii_digit);
        } else if *name == TRANSFER_ENCODING {
            codings += 1;
            sound &= value.eq_ignore_ascii_case(b"chunked") && head.version == Version::HTTP_11;
        }
    }
    if size > HEAD_MAX {
        return Err("response_head_too_large");
    }
    if sound && lengths + codings <= 1 { Ok(()) } else { Err(AMBIGUOUS) }
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
            &[("content-length", "5"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity")],
        ] {
            assert_eq!(judged(fields), Err("ambiguous_response"), "{fields:?}");
        }
        assert_eq!(judged(&[("x-a", &"a".repeat(HEAD_MAX))]), Err("response_head_too_large"));
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
