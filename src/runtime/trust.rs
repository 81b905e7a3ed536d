//! Whom a listener believes about its clients.

use std::net::IpAddr;

use crate::config::{self, ForwardedHeader};
use crate::types::Cidr;

/// Peers that speak for others. One without an address is on a unix socket: who may open that is trusted.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    /// Those that must send a PROXY header, where the boot plan has one read.
    proxy: Box<[Cidr]>,
    forwarded: Option<Forwarded>,
}

#[derive(Debug)]
struct Forwarded {
    from: Box<[Cidr]>,
    header: ForwardedHeader,
}

impl Trust {
    pub(super) fn of(listener: &config::Listener) -> Self {
        let networks = |list: &[config::Spanned<Cidr>]| list.iter().map(|network| network.value).collect();
        let forwarded = |section: &config::Spanned<config::TrustForwarded>| Forwarded {
            from: networks(&section.from),
            header: section.header,
        };
        Self {
            proxy: listener.proxy_protocol.as_ref().map_or_else(Box::default, |section| networks(&section.trust)),
            forwarded: listener.trust_forwarded.as_ref().map(forwarded),
        }
    }

    /// Whether a peer must send a PROXY header, on a listener that reads them.
    pub(crate) fn sends_proxy(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.proxy.iter().any(|network| network.contains(peer)))
    }

    /// The field in which a peer names its client, if it is believed.
    pub(crate) fn forwards(&self, peer: Option<IpAddr>) -> Option<ForwardedHeader> {
        let Forwarded { from, header } = self.forwarded.as_ref()?;
        peer.is_none_or(|peer| from.iter().any(|network| network.contains(peer))).then_some(*header)
    }
}

#[cfg(test)]
impl Trust {
    /// Believes these networks.
    pub(crate) fn forwarding(from: &[&str], header: &str) -> Self {
        let header = crate::config::testing::decoded(header).unwrap();
        let from = from.iter().map(|network| network.parse().unwrap()).collect();
        Self { proxy: Box::default(), forwarded: Some(Forwarded { from, header }) }
    }
}
