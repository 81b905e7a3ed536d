//! One endpoint as the request path sees it: everything that can be made before a request comes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration as Time, Instant};

use pingora_core::protocols::ALPN;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use rustls::pki_types::ServerName;
use tokio::sync::Notify;

use crate::config::{Protocol, STREAMS};
use crate::observe::{EndpointMeter, UpstreamMeter};
use crate::tls::Alpn;
use crate::types::{Duration, Limit};
use crate::upstream::balance::key_of;
use crate::upstream::gate::Gate;
use crate::upstream::link::Link;
use crate::upstream::outlier::Rules;
use crate::upstream::pool::{Room, Use};
use crate::upstream::proxy_header::Parties;
use crate::upstream::vitals::Vitals;
use crate::upstream::wire::Wire;

/// An address that serves an upstream's requests.
pub struct Endpoint {
    address: SocketAddr,
    text: Box<str>,
    host: Box<str>,
    /// The name that it must prove, over TLS.
    name: Option<ServerName<'static>>,
    link: Arc<Link>,
    peer: HttpPeer,
    /// Of what decides whether a connection of another's can be used.
    key: u64,
    read_timeout: Option<Time>,
    meter: Arc<EndpointMeter>,
    vitals: Arc<Vitals>,
    backup: bool,
    /// Which protocol it chose, where it had the choice.
    spoken: AtomicU8,
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

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// The endpoint chooses, and has not been asked yet.
    Open,
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
    /// A list of endpoints can't be used.
    #[error("{path}: {reason}")]
    List {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is reached over TLS, of which nothing is known.
    #[error("the files of `tls` have not been read")]
    Unread,
    /// It is reached over TLS, and has no name that it could prove.
    #[error("`{address}` has no name to prove: `tls` needs `sni`")]
    NoName {
        /// Where it is.
        address: String,
    },
}

impl Endpoint {
    /// `host` is the endpoint as configured: what it gets as `Host` where the upstream says `host: endpoint`, and without its port
    /// the name that it must prove where the upstream gives none.
    ///
    /// # Errors
    /// It is reached over TLS, and has no name to prove.
    pub(super) fn new(
        address: SocketAddr,
        host: &str,
        link: &Arc<Link>,
        meter: &UpstreamMeter,
        vitals: Arc<Vitals>,
    ) -> Result<Self, EndpointError> {
        let text = address.to_string();
        let name = match &link.tls {
            Some(tls) => Some(server_name(tls.name(), host).ok_or_else(|| EndpointError::NoName { address: text.clone() })?),
            None => None,
        };
        let peer = peer(&address, link, name.as_ref());
        let limit = |limit: &Limit<Duration>| limit.get().map(Duration::get);
        let read_timeout = match (limit(&link.timeouts.response), limit(&link.timeouts.read)) {
            (Some(response), Some(read)) => Some(response.max(read)),
            _ => None,
        };
        Ok(Self {
            meter: meter.endpoint(&text),
            text: text.into(),
            address,
            host: host.into(),
            key: peer.reuse_hash(),
            name,
            link: link.clone(),
            peer,
            read_timeout,
            vitals,
            backup: false,
            spoken: AtomicU8::new(UNKNOWN),
            terms: Terms::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn testing(port: u16) -> Self {
        let address = SocketAddr::Inet(([127, 0, 0, 1], port).into());
        let vitals = crate::upstream::vitals::Roster::default().of(&address);
        let link = Arc::new(Link::new("u", &crate::config::Upstream::nowhere(), None));
        let meter = crate::observe::metrics().upstream("u");
        Self::new(address, "u", &link, &meter, vitals).unwrap_or_else(|error| panic!("{error}"))
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
    pub(crate) fn id(&self) -> u64 {
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
        self.call();
    }

    /// It may have room: whoever waits for that is called.
    pub(super) fn call(self: &Arc<Self>) {
        if let Some(gate) = &self.terms.gate {
            gate.call(self);
        }
    }

    /// What Pingora connects to. It waits for a response without a limit of its own.
    pub(crate) fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// A connection that waits for a request, of these parties where the endpoint is told of them.
    pub(crate) fn take_idle(&self, parties: Option<&Parties>, now: Instant) -> Option<Wire> {
        self.vitals.pool().take(self.use_for(parties), now)
    }

    /// Lets a connection wait for a next request.
    pub(crate) fn keep_idle(&self, wire: Wire, parties: Option<&Parties>, now: Instant, room: &Room) {
        self.vitals.pool().put(wire, self.use_for(parties), self.peer.options.idle_timeout, now, room);
    }

    /// Closes connections that wait and that were opened with other settings.
    pub(super) fn close_others(&self) {
        self.vitals.pool().keep_only(self.key);
    }

    fn use_for(&self, parties: Option<&Parties>) -> Use {
        Use { settings: self.key, parties: parties.map_or(0, |parties| self.group_for(parties)) }
    }

    /// How connections to it are opened.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whose connections it may use, when each belongs to one client.
    pub(crate) fn group_for(&self, parties: &Parties) -> u64 {
        let mut group = DefaultHasher::new();
        (self.link.group, parties).hash(&mut group);
        group.finish()
    }

    /// The name that it must prove, over TLS.
    pub(crate) fn server_name(&self) -> Option<&ServerName<'static>> {
        self.name.as_ref()
    }

    /// What is spoken with it. An upgrade is a matter of HTTP/1.1.
    pub(crate) fn speaks(&self, upgrade: bool) -> Spoken {
        match self.link.protocol {
            Protocol::Http1 => Spoken::Http1,
            Protocol::Http2 => Spoken::Http2,
            Protocol::Auto if upgrade => Spoken::Http1,
            Protocol::Auto => match self.spoken.load(Ordering::Relaxed) {
                HTTP1 => Spoken::Http1,
                HTTP2 => Spoken::Http2,
                _ => Spoken::Open,
            },
        }
    }

    /// It chose this one. `None`: who knows what it would choose now.
    pub(crate) fn chose(&self, http2: Option<bool>) {
        self.spoken.store(http2.map_or(UNKNOWN, |http2| if http2 { HTTP2 } else { HTTP1 }), Ordering::Relaxed);
    }

    /// What it is offered on a connection on which this is to be spoken.
    pub(crate) fn offer(spoken: Spoken) -> Alpn {
        match spoken {
            Spoken::Http1 => Alpn::Http1,
            Spoken::Http2 => Alpn::Http2,
            Spoken::Open => Alpn::Either,
        }
    }

    /// A limit for Pingora's reads, where no client's connection keeps the time: Pingora knows one for head and body alike, so it is
    /// the looser of the two.
    pub(crate) fn read_timeout(&self) -> Option<Time> {
        self.read_timeout
    }
}

/// The name that an endpoint must prove: the upstream's, else its own. An address is none.
fn server_name(given: Option<&str>, host: &str) -> Option<ServerName<'static>> {
    let own = || host.rsplit_once(':').map(|(name, _)| name);
    let name = ServerName::try_from(given.or_else(own)?.to_owned()).ok()?;
    matches!(name, ServerName::DnsName(_)).then_some(name)
}

/// What Pingora connects to. It waits for a response without a limit of its own.
fn peer(address: &SocketAddr, link: &Link, name: Option<&ServerName<'static>>) -> HttpPeer {
    let limit = |limit: &Limit<Duration>| limit.get().map(Duration::get);
    // An empty name would switch verification off: there is one wherever there is TLS.
    let sni = name.map_or_else(String::new, |name| name.to_str().into_owned());
    let mut peer = match address {
        SocketAddr::Inet(inet) => HttpPeer::new(inet, name.is_some(), sni),
        // Replaced below: Pingora's constructor takes text only.
        SocketAddr::Unix(_) => HttpPeer::new(("127.0.0.1", 1), name.is_some(), sni),
    };
    peer._address = address.clone();
    peer.group_key = link.group;
    let options = &mut peer.options;
    options.connection_timeout = limit(&link.timeouts.connect);
    options.total_connection_timeout = limit(&link.timeouts.connect);
    options.write_timeout = limit(&link.timeouts.write);
    options.idle_timeout = limit(&link.timeouts.idle);
    options.max_h2_streams = STREAMS as usize;
    options.alpn = match link.protocol {
        Protocol::Http1 => ALPN::H1,
        Protocol::Http2 => ALPN::H2,
        Protocol::Auto => ALPN::H2H1,
    };
    if let Some(tls) = &link.tls {
        options.verify_cert = tls.verifies();
        options.verify_hostname = tls.verifies();
        options.ca = link.authorities.clone();
        peer.client_cert_key = link.identity.clone();
    }
    peer
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
