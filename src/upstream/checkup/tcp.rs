//! The TCP health check: a connection that opens is health enough.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_tcp_quickack};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use super::Ill;
use super::dial::Reached;

pub(super) async fn probe(mut reached: Reached) -> Result<(), Ill> {
    // Over TLS a goodbye, so that nobody at the other side takes the end for a fault. It may have gone already.
    let _ = reached.stream.shutdown().await;
    Ok(())
}

/// Whether a connection could be had: the other side's system says that it takes it, and is told at once that nobody wants it. So the
/// process there, which would find nothing to read on it, is not woken, and neither side has to remember it for a minute.
pub(super) async fn knock(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // What is not supported costs one packet more.
    let _ = set_tcp_quickack(&socket, false);
    set_socket_linger(&socket, Some(Duration::ZERO))?;
    socket.connect(address).await.map(drop)
}
