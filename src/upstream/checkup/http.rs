//! The HTTP health check: a request, and a status that is expected.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, Response};
use http_body_util::Empty;

use super::Ill;
use super::kept::{Answer, Found};
use crate::config::HttpHealthCheck;

/// How a probe names itself.
pub(super) const AGENT: &str = concat!("ravelin-health-check/", env!("CARGO_PKG_VERSION"));
/// Bytes of a body: what comes after is not read, and says nothing.
const BODY: usize = 64 * 1024;

/// `host`: what the endpoint is called, where the check does not name another. `last`: no other follows on the connection.
pub(super) fn over_http1(settings: &HttpHealthCheck, host: &str, last: bool) -> Result<Request<Empty<Bytes>>, Ill> {
    let mut request = Request::get(settings.path.as_str()).header(HOST, named(settings, host)).header(USER_AGENT, AGENT);
    if last {
        request = request.header(CONNECTION, "close");
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

pub(super) fn over_http2(settings: &HttpHealthCheck, host: &str, scheme: &str) -> Result<Request<()>, Ill> {
    let target = format!("{scheme}://{}{}", named(settings, host), settings.path.as_str());
    Request::get(target).header(USER_AGENT, AGENT).body(()).map_err(|error| error.to_string())
}

fn named<'a>(settings: &'a HttpHealthCheck, host: &'a str) -> &'a str {
    settings.host.as_ref().map_or(host, |host| host.as_str())
}

/// What an answer says.
///
/// # Errors
/// It breaks off.
pub(super) async fn judged(response: Response<Answer>, settings: &HttpHealthCheck) -> Result<Found, Ill> {
    let status = response.status().as_u16();
    let expected = settings.expect.iter().any(|range| range.contains(status));
    let found = if expected { Ok(()) } else { Err(format!("status {status}")) };
    let (mut body, mut read) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        read += match frame {
            Ok(frame) => frame.data_ref().map_or(0, Bytes::len),
            // It is ill anyway, and for a better reason.
            Err(_) if found.is_err() => return Ok((found, false)),
            Err(error) => return Err(error),
        };
        if read > BODY {
            return Ok((found, false));
        }
    }
    Ok((found, true))
}
