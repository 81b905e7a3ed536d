//! Ports that no other test can take.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// A loopback port held by a socket that is bound but does not listen: connections are refused, the kernel
/// gives the port to nobody else, and yet a listener with `SO_REUSEADDR` (every Unix server) can take it.
#[derive(Debug)]
pub(crate) struct Reserved {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Reserved {
    pub(crate) fn v4() -> io::Result<Self> {
        Self::bind(TcpSocket::new_v4()?, (Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn v6() -> io::Result<Self> {
        Self::bind(TcpSocket::new_v6()?, (Ipv6Addr::LOCALHOST, 0).into())
    }

    fn bind(socket: TcpSocket, address: SocketAddr) -> io::Result<Self> {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// A port on 127.0.0.1 for a server that cannot report the one it was given. It stays reserved as long as
/// the value lives.
pub(crate) fn free_port() -> Reserved {
    Reserved::v4().expect("loopback has a free port")
}

/// Whether this machine has `[::1]`.
pub(crate) fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
