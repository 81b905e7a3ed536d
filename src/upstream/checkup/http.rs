//! The HTTP health check: a request, and a status that is expected.
//!
//! A connection over HTTP/1.1 is kept for the probes that follow, as those for requests are: to open one costs more than all else.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::poll_immediate;
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

/// Probes that one connection carries: so a tenth of them finds out whether a new one can be had.
const PROBES: u32 = 10;

/// A connection over HTTP/1.1, that the next probe may use.
pub(super) struct Kept {
    sender: http1::SendRequest<Empty<Bytes>>,
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    probes: u32,
}

/// `host`: what the endpoint is called, where the check does not name another. `again`: there will be a next probe.
pub(super) async fn probe(
    reached: Reached,
    settings: &HttpHealthCheck,
    host: &str,
    again: bool,
) -> (Result<(), Ill>, Option<Kept>) {
    if reached.http2 {
        return (over_http2(reached, settings, host).await, None);
    }
    let opened = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(reached.stream)).await;
    let (sender, connection) = match opened {
        Ok(opened) => opened,
        Err(error) => return (Err(ill(error)), None),
    };
    let probes = if again { 0 } else { PROBES - 1 };
    match (Kept { sender, connection: Box::pin(connection), probes }).ask(settings, host).await {
        Ok((found, kept)) => (found, kept),
        Err(broken) => (Err(broken), None),
    }
}

impl Kept {
    /// What it finds, and itself if it may be used once more.
    ///
    /// # Errors
    /// The connection broke, which it may have done since the probe before.
    pub(super) async fn ask(mut self, settings: &HttpHealthCheck, host: &str) -> Result<(Result<(), Ill>, Option<Self>), Ill> {
        self.probes += 1;
        let last = self.probes >= PROBES;
        let host = settings.host.as_ref().map_or(host, |host| host.as_str());
        let mut request = Request::get(settings.path.as_str()).header(HOST, host).header(USER_AGENT, AGENT);
        if last {
            request = request.header(CONNECTION, "close");
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let sender = &mut self.sender;
        let asking = async {
            sender.ready().await.map_err(ill)?;
            judged(sender.send_request(request).await.map_err(ill)?, settings).await
        };
        let (found, whole) = asked(asking, &mut self.connection).await?;
        // It learns here, if at all, that the other side has ended it.
        let open = poll_immediate(&mut self.connection).await.is_none();
        Ok((found, Some(self).filter(|_| whole && open && !last)))
    }
}

async fn over_http2(reached: Reached, settings: &HttpHealthCheck, host: &str) -> Result<(), Ill> {
    let host = settings.host.as_ref().map_or(host, |host| host.as_str());
    let request = Request::get(format!("{}://{host}{}", reached.scheme, settings.path.as_str())).header(USER_AGENT, AGENT);
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let builder = builder.max_header_list_size(HEAD as u32);
    let (mut sender, connection) = builder.handshake(TokioIo::new(reached.stream)).await.map_err(ill)?;
    let asking = async { judged(sender.send_request(request).await.map_err(ill)?, settings).await };
    asked(asking, connection).await?.0
}

/// The connection is no task of its own: it gets on while something is asked.
async fn asked<T>(
    asking: impl Future<Output = Result<T, Ill>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<T, Ill> {
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

/// What an answer says, and whether it has been read whole.
async fn judged(response: Response<Incoming>, settings: &HttpHealthCheck) -> Result<(Result<(), Ill>, bool), Ill> {
    let status = response.status().as_u16();
    let expected = settings.expect.iter().any(|range| range.contains(status));
    let found = if expected { Ok(()) } else { Err(format!("status {status}")) };
    let (mut body, mut read) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        read += match frame {
            Ok(frame) => frame.data_ref().map_or(0, Bytes::len),
            // It is ill anyway, and for a better reason.
            Err(_) if found.is_err() => return Ok((found, false)),
            Err(error) => return Err(ill(error)),
        };
        if read > BODY {
            return Ok((found, false));
        }
    }
    Ok((found, true))
}

/// An error, and what it comes from.
pub(super) fn ill(error: hyper::Error) -> Ill {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
