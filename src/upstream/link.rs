//! How connections to the endpoints of an upstream are opened, and whose connections they may be.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};

use crate::config::{self, Protocol, ProxyHeader, Timeouts};
use crate::tls::ClientTls;

/// How connections to the endpoints of an upstream are opened. The same for all of them, and made once.
pub(crate) struct Link {
    pub(super) timeouts: Timeouts,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Option<ProxyHeader>,
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// The files of `tls` in Pingora's types, for what it connects to by itself.
    pub(super) authorities: Option<Arc<CaType>>,
    pub(super) identity: Option<Arc<CertKey>>,
    /// Connections with the same one may be used for each other's requests, if they lead to the same address.
    pub(super) group: u64,
}

impl Link {
    pub(super) fn new(upstream: &str, section: &config::Upstream, tls: Option<Arc<ClientTls>>) -> Self {
        let (protocol, proxy) = (section.protocol.value, section.proxy_protocol);
        let mut group = DefaultHasher::new();
        // Of Pingora's own key neither authorities nor protocols are a part, and of certificates only their numbers.
        (upstream, protocol, proxy, tls.as_ref().map(|tls| tls.fingerprint())).hash(&mut group);
        let wrapped = |der: &[u8]| WrappedX509::new(der.to_vec(), parse_x509);
        let authorities = tls.as_ref().and_then(|tls| tls.authorities());
        let identity = tls.as_ref().and_then(|tls| tls.identity());
        Self {
            timeouts: section.timeouts.clone(),
            protocol,
            proxy,
            authorities: authorities.map(|list| list.iter().map(|der| wrapped(der)).collect::<Vec<_>>().into()),
            identity: identity.map(|(certificates, key)| {
                let chain = certificates.iter().map(|certificate| certificate.to_vec()).collect();
                Arc::new(CertKey::new(chain, key.secret_der().to_vec()))
            }),
            tls,
            group: group.finish(),
        }
    }

    /// HTTP without TLS and without an introduction.
    pub(crate) fn is_plain(&self) -> bool {
        self.tls.is_none() && self.proxy.is_none()
    }

    /// What the express lane does not speak.
    pub(super) fn general(&self) -> Option<&'static str> {
        match self.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 => Some("its upstream speaks HTTP/2"),
            Protocol::Auto => Some("its upstream may choose HTTP/2"),
        }
    }

    /// Whether it is opened as one of this section, with these files, would be.
    pub(super) fn is_of(&self, tls: Option<&Arc<ClientTls>>) -> bool {
        self.tls.as_ref().map(|tls| tls.fingerprint()) == tls.map(|tls| tls.fingerprint())
    }
}
