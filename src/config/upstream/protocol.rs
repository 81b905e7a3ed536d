//! `protocol` and `proxy_protocol`: what is spoken with endpoints.

use schemars::JsonSchema;
use serde::Deserialize;

/// What is spoken with endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: over TLS agreed on by ALPN, else by prior knowledge (h2c).
    Http2,
    /// HTTP/2 where the endpoint has it, else HTTP/1.1 (ALPN). Needs `tls`.
    Auto,
}

/// Requests at once on a connection of HTTP/2, unless the endpoint says less. Pingora allows one.
pub(crate) const STREAMS: u32 = 100;

impl Protocol {
    /// How many requests a connection carries at once, at most.
    pub(crate) fn requests(self) -> u32 {
        match self {
            Self::Http2 => STREAMS,
            // Which of the two an endpoint has is not known here: its connections are counted as if it were the lesser.
            Self::Http1 | Self::Auto => 1,
        }
    }
}

/// A header that tells an endpoint whom a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
