//! HTTP/2 connections: the framing is Pingora's; each stream enters the proxy like any other request.

mod lane;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use http::Method;
use http::header::CONTENT_LENGTH;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, HttpSession, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use self::lane::StreamClient;
use crate::config::ListenerLimits;
use crate::filter::{Client, Scheme};
use crate::proxy::{self, Clock, Connection, Expired, Pace, Refused, StreamBounds, refused_barely, refused_silently};
use crate::server::drain::UNFINISHED;
use crate::server::listeners::Listener;
use crate::server::refusals::Refusals;
use crate::server::stream::Conn;
use crate::tls::TlsSession;

/// How much longer than its time an exchange may take to end by itself.
const GRACE: Duration = Duration::from_millis(100);

/// How long a client may take to say that it has seen the end of the connection, once it has no whole request on it.
const UNANSWERED: Duration = UNFINISHED;

/// Room for pseudo-fields in a list of fields.
const PSEUDO: usize = 8;

/// Where the streams of a connection come from.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) client: Client,
    pub(super) scheme: Scheme,
    pub(super) tls: Option<Arc<TlsSession>>,
}

/// Serves an HTTP/2 connection until it ends.
pub(super) async fn serve(conn: Conn, origin: Origin, clock: &Clock, listener: &Arc<Listener>, limits: ListenerLimits) {
    let (client, scheme) = (origin.client, origin.scheme);
    let served = Arc::new(AtomicU32::new(0));
    let conn = conn.into_http2(Refusals::new(listener.clone(), client, scheme, served.clone()));
    carry(conn, origin, listener, limits, served).await;
    let (status, reason) = match clock.expired() {
        Some(Expired::Flood) => (400, "http2_flood"),
        Some(Expired::Head) => (408, "head_timeout"),
        _ => return,
    };
    let (name, observers) = (&*listener.name, &listener.observers);
    refused_silently(&Refused { status, reason, listener: name, client, scheme, seen: b"" }, observers);
}

async fn carry(conn: Conn, origin: Origin, listener: &Arc<Listener>, limits: ListenerLimits, served: Arc<AtomicU32>) {
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = limits.idle_timeout;
    let bounds = StreamBounds {
        header_size: limits.header_size,
        uri_size: limits.uri_size,
        headers: limits.headers,
        pace: Pace::new(&limits),
    };
    let open = AtomicU32::new(0);
    let app = Arc::new(Streams {
        listener: listener.clone(),
        origin,
        limits,
        bounds,
        served,
        open,
        full: Notify::new(),
        deaf: Notify::new(),
        options,
    });
    // Pingora's own watch tells the session to send GOAWAY; ours says so when the process stops or the connection has had its share.
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let mut serving = Box::pin(app.process_new(Box::new(conn), &shutdown));
    tokio::select! {
        _ = &mut serving => return,
        () = listener.drain.closing() => {}
        () = app.full.notified() => {}
    }
    // The receiver lives in this function: sending can't fail.
    let _ = stop.send(true);
    // The end of the connection is agreed on with a PING, which a client that sleeps or is cut off never answers.
    let mut tick = tokio::time::interval(UNANSWERED / 4);
    let mut idle = 0;
    while idle < 4 {
        tokio::select! {
            _ = &mut serving => return,
            () = app.deaf.notified() => return,
            _ = tick.tick() => idle = if app.open.load(Ordering::Relaxed) == 0 { idle + 1 } else { 0 },
        }
    }
}

/// Streams share a connection, so its reads can't tell one that its time is up: the exchange is dropped, which resets it.
async fn in_time<T>(clock: &Clock, exchange: impl Future<Output = Option<T>>) -> Option<T> {
    let mut exchange = pin!(exchange);
    let mut timer = pin!(clock.timer());
    loop {
        let done = poll_fn(|cx| match exchange.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => clock.poll_expiry(timer.as_mut(), cx).map(|_| None),
        });
        if let Some(done) = done.await {
            return done;
        }
        // Before the head of a response, what passed may still become a 504, or be asked for once more elsewhere.
        match tokio::time::timeout(GRACE, exchange.as_mut()).await {
            Ok(done) => return done,
            Err(_) if clock.expired().is_some() => return None,
            Err(_) => {}
        }
    }
}

struct Streams {
    listener: Arc<Listener>,
    origin: Origin,
    limits: ListenerLimits,
    bounds: StreamBounds,
    /// How many requests have come.
    served: Arc<AtomicU32>,
    /// How many are not over.
    open: AtomicU32,
    /// No more are wanted.
    full: Notify,
    /// They come all the same.
    deaf: Notify,
    options: HttpServerOptions,
}

/// A request; it counts for as long as it lives.
struct OpenStream<'a>(&'a AtomicU32);

impl<'a> OpenStream<'a> {
    fn of(open: &'a AtomicU32) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(self: &Arc<Self>, session: ServerSession, shutdown: &ShutdownWatch) -> Option<ReusedHttpStream> {
        let _open = OpenStream::of(&self.open);
        let served = self.served.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if let Some(limit) = self.limits.requests_per_connection.filter(|limit| served >= *limit) {
            self.full.notify_one();
            // As many as may be open at once can have been under way when the client was told.
            if served > limit.saturating_add(self.limits.concurrent_streams) {
                self.deaf.notify_one();
                return None;
            }
        }
        let clock = Arc::new(Clock::new());
        let connection = Arc::new(Connection {
            listener: self.listener.name.clone(),
            index: Some(self.listener.index),
            client: self.origin.client,
            scheme: self.origin.scheme,
            tls: self.origin.tls.clone(),
            clock: clock.clone(),
            tunnel_idle: None,
            body_size: self.limits.body_size,
            stream: Some(self.bounds),
            last: false,
            observers: self.listener.observers.clone(),
        });
        let mut session = session;
        if let ServerSession::H2(stream) = &mut session
            && let Err((status, reason)) = self.empty_as_said(stream).await
        {
            refused_silently(&self.refused(status, reason), &self.listener.observers);
            return None;
        }
        let session = match session {
            ServerSession::H2(stream) if self.listener.express.is_open() => {
                match self.listener.express.admit_stream(stream.req_header(), stream.is_body_empty(), &connection) {
                    Some(admitted) => {
                        let mut client = StreamClient::new(stream, clock, &self.limits, self.bounds.pace, &self.listener.drain);
                        self.listener.express.carry(&mut client, &connection, admitted).await;
                        client.close();
                        return None;
                    }
                    None => ServerSession::H2(stream),
                }
            }
            session => session,
        };
        self.take_general_way(session, connection, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.max_concurrent_streams(self.limits.concurrent_streams);
        // What is larger is dropped while it is read; up to here it is refused as over HTTP/1, and recorded. RFC 9113 §6.5.2 counts 32 for
        // each field, and the pseudo-fields.
        let list = self.limits.header_size + self.limits.uri_size + 32 * (self.limits.headers + PSEUDO);
        options.max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX));
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// What a request says of its body. What is no number is refused later.
fn length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Streams {
    /// A body that is said to have no bytes has none once its stream has ended (RFC 9113 §8.1.1).
    ///
    /// # Errors
    /// There are some, or the end does not come.
    async fn empty_as_said(&self, stream: &mut HttpSession) -> Result<(), (u16, &'static str)> {
        if length(stream.req_header()) != Some(0) {
            return Ok(());
        }
        let ended = async {
            loop {
                match poll_fn(|cx| stream.poll_read_body_bytes(cx)).await {
                    None => return Ok(()),
                    Some(Ok(data)) if data.is_empty() => {}
                    Some(Err(error)) if !error.is_library() => return Err((499, "client_gone")),
                    Some(_) => return Err((400, "ambiguous_length")),
                }
            }
        };
        match self.limits.body_timeout {
            Some(limit) => tokio::time::timeout(limit, ended).await.unwrap_or(Err((408, "body_timeout"))),
            None => ended.await,
        }
    }

    /// A request that is refused, of which no more is known than whose it is.
    fn refused(&self, status: u16, reason: &'static str) -> Refused<'_> {
        let Origin { client, scheme, .. } = self.origin;
        Refused { status, reason, listener: &self.listener.name, client, scheme, seen: b"" }
    }

    /// One request through Pingora.
    async fn take_general_way(
        &self,
        mut session: ServerSession,
        connection: Arc<Connection>,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A window that stays shut, or is opened byte by byte, holds what an endpoint has sent: each piece of a body, of 64 KiB at most, must
        // be taken in this time, or the stream ends.
        session.set_write_timeout(self.limits.write_timeout);
        let clock = connection.clock.clone();
        let (status, reason) =
            if session.req_header().method == Method::CONNECT { (405, "method") } else { (400, "ambiguous_head") };
        let serving = proxy::serve(connection, self.listener.proxy.process_new_http(session, shutdown));
        let reused = in_time(&clock, serving).await;
        if !clock.is_taken() {
            refused_barely(&self.refused(status, reason), &self.listener.observers);
        }
        reused
    }
}
