//! One endpoint as the request path sees it: everything that can be made before a request comes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration as Time, Instant};

use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use tokio::sync::Notify;

use crate::config::Timeouts;
use crate::observe::{EndpointMeter, UpstreamMeter};
use crate::types::{Duration, Limit};
use crate::upstream::balance::key_of;
use crate::upstream::gate::Gate;
use crate::upstream::outlier::Rules;
use crate::upstream::pool::Room;
use crate::upstream::vitals::Vitals;

/// An address that serves an upstream's requests.
pub struct Endpoint {
    address: SocketAddr,
    text: Box<str>,
    host: Box<str>,
    peer: HttpPeer,
    /// Of what decides whether a connection of another's can be used.
    key: u64,
    read_timeout: Option<Time>,
    meter: Arc<EndpointMeter>,
    vitals: Arc<Vitals>,
    backup: bool,
    terms: Terms,
}

/// By which terms an endpoint is given requests. None of it costs anything unless the file asks for it.
#[derive(Clone, Default)]
pub(super) struct Terms {
    /// How much it may be given at once.
    pub(super) gate: Option<Arc<Gate>>,
    /// When it is left out for how its requests ended, and what is rung then.
    pub(super) judge: Option<(Arc<Rules>, Arc<Notify>)>,
}

/// An endpoint that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The system does not take this path as the address of a socket.
    #[error("`{path}` can't be the path of a unix socket: {reason}")]
    UnixPath {
        /// As configured.
        path: String,
        /// What the system says.
        reason: String,
    },
}

impl Endpoint {
    /// `host` is the endpoint as configured: what it gets as `Host` where the upstream says `host: endpoint`.
    pub(super) fn new(
        upstream: &str,
        address: SocketAddr,
        host: &str,
        timeouts: &Timeouts,
        meter: &UpstreamMeter,
        vitals: Arc<Vitals>,
    ) -> Self {
        let limit = |limit: &Limit<Duration>| limit.get().map(Duration::get);
        let mut peer = match &address {
            SocketAddr::Inet(inet) => HttpPeer::new(inet, false, String::new()),
            // Replaced below: Pingora's constructor takes text only.
            SocketAddr::Unix(_) => HttpPeer::new(("127.0.0.1", 1), false, String::new()),
        };
        peer._address = address.clone();
        peer.group_key = group_key(upstream);
        peer.options.connection_timeout = limit(&timeouts.connect);
        peer.options.total_connection_timeout = limit(&timeouts.connect);
        let read_timeout = match (limit(&timeouts.response), limit(&timeouts.read)) {
            (Some(response), Some(read)) => Some(response.max(read)),
            _ => None,
        };
        peer.options.write_timeout = limit(&timeouts.write);
        peer.options.idle_timeout = limit(&timeouts.idle);
        let text = address.to_string();
        Self {
            meter: meter.endpoint(&text),
            text: text.into(),
            address,
            host: host.into(),
            key: peer.reuse_hash(),
            peer,
            read_timeout,
            vitals,
            backup: false,
            terms: Terms::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn testing(port: u16) -> Self {
        let address = SocketAddr::Inet(([127, 0, 0, 1], port).into());
        let vitals = crate::upstream::vitals::Roster::default().of(&address);
        Self::new("u", address, "u", &Timeouts::default(), &crate::observe::metrics().upstream("u"), vitals)
    }

    /// Used only while no other is healthy.
    pub(super) fn into_backup(self) -> Self {
        Self { backup: true, ..self }
    }

    pub(super) fn on(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    #[cfg(test)]
    pub(super) fn with_gate(self, gate: Gate) -> Self {
        self.on(Terms { gate: Some(Arc::new(gate)), judge: None })
    }

    /// Whether it is used only while no other is healthy.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &SocketAddr {
        &self.address
    }

    /// Its address in words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What a cookie that keeps a client here says of it: the same in every process.
    pub(super) fn id(&self) -> u64 {
        key_of(&[self.text.as_bytes()])
    }

    /// What it is called in the configuration, with the port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What is counted of it.
    pub(crate) fn meter(&self) -> &EndpointMeter {
        &self.meter
    }

    /// How it fares.
    pub(super) fn vitals(&self) -> &Arc<Vitals> {
        &self.vitals
    }

    /// A request at it has ended.
    pub(super) fn heard(&self, failed: bool, now: impl FnOnce() -> Instant) {
        if let Some((rules, bell)) = &self.terms.judge
            && self.vitals.heard(failed, now(), rules)
        {
            bell.notify_one();
        }
    }

    /// A request under way at it is over.
    pub(super) fn leave(self: &Arc<Self>) {
        self.vitals.end();
        if let Some(gate) = &self.terms.gate {
            gate.left(self);
        }
    }

    /// What Pingora connects to. It waits for a response without a limit of its own.
    pub(crate) fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// A connection that waits for a request.
    pub(crate) fn take_idle(&self, now: Instant) -> Option<Stream> {
        self.vitals.pool().take(self.key, now)
    }

    /// Lets a connection wait for a next request.
    pub(crate) fn keep_idle(&self, stream: Stream, now: Instant, room: &Room) {
        self.vitals.pool().put(stream, self.key, self.peer.options.idle_timeout, now, room);
    }

    /// A limit for Pingora's reads, where no client's connection keeps the time: Pingora knows one for head and body alike, so it is
    /// the looser of the two.
    pub(crate) fn read_timeout(&self) -> Option<Time> {
        self.read_timeout
    }
}

/// Connections are never shared between upstreams: their settings may differ.
fn group_key(upstream: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    upstream.hash(&mut hasher);
    hasher.finish()
}
