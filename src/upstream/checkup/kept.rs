//! A connection that probes share: one carries ten of them, over HTTP/1.1 and HTTP/2 alike, for to open one costs more than all else.
//! The tenth probe that opens a new one finds out whether a new one can be had; each of the others, whether who was reached still answers.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http_body_util::{Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::dial::Reached;
use super::{Ill, Kind, grpc, http};

/// Bytes of a head: a longer one is none.
const HEAD: usize = 16 * 1024;
/// Probes that one connection carries: so a tenth of them finds out whether a new one can be had.
const PROBES: u32 = 10;

/// A connection that the next probe may use.
pub(super) struct Kept {
    sender: Sender,
    driver: Option<Driver>,
    probes: u32,
}

/// What gets a connection on: it is no task of its own. Once it has ended it must go, for who asks over it learns that by its end.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>, &'static str),
}

/// What a probe found, and whether its answer was read whole: if not, no other can follow on its connection.
pub(super) type Found = (Result<(), Ill>, bool);

impl Kept {
    /// Over a connection that is open. `again`: there will be a next probe.
    pub(super) async fn over(reached: Reached, again: bool) -> Result<Self, Ill> {
        let (io, probes) = (TokioIo::new(reached.stream), if again { 0 } else { PROBES - 1 });
        Ok(if reached.http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder.max_header_list_size(HEAD as u32).handshake(io).await.map_err(ill)?;
            Self { sender: Sender::Http2(sender, reached.scheme), driver: Some(Box::pin(connection)), probes }
        } else {
            let (sender, connection) = http1::Builder::new().max_buf_size(HEAD).handshake(io).await.map_err(ill)?;
            Self { sender: Sender::Http1(sender), driver: Some(Box::pin(connection)), probes }
        })
    }

    /// What the endpoint says, and the connection if it may be used once more. `host`: what the endpoint is called.
    ///
    /// # Errors
    /// The connection broke, which it may have done since the probe before.
    pub(super) async fn ask(mut self, kind: &Kind, host: &str) -> Result<(Result<(), Ill>, Option<Self>), Ill> {
        self.probes += 1;
        let last = self.probes >= PROBES;
        let Self { sender, driver, .. } = &mut self;
        let asking = async {
            match (sender, kind) {
                (Sender::Http1(sender), Kind::Http(settings)) => {
                    let request = http::over_http1(settings, host, last)?;
                    sender.ready().await.map_err(ill)?;
                    http::judged(sender.send_request(request).await.map_err(ill)?, settings).await
                }
                (Sender::Http2(sender, scheme), Kind::Http(settings)) => {
                    let request = http::over_http2(settings, host, scheme)?;
                    sender.ready().await.map_err(ill)?;
                    http::judged(sender.send_request(request).await.map_err(ill)?, settings).await
                }
                (Sender::Http2(sender, scheme), Kind::Grpc(settings)) => {
                    let request = grpc::question(settings, host, scheme)?;
                    sender.ready().await.map_err(ill)?;
                    grpc::judged(sender.send_request(request).await.map_err(ill)?).await
                }
                (Sender::Http1(_), Kind::Grpc(_)) | (_, Kind::Tcp) => Err("it is not spoken on this connection".to_owned()),
            }
        };
        let (found, whole) = asked(asking, driver).await?;
        // It learns here, if at all, that the other side has ended it.
        let open = match driver {
            Some(driver) => poll_immediate(driver).await.is_none(),
            None => false,
        };
        Ok((found, Some(self).filter(|_| whole && open && !last)))
    }
}

/// The connection gets on while something is asked.
async fn asked<T>(asking: impl Future<Output = Result<T, Ill>>, driver: &mut Option<Driver>) -> Result<T, Ill> {
    let breaking = async {
        let Some(connection) = driver else { return "the connection has ended".to_owned() };
        let ended = connection.await;
        *driver = None;
        match ended {
            Err(error) => ill(error),
            // What is asked ends with it, or has come already.
            Ok(()) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        found = asking => found,
        broken = breaking => Err(broken),
    }
}

/// An error, and what it comes from.
pub(super) fn ill(error: hyper::Error) -> Ill {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
