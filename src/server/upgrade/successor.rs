//! The old side: hands the sockets on to whoever may ask, and knows whether a successor is ready.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::wire::{self, PROTOCOL, Packet, Role};
use crate::server::bind::SocketFile;
use crate::server::drain::Drain;

/// How long a successor may take over one packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long accepting pauses when it fails for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that can be handed on.
pub(in crate::server) struct Offer {
    pub(in crate::server) role: Role,
    pub(in crate::server) name: String,
    /// As it is configured.
    pub(in crate::server) address: String,
    pub(in crate::server) socket: OwnedFd,
}

/// Those who may come after this process.
pub(in crate::server) struct Successors {
    /// `None` once this process accepts no more: it must not keep sockets open that nobody accepts from.
    offers: Mutex<Option<Arc<Vec<Offer>>>>,
    ready: watch::Sender<Option<Successor>>,
    /// Who may ask, beside root: whom this process ran as at its start, and whom it runs as now.
    trusted: [u32; 2],
}

/// A process that has the sockets and accepts.
#[derive(Clone)]
pub(in crate::server) struct Successor {
    pub(in crate::server) pid: u32,
    socket: Arc<OwnedFd>,
}

impl Successors {
    pub(in crate::server) fn new(offers: Vec<Offer>, trusted: [u32; 2]) -> Self {
        Self { offers: Mutex::new(Some(Arc::new(offers))), ready: watch::Sender::new(None), trusted }
    }

    /// The successor that is ready now.
    pub(in crate::server) fn now(&self) -> Option<Successor> {
        self.ready.borrow().clone()
    }

    /// Waits for one until it is ready; `None`: not within `limit`.
    pub(in crate::server) async fn within(&self, limit: Duration) -> Option<Successor> {
        let mut ready = self.ready.subscribe();
        let found = tokio::time::timeout(limit, ready.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }

    /// Lets go of the sockets: once listeners close theirs too, nobody is left waiting at one that this process alone has open.
    pub(in crate::server) fn let_go(&self) {
        *self.offers.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Tells the successor that the sockets are its own.
    pub(in crate::server) fn leave(&self) {
        if let Some(successor) = self.now()
            && let Err(error) = wire::send(&*successor.socket, &Packet::Draining, None)
        {
            log::warn!("the new process can't be told pid={} error={error}", successor.pid);
        }
    }

    /// Speaks with one that has come, until it or this process is gone.
    fn serve(&self, socket: OwnedFd) -> io::Result<()> {
        let uid = socket_peercred(&socket)?.uid.as_raw();
        if uid != 0 && !self.trusted.contains(&uid) {
            log::warn!("sockets refused: the process that asks for them runs as another user uid={uid}");
            return Ok(());
        }
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        let Some(offers) = self.offers.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return Ok(()) };
        let (pid, version) = (std::process::id(), env!("CARGO_PKG_VERSION").to_owned());
        wire::send(&socket, &Packet::Hello { protocol: PROTOCOL, pid, version, sockets: offers.len() }, None)?;
        for Offer { role, name, address, socket: offered } in offers.iter() {
            let packet = Packet::Socket { role: *role, name: name.clone(), address: address.clone() };
            wire::send(&socket, &packet, Some(offered.as_fd()))?;
        }
        drop(offers);
        let Some((Packet::Ready { pid }, _)) = wire::receive(&socket)? else {
            log::warn!("a new process took the listeners and ended before it was ready; this one goes on");
            return Ok(());
        };
        log::info!("a new process accepts beside this one pid={pid}: SIGQUIT ends this one");
        let socket = Arc::new(socket);
        self.ready.send_replace(Some(Successor { pid, socket: socket.clone() }));
        // It says nothing more: this ends when it does.
        let ended = wire::receive(&*socket);
        self.ready.send_if_modified(|ready| {
            let gone = ready.as_ref().is_some_and(|successor| Arc::ptr_eq(&successor.socket, &socket));
            if gone {
                *ready = None;
            }
            gone
        });
        if self.offers.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            log::warn!("the new process is gone, this one goes on pid={pid}");
        }
        ended.map(drop)
    }
}

/// Accepts those who ask.
pub(in crate::server) struct Door {
    pub(in crate::server) successors: Arc<Successors>,
    pub(in crate::server) socket: Mutex<Option<(std::os::unix::net::UnixListener, SocketFile)>>,
    /// Turns true once no other process accepts from this socket.
    pub(in crate::server) settled: watch::Receiver<bool>,
    pub(in crate::server) drain: Arc<Drain>,
}

impl Door {
    async fn open(&self) -> io::Result<()> {
        let Some((socket, _file)) = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        // Its sender lives as long as the predecessor is waited for, and says so at the end.
        let _ = self.settled.clone().wait_for(|settled| *settled).await;
        let listener = UnixListener::from_std(socket)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let stream: UnixStream = stream.into_std()?;
                    stream.set_nonblocking(false)?;
                    let successors = self.successors.clone();
                    // These are rare, and each lasts as long as the successor does.
                    tokio::task::spawn_blocking(move || {
                        if let Err(error) = successors.serve(stream.into()) {
                            log::warn!("upgrade broke off, this process goes on error={error}");
                        }
                    });
                }
                Err(error) => {
                    log::error!("accept failed, pausing upgrades error={error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

#[async_trait]
impl BackgroundService for Door {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        ready.notify_ready();
        tokio::select! {
            opened = self.open() => {
                if let Err(error) = opened {
                    log::error!("upgrades are not possible error={error}");
                }
            }
            () = self.drain.closing() => {}
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
    }
}
