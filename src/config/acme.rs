//! `listeners.*.tls.acme`: certificates that are obtained and renewed by themselves (RFC 8555).

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Span, Spanned};
use crate::types::{Domain, Email, Url};

/// One certificate for all of these names, from a certificate authority whose terms are agreed to by this section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The names that it is for.
    pub domains: Vec<Spanned<Domain>>,
    /// Whom the authority may write to, should something be wrong with the certificate. Default: nobody.
    pub email: Option<Spanned<Email>>,
    /// The authority: the URL of its directory. Default: Let's Encrypt.
    #[serde(default = "lets_encrypt")]
    pub directory: Spanned<Url>,
    /// Who vouches for the directory itself, for an authority of one's own: certificates, as PEM. Default: those that the system trusts.
    pub ca: Option<Spanned<PathBuf>>,
    /// How it is proven that the names lead here.
    #[serde(default)]
    pub challenge: AcmeChallenge,
    /// A folder for the account, the certificates and their keys. It is made if it is not there. Default: `/var/lib/ravelin/acme`.
    #[serde(default = "storage")]
    pub storage: Spanned<PathBuf>,
}

/// How it is proven that names lead here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcmeChallenge {
    /// The authority asks on port 80, over HTTP in the clear (RFC 8555 §8.3).
    #[serde(rename = "http_01")]
    Http01,
    /// It makes a TLS handshake on port 443 (RFC 8737).
    #[default]
    #[serde(rename = "tls_alpn_01")]
    TlsAlpn01,
}

fn lets_encrypt() -> Spanned<Url> {
    #[expect(clippy::expect_used, reason = "a constant")]
    let url = "https://acme-v02.api.letsencrypt.org/directory".parse().expect("it is a URL");
    Spanned::new(url, Span::default())
}

fn storage() -> Spanned<PathBuf> {
    Spanned::new("/var/lib/ravelin/acme".into(), Span::default())
}
