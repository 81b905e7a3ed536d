//! The accept loop: a Pingora service over sockets that are bound already.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::ServiceWithDependents;
use pingora_runtime::current_handle;

use crate::config::ListenerLimits;
use crate::observe::{ListenerMeter, Observers, Pause, count_tasks_here, metrics};
use crate::proxy::Express;
use crate::runtime::{Snapshot, Store};
use crate::server::bind::{Bound, Socket};
use crate::server::clients::{Clients, Counted};
use crate::server::connection::{Accepted, serve};
use crate::server::descriptors::Descriptors;
use crate::server::drain::Drain;
use crate::server::engine::Engine;
use crate::server::gate::Gate;
use crate::server::ready::Waiting;
use crate::upstream::Wire;

/// How long accepting pauses when descriptors run out: closing connections give them back.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a listener that waits for room looks whether its limit has been raised.
const RECHECK: Duration = Duration::from_secs(1);
/// As many as may wait in the system when the process stops.
const LAST_MAX: usize = 4096;
/// How often a listener says at most that it does not accept: at its limit it may be so for an instant, again and again.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// All listeners as one service.
pub(super) struct Listeners {
    sockets: Vec<Bound>,
    proxy: Arc<Engine>,
    express: Arc<Express>,
    store: Arc<Store>,
    drain: Arc<Drain>,
    observers: Arc<Observers>,
    waiting: Option<Waiting>,
}

impl Listeners {
    /// `waiting` are told once all of them accept.
    pub(super) fn new(
        sockets: Vec<Bound>,
        waiting: Waiting,
        (proxy, express): (Arc<Engine>, Arc<Express>),
        store: Arc<Store>,
        drain: Arc<Drain>,
        observers: Arc<Observers>,
    ) -> Self {
        Self { sockets, proxy, express, store, drain, observers, waiting: Some(waiting) }
    }
}

#[async_trait]
impl ServiceWithDependents for Listeners {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize, ready: ServiceReadyNotifier) {
        let mut loops = Vec::new();
        for (index, Bound { plan, socket }) in self.sockets.drain(..).enumerate() {
            let (socket, address) = match Socket::new(socket) {
                Ok(opened) => opened,
                Err(error) => {
                    log::error!("listener can't be started listener={} error={error}", plan.name);
                    continue;
                }
            };
            let protocols = match (plan.tls, plan.http2) {
                (false, false) => "http/1.1",
                (false, true) => "http/1.1 and h2c",
                (true, false) => "http/1.1 over TLS",
                (true, true) => "h2 and http/1.1 over TLS",
            };
            log::info!("listening on {address} listener={} protocols={protocols:?}", plan.name);
            let listener = Arc::new(Listener {
                meter: metrics().listener(&plan.name),
                name: plan.name,
                index,
                http2: plan.http2,
                proxy_protocol: plan.proxy_protocol,
                gate: Arc::default(),
                clients: Arc::new(Clients::new()),
                handshakes: Arc::new(Clients::new()),
                proxy: self.proxy.clone(),
                express: self.express.clone(),
                store: self.store.clone(),
                drain: self.drain.clone(),
                shutdown: shutdown.clone(),
                observers: self.observers.clone(),
            });
            loops.push(current_handle().spawn(listener.accept(socket)));
        }
        self.drain.listening();
        ready.notify_ready();
        if let Some(waiting) = self.waiting.take() {
            waiting.tell();
        }
        for accepting in loops {
            // A loop ends when the process stops.
            let _ = accepting.await;
        }
    }

    fn name(&self) -> &'static str {
        "listeners"
    }

    fn threads(&self) -> Option<usize> {
        None
    }
}

/// One listener, as its connections see it.
pub(super) struct Listener {
    pub(super) name: Arc<str>,
    /// Its index among the listeners of the boot plan, and so of each snapshot.
    pub(super) index: usize,
    pub(super) http2: bool,
    proxy_protocol: bool,
    pub(super) meter: Arc<ListenerMeter>,
    gate: Arc<Gate>,
    clients: Arc<Clients>,
    /// Their TLS handshakes that are in progress.
    pub(super) handshakes: Arc<Clients>,
    pub(super) proxy: Arc<Engine>,
    pub(super) express: Arc<Express>,
    pub(super) store: Arc<Store>,
    pub(super) drain: Arc<Drain>,
    pub(super) shutdown: ShutdownWatch,
    pub(super) observers: Arc<Observers>,
}

/// What would be said too often.
#[derive(Default)]
struct Seldom(Option<Instant>);

impl Seldom {
    fn may_say(&mut self) -> bool {
        let now = Instant::now();
        let may = self.0.is_none_or(|said| now.duration_since(said) >= SAY_EVERY);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

impl Listener {
    /// One whose connections are made elsewhere.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn detached(
        proxy: Arc<Engine>,
        express: Arc<Express>,
        store: Arc<Store>,
        observers: Arc<Observers>,
        shutdown: ShutdownWatch,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: "detached".into(),
            index: 0,
            http2: false,
            proxy_protocol: false,
            meter: metrics().listener("detached"),
            gate: Arc::default(),
            clients: Arc::new(Clients::new()),
            handshakes: Arc::new(Clients::new()),
            proxy,
            express,
            store,
            drain: Arc::new(Drain::new()),
            shutdown,
            observers,
        })
    }

    /// The limits in force now.
    pub(super) fn limits(&self) -> ListenerLimits {
        self.store.limits(self.index)
    }

    /// Likewise, unless the snapshot is still the one that was `seen`.
    pub(super) fn limits_after(&self, seen: &mut Weak<Snapshot>) -> Option<ListenerLimits> {
        self.store.limits_after(seen, self.index)
    }

    async fn accept(self: Arc<Self>, socket: Socket) {
        // Stopping waits for this loop too: those who have connected are admitted before it counts who is left.
        let _accepting = self.drain.opened();
        let descriptors = Descriptors::of_this_process();
        let (mut full, mut scarce, mut failing) = (Seldom::default(), Seldom::default(), Seldom::default());
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    self.room(&mut full).await;
                    socket.accept().await
                } => accepted,
                () = self.drain.closing() => break,
            };
            match accepted {
                Ok((stream, client)) => {
                    let descriptor = stream.descriptor();
                    self.clone().admit(stream, client);
                    if descriptors.are_scarce_after(descriptor) {
                        tokio::select! {
                            () = self.relief(descriptors, &mut scarce) => {}
                            () = self.drain.closing() => break,
                        }
                    }
                }
                Err(error) if is_of_one_connection(&error) => log::debug!("accept failed listener={} error={error}", self.name),
                Err(error) => {
                    if failing.may_say() {
                        log::error!("accept failed, trying again every {PAUSE:?} listener={} error={error}", self.name);
                    }
                    self.pause().await;
                }
            }
        }
        self.last_call(socket);
    }

    /// Admits who has connected already: with the socket the system would reset them, and the requests that they have sent.
    fn last_call(self: Arc<Self>, socket: Socket) {
        let most = self.gate.room(self.limits().connections).min(LAST_MAX);
        for connected in socket.close(most) {
            match connected {
                Ok((stream, client)) => self.clone().admit(stream, client),
                Err(error) => log::warn!("who has just connected is lost listener={} error={error}", self.name),
            }
        }
    }

    /// Waits until a connection more may be open.
    async fn room(&self, full: &mut Seldom) {
        loop {
            let left = self.gate.left();
            if self.gate.is_open(self.limits().connections) {
                return;
            }
            if full.may_say() {
                log::warn!("too many connections, accepting waits listener={}", self.name);
            }
            let since = Instant::now();
            // The limit may be raised, too, while no connection leaves.
            let _ = tokio::time::timeout(RECHECK, left).await;
            self.meter.paused(Pause::Connections, since.elapsed());
        }
    }

    /// Waits until descriptors are not scarce any more.
    async fn relief(&self, descriptors: Descriptors, scarce: &mut Seldom) {
        while descriptors.are_scarce() {
            if scarce.may_say() {
                log::error!("descriptors are scarce, accepting waits listener={}", self.name);
            }
            self.pause().await;
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
        self.meter.paused(Pause::Descriptors, PAUSE);
    }

    /// Serves a connection, unless its client has too many open already.
    fn admit(self: Arc<Self>, stream: Wire, peer: Option<SocketAddr>) {
        let proxied = self.proxy_protocol && self.store.trust(self.index, |trust| trust.sends_proxy(ip(peer)));
        let counted = match if proxied { Ok(None) } else { self.count(peer) } {
            Ok(counted) => counted,
            Err(TooMany) => return,
        };
        let held = (self.drain.opened(), self.gate.pass(), counted, self.meter.accepted());
        current_handle().spawn(async move {
            count_tasks_here();
            serve(Accepted { stream, peer, proxied, listener: self }).await;
            drop(held);
        });
    }

    /// Counts a connection for its client. Proxies that speak for many clients are not counted.
    pub(super) fn count(&self, client: Option<SocketAddr>) -> Result<Option<Counted>, TooMany> {
        let (Some(client), Some(limit)) = (client, self.limits().connections_per_client) else { return Ok(None) };
        if self.store.trust(self.index, |trust| trust.forwards(ip(Some(client))).is_some()) {
            return Ok(None);
        }
        match self.clients.enter(client.ip(), limit) {
            Some(counted) => Ok(Some(counted)),
            None => {
                self.meter.refused("connections_per_client");
                if self.observers.may_say("connections_per_client") {
                    log::info!("connection closed reason=connections_per_client client={} listener={}", client.ip(), self.name);
                }
                Err(TooMany)
            }
        }
    }
}

/// A client has as many connections as it may have.
pub(super) struct TooMany;

fn ip(address: Option<SocketAddr>) -> Option<IpAddr> {
    address.map(|address| address.ip())
}

/// Whether only this connection failed, and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}
