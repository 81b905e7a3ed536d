//! A connection that probes share: one carries ten of them, over HTTP/1.1 and HTTP/2 alike, for to open one costs more than all else.
//! The tenth probe that opens a new one finds out whether a new one can be had; each of the others, whether who was reached still answers.

use std::future::poll_fn;
use std::pin::{Pin, pin};

use bytes::Bytes;
use futures_util::future::poll_immediate;
use h2::client as http2;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::dial::Reached;
use super::{Ill, Kind, grpc, http as over_http};

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
type Driver = Pin<Box<dyn Future<Output = Result<(), Ill>> + Send>>;

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Bytes>, &'static str),
}

/// What a probe found, and whether its answer was read whole: if not, no other can follow on its connection.
pub(super) type Found = (Result<(), Ill>, bool);

/// The body of an answer, and its trailers.
pub(super) enum Answer {
    Http1(Incoming),
    Http2(h2::RecvStream),
}

impl Answer {
    /// What comes next of it, if anything.
    pub(super) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Ill>> {
        match self {
            Self::Http1(body) => body.frame().await.map(|frame| frame.map_err(ill)),
            Self::Http2(stream) => Some(match stream.data().await {
                Some(Ok(data)) => stream.flow_control().release_capacity(data.len()).map(|()| Frame::data(data)).map_err(ill),
                Some(Err(error)) => Err(ill(error)),
                None => stream.trailers().await.transpose()?.map(Frame::trailers).map_err(ill),
            }),
        }
    }
}

impl Kept {
    /// Over a connection that is open. `again`: there will be a next probe.
    pub(super) async fn over(reached: Reached, again: bool) -> Result<Self, Ill> {
        let probes = if again { 0 } else { PROBES - 1 };
        let (sender, driver): (_, Driver) = if reached.http2 {
            let opening = http2::Builder::new().enable_push(false).max_header_list_size(HEAD as u32).handshake(reached.stream);
            let (sender, connection) = opening.await.map_err(ill)?;
            (Sender::Http2(sender, reached.scheme), Box::pin(async { connection.await.map_err(ill) }))
        } else {
            let opening = http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(reached.stream));
            let (sender, connection) = opening.await.map_err(ill)?;
            (Sender::Http1(sender), Box::pin(async { connection.await.map_err(ill) }))
        };
        Ok(Self { sender, driver: Some(driver), probes })
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
                    let request = over_http::over_http1(settings, host, last)?;
                    sender.ready().await.map_err(ill)?;
                    let response = sender.send_request(request).await.map_err(ill)?;
                    over_http::judged(response.map(Answer::Http1), settings).await
                }
                (Sender::Http2(sender, scheme), Kind::Http(settings)) => {
                    let request = over_http::over_http2(settings, host, scheme)?;
                    over_http::judged(answer(sender, request, Bytes::new()).await?, settings).await
                }
                (Sender::Http2(sender, scheme), Kind::Grpc(settings)) => {
                    let (request, message) = grpc::question(settings, host, scheme)?;
                    grpc::judged(answer(sender, request, message).await?).await
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
            // It says goodbye.
            poll_immediate(driver).await;
        }
        Ok((found, None))
    }
}

/// Asks over HTTP/2. Head and body are handed over before the connection gets on: they go out in one piece.
async fn answer(sender: &mut http2::SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Response<Answer>, Ill> {
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(ill)?;
    let (response, mut stream) = sender.send_request(request, body.is_empty()).map_err(ill)?;
    if !body.is_empty() {
        stream.send_data(body, true).map_err(ill)?;
    }
    Ok(response.await.map_err(ill)?.map(Answer::Http2))
}

/// The connection gets on while something is asked.
async fn asked<T>(asking: impl Future<Output = Result<T, Ill>>, driver: &mut Option<Driver>) -> Result<T, Ill> {
    let breaking = async {
        let Some(connection) = driver else { return "the connection has ended".to_owned() };
        let ended = connection.await;
        *driver = None;
        match ended {
            Err(ill) => ill,
            // What is asked ends with it, or has come already.
            Ok(()) => std::future::pending().await,
        }
    };
    let mut asking = pin!(asking);
    let broken = tokio::select! {
        biased;
        found = &mut asking => return found,
        broken = breaking => broken,
    };
    // A whole answer may have come in front of what broke it.
    match poll_immediate(asking).await {
        Some(Ok(found)) => Ok(found),
        _ => Err(broken),
    }
}

/// An error, and what it comes from.
pub(super) fn ill(error: impl std::error::Error) -> Ill {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}
