//! The TCP health check: a connection is opened, and closed again.
//!
//! Own code, since Pingora's check has a connector of its own, which reads and parses all certificates that the system trusts: for
//! each upstream, at each reload, and for nothing.

use std::io::{self, ErrorKind};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use tokio::net::{TcpStream, UnixStream};

use crate::config;

/// How long a probe waits for a descriptor before it looks again.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Probe {
    upstream: Box<str>,
    timeout: Duration,
    healthy_after: usize,
    unhealthy_after: usize,
    /// Told when an endpoint is healthy no more, or again.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl Probe {
    pub(super) fn new(upstream: &str, settings: &config::TcpHealthCheck, changed: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            upstream: upstream.into(),
            timeout: settings.timeout.get(),
            healthy_after: settings.healthy_after as usize,
            unhealthy_after: settings.unhealthy_after as usize,
            changed,
        }
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> pingora_core::Result<()> {
        loop {
            return match tokio::time::timeout(self.timeout, connect(&target.addr)).await {
                Ok(Ok(())) => Ok(()),
                // That says nothing of the endpoint.
                Ok(Err(error)) if lacks_descriptors(&error) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Ok(Err(error)) => Err(Error::new_up(kind(&error))),
                Err(_) => Err(Error::new_up(ErrorType::ConnectTimedout)),
            };
        }
    }

    async fn health_status_change(&self, _: &Backend, _healthy: bool) {
        (self.changed)();
    }

    fn backend_summary(&self, target: &Backend) -> String {
        format!("upstream={} endpoint={}", self.upstream, target.addr)
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.healthy_after } else { self.unhealthy_after }
    }
}

async fn connect(address: &SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::Inet(address) => TcpStream::connect(address).await.map(drop),
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or(ErrorKind::AddrNotAvailable)?;
            UnixStream::connect(path).await.map(drop)
        }
    }
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Pingora logs it when an endpoint's health changes.
fn kind(error: &io::Error) -> ErrorType {
    match error.kind() {
        ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe::new("u", &config::TcpHealthCheck::default(), Box::new(|| {}))
    }

    fn backend(address: SocketAddr) -> Backend {
        Backend { addr: address, weight: 1, ext: Default::default() }
    }

    #[tokio::test]
    async fn whoever_listens_is_healthy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = backend(SocketAddr::Inet(listener.local_addr().unwrap()));
        probe().check(&tcp).await.unwrap();
        drop(listener);
        assert_eq!(probe().check(&tcp).await.unwrap_err().etype(), &ErrorType::ConnectRefused);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let unix = backend(SocketAddr::Unix(listener.local_addr().unwrap()));
        probe().check(&unix).await.unwrap();
        drop(listener);
        assert_eq!(probe().check(&unix).await.unwrap_err().etype(), &ErrorType::ConnectRefused);
    }
}
