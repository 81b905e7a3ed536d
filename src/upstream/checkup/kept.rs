//! A connection that probes share: one carries ten of them, over HTTP/1.1 and HTTP/2 alike, for to open one costs more than all else.
//! The tenth probe that opens a new one finds out whether a new one can be had; each of the others, whether who was reached still answers.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http_body_util::{Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;

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
            let beside = Beside::default();
            let mut builder = http2::Builder::new(beside.clone());
            let mut opening = std::pin::pin!(builder.max_header_list_size(HEAD as u32).handshake(io));
            let opened = std::future::poll_fn(|cx| {
                beside.poll_all(cx);
                opening.as_mut().poll(cx)
            });
            let (sender, connection) = opened.await.map_err(ill)?;
            let mut connection = Some(connection);
            let driver = std::future::poll_fn(move |cx| {
                let ended = connection.as_mut().map_or(Poll::Ready(Ok(())), |connection| Pin::new(connection).poll(cx));
                if ended.is_ready() {
                    // Only then the rest says goodbye.
                    connection = None;
                }
                beside.poll_all(cx);
                ended
            });
            Self { sender: Sender::Http2(sender, reached.scheme), driver: Some(Box::pin(driver)), probes }
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
        if whole && open && !last {
            return Ok((found, Some(self)));
        }
        drop(self.sender);
        if let Some(driver) = self.driver.filter(|_| open) {
            poll_immediate(driver).await;
        }
        Ok((found, None))
    }
}

/// Futures that an HTTP/2 connection would have tasks for. Here they get on with it, in the probe's own task: tasks would wake each other, on
/// other threads, several times for each probe.
#[derive(Clone, Default)]
struct Beside(Arc<Mutex<Vec<Work>>>);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Beside {
    fn execute(&self, work: F) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(work));
    }
}

impl Beside {
    fn poll_all(&self, cx: &mut Context<'_>) {
        let mut left = Vec::new();
        // What is begun meanwhile is begun at once.
        loop {
            let work = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if work.is_empty() {
                break;
            }
            left.extend(work.into_iter().filter_map(|mut work| match work.as_mut().poll(cx) {
                Poll::Ready(()) => None,
                Poll::Pending => Some(work),
            }));
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
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
