//! Connections to endpoints for probes: opened as those for requests are, with TLS and a PROXY header where these have them.

use std::io;

use pingora_core::protocols::l4::socket::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config::Protocol;
use crate::tls::{Alpn, in_words};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::proxy_header::Parties;

/// In which a probe's way to an endpoint differs from that of requests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Detour {
    /// Asked for in the place of the endpoint's own.
    pub(super) port: Option<u16>,
    pub(super) tls: Option<bool>,
}

impl Detour {
    /// Where a bare connection is all that there is to open: no TLS, and nothing that has to be said first.
    pub(super) fn bare(self, endpoint: &Endpoint) -> Option<std::net::SocketAddr> {
        let link = endpoint.link();
        let plain = link.tls.is_none() || self.tls == Some(false);
        let silent = link.proxy.is_none() || self.port.is_some();
        let SocketAddr::Inet(mut address) = endpoint.address().clone() else { return None };
        address.set_port(self.port.unwrap_or(address.port()));
        (plain && silent).then_some(address)
    }
}

/// A connection to an endpoint.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An endpoint that was reached.
pub(super) struct Reached {
    pub(super) stream: Box<dyn Stream>,
    /// HTTP/2 is spoken on it.
    pub(super) http2: bool,
    pub(super) scheme: &'static str,
}

/// Opens a connection on which this is to be spoken.
pub(super) async fn dial(endpoint: &Endpoint, detour: Detour, protocol: Protocol) -> io::Result<Reached> {
    let mut stream = open(endpoint.address(), detour.port).await?;
    let link = endpoint.link();
    if let Some(version) = link.proxy.filter(|_| detour.port.is_none()) {
        // It is for nobody.
        stream.write_all(&Parties { client: None, listener: None }.header(version)).await?;
        stream.flush().await?;
    }
    let Some(tls) = link.tls.as_ref().filter(|_| detour.tls != Some(false)) else {
        return Ok(Reached { stream, http2: protocol == Protocol::Http2, scheme: "http" });
    };
    let name = endpoint.server_name().ok_or_else(|| io::Error::other("it has no name to prove"))?;
    let offer = match protocol {
        Protocol::Http1 => Alpn::Http1,
        Protocol::Http2 => Alpn::Http2,
        Protocol::Auto => Alpn::Either,
    };
    let connector = TlsConnector::from(tls.config(offer).clone());
    let refused = |error: io::Error| io::Error::new(error.kind(), format!("TLS: {}", in_words(&error)));
    let stream = connector.connect(name.clone(), stream).await.map_err(refused)?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if protocol == Protocol::Http2 && !http2 {
        return Err(io::Error::other("it agreed on no HTTP/2 (ALPN)"));
    }
    Ok(Reached { stream: Box::new(stream), http2, scheme: "https" })
}

async fn open(address: &SocketAddr, port: Option<u16>) -> io::Result<Box<dyn Stream>> {
    Ok(match address {
        SocketAddr::Inet(address) => {
            let mut address = *address;
            address.set_port(port.unwrap_or(address.port()));
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
        SocketAddr::Unix(address) => {
            let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
            Box::new(UnixStream::connect(path).await?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_of_the_system_is_asked_too() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("a.sock")).unwrap();
        let address = SocketAddr::Unix(listener.local_addr().unwrap());
        assert!(open(&address, None).await.is_ok());
        drop(listener);
        assert_eq!(open(&address, None).await.err().unwrap().kind(), io::ErrorKind::ConnectionRefused);
    }
}
