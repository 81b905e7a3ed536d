//! Whether an endpoint's head has one meaning. Pingora refuses controls and unfolds lines, but takes lengths and codings that others
//! read differently; those are looked at here, before a byte of the response reaches the client.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{StatusCode, Version};
use pingora_http::ResponseHeader;

/// Bytes of an endpoint's head at most.
const HEAD_MAX: usize = 64 * 1024;
/// Informational responses before the final one at most: as many as a client may have to read for nothing.
pub(super) const INFORMATIONAL_MAX: u8 = 16;

/// Judges a head as an HTTP/1 endpoint sent it.
///
/// # Errors
/// The reason code: nobody can rely on what it says.
pub(super) fn judge(head: &ResponseHeader) -> Result<(), &'static str> {
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
    if sound && lengths + codings <= 1 { Ok(()) } else { Err("ambiguous_response") }
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

    #[test]
    fn old_endpoints_know_no_chunks_and_nobody_knows_status_600() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("transfer-encoding", "chunked").unwrap();
        head.set_version(Version::HTTP_10);
        assert!(judge(&head).is_err());
        assert!(judge(&ResponseHeader::build(600, None).unwrap()).is_err());
    }
}
