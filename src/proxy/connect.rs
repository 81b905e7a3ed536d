//! Connections to endpoints that Pingora can't open as they should be.
//!
//! Where an upstream has authorities or a certificate of its own, Pingora's connector makes a TLS configuration anew for every
//! connection: none ever resumes a session. It speaks no PROXY protocol either. So connections are opened here, with the
//! upstream's one configuration (`tls::ClientTls`), and handed to Pingora through the door that it has for other protocols: a peer
//! that asks for a protocol of that name gets its connection from a [`Dialer`]. Over HTTP/1.1 that is a stream of bytes, which Pingora makes a
//! session of its own, and which is read along ([`Followed`]); over HTTP/2 a session of ours ([`Own`]). Pooling them stays Pingora's.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr as InetAddress};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::custom::{self, Connection};
use pingora_core::connectors::http::v2::Connector as Streams;
use pingora_core::connectors::l4::BindTo;
use pingora_core::protocols::l4::ext::{connect, connect_uds};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{CustomALPN, SslDigest};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, OkOrErr, OrErr};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::Result;
use crate::proxy::followed::Followed;
use crate::proxy::framed;
use crate::proxy::session::Own;
use crate::proxy::watch::Watched;
use crate::tls::in_words;
use crate::upstream::{Endpoint, Parties, Spoken, Wire};

tokio::task_local! {
    /// What the current task's request connects to: Pingora's connectors see no more than a peer.
    static DIALING: RefCell<Option<Given>>;
}

/// An endpoint that is to speak HTTP/2 does not.
pub(super) const NO_HTTP2: ErrorType = ErrorType::new("NoHTTP2");

/// The name of a protocol that no endpoint is ever offered: it leads Pingora to a [`Dialer`].
const OURS: &[u8] = b"ravelin";

/// What is connected to, and for whom.
struct Dialing {
    endpoint: Arc<Endpoint>,
    parties: Option<Parties>,
    spoken: Spoken,
    /// A connection that was opened ahead, to learn what the endpoint speaks.
    ahead: Option<Result<Stream>>,
}

/// What the current task's request is given in the place of a connection.
enum Given {
    To(Dialing),
    Answered(Box<Own>),
}

/// Lets a request name what it connects to.
pub(super) async fn scope<F: Future>(request: F) -> F::Output {
    DIALING.scope(RefCell::new(None), request).await
}

/// Opens connections to endpoints.
#[derive(Clone)]
pub(crate) struct Dialer {
    from: Arc<Sources>,
    /// Connections over HTTP/2, and their streams.
    streams: Arc<Streams>,
}

/// Addresses that connections come from (`client_bind_to_ipv4` and `client_bind_to_ipv6`).
#[derive(Debug, Default)]
struct Sources {
    ipv4: Vec<IpAddr>,
    ipv6: Vec<IpAddr>,
}

impl Dialer {
    pub(crate) fn new(conf: &ServerConf) -> Self {
        // That these are addresses was looked at when the file was read.
        let parsed = |list: &[String]| list.iter().filter_map(|address| address.parse().ok()).collect();
        let from = Sources { ipv4: parsed(&conf.client_bind_to_ipv4), ipv6: parsed(&conf.client_bind_to_ipv6) };
        let streams = Streams::new(Some(ConnectorOptions::from_server_conf(conf)));
        Self { from: Arc::new(from), streams: Arc::new(streams) }
    }

    /// Makes a peer one that this request may connect to, for this client alone where the endpoint is told who that is. Says what is spoken.
    pub(super) async fn direct(&self, peer: &mut HttpPeer, endpoint: &Arc<Endpoint>, parties: Parties, upgrade: bool) -> Spoken {
        let parties = endpoint.link().proxy.map(|_| parties);
        if let Some(parties) = &parties {
            // A connection belongs to whom its first bytes name.
            peer.group_key = endpoint.group_for(parties);
        }
        let mut spoken = endpoint.speaks(upgrade);
        let mut ahead = None;
        if spoken == Spoken::Open {
            let opened = self.open(endpoint, parties, spoken, peer.options.total_connection_timeout).await;
            if let Ok((_, http2)) = &opened {
                endpoint.chose(Some(*http2));
                spoken = if *http2 { Spoken::Http2 } else { Spoken::Http1 };
            }
            ahead = Some(opened.map(|(stream, _)| stream));
        }
        if spoken == Spoken::Http2 {
            // Pingora would look among those over HTTP/1 too.
            peer.group_key = !peer.group_key;
        }
        peer.options.alpn = ALPN::Custom(CustomALPN::new(OURS.to_vec()));
        let dialing = Dialing { endpoint: endpoint.clone(), parties, spoken, ahead };
        // Outside of a scope there is none to name it, and the connector will say so.
        let _ = DIALING.try_with(|current| current.replace(Some(Given::To(dialing))));
        spoken
    }

    /// Makes a peer one that stands for an answer which was asked for ahead.
    pub(super) fn hand_over(&self, peer: &mut HttpPeer, ahead: Own) {
        // Of its own: no connection that waits is taken in its place.
        peer.group_key = fastrand::u64(..);
        peer.options.alpn = ALPN::Custom(CustomALPN::new(OURS.to_vec()));
        let _ = DIALING.try_with(|current| current.replace(Some(Given::Answered(Box::new(ahead)))));
    }

    /// A connection on which HTTP/1 is spoken, with TLS and a PROXY header where the endpoint asks for these.
    pub(super) async fn http1(&self, endpoint: &Endpoint, parties: Option<Parties>, limit: Option<Duration>) -> Result<Wire> {
        if endpoint.link().is_plain() {
            return within(limit, endpoint, dial(endpoint.address(), &self.from)).await;
        }
        self.open(endpoint, parties, Spoken::Http1, limit).await.map(|(stream, _)| Wire::Other(stream))
    }

    /// A connection, and whether HTTP/2 is spoken on it.
    async fn open(
        &self,
        endpoint: &Endpoint,
        parties: Option<Parties>,
        spoken: Spoken,
        limit: Option<Duration>,
    ) -> Result<(Stream, bool)> {
        let opening = async {
            let link = endpoint.link();
            let header = parties.zip(link.proxy).map(|(parties, version)| parties.header(version));
            let stream = reach(endpoint.address(), header.as_deref(), &self.from).await?;
            match (&link.tls, endpoint.server_name()) {
                (Some(tls), Some(name)) => {
                    let config = tls.config(Endpoint::offer(spoken)).clone();
                    let opened = handshake(TlsConnector::from(config), name.clone(), stream).await?;
                    let http2 = opened.http2();
                    if spoken == Spoken::Http2 && !http2 {
                        // It may have chosen another before.
                        endpoint.chose(None);
                        return Err(Error::explain(NO_HTTP2, format!("endpoint {endpoint} agreed on no HTTP/2 (ALPN)")));
                    }
                    Ok((Box::new(opened) as Stream, http2))
                }
                (Some(_), None) => Err(Error::explain(ErrorType::TLSHandshakeFailure, "the endpoint has no name to prove")),
                (None, _) => Ok((Box::new(stream) as Stream, spoken == Spoken::Http2)),
            }
        };
        within(limit, endpoint, opening).await
    }
}

async fn within<T>(limit: Option<Duration>, endpoint: &Endpoint, opening: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, opening)
            .await
            .map_err(|_| Error::explain(ErrorType::ConnectTimedout, format!("connecting to {endpoint}, timeout {limit:?}")))?,
        None => opening.await,
    }
}

#[async_trait]
impl custom::Connector for Dialer {
    type Session = Own;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<(Connection<Own>, bool)> {
        let Dialing { endpoint, parties, spoken, ahead } = match DIALING.try_with(RefCell::take).ok().flatten() {
            Some(Given::To(dialing)) => dialing,
            Some(Given::Answered(own)) => return Ok((Connection::Session(*own), true)),
            None => return Err(Error::explain(ErrorType::InternalError, "a connection that nobody has asked for")),
        };
        let stream = match ahead {
            Some(opened) => opened?,
            None => self.open(&endpoint, parties, spoken, peer.total_connection_timeout()).await?.0,
        };
        if spoken == Spoken::Http2 {
            let connection = framed::handshake(stream, endpoint.peer().options.max_h2_streams).await?;
            let session =
                connection.spawn_stream().await?.or_err(ErrorType::H2Error, "a new connection without room for a stream")?;
            if connection.more_streams_allowed() {
                self.streams.in_use_pool().insert(peer.reuse_hash(), connection);
            }
            return Ok((Connection::Session(Own::of_stream(session)), false));
        }
        // The express lane looks after its own.
        let watched = Box::new(Watched::new(stream, endpoint.peer().options.write_timeout));
        Ok((Connection::Stream(Box::new(Followed::new(watched))), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<Own> {
        let is_stream = |given: &Given| matches!(given, Given::To(Dialing { spoken: Spoken::Http2, ahead: None, .. }));
        let wanted = DIALING.try_with(|current| current.borrow().as_ref().is_some_and(is_stream)).unwrap_or_default();
        // One that can't be used is no reason not to open another.
        let session = if wanted { self.streams.reused_http_session(peer).await.ok().flatten() } else { None }?;
        if session.conn.is_shutting_down() {
            // Its endpoint has just said what it must not, on another stream.
            return None;
        }
        let _ = DIALING.try_with(RefCell::take);
        Some(Own::of_stream(session))
    }

    /// What a [`Dialer`] opens over HTTP/1 becomes a session of Pingora's, but for those whose answers were asked for ahead.
    async fn release_http_session<P: Peer + Send + Sync + 'static>(&self, own: Own, peer: &P, idle: Option<Duration>) {
        own.release(&self.streams, peer, idle).await;
    }
}

/// A connection without TLS, whose first bytes are these.
async fn reach(address: &SocketAddr, header: Option<&[u8]>, from: &Sources) -> Result<L4Stream> {
    let mut stream: L4Stream = match dial(address, from).await? {
        Wire::Tcp(stream) => stream.into(),
        Wire::Unix(stream) => stream.into(),
        Wire::Other(_) => return Err(Error::explain(ErrorType::InternalError, "a socket is no socket")),
    };
    let digest = SocketDigest::from_raw_fd(stream.id());
    // It is new: nobody has told it of a peer.
    let _ = digest.peer_addr.set(Some(address.clone()));
    stream.set_socket_digest(digest);
    if let Some(header) = header {
        stream.write_all(header).await.or_err(ErrorType::ConnectError, "sending a PROXY header")?;
        stream.flush().await.or_err(ErrorType::ConnectError, "sending a PROXY header")?;
    }
    Ok(stream)
}

async fn dial(address: &SocketAddr, from: &Sources) -> Result<Wire> {
    match address {
        SocketAddr::Inet(address) => {
            let stream = connect(address, from.any(address).as_ref()).await?;
            stream.set_nodelay(true).or_err(ErrorType::ConnectError, "setting TCP_NODELAY")?;
            Ok(Wire::Tcp(stream))
        }
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or_else(|| Error::explain(ErrorType::ConnectError, "a socket without a path"))?;
            Ok(Wire::Unix(connect_uds(path).await?))
        }
    }
}

impl Sources {
    /// One to come from, where one must be.
    fn any(&self, to: &InetAddress) -> Option<BindTo> {
        let list = if to.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        let ip = fastrand::choice(list)?;
        Some({
            let mut bind = BindTo::default();
            bind.addr = Some(InetAddress::new(*ip, 0));
            bind
        })
    }
}

async fn handshake(connector: TlsConnector, name: ServerName<'static>, stream: L4Stream) -> Result<TlsConn> {
    let refused = |error: io::Error| {
        let words = in_words(&error);
        Error::because(ErrorType::TLSHandshakeFailure, "TLS handshake", io::Error::new(error.kind(), words))
    };
    let io = connector.connect(name, stream).await.map_err(refused)?;
    let (_, session) = io.get_ref();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
    let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
    log::debug!("TLS with an endpoint version={version} cipher={cipher} handshake={:?}", session.handshake_kind());
    let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
    Ok(TlsConn { io: Box::new(io), digest })
}

/// TLS over a connection, as Pingora wants to see it.
struct TlsConn {
    io: Box<TlsStream<L4Stream>>,
    digest: Arc<SslDigest>,
}

impl TlsConn {
    fn http2(&self) -> bool {
        self.io.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    fn below(&self) -> &L4Stream {
        self.io.get_ref().0
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for TlsConn {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("closing a connection failed error={error}");
        }
    }
}

impl UniqueID for TlsConn {
    fn id(&self) -> UniqueIDType {
        self.below().id()
    }
}

impl Ssl for TlsConn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.digest.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.http2() { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for TlsConn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.below().get_timing_digest()
    }
    fn get_read_pending_time(&self) -> Duration {
        self.below().get_read_pending_time()
    }
    fn get_write_pending_time(&self) -> Duration {
        self.below().get_write_pending_time()
    }
}

impl GetProxyDigest for TlsConn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.below().get_proxy_digest()
    }
}

impl GetSocketDigest for TlsConn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.below().get_socket_digest()
    }
}

impl Peek for TlsConn {}

impl fmt::Debug for TlsConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConn").field("id", &self.id()).finish_non_exhaustive()
    }
}
