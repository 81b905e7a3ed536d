//! The PROXY header that a connection to an endpoint begins with, so that the endpoint knows whom it is for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ppp::v2::{Builder, Command, Protocol as Transport, Version};
use ppp::{v1, v2};

use crate::config::ProxyHeader;

/// Whom a connection is for: who asks, and where it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Parties {
    /// `None`: over a unix socket, or nobody knows.
    pub(crate) client: Option<SocketAddr>,
    pub(crate) listener: Option<SocketAddr>,
}

impl Parties {
    /// The header's bytes.
    pub(crate) fn header(&self, version: ProxyHeader) -> Vec<u8> {
        let addresses = self.client.map(|client| (client, facing(client, self.listener)));
        match version {
            ProxyHeader::V1 => addresses.map_or(v1::Addresses::Unknown, v1::Addresses::from).to_string().into_bytes(),
            ProxyHeader::V2 => {
                let (command, addresses) = match addresses {
                    Some(addresses) => (Command::Proxy, v2::Addresses::from(addresses)),
                    None => (Command::Local, v2::Addresses::Unspecified),
                };
                let transport = if addresses == v2::Addresses::Unspecified { Transport::Unspecified } else { Transport::Stream };
                // Building fails only for a header of more than 64 KiB.
                Builder::with_addresses(Version::Two | command, transport, addresses).build().unwrap_or_default()
            }
        }
    }
}

/// The address that the client asked, in the client's own family: a header can't name both.
fn facing(client: SocketAddr, listener: Option<SocketAddr>) -> SocketAddr {
    let port = listener.map_or(0, |listener| listener.port());
    let ip = match (client.ip(), listener.map(|listener| listener.ip())) {
        (IpAddr::V4(_), Some(IpAddr::V4(ip))) => ip.into(),
        (IpAddr::V4(_), Some(IpAddr::V6(ip))) => ip.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        (IpAddr::V4(_), None) => Ipv4Addr::UNSPECIFIED.into(),
        (IpAddr::V6(_), Some(IpAddr::V6(ip))) => ip.into(),
        (IpAddr::V6(_), Some(IpAddr::V4(ip))) => ip.to_ipv6_mapped().into(),
        (IpAddr::V6(_), None) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parties(client: &str, listener: &str) -> Parties {
        Parties { client: client.parse().ok(), listener: listener.parse().ok() }
    }

    #[test]
    fn a_line_of_text() {
        let line = |client, listener| String::from_utf8(parties(client, listener).header(ProxyHeader::V1)).unwrap();
        assert_eq!(line("192.0.2.1:1000", "198.51.100.1:443"), "PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\n");
        assert_eq!(line("[2001:db8::1]:1000", "[2001:db8::2]:443"), "PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\n");
        assert_eq!(line("192.0.2.1:1000", "[2001:db8::2]:443"), "PROXY TCP4 192.0.2.1 0.0.0.0 1000 443\r\n");
        assert_eq!(line("192.0.2.1:1000", "[::ffff:198.51.100.1]:443"), "PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\n");
        assert_eq!(line("", "198.51.100.1:443"), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn binary() {
        for (client, listener) in [("192.0.2.1:1000", "198.51.100.1:443"), ("[2001:db8::1]:1000", "[2001:db8::2]:443")] {
            let bytes = parties(client, listener).header(ProxyHeader::V2);
            let header = v2::Header::try_from(bytes.as_slice()).unwrap();
            let sent: (SocketAddr, SocketAddr) = (client.parse().unwrap(), listener.parse().unwrap());
            assert_eq!((header.command, header.addresses), (Command::Proxy, v2::Addresses::from(sent)));
        }
        let bytes = parties("", "").header(ProxyHeader::V2);
        assert_eq!(v2::Header::try_from(bytes.as_slice()).unwrap().command, Command::Local);
    }
}
