//! `listeners.*.tls`: how a listener proves who it is, and whom it lets in.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::load::beside;
use crate::config::tree::{Kind, NodeId, Tree};
use crate::config::{Acme, Spanned};

/// TLS on a listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Chosen by the name that a client asks for (SNI): an exact name beats a wildcard, and the first is for all others.
    #[serde(default)]
    pub certificates: Vec<Spanned<CertificateFiles>>,
    /// Certificates that are obtained and renewed by themselves.
    pub acme: Option<Spanned<Acme>>,
    /// The oldest version of TLS that is spoken: `"1.2"` or `"1.3"`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Certificates of clients. Default: none is asked for.
    pub client_auth: Option<Spanned<ClientAuth>>,
    /// Whether clients are given tickets, by which they resume a session. Without them sessions are kept in memory.
    #[serde(default = "yes")]
    pub session_tickets: bool,
}

/// A certificate and its key. They are read anew when the files change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and those between it and its root, as PEM.
    pub cert: Spanned<PathBuf>,
    /// Its private key, as PEM.
    pub key: Spanned<PathBuf>,
    /// An OCSP response for it (DER), which is stapled to each handshake.
    pub ocsp: Option<Spanned<PathBuf>>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// Who issues them: certificates, as PEM.
    pub ca: Spanned<PathBuf>,
    /// Whether a client without one is let in.
    #[serde(default)]
    pub mode: ClientAuthMode,
}

/// Whether a client must have a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// No handshake without one.
    #[default]
    Require,
    /// It may do without; one that it shows must be good.
    Request,
}

fn yes() -> bool {
    true
}

/// Makes the paths below the listeners of `file` absolute: they are relative to the file that names them.
pub(crate) fn make_absolute(tree: &mut Tree, root: NodeId, file: &Path) {
    let listeners = tree.at(root, &["listeners"]).map(|section| tree.entries(section).to_vec()).unwrap_or_default();
    let mut paths: Vec<NodeId> = Vec::new();
    for listener in listeners {
        let certificates = tree.at(listener.value, &["tls", "certificates"]).map(|list| tree.elements(list).to_vec());
        for certificate in certificates.unwrap_or_default() {
            paths.extend(["cert", "key", "ocsp"].iter().filter_map(|key| tree.at(certificate, &[key])));
        }
        paths.extend(tree.at(listener.value, &["tls", "client_auth", "ca"]));
        paths.extend(["ca", "storage"].iter().filter_map(|key| tree.at(listener.value, &["tls", "acme", key])));
    }
    for path in paths {
        if let Kind::Scalar(scalar) = &mut tree.node_mut(path).kind
            && !scalar.text.is_empty()
        {
            scalar.text = beside(file, Path::new(&scalar.text)).display().to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn what_is_left_out_is_the_safe_choice() {
        let tls: Tls = decoded("{certificates: [{cert: a, key: b}], client_auth: {ca: c}}").unwrap();
        assert_eq!((tls.min_version, tls.session_tickets), (TlsVersion::Tls12, true));
        assert_eq!(tls.client_auth.map(|auth| auth.value.mode), Some(ClientAuthMode::Require));
        assert!(decoded::<Tls>("{min_version: '1.1'}").is_err());
        let tls: Tls = decoded("{min_version: 1.3, session_tickets: false}").unwrap();
        assert_eq!((tls.min_version, tls.session_tickets), (TlsVersion::Tls13, false));
    }
}
