//! The gRPC health check: the health service that servers offer beside their own (`grpc.health.v1.Health`), asked over HTTP/2.
//!
//! The two messages of that protocol have one field each, so they are written and read here: a code generator and its runtime would be
//! far more than they need.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Request, Response};

use super::Ill;
use super::http::AGENT;
use super::kept::{Answer, Found};
use crate::config::GrpcHealthCheck;

/// Bytes of an answer: a health service has four to say.
const ANSWER: usize = 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// `host`: what the endpoint is called.
pub(super) fn question(settings: &GrpcHealthCheck, host: &str, scheme: &str) -> Result<(Request<()>, Bytes), Ill> {
    Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(())
        .map(|request| (request, message(&settings.service)))
        .map_err(|error| error.to_string())
}

/// What an answer says.
///
/// # Errors
/// It breaks off.
pub(super) async fn judged(response: Response<Answer>) -> Result<Found, Ill> {
    let status = response.status().as_u16();
    if status != 200 {
        return Ok((Err(format!("status {status}")), false));
    }
    // An answer without a message has its status among its fields.
    if let Err(ill) = sound(response.headers()) {
        return Ok((Err(ill), false));
    }
    let (mut body, mut message, mut trailers) = (response.into_body(), BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) if message.len() + data.len() > ANSWER => return Ok((Err("the answer is too long".to_owned()), false)),
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    let found = sound(&trailers).and_then(|()| match serving(&message) {
        Some(SERVING) => Ok(()),
        Some(status) => Err(name(status)),
        None => Err("the answer is no HealthCheckResponse".to_owned()),
    });
    Ok((found, true))
}

/// Whether there is no status, or that of success.
fn sound(fields: &HeaderMap) -> Result<(), Ill> {
    let text = |name| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status") {
        Some(status) if status != "0" => {
            let said = text("grpc-message").map(|message| format!(" ({message})")).unwrap_or_default();
            Err(format!("grpc-status {status}{said}"))
        }
        _ => Ok(()),
    }
}

/// A `HealthCheckRequest` as one message of a gRPC stream.
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, a string.
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// The status in a `HealthCheckResponse`: field 1, a number. Left out it is 0.
fn serving(mut framed: &[u8]) -> Option<u64> {
    if framed.len() < 5 || framed.get_u8() != 0 || framed.get_u32() as usize != framed.len() {
        return None;
    }
    let mut status = 0;
    while !framed.is_empty() {
        let key = varint(&mut framed)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut framed)?,
            // Fields of a later version.
            (_, 0) => _ = varint(&mut framed)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut framed)?).ok()?;
                framed = framed.get(length..)?;
            }
            (_, 1) => framed = framed.get(8..)?,
            (_, 5) => framed = framed.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn name(status: u64) -> Ill {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("serving status {other}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_is_a_message_with_one_string() {
        assert_eq!(*message(""), [0, 0, 0, 0, 0]);
        assert_eq!(*message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"a".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 2]);
    }

    #[test]
    fn an_answer_says_one_of_four_things() {
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 1]), Some(SERVING), "a field that is not known");
        for bad in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02\x08", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x02\x08\xff", b"<html>"] {
            assert_eq!(serving(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_an_answer_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(&bytes);
            let _ = (serving(&framed), serving(&bytes));
        }
    }
}
