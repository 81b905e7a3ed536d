//! Pingora's engine with a connector of our own in it.
//!
//! Pingora makes an `HttpProxy` with a connector only within a `Service` of its own, which never gives it away: but to its handler of
//! other protocols, with each connection. So such a service is started for a moment, on a socket that nobody knows, and takes one
//! connection, which we make.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Fds, ListenFds};
use pingora_core::services::Service;
use pingora_proxy::{HttpProxy, ProcessCustomSession, ProxyServiceBuilder};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::proxy::{Dialer, Proxy};

/// What serves requests.
pub(crate) type Engine = HttpProxy<Proxy, Dialer>;

/// How long it may take to get hold of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the engine.
///
/// # Errors
/// There is no loopback interface, or no descriptor.
pub(super) fn engine(conf: &Arc<ServerConf>, proxy: Proxy) -> io::Result<Arc<Engine>> {
    let (found, mut finding) = mpsc::channel(1);
    let hand_over: ProcessCustomSession<Proxy, Dialer> = Arc::new(move |engine, _, _| {
        // Whoever connects first is enough.
        let _ = found.try_send(engine);
        Box::pin(async { None })
    });
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    let connector = proxy.dialer().clone();
    let mut service = ProxyServiceBuilder::new(conf, proxy).custom(connector, hand_over).server_options(options).build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let sockets: ListenFds = Arc::new(Fds::new().into());
    sockets.lock().add(address.to_string(), listener.into_raw_fd());
    service.add_tcp(&address.to_string());
    // What it starts ends with this runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_stop, shutdown) = watch::channel(false);
        let asking = async {
            let _asking = TcpStream::connect(address).await?;
            finding.recv().await.ok_or(io::ErrorKind::BrokenPipe.into())
        };
        tokio::select! {
            () = service.start_service(Some(sockets), shutdown, 1) => Err(io::ErrorKind::BrokenPipe.into()),
            engine = tokio::time::timeout(PATIENCE, asking) => engine.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        }
    })
}
