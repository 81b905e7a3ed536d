//! One client's connection: heads are read here, bounded and within a deadline, then handed to Pingora one request at a time.

use std::future::{Future, poll_fn};
use std::mem;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::time::Instant;

use crate::config::ListenerLimits;
use crate::filter::{Client, Scheme};
use crate::proxy::{
    self, Clock, Connection, Outcome, PLAINTEXT, Refused, Rows, explained, refusal, refused_silently, refused_unseen,
};
use crate::server::drain::{Closing, UNFINISHED};
use crate::server::handshake::{Handshake, shake};
use crate::server::head::{Body, Scan, scan};
use crate::server::http2::{self, Origin};
use crate::server::listeners::{Listener, TooMany};
use crate::server::proxy_protocol::{Preamble, read};
use crate::server::socket::Leftover;
use crate::server::stream::{Conn, Rail};
use crate::upstream::Wire;

/// How long a refused client may take to hear of it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while the process stops.
const STOPPING_TIMEOUT: Duration = Duration::from_millis(100);
/// The reason where a client had begun something when the process stopped, and has not ended it.
pub(super) const STOPPING: &str = "stopping";

/// A connection that was just accepted.
pub(super) struct Accepted {
    pub(super) stream: Wire,
    /// `None` over a unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// The peer begins with a PROXY header, which names the client.
    pub(super) proxied: bool,
    pub(super) listener: Arc<Listener>,
}

/// What the client wants next.
enum Next {
    /// A request with a head of this length.
    Request(usize, Body, Rows),
    Http2,
    Refused(u16, &'static str),
    /// Nothing any more.
    Closed,
}

/// Serves a connection until either side ends it. What a connection that waits does not do has memory of its own: a task is as large as its
/// largest moment.
pub(super) async fn serve(Accepted { stream, peer, proxied, listener }: Accepted) {
    let clock = Arc::new(Clock::new());
    let mut conn = Conn::new(stream, clock.clone());
    let mut client = Client::direct(peer);
    // Counts for as long as the connection is served.
    let mut _counted = None;
    if proxied {
        let named = match Box::pin(proxied_client(&mut conn, &listener)).await {
            Ok(named) => named,
            Err(Unproxied::Left) => return,
            Err(Unproxied::Refused(reason)) => return drop_unanswered(reason, &listener, client),
        };
        client.address = named.or(peer);
        // The proxy itself, which nobody counts, if it names none.
        _counted = match listener.count(named) {
            Ok(counted) => counted,
            Err(TooMany) => return,
        };
    }
    let mut tls = None;
    let mut http2 = listener.http2;
    if let Some(terminator) = listener.store.tls(listener.index) {
        match Box::pin(shake(&mut conn, &terminator, client, &listener)).await {
            Handshake::Done(session, agreed) => {
                tls = Some(session);
                http2 = agreed;
            }
            Handshake::Plaintext => return Box::pin(refuse(conn, 400, PLAINTEXT, &listener, client, Scheme::Http)).await,
            Handshake::Over => return,
        }
    }
    let scheme = if tls.is_some() { Scheme::Https } else { Scheme::Http };
    let mut served: u32 = 0;
    let leftover = conn.leftover();
    let mut waiting = pin!(listener.drain.closing_idle());
    let mut closing = Closing::new(&listener.drain, waiting.as_mut());
    // All that a request must know of them, for as long as that stays the same.
    let (mut limits, mut seen, mut told) = (listener.limits(), Weak::new(), None);
    loop {
        if let Some(changed) = listener.limits_after(&mut seen) {
            limits = changed;
            conn.limit(&limits);
            told = None;
        }
        match next(&mut conn, &limits, &mut closing, served == 0).await {
            Next::Request(_, Body::Length(length), _) if limits.body_size.is_some_and(|limit| length > limit) => {
                return Box::pin(refuse(conn, 413, "body_too_large", &listener, client, scheme)).await;
            }
            Next::Request(head, body, rows) => {
                served = served.saturating_add(1);
                let last = listener.drain.is_stopping() || limits.requests_per_connection.is_some_and(|limit| served >= limit);
                if last {
                    told = None;
                }
                let connection = told.get_or_insert_with(|| {
                    Arc::new(Connection {
                        listener: listener.name.clone(),
                        index: Some(listener.index),
                        client,
                        scheme,
                        tls: tls.clone(),
                        clock: clock.clone(),
                        tunnel_idle: limits.websocket_idle_timeout,
                        body_size: limits.body_size,
                        stream: None,
                        last,
                        observers: listener.observers.clone(),
                    })
                });
                if let (true, Some(framing)) = (listener.express.is_open(), body.framing()) {
                    let mut rail = Rail { conn: &mut conn, body, drain: &listener.drain };
                    let outcome = match listener.express.serve(&mut rail, connection, head, rows, framing) {
                        Some(exchange) => Some(exchange.await),
                        None => None,
                    };
                    match outcome {
                        Some(Outcome::Keep) => continue,
                        Some(Outcome::Close) => return Box::pin(end(conn, &leftover, &listener)).await,
                        None => {}
                    }
                }
                match Box::pin(exchange(conn, head, body, connection.clone(), &listener)).await {
                    Some(reusable) => conn = reusable,
                    None if clock.is_taken() => return Box::pin(linger(&leftover, &listener)).await,
                    // Of what passed our reading Pingora refuses nothing, as far as tests can show.
                    None => return refused_unseen(&listener.name, client, scheme, &listener.observers),
                }
            }
            Next::Http2 if http2 && served == 0 => {
                let origin = Origin { client, scheme, tls };
                return Box::pin(http2::serve(conn, origin, &clock, &listener, limits)).await;
            }
            Next::Http2 => return Box::pin(refuse(conn, 505, "http2_not_enabled", &listener, client, scheme)).await,
            Next::Refused(status, reason) => return Box::pin(refuse(conn, status, reason, &listener, client, scheme)).await,
            Next::Closed => return,
        }
    }
}

/// Why no client is known on a connection that should begin with a PROXY header.
enum Unproxied {
    /// Nothing came.
    Left,
    /// The reason code.
    Refused(&'static str),
}

/// Waits for a PROXY header, which a proxy sends at once: the time runs from the beginning. `None`: it speaks for itself.
async fn proxied_client(conn: &mut Conn, listener: &Listener) -> Result<Option<SocketAddr>, Unproxied> {
    let limits = listener.limits();
    let since = Instant::now();
    let due = limits.header_timeout.or(limits.idle_timeout).map(|timeout| since + timeout);
    let mut waiting = pin!(listener.drain.closing_idle());
    let mut closing = Closing::new(&listener.drain, waiting.as_mut());
    poll_fn(|cx| {
        loop {
            match read(conn.ahead()) {
                Preamble::Partial => {}
                Preamble::Header { length, client } => {
                    conn.skip(length);
                    return Poll::Ready(Ok(client));
                }
                Preamble::Refused(reason) => return Poll::Ready(Err(Unproxied::Refused(reason))),
            }
            let begun = !conn.ahead().is_empty();
            match conn.poll_ahead(cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) if begun => return Poll::Ready(Err(Unproxied::Refused("proxy_header_cut_off"))),
                // Whoever probes a port comes and goes like this.
                Poll::Ready(_) => return Poll::Ready(Err(Unproxied::Left)),
                Poll::Pending => {}
            }
            let last = closing.poll(cx).map(|last| if begun { last } else { last.min(since + UNFINISHED) });
            let Some(due) = sooner(due, last) else { return Poll::Pending };
            return conn.poll_until(due, cx).map(|()| match last {
                Some(_) if !begun => Err(Unproxied::Left),
                Some(last) if last == due => Err(Unproxied::Refused(STOPPING)),
                _ => Err(Unproxied::Refused("proxy_header_timeout")),
            });
        }
    })
    .await
}

/// A trusted peer that does not send what it must is told nothing: what it speaks is not known.
fn drop_unanswered(reason: &'static str, listener: &Listener, client: Client) {
    let (listener, observers) = (&*listener.name, &listener.observers);
    refused_silently(&Refused { status: 400, reason, listener, client, scheme: Scheme::Http, seen: b"" }, observers);
}

/// Waits for a head. While the process stops, one that has begun has a moment more, and so has the first of a connection that was just made,
/// since who connects has something to ask; none is begun any more.
async fn next<F: Future<Output = ()>>(
    conn: &mut Conn,
    limits: &ListenerLimits,
    closing: &mut Closing<'_, F>,
    first: bool,
) -> Next {
    let mut seen = 0;
    let mut rows = Rows::default();
    let mut begun = !conn.ahead().is_empty();
    // Set when there is something to wait for: the time is not read for a head that is there already.
    let mut since = None;
    poll_fn(|cx| {
        loop {
            if conn.ahead().len() > seen {
                if !begun {
                    begun = true;
                    since = None;
                }
                match scan(conn.ahead(), seen, limits, &mut rows) {
                    Scan::Partial => seen = conn.ahead().len(),
                    Scan::Head { length, body } => return Poll::Ready(Next::Request(length, body, mem::take(&mut rows))),
                    Scan::Http2 => return Poll::Ready(Next::Http2),
                    Scan::Refused(status, reason) => return Poll::Ready(Next::Refused(status, reason)),
                }
            }
            match conn.poll_ahead(cx) {
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) if begun => return Poll::Ready(Next::Refused(400, "head_cut_off")),
                Poll::Ready(_) => return Poll::Ready(Next::Closed),
                Poll::Pending => {}
            }
            let last = closing.poll(cx);
            if last.is_some() && !begun && !first {
                return Poll::Ready(Next::Closed);
            }
            let since = *since.get_or_insert_with(Instant::now);
            let last = last.map(|last| if begun { last } else { last.min(since + UNFINISHED) });
            let timeout = if begun { limits.header_timeout } else { limits.idle_timeout };
            let Some(due) = sooner(timeout.map(|timeout| since + timeout), last) else { return Poll::Pending };
            return match conn.poll_until(due, cx) {
                Poll::Ready(()) if begun && last == Some(due) => Poll::Ready(Next::Refused(408, STOPPING)),
                Poll::Ready(()) if begun => Poll::Ready(Next::Refused(408, "head_timeout")),
                Poll::Ready(()) => Poll::Ready(Next::Closed),
                Poll::Pending => Poll::Pending,
            };
        }
    })
    .await
}

pub(super) fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Ends a connection whose last answer has been given.
async fn end(conn: Conn, leftover: &Leftover, listener: &Listener) {
    conn.end().await;
    linger(leftover, listener).await;
}

/// Lets a client hear its answer that still sends. Nobody who stops waits for that longer than for what was begun.
async fn linger(leftover: &Leftover, listener: &Listener) {
    tokio::select! {
        () = leftover.linger() => {}
        () = listener.drain.closing_unfinished() => {}
    }
}

/// One request through Pingora. `Some`: the connection can carry another.
async fn exchange(mut conn: Conn, head: usize, body: Body, connection: Arc<Connection>, listener: &Listener) -> Option<Conn> {
    let head = conn.begin(head, body);
    let mut session = ServerSession::new_http1(Box::new(conn) as Stream);
    session.set_pipelined_prefix(head);
    // A large future, but Pingora has put it into memory of its own, which is gone while the connection waits for its next request.
    let reused = proxy::serve(connection, listener.proxy.process_new_http(session, &listener.shutdown)).await?;
    let (stream, _) = reused.consume();
    stream.into_any().downcast::<Conn>().ok().map(|conn| *conn)
}

async fn refuse(mut conn: Conn, status: u16, reason: &'static str, listener: &Listener, client: Client, scheme: Scheme) {
    let refused = Refused { status, reason, listener: &listener.name, client, scheme, seen: conn.ahead() };
    let snapshot = listener.store.load();
    let answer = explained(&refused, &snapshot, &listener.observers)
        .unwrap_or_else(|| refusal(&refused, snapshot.errors(), &listener.observers));
    drop(snapshot);
    let stopping = async {
        listener.drain.closing().await;
        tokio::time::sleep(STOPPING_TIMEOUT).await;
    };
    // A client that does not listen is left.
    let said = tokio::time::timeout(REFUSAL_TIMEOUT, async {
        conn.say_last(answer).await?;
        // What it still sends is read, or its own side would take the answer away with a reset (RFC 9112 §9.6).
        let mut left = 64;
        while left > 0 && poll_fn(|cx| conn.poll_ahead(cx)).await? {
            left -= 1;
        }
        std::io::Result::Ok(())
    });
    tokio::select! {
        _ = said => {}
        () = stopping => {}
    }
}
