//! Where `redirect_to_https` leads.

use std::net::SocketAddr;

use crate::config::{Listener, Named};
use crate::types::ListenAddress;

/// The ports of a listener in the clear and of the one with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HttpsPorts {
    own: Option<u16>,
    https: Option<u16>,
}

impl HttpsPorts {
    /// Of a listener that redirects, by all of them. `https` is one of them with TLS: that of port 443, or the only one.
    pub(super) fn of(listener: &Listener, all: &[Named<Listener>]) -> Self {
        let with_tls = || all.iter().filter(|other| other.value.tls.is_some()).filter_map(|other| port(&other.value));
        let https = with_tls().find(|port| *port == 443).or_else(|| with_tls().next().filter(|_| with_tls().count() == 1));
        Self { own: port(listener), https }
    }

    /// The port to be named. A client that names ours reaches it as it is, and so the other one; one that names none, or another, comes by
    /// some mapping that leads from the usual ports to these.
    pub(crate) fn for_authority(self, authority: &str) -> Option<u16> {
        let after = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
        let named = after.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        self.https.filter(|https| *https != 443 && named.is_some() && named == self.own)
    }
}

fn port(listener: &Listener) -> Option<u16> {
    match &listener.address.value {
        ListenAddress::Tcp(address) => Some(SocketAddr::port(address)).filter(|port| *port != 0),
        ListenAddress::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_to_whoever_named_ours() {
        let ports = HttpsPorts { own: Some(8080), https: Some(8443) };
        for (authority, expected) in [
            ("a.example:8080", Some(8443)),
            ("[::1]:8080", Some(8443)),
            ("a.example", None),
            ("[::1]", None),
            ("a.example:80", None),
            ("a.example:x", None),
        ] {
            assert_eq!(ports.for_authority(authority), expected, "{authority}");
        }
        let usual = HttpsPorts { own: Some(8080), https: Some(443) };
        assert_eq!(usual.for_authority("a.example:8080"), None);
    }
}
