//! `listeners`: where clients connect.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Limits, Spanned, Tls};
use crate::types::{Cidr, FileMode, ListenAddress};

/// One address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `host:port`, `[::]:port` or `unix:/path`.
    pub address: Spanned<ListenAddress>,
    /// File mode of a unix socket, in octal and quoted: `"0660"` is the default.
    pub mode: Option<Spanned<FileMode>>,
    /// HTTP/2 beside HTTP/1.1: with `tls` as ALPN agrees, and by default; without, by prior knowledge (h2c), and only if asked for.
    pub http2: Option<bool>,
    /// TLS. Default: the listener speaks in the clear.
    pub tls: Option<Spanned<Tls>>,
    /// Sends every request in the clear to its `https://` address (308).
    pub redirect_to_https: Option<Spanned<bool>>,
    /// The PROXY protocol, versions 1 and 2: whose connections begin with it.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    /// Whose word on the client is believed. Default: nobody's.
    pub trust_forwarded: Option<Spanned<TrustForwarded>>,
    /// Header names with `_` from clients, which many a service reads as `-`.
    #[serde(default)]
    pub underscores: Underscores,
    /// Bounds on what a client may do; what is left out is taken from `defaults.limits`.
    #[serde(default)]
    pub limits: Limits,
}

/// What becomes of header names with `_`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Underscores {
    /// The field is left out.
    #[default]
    Drop,
    /// The request is refused.
    Refuse,
    /// The field is passed on, unless it would be read as one of Ravelin's `X-Forwarded-*`.
    Pass,
}

/// The PROXY protocol on a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyProtocol {
    /// Peers that must send it; any other that does is refused. On a unix socket, where every peer must, it is left out.
    pub trust: Vec<Spanned<Cidr>>,
}

/// Proxies in front of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustForwarded {
    /// Their networks. On a unix socket, every peer of which is believed, those of proxies before that one.
    pub from: Vec<Spanned<Cidr>>,
    /// The field in which they name the client; the other is stripped.
    pub header: ForwardedHeader,
}

/// A field that names the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, beside it `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}
