//! Whether an endpoint's head has one meaning, and where its body ends: looked at before a byte of the response reaches the client, and the
//! same for each way in which requests are carried.

use std::mem::MaybeUninit;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use pingora_http::ResponseHeader;

use crate::filter::{Error, Party};

/// Bytes of an endpoint's head at most.
pub(super) const HEAD_MAX: usize = 64 * 1024;
/// Fields of it at most.
pub(super) const FIELDS_MAX: usize = 256;
/// Informational responses before the final one at most: as many as a client may have to read for nothing.
pub(super) const INFORMATIONAL_MAX: u8 = 16;

/// What can be wrong with an endpoint's answer, and how its operator is told.
macro_rules! refusals {
    ($($name:ident: $why:literal,)+) => {
        /// What is wrong with an endpoint's answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Refused {
            $($name,)+
        }

        impl Refused {
            const ALL: &[Self] = &[$(Self::$name,)+];

            /// In words, for the endpoint's operator.
            pub(super) fn why(self) -> &'static str {
                match self {
                    $(Self::$name => $why,)+
                }
            }
        }
    };
}

refusals! {
    LineFeed: "a line of its head ends in a line feed alone",
    Line: "a line of its head can't be read",
    Name: "a field of its head has a name that is none, or is folded",
    Value: "a field of its head has a value that can't be",
    Blank: "a blank stands around a value, over HTTP/2",
    TooLarge: "its head is too large",
    LowStatus: "its status is below 100",
    HighStatus: "its status is above 599",
    Length: "its lengths disagree, or one is no number",
    LengthTwice: "it has the same length twice",
    LengthAndChunks: "it has a length, and chunks too",
    Coding: "its transfer coding is not just `chunked`, or stands in HTTP/1.0",
    Framing: "it says twice, or wrongly, where its body ends",
    Chunk: "its chunks can't be read",
    NotOver: "it goes on behind its end",
    Switches: "it switches protocols, which nobody asked for",
    Informational: "an informational head has a length or a coding that can't be",
    InformationalEnd: "it ends with an informational head",
    InformationalFlood: "it has more than 16 informational heads",
    TooShort: "its length disagrees with its body",
    NoBody: "it has a body, and may have none",
    Trailer: "its trailers have a field that belongs in front of a body",
    Pseudo: "it has not one `:status`, or other pseudo-fields",
    Block: "its fields can't be decoded (HPACK)",
    Frame: "a frame of HTTP/2 is not where or as it must be",
    Push: "it pushes, which was refused",
    Http2: "it breaks a rule of HTTP/2",
    Flood: "it floods its connection",
}

impl Refused {
    /// What an error says whose text ends in [`Refused::why`].
    pub(super) fn told_by(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|refused| text.ends_with(refused.why()))
    }

    /// The reason code: others may read it in another way, nobody can read it, or there is too much of it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::LineFeed
            | Self::HighStatus
            | Self::LengthTwice
            | Self::LengthAndChunks
            | Self::Coding
            | Self::Framing
            | Self::Trailer => "ambiguous_response",
            Self::TooLarge => "response_head_too_large",
            Self::InformationalFlood => "informational_flood",
            Self::Flood => "http2_flood",
            _ => "invalid_response",
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::new(502, Party::Upstream, refused.reason()).with_message(refused.why())
    }
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
        Ok(Status::Complete(length)) if length > HEAD_MAX => Err(Refused::TooLarge),
        Ok(Status::Complete(length)) if has_bare_line_feed(&text[..length]) => Err(Refused::LineFeed),
        Ok(Status::Complete(length)) => Ok(Some(length)),
        Ok(Status::Partial) if text.len() <= HEAD_MAX => Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(Refused::TooLarge),
        Err(httparse::Error::HeaderName) => Err(Refused::Name),
        Err(httparse::Error::HeaderValue) => Err(Refused::Value),
        Err(_) => Err(Refused::Line),
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
        0..100 => Err(Refused::LowStatus),
        100..600 => Ok(()),
        _ => Err(Refused::HighStatus),
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
                if chunked {
                    return Err(Refused::LengthAndChunks);
                }
                if length.is_some() {
                    return Err(lengths(fields));
                }
                length = Some(number(value).ok_or_else(|| lengths(fields.clone()))?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if length.is_some() {
                    return Err(Refused::LengthAndChunks);
                }
                if chunked || is_http10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refused::Coding);
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
            return Err(Refused::Informational);
        }
    }
    Ok(())
}

/// What is wrong with lengths.
fn lengths<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Refused {
    let mut lengths = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length"))
        .flat_map(|(_, value)| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let first = lengths.next().and_then(number);
    if first.is_some() && lengths.all(|length| number(length) == first) { Refused::LengthTwice } else { Refused::Length }
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
/// Nobody can rely on what it says.
pub(super) fn judge(head: &ResponseHeader) -> Result<(), Refused> {
    let (mut size, mut lengths, mut codings) = (0, 0, 0);
    let mut sound = true;
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
            return Err(Refused::Blank);
        }
    }
    if size > HEAD_MAX || head.headers.len() > FIELDS_MAX {
        return Err(Refused::TooLarge);
    }
    if head.status.as_u16() >= 600 {
        return Err(Refused::HighStatus);
    }
    if sound && lengths + codings <= 1 { Ok(()) } else { Err(Refused::Framing) }
}

/// Whether a blank stands around a value: over HTTP/2 it would be part of it, and is taken off elsewhere (RFC 9113 §8.2.1).
fn is_padded(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.first()) || is_blank(value.last())
}

/// Judges what an endpoint on HTTP/2 says behind the body: nothing that frames or steers a message may stand there (RFC 9110 §6.5.1).
///
/// # Errors
/// Some does.
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
        return Err(Refused::TooLarge);
    }
    if fields.keys().any(|name| IN_FRONT.contains(&name.as_str())) {
        return Err(Refused::Trailer);
    }
    if fields.values().any(|value| is_padded(value.as_bytes())) { Err(Refused::Blank) } else { Ok(()) }
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

    fn judged(fields: &[(&'static str, &str)]) -> Result<(), Refused> {
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
            assert_eq!(judged(fields), Err(Refused::Framing), "{fields:?}");
        }
        assert_eq!(judged(&[("x-a", &"a".repeat(HEAD_MAX))]), Err(Refused::TooLarge));
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
            assert_eq!(judged(value), Err(Refused::Blank), "{value:?}");
        }
    }

    #[test]
    fn fields_are_counted() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for _ in 0..=FIELDS_MAX {
            assert_eq!(judge(&head), Ok(()));
            head.append_header("x-a", "").unwrap();
        }
        assert_eq!(judge(&head), Err(Refused::TooLarge));
    }

    #[test]
    fn trailers_frame_nothing() {
        let judged = |name: &'static str, value: &'static str| {
            trailers(&HeaderMap::from_iter([(http::HeaderName::from_static(name), http::HeaderValue::from_static(value))]))
        };
        assert_eq!((judged("grpc-status", "0"), judged("x-a", "")), (Ok(()), Ok(())));
        for name in ["content-length", "transfer-encoding", "host", "connection", "te", "trailer", "upgrade"] {
            assert_eq!(judged(name, "1"), Err(Refused::Trailer), "{name}");
        }
        assert_eq!(judged("x-a", " 1"), Err(Refused::Blank));
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
            assert_eq!(read(text), Err(Refused::LineFeed), "{text:?}");
        }
        for (line, refused) in [
            ("A : b", Refused::Name),
            ("A\t: b", Refused::Name),
            ("A: b\r\n c", Refused::Name),
            ("A: b\r\n\tc", Refused::Name),
            (" A: b", Refused::Name),
            ("A: b\rc", Refused::Value),
            ("A: b\0c", Refused::Value),
            ("A", Refused::Name),
        ] {
            assert_eq!(read(&format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n")), Err(refused), "{line:?}");
        }
    }

    #[test]
    fn each_fault_is_told_from_all_others() {
        for refused in Refused::ALL {
            assert_eq!(Refused::told_by(&format!("an error: {}", refused.why())).as_ref(), Some(refused));
        }
        assert_eq!(Refused::told_by("timed out"), None);
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
