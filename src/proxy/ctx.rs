//! What the proxy keeps of one request between Pingora's hooks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Version};
use pingora_core::protocols::l4::socket::SocketAddr;

use crate::filter::{Client, Error, Exchange, Reply, RequestId, Run, Scheme};
use crate::observe::{InFlight, Observers, Timing, metrics};
use crate::proxy::clock::Clock;
use crate::proxy::connect;
use crate::proxy::followed;
use crate::proxy::mirror::Copy;
use crate::proxy::overload::Admitted;
use crate::proxy::pace::Pace;
use crate::proxy::retry::Tries;
use crate::proxy::who::WhoAsks;
use crate::runtime::Matched;
use crate::tls::TlsSession;
use crate::upstream::{Attempt, Stay};

tokio::task_local! {
    /// The connection whose request the current task serves: Pingora has no other way to tell a new context, on every protocol.
    static CONNECTION: Arc<Connection>;
}

/// Serves one request of a connection.
pub(crate) async fn serve<F: Future>(connection: Arc<Connection>, request: F) -> F::Output {
    CONNECTION.scope(connection, followed::scope(connect::scope(request))).await
}

/// The clock of the exchange that the current task carries, where it is a stream: no connection of its client's keeps the time.
pub(super) fn stream_clock() -> Option<Arc<Clock>> {
    CONNECTION.try_with(|connection| connection.stream.map(|_| connection.clock.clone())).ok().flatten()
}

/// The clock of the exchange that the current task carries, whoever keeps the time.
pub(super) fn any_clock() -> Option<Arc<Clock>> {
    CONNECTION.try_with(|connection| connection.clock.clone()).ok()
}

/// Asks the clock of the exchange that the current task serves, where the client's connection keeps it: a stream of HTTP/2 has its own
/// way. `None`: there is none.
pub(super) fn with_clock<T>(ask: impl FnOnce(&Clock) -> T) -> Option<T> {
    CONNECTION.try_with(|connection| connection.stream.is_none().then(|| ask(&connection.clock))).ok().flatten()
}

/// What a connection tells the proxy of itself, with each of its requests.
pub(crate) struct Connection {
    /// The listener's name.
    pub(crate) listener: Arc<str>,
    /// Its place among the listeners of every snapshot; `None`: it is none of them.
    pub(crate) index: Option<usize>,
    /// As far as the connection tells: a request may name another, if its peer is believed.
    pub(crate) client: Client,
    pub(crate) scheme: Scheme,
    /// `None`: in the clear.
    pub(crate) tls: Option<Arc<TlsSession>>,
    pub(crate) clock: Arc<Clock>,
    /// How long a tunnel may carry nothing.
    pub(crate) tunnel_idle: Option<Duration>,
    /// Bytes of a request's body.
    pub(crate) body_size: Option<u64>,
    /// What is not seen at the connection, where requests share it.
    pub(crate) stream: Option<StreamBounds>,
    /// No request after this one is wanted on the connection.
    pub(crate) last: bool,
    pub(crate) observers: Arc<Observers>,
}

/// Bounds of a request that is one stream among others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamBounds {
    /// Of its head, in bytes.
    pub(crate) header_size: usize,
    /// Of its target, in bytes.
    pub(crate) uri_size: usize,
    /// Its fields.
    pub(crate) headers: usize,
    /// How its body comes.
    pub(crate) pace: Pace,
}

/// One request.
pub(crate) struct Ctx {
    pub(super) connection: Arc<Connection>,
    pub(super) exchange: Exchange,
    pub(super) route: Option<Matched>,
    pub(super) run: Run,
    /// What the copies for endpoints still need; `None`: it stands in the request already.
    pub(super) who_asks: Option<WhoAsks>,
    /// Addresses that failed this request.
    pub(super) tried: Vec<SocketAddr>,
    /// The request that is under way at an endpoint.
    pub(super) attempt: Option<Attempt>,
    /// An answer that a response filter put in the place of an endpoint's.
    pub(super) replacement: Option<Reply>,
    /// The cookie that keeps the client on its side of a split.
    pub(super) stick: Option<HeaderValue>,
    /// What the client's cookie says of the endpoint at which it is.
    pub(super) stay: Option<Stay>,
    /// How often it was tried again, and what is next.
    pub(super) tries: Tries,
    /// Whether there is to be a copy of it was asked.
    pub(super) mirrored: bool,
    /// The copy that is being made of it, for a mirror.
    pub(super) copy: Option<Copy>,
    /// When the first try began, of a request that may be sent to a second endpoint beside the first, and until it is answered.
    pub(super) first_began: Option<Instant>,
    /// This try's request was sent, and its answer waited for, before Pingora was told whom to connect to.
    pub(super) ahead: bool,
    /// When the current try began.
    pub(super) try_began: Option<Instant>,
    /// It is a stream of HTTP/2 to its endpoint (`session`).
    pub(super) streamed: bool,
    /// How many informational responses have come.
    pub(super) informational: u8,
    /// The head of the final response has come.
    pub(super) responding: bool,
    /// The client waits for `100 Continue`, or for an answer, before it sends its body.
    pub(super) expects: bool,
    /// The request has come whole.
    pub(super) asked: bool,
    /// And that has been said once more.
    pub(super) asked_twice: bool,
    /// The response has come whole.
    pub(super) answered: bool,
    /// The exchange became a tunnel (101).
    pub(super) tunnel: bool,
    /// What the client speaks.
    pub(super) version: Version,
    /// As the client sent it, whatever filters make of it.
    pub(super) user_agent: Option<HeaderValue>,
    /// Likewise.
    pub(super) referer: Option<HeaderValue>,
    /// How the body comes, of a stream.
    pub(super) pace: Option<Pace>,
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// The last of them, over HTTP/2, until its stream has ended.
    pub(super) held: Option<Bytes>,
    /// Bytes of the response's body.
    pub(super) sent: u64,
    pub(super) timing: Timing,
    /// When the request was routed, then when the current try began, and once a connection was opened for it, when that was.
    pub(super) step: Option<Instant>,
    /// What made an answer that no endpoint gave and that is no failure.
    pub(super) own_answer: Option<&'static str>,
    /// Its place among those that the process has taken on.
    pub(super) admitted: Option<Admitted>,
    /// Counts it among the requests that are not over.
    _in_flight: InFlight,
    /// Recorded: nothing more is to come.
    pub(super) finished: bool,
}

impl Ctx {
    /// In memory of its own: Pingora moves a context from future to future.
    pub(super) fn new(observers: Arc<Observers>) -> Box<Self> {
        let connection = CONNECTION.try_with(Arc::clone).unwrap_or_else(|_| {
            // A session that did not come through our listeners: a client that nobody knows.
            Arc::new(Connection {
                listener: "".into(),
                index: None,
                client: Client::direct(None),
                scheme: Scheme::Http,
                tls: None,
                clock: Arc::new(Clock::new()),
                tunnel_idle: None,
                body_size: None,
                stream: None,
                last: true,
                observers,
            })
        });
        let mut exchange = Exchange::new(RequestId::mint(), connection.client, connection.scheme);
        exchange.tls.clone_from(&connection.tls);
        Box::new(Self::of(connection, exchange))
    }

    pub(super) fn of(connection: Arc<Connection>, exchange: Exchange) -> Self {
        connection.clock.take();
        Self {
            exchange,
            pace: connection.stream.map(|bounds| bounds.pace),
            connection,
            route: None,
            run: Run::default(),
            who_asks: None,
            tried: Vec::new(),
            attempt: None,
            replacement: None,
            stick: None,
            stay: None,
            tries: Tries::default(),
            mirrored: false,
            copy: None,
            first_began: None,
            ahead: false,
            try_began: None,
            streamed: false,
            informational: 0,
            responding: false,
            expects: false,
            asked: false,
            asked_twice: false,
            answered: false,
            tunnel: false,
            version: Version::HTTP_11,
            user_agent: None,
            referer: None,
            received: 0,
            held: None,
            sent: 0,
            timing: Timing::default(),
            step: None,
            own_answer: None,
            admitted: None,
            _in_flight: metrics().began(),
            finished: false,
        }
    }

    /// Keeps the first failure: what follows from it says less.
    pub(super) fn fail(&mut self, error: Error) {
        self.exchange.failure.get_or_insert(error);
    }
}
