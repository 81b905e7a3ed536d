//! Sessions with endpoints that Pingora is given as ones of a protocol that it does not know: streams of HTTP/2, and answers that were asked
//! for ahead (`hedge`).
//!
//! Of a stream Pingora knows one time for head and body alike, which nobody can change once it has begun, so a deadline of the exchange
//! could not end it otherwise than by a reset. Here the clock is looked at whenever a stream is waited for, as `followed` does for connections.
//! And an endpoint may answer before it has the whole request, and ask for no more of it by a reset without an error: its answer counts
//! (RFC 9113 §8.1), where Pingora would cut it. What can't be relied on fails the read, as over HTTP/1: heads and trailers are judged here, and what
//! the h2 crate refuses, or `framed` below it, is told in our words.

use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream as Messages;
use futures_util::future::poll_immediate;
use h2::{Reason, SendStream};
use http::header::{CONTENT_LENGTH, HOST, TE};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use pingora_core::connectors::http::v2::Connector as Streams;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::custom::client::Session as CustomSession;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::protocols::http::v2::write_body;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{Digest, UniqueID, UniqueIDType};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error as PingoraError, ErrorType, OrErr};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Sleep;

use crate::proxy::followed::Unsound;
use crate::proxy::hedge::Hedges;
use crate::proxy::judge::{Refused, judge, number, trailers};
use crate::proxy::{Expired, Result, ctx, framed};

/// A session of ours.
pub(crate) struct Own {
    carrier: Carrier,
    ahead: Option<Ahead>,
}

/// What carries it.
pub(super) enum Carrier {
    Http1(Box<Http1Session>),
    Http2(Box<Stream>),
}

/// The request has been sent, and the first head of an answer read, before Pingora was told whom to connect to.
struct Ahead {
    peer: Box<HttpPeer>,
    connector: Hedges,
    /// That head has been handed on.
    shown: bool,
}

impl Own {
    pub(super) fn of_stream(session: Http2Session) -> Self {
        Self { carrier: Carrier::Http2(Box::new(Stream::new(session))), ahead: None }
    }

    pub(super) fn ahead(carrier: Carrier, peer: Box<HttpPeer>, connector: Hedges) -> Self {
        Self { carrier, ahead: Some(Ahead { peer, connector, shown: false }) }
    }

    pub(super) fn into_carrier(self) -> Carrier {
        self.carrier
    }

    /// The connection waits for a next request, if this one leaves it open.
    pub(super) async fn release<P: Peer + Send + Sync + 'static>(self, streams: &Streams, peer: &P, idle: Option<Duration>) {
        match (self.carrier, self.ahead) {
            (Carrier::Http1(mut session), Some(Ahead { peer, connector, .. })) => {
                if session.is_body_done() {
                    session.respect_keepalive();
                    connector.release_http_session(HttpSession::H1(*session), &*peer, idle).await;
                }
            }
            // It is Pingora's, and never comes here.
            (Carrier::Http1(_), None) => {}
            (Carrier::Http2(stream), Some(Ahead { peer, .. })) => streams.release_http_session(stream.finish(), &*peer, idle),
            (Carrier::Http2(stream), None) => streams.release_http_session(stream.finish(), peer, idle),
        }
    }
}

impl Carrier {
    /// What a connector has that opens by a [`Dialer`](crate::proxy::Dialer).
    pub(super) fn of(session: HttpSession<Own>) -> Result<Self> {
        match session {
            HttpSession::H1(session) => Ok(Self::Http1(Box::new(session))),
            HttpSession::Custom(own) => Ok(own.into_carrier()),
            HttpSession::H2(_) => PingoraError::e_explain(ErrorType::InternalError, "a session that is not ours"),
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.head().map_or(0, |head| head.status.as_u16())
    }

    fn head(&self) -> Option<&ResponseHeader> {
        match self {
            Self::Http1(session) => session.resp_header(),
            Self::Http2(stream) => stream.session.response_header(),
        }
    }

    /// Sends a request that is here whole, and waits for the first head of an answer. A session over HTTP/1 has `read_timeout` and its
    /// `write_timeout` from whoever opened it.
    pub(super) async fn ask(&mut self, mut head: Box<RequestHeader>, body: Option<&Bytes>) -> Result<()> {
        match self {
            Self::Http1(session) => {
                // What it means belongs to one connection, and only HTTP/2 knows it without `Connection`.
                head.remove_header(&TE);
                session.write_request_header(head).await?;
                if let Some(body) = body {
                    session.write_body(body).await?;
                }
                session.finish_body().await?;
                session.read_response().await?;
            }
            Self::Http2(stream) => {
                stream.write_head(head, body.is_none())?;
                if let (Some(body), Some(mut writer)) = (body, stream.writer()) {
                    writer.write(body.clone(), true).await?;
                }
                stream.read_head().await?;
            }
        }
        Ok(())
    }

    /// Reads the next head of an answer.
    pub(super) async fn read_head(&mut self) -> Result<()> {
        match self {
            Self::Http1(session) => session.read_response().await.map(|_| ()),
            Self::Http2(stream) => stream.read_head().await,
        }
    }

    pub(super) async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Http1(session) => session.read_body_bytes().await,
            Self::Http2(stream) => stream.read_body().await,
        }
    }

    /// How long a stream is waited for where there is no exchange whose clock tells.
    pub(super) fn wait_for(&mut self, patience: Option<Duration>) {
        if let Self::Http2(stream) = self {
            stream.patience = patience;
        }
    }

    /// It has failed: its connection is closed or, where others have a part in it, is left alone unless it may be dead.
    pub(super) fn give_up(self) {
        if let Self::Http2(stream) = self {
            drop(stream.finish());
        }
    }

    pub(super) fn set_timeouts(&mut self, read: Option<Duration>, write: Option<Duration>) {
        match self {
            Self::Http1(session) => (session.read_timeout, session.write_timeout) = (read, write),
            Self::Http2(stream) => stream.limit = write,
        }
    }
}

/// A stream of a connection over HTTP/2.
pub(super) struct Stream {
    session: Http2Session,
    /// How long a write may wait.
    limit: Option<Duration>,
    /// How long a read may wait, where no clock tells.
    patience: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes of the body that the head announces, and that have come.
    length: Option<u64>,
    received: u64,
    /// It was waited for in vain.
    late: bool,
}

impl Stream {
    fn new(session: Http2Session) -> Self {
        Self { session, limit: None, patience: None, timer: None, length: None, received: 0, late: false }
    }

    /// What the endpoint said can't be relied on. Neither can what else it says on this connection: no further request goes there.
    fn unsound(&self, refused: Refused) -> Box<PingoraError> {
        self.session.conn.mark_shutdown();
        PingoraError::because(ErrorType::H2Error, "reading an answer over HTTP/2", io::Error::other(Unsound(refused)))
    }

    /// Likewise, if that is why it could not be read.
    fn looked_at<T>(&self, read: Result<T>) -> Result<T> {
        read.map_err(|error| {
            // Pingora looks at lengths too.
            let refused =
                if *error.etype() == ErrorType::InvalidHTTPHeader { Some(Refused::TooShort) } else { framed::refusal(&error) };
            refused.map_or(error, |refused| self.unsound(refused))
        })
    }

    /// It is over. Where somebody waited in vain the connection may be dead, and carries no further request.
    fn finish(self) -> Http2Session {
        let given_up = ctx::any_clock().is_some_and(|clock| {
            matches!(clock.expired(), Some(Expired::Response | Expired::Try | Expired::Read | Expired::Write | Expired::Exchange))
        });
        if self.late || given_up {
            self.session.conn.mark_shutdown();
        }
        self.session
    }

    fn write_head(&mut self, mut head: Box<RequestHeader>, end: bool) -> Result<()> {
        let secure = self.session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        address(&mut head, secure)?;
        self.session.write_request_header(head, end)
    }

    fn writer(&mut self) -> Option<Writer> {
        self.session.take_request_body_writer().map(|stream| Writer { stream, limit: self.limit, over: false })
    }

    async fn read_head(&mut self) -> Result<()> {
        let read = in_time(&mut self.timer, &mut self.late, self.patience, self.session.read_response_header()).await;
        self.looked_at(read)?;
        let Some(head) = self.session.response_header() else { return Ok(()) };
        judge(head).map_err(|refused| self.unsound(refused))?;
        self.length = head.headers.get(CONTENT_LENGTH).and_then(|length| number(length.as_bytes()));
        Ok(())
    }

    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match in_time(&mut self.timer, &mut self.late, self.patience, self.session.read_response_body()).await {
            Ok(Some(data)) if !data.is_empty() && !self.may_have_body() => Err(self.unsound(Refused::NoBody)),
            Ok(Some(data)) => {
                self.received = self.received.saturating_add(data.len() as u64);
                Ok(Some(data))
            }
            // Only behind a whole answer (`framed`).
            Err(error) if asks_for_no_more(&error) && self.length.is_none_or(|length| length == self.received) => Ok(None),
            read => self.looked_at(read),
        }
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        let read = in_time(&mut self.timer, &mut self.late, self.patience, self.session.read_trailers()).await;
        let read = self.looked_at(read)?;
        if let Some(fields) = &read {
            trailers(fields).map_err(|refused| self.unsound(refused))?;
        }
        Ok(read)
    }

    /// Whether the response is over, after a head or a piece of the body.
    fn has_ended(&mut self, with_head: bool) -> Result<bool> {
        let ended = self.session.check_response_end_or_error();
        let ended = self.looked_at(ended)?;
        if ended && with_head && self.length.is_some_and(|length| length > 0) && self.may_have_body() {
            return Err(self.unsound(Refused::TooShort));
        }
        Ok(ended)
    }

    fn may_have_body(&self) -> bool {
        let to_head = self.session.request_header().is_some_and(|head| head.method == Method::HEAD);
        let status = self.session.response_header().map(|head| head.status);
        !to_head && !matches!(status, Some(StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED))
    }
}

/// Waits for something of an endpoint's, until a deadline of the exchange has passed, where its client's connection can't tell.
async fn in_time<T>(
    timer: &mut Option<Pin<Box<Sleep>>>,
    late: &mut bool,
    patience: Option<Duration>,
    reading: impl Future<Output = Result<T>>,
) -> Result<T> {
    const WHY: &str = "waiting for an endpoint on HTTP/2";
    let Some(clock) = ctx::stream_clock() else {
        let Some(patience) = patience else { return reading.await };
        return tokio::time::timeout(patience, reading).await.unwrap_or_else(|_| {
            *late = true;
            PingoraError::e_explain(ErrorType::ReadTimedout, WHY)
        });
    };
    let timer = timer.get_or_insert_with(|| Box::pin(clock.timer()));
    let mut reading = pin!(reading);
    std::future::poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Pending => clock.poll_expiry(timer.as_mut(), cx).map(|_| {
            *late = true;
            PingoraError::e_explain(ErrorType::ReadTimedout, WHY)
        }),
        read => read,
    })
    .await
}

/// Whether an endpoint has said all that it has to say, and wants no more of the request.
fn asks_for_no_more(error: &PingoraError) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| cause.is_reset() && cause.is_remote() && cause.reason() == Some(Reason::NO_ERROR))
}

/// Makes a head one of HTTP/2, whose host stands in the target (RFC 9113 §8.3.1).
fn address(head: &mut RequestHeader, secure: bool) -> Result<()> {
    head.set_version(Version::HTTP_2);
    let host = head.remove_header(&HOST);
    let mut parts = head.uri.clone().into_parts();
    let own = parts.authority.take();
    let authority = match &host {
        Some(host) => Some(host.as_bytes().try_into().or_err(ErrorType::InvalidHTTPHeader, "a host that is none")?),
        None => own,
    };
    let Some(authority) = authority else {
        return PingoraError::e_explain(ErrorType::InvalidHTTPHeader, "a request that names no host");
    };
    let path = parts.path_and_query.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(if secure { "https" } else { "http" }).authority(authority).path_and_query(path).build();
    head.set_uri(uri.or_err(ErrorType::InvalidHTTPHeader, "a target that is none")?);
    Ok(())
}

/// Where a request's body goes.
struct Writer {
    stream: SendStream<Bytes>,
    limit: Option<Duration>,
    /// The endpoint takes no more. What it says is an answer, or the reason why there is none.
    over: bool,
}

impl Writer {
    /// Sends a piece. While the endpoint does not take it, no step of the exchange runs but this one.
    async fn write(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let mut writing = pin!(write_body(&mut self.stream, data, end, None));
        let written = match poll_immediate(&mut writing).await {
            Some(written) => Some(written),
            None => {
                let clock = ctx::any_clock();
                let paused = clock.as_ref().map(|clock| clock.pause_step());
                let left = clock.as_ref().and_then(|clock| clock.left());
                let written = match self.limit.into_iter().chain(left).min() {
                    Some(limit) => tokio::time::timeout(limit, writing).await.ok(),
                    None => Some(writing.await),
                };
                match (clock, paused) {
                    (Some(clock), Some(paused)) if written.is_some() => clock.resume_step(paused, Instant::now()),
                    (Some(clock), _) => _ = clock.look().is_ok().then(|| clock.client_failed(Expired::Write)),
                    (None, _) => {}
                }
                written
            }
        };
        self.over = !matches!(written, Some(Ok(())));
        Ok(())
    }
}

#[async_trait]
impl BodyWrite for Writer {
    async fn write_all_buf(&mut self, body: &mut Bytes) -> Result<()> {
        let data = std::mem::take(body);
        if data.is_empty() { Ok(()) } else { self.write(data, false).await }
    }
    async fn finish(&mut self) -> Result<()> {
        self.write(Bytes::new(), true).await
    }
    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }
    fn upgrade_body_writer(&mut self) {}
}

/// Where a body goes that has been sent.
struct Sent;

#[async_trait]
impl BodyWrite for Sent {
    async fn write_all_buf(&mut self, body: &mut Bytes) -> Result<()> {
        body.clear();
        Ok(())
    }
    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }
    fn upgrade_body_writer(&mut self) {}
}

#[async_trait]
impl CustomSession for Own {
    async fn write_request_header(&mut self, head: Box<RequestHeader>, end: bool) -> Result<()> {
        match &mut self.carrier {
            Carrier::Http2(stream) if self.ahead.is_none() => stream.write_head(head, end),
            _ => Ok(()),
        }
    }
    async fn write_request_body(&mut self, _: Bytes, _: bool) -> Result<()> {
        // It goes through the writer.
        Ok(())
    }
    async fn finish_request_body(&mut self) -> Result<()> {
        Ok(())
    }
    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        // Of a stream the clock keeps the time.
        if let Carrier::Http1(session) = &mut self.carrier {
            session.read_timeout = timeout;
        }
    }
    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        match &mut self.carrier {
            Carrier::Http1(session) => session.write_timeout = timeout,
            Carrier::Http2(stream) => stream.limit = timeout,
        }
    }
    async fn read_response_header(&mut self) -> Result<()> {
        let shown = self.ahead.as_mut().map(|ahead| std::mem::replace(&mut ahead.shown, true));
        if shown == Some(false) { Ok(()) } else { self.carrier.read_head().await }
    }
    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.carrier.read_body().await
    }
    fn response_finished(&self) -> bool {
        match &self.carrier {
            Carrier::Http1(_) => false,
            Carrier::Http2(stream) => stream.session.response_finished(),
        }
    }
    async fn shutdown(&mut self, _: u32, _: &str) {
        match &mut self.carrier {
            Carrier::Http1(session) => session.shutdown().await,
            Carrier::Http2(stream) => stream.session.shutdown(),
        }
    }
    fn response_header(&self) -> Option<&ResponseHeader> {
        self.carrier.head()
    }
    fn was_upgraded(&self) -> bool {
        false
    }
    fn digest(&self) -> Option<&Digest> {
        match &self.carrier {
            Carrier::Http1(session) => Some(session.digest()),
            Carrier::Http2(stream) => stream.session.digest(),
        }
    }
    fn digest_mut(&mut self) -> Option<&mut Digest> {
        match &mut self.carrier {
            Carrier::Http1(session) => Some(session.digest_mut()),
            Carrier::Http2(stream) => stream.session.digest_mut(),
        }
    }
    fn server_addr(&self) -> Option<&SocketAddr> {
        match &self.carrier {
            Carrier::Http1(session) => session.server_addr(),
            Carrier::Http2(stream) => stream.session.server_addr(),
        }
    }
    fn client_addr(&self) -> Option<&SocketAddr> {
        match &self.carrier {
            Carrier::Http1(session) => session.client_addr(),
            Carrier::Http2(stream) => stream.session.client_addr(),
        }
    }
    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        match &mut self.carrier {
            Carrier::Http1(_) => Ok(None),
            Carrier::Http2(stream) => stream.read_trailers().await,
        }
    }
    fn fd(&self) -> UniqueIDType {
        match &self.carrier {
            Carrier::Http1(session) => session.id(),
            Carrier::Http2(stream) => stream.session.fd(),
        }
    }
    async fn check_response_end_or_error(&mut self, with_head: bool) -> Result<bool> {
        let status = self.carrier.status();
        match &mut self.carrier {
            // Of an informational head this is no question yet, and none is answered.
            Carrier::Http1(session) => Ok((200..600).contains(&status) && session.is_body_done()),
            Carrier::Http2(stream) => stream.has_ended(with_head),
        }
    }
    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        match &mut self.carrier {
            Carrier::Http2(stream) if self.ahead.is_none() => {
                stream.writer().map(|writer| Box::new(writer) as Box<dyn BodyWrite>)
            }
            _ => Some(Box::new(Sent)),
        }
    }
    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }
    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures_util::stream::empty()))
    }
    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }
    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}
