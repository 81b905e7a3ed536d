//! Errors as gRPC wants them: a call that ends in one has the HTTP status 200 and says why in `grpc-status`
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Trailers-Only").

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::filter::{Fields, Reply};

/// Whether a request with these fields is a call.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes) else { return false };
    const GRPC: &[u8] = b"application/grpc";
    // `application/grpc-web` is another protocol.
    kind.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
        && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// The end of a call in an error that has this status over HTTP.
pub(super) fn ended(status: u16, id: &str) -> Reply {
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let mut reply = Reply::new(200);
    let message = format!("{status} {phrase}, request id {id}");
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", code(status)), ("grpc-message", &message)] {
        // Names and values are constants, numbers and words.
        let _ = reply.head.set(name, value.as_bytes());
    }
    reply
}

/// The code that stands for a status (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
fn code(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::ResponseHead;

    #[test]
    fn what_is_a_call() {
        let call = |kind: &str| is_call(&HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]));
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert!(call(kind), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpcx", "application/json", ""] {
            assert!(!call(kind), "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn an_error_is_a_status_of_its_own() {
        let reply = ended(503, "abc");
        assert_eq!(reply.head.status(), 200);
        let mut fields = Vec::new();
        reply.head.each(&mut |name, value| fields.push((name.to_owned(), String::from_utf8_lossy(value).into_owned())));
        assert!(fields.contains(&("grpc-status".to_owned(), "14".to_owned())), "{fields:?}");
        assert!(
            fields.contains(&("grpc-message".to_owned(), "503 Service Unavailable, request id abc".to_owned())),
            "{fields:?}"
        );
        let codes = [400, 401, 403, 404, 413, 429, 500, 502, 504].map(code);
        assert_eq!(codes, ["13", "16", "7", "12", "2", "14", "2", "14", "14"]);
    }
}
