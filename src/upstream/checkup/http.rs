//! The HTTP health check: a request, and a status that is expected.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Ill;
use super::dial::Reached;
use crate::config::HttpHealthCheck;

/// How a probe names itself.
pub(super) const AGENT: &str = concat!("ravelin-health-check/", env!("CARGO_PKG_VERSION"));
/// Bytes of a head, and of a body: what comes after is not read, and says nothing.
const HEAD: usize = 16 * 1024;
const BODY: usize = 64 * 1024;

/// `host`: what the endpoint is called, where the check does not name another.
pub(super) async fn probe(reached: Reached, settings: &HttpHealthCheck, host: &str) -> Result<(), Ill> {
    let host = settings.host.as_ref().map_or(host, |host| host.as_str());
    let path = settings.path.as_str();
    let request = if reached.http2 {
        Request::get(format!("{}://{host}{path}", reached.scheme))
    } else {
        Request::get(path).header(HOST, host).header(CONNECTION, "close")
    };
    let request = request.header(USER_AGENT, AGENT).body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let io = TokioIo::new(reached.stream);
    if reached.http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.max_header_list_size(HEAD as u32).handshake(io).await.map_err(ill)?;
        asked(async { judged(sender.send_request(request).await, settings).await }, connection).await
    } else {
        let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD).handshake(io).await.map_err(ill)?;
        asked(async { judged(sender.send_request(request).await, settings).await }, connection).await
    }
}

/// The connection is no task of its own: it ends with the probe.
async fn asked(
    asking: impl Future<Output = Result<(), Ill>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<(), Ill> {
    let breaking = async {
        match connection.await {
            Err(error) => ill(error),
            // All that is left to do is for the other side to see the end of it.
            Ok(()) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        found = asking => found,
        broken = breaking => Err(broken),
    }
}

async fn judged(response: hyper::Result<Response<Incoming>>, settings: &HttpHealthCheck) -> Result<(), Ill> {
    let response = response.map_err(ill)?;
    let status = response.status().as_u16();
    if !settings.expect.iter().any(|range| range.contains(status)) {
        return Err(format!("status {status}"));
    }
    let (mut body, mut read) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        read += frame.map_err(ill)?.data_ref().map_or(0, Bytes::len);
        if read > BODY {
            break;
        }
    }
    Ok(())
}

/// An error, and what it comes from.
pub(super) fn ill(error: hyper::Error) -> Ill {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
