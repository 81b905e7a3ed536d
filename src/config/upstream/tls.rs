//! `tls`: how endpoints prove who they are, and the proxy who it is.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::types::DnsName;

/// TLS towards endpoints. `{}` takes the defaults: the system's authorities, and the name of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// The name that the endpoint is asked for and must prove. Default: its own, if it is given by name.
    pub sni: Option<DnsName>,
    /// Whose certificates are believed, as PEM. Default: `ca_file`, else the system's authorities.
    pub ca: Option<Spanned<PathBuf>>,
    /// The proxy's own certificate and those between it and its root, as PEM, for endpoints that ask for one.
    pub client_cert: Option<Spanned<PathBuf>>,
    /// Its private key, as PEM.
    pub client_key: Option<Spanned<PathBuf>>,
    /// Whether an endpoint must prove its name. Without it anybody on the way can read and change everything.
    pub verify: Spanned<bool>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        let verify = Spanned::new(true, crate::config::Span::default());
        Self { sni: None, ca: None, client_cert: None, client_key: None, verify }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn it_verifies_unless_told_otherwise() {
        assert!(decoded::<UpstreamTls>("{}").unwrap().verify.value);
        assert!(!decoded::<UpstreamTls>("{verify: false}").unwrap().verify.value);
    }
}
