//! The accept loop: a Pingora service over sockets that are bound already.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::ServiceWithDependents;
use pingora_proxy::HttpProxy;
use pingora_runtime::current_handle;
use tokio::net::{TcpListener, UnixListener};

use crate::proxy::Proxy;
use crate::server::bind::{Bound, BoundSocket, SocketFile};
use crate::server::connection::{Accepted, serve};
use crate::server::drain::Drain;

/// How long accepting pauses when descriptors run out: closing connections give them back.
const PAUSE: Duration = Duration::from_millis(100);

/// All listeners as one service.
pub(super) struct Listeners {
    sockets: Vec<Bound>,
    proxy: Arc<HttpProxy<Proxy>>,
    drain: Arc<Drain>,
}

impl Listeners {
    pub(super) fn new(sockets: Vec<Bound>, proxy: Arc<HttpProxy<Proxy>>, drain: Arc<Drain>) -> Self {
        Self { sockets, proxy, drain }
    }
}

#[async_trait]
impl ServiceWithDependents for Listeners {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize, ready: ServiceReadyNotifier) {
        let mut loops = Vec::new();
        for Bound { plan, socket } in self.sockets.drain(..) {
            let (socket, address) = match Socket::new(socket) {
                Ok(opened) => opened,
                Err(error) => {
                    log::error!("listener can't be started listener={} error={error}", plan.name);
                    continue;
                }
            };
            let protocols = if plan.http2 { "http/1.1 and h2c" } else { "http/1.1" };
            log::info!("listening on {address} listener={} protocols={protocols:?}", plan.name);
            let origin = Arc::new(Origin { proxy: self.proxy.clone(), drain: self.drain.clone(), shutdown: shutdown.clone() });
            loops.push(current_handle().spawn(accept(socket, plan.name, plan.http2, origin)));
        }
        ready.notify_ready();
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

/// What every connection needs of the process.
pub(super) struct Origin {
    pub(super) proxy: Arc<HttpProxy<Proxy>>,
    pub(super) drain: Arc<Drain>,
    pub(super) shutdown: ShutdownWatch,
}

enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Socket {
    /// The socket in this runtime, and the address that it got.
    fn new(socket: BoundSocket) -> io::Result<(Self, String)> {
        Ok(match socket {
            BoundSocket::Tcp(socket) => {
                let address = socket.local_addr()?.to_string();
                (Self::Tcp(TcpListener::from_std(socket)?), address)
            }
            BoundSocket::Unix(socket, file) => {
                let address = file.to_string();
                (Self::Unix { listener: UnixListener::from_std(socket)?, _file: file }, address)
            }
        })
    }

    async fn accept(&self) -> io::Result<(L4Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((stream.into(), Some(client)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.into(), None))
            }
        }
    }
}

async fn accept(socket: Socket, name: Arc<str>, http2: bool, origin: Arc<Origin>) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = origin.drain.closing() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let open = origin.drain.opened();
                let accepted = Accepted { stream, client, listener: name.clone(), http2, origin: origin.clone() };
                current_handle().spawn(async move {
                    serve(accepted).await;
                    drop(open);
                });
            }
            Err(error) if is_of_one_connection(&error) => log::debug!("accept failed listener={name} error={error}"),
            Err(error) => {
                log::error!("accept failed, pausing listener={name} error={error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
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
