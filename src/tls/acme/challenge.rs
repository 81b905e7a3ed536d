//! How an authority is shown that a name leads here, while it asks and not longer.

use std::collections::HashMap;
use std::sync::Arc;

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::tls::acme::failure::Failure;
use crate::tls::issued::Issued;
use crate::tls::{Certificate, provider};
use crate::types::Watched;

/// Where an authority asks over HTTP (RFC 8555 §8.3).
const PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers to what authorities ask over HTTP, of the whole process.
#[derive(Debug)]
pub(crate) struct Tokens(Watched<HashMap<Box<str>, Arc<str>>>);

impl Default for Tokens {
    fn default() -> Self {
        Self(Watched::new(HashMap::new()))
    }
}

impl Tokens {
    /// Whether a path is one under which authorities ask.
    pub(crate) fn asks(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// The answer to who asks for this path, if an authority may ask for it now.
    pub(crate) fn answer(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(PREFIX)?;
        self.0.now().get(token).cloned()
    }

    fn put(&self, token: &str, answer: &str) {
        self.0.change(|tokens| {
            let mut tokens = tokens.clone();
            tokens.insert(token.into(), answer.into());
            tokens
        });
    }

    fn remove(&self, token: &str) {
        self.0.change(|tokens| {
            let mut tokens = tokens.clone();
            tokens.remove(token);
            tokens
        });
    }
}

/// An answer that is given for as long as this lives.
pub(crate) enum Pending {
    Http { tokens: Arc<Tokens>, token: Box<str> },
    Tls { listeners: Vec<Arc<Issued>>, name: Box<str>, certificate: Arc<Certificate> },
}

impl Pending {
    /// To whoever asks for the token.
    pub(crate) fn http(tokens: &Arc<Tokens>, token: &str, authorization: &KeyAuthorization) -> Self {
        tokens.put(token, authorization.as_str());
        Self::Http { tokens: tokens.clone(), token: token.into() }
    }

    /// To whoever asks one of these listeners for the name, by `acme-tls/1`.
    pub(crate) fn tls(listeners: Vec<Arc<Issued>>, name: &str, authorization: &KeyAuthorization) -> Result<Self, Failure> {
        let certificate = Arc::new(proof(name, authorization.digest().as_ref())?);
        for issued in &listeners {
            issued.challenge(name, &certificate);
        }
        Ok(Self::Tls { listeners, name: name.into(), certificate })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        match self {
            Self::Http { tokens, token } => tokens.remove(token),
            Self::Tls { listeners, name, certificate } => {
                for issued in listeners {
                    issued.answered(name, certificate);
                }
            }
        }
    }
}

/// A certificate for one name, with the digest of what the authority has asked for (RFC 8737 §3).
fn proof(name: &str, digest: &[u8]) -> Result<Certificate, Failure> {
    if digest.len() != 32 {
        return Err(Failure::internal("the digest of a key authorization has 32 bytes"));
    }
    self_signed(&[name], Some(CustomExtension::new_acme_identifier(digest)))
}

/// A certificate by nobody, for exactly these names.
pub(crate) fn self_signed(names: &[&str], extension: Option<CustomExtension>) -> Result<Certificate, Failure> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions.extend(extension);
    let certificate = params.self_signed(&key)?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider().key_provider.load_private_key(der).map_err(|error| Failure::internal(error.to_string()))?;
    let key = CertifiedKey::new(vec![certificate.der().clone()], key);
    Certificate::new(key).map_err(|error| Failure::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    #[test]
    fn a_token_is_answered_while_it_is_pending() {
        let tokens = Arc::new(Tokens::default());
        let path = "/.well-known/acme-challenge/abc";
        assert!(Tokens::asks(path) && !Tokens::asks("/.well-known/acme-challenge"));
        assert_eq!(tokens.answer(path), None);
        tokens.put("abc", "abc.thumb");
        let pending = Pending::Http { tokens: tokens.clone(), token: "abc".into() };
        assert_eq!(tokens.answer(path).as_deref(), Some("abc.thumb"));
        for other in ["/.well-known/acme-challenge/ab", "/.well-known/acme-challenge/abcd", "/abc", "abc"] {
            assert_eq!(tokens.answer(other), None, "{other}");
        }
        drop(pending);
        assert_eq!(tokens.answer(path), None);
    }

    #[test]
    fn a_proof_is_as_the_rfc_has_it() {
        let proof = proof("a.example", &[7; 32]).unwrap();
        assert_eq!(proof.names(), ["a.example".into()]);
        let (_, parsed) = X509Certificate::from_der(&proof.key().cert[0]).unwrap();
        let found = parsed.extensions().iter().find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31").unwrap();
        assert!(found.critical);
        assert_eq!(found.value, [&[4, 32][..], &[7; 32]].concat());
        assert!(super::proof("a.example", &[7; 20]).is_err());
    }

    #[test]
    fn an_answer_over_tls_ends_with_the_question() {
        let issued = Arc::new(Issued::default());
        let certificate = Arc::new(self_signed(&["a.example"], None).unwrap());
        let pending =
            Pending::Tls { listeners: vec![issued.clone()], name: "a.example".into(), certificate: certificate.clone() };
        issued.challenge("a.example", &certificate);
        assert!(issued.with_challenge("a.example", |_| ()).is_some());
        // Another order for the name has taken its place.
        let other = Arc::new(self_signed(&["a.example"], None).unwrap());
        issued.challenge("a.example", &other);
        drop(pending);
        assert!(issued.with_challenge("a.example", |found| Arc::ptr_eq(&found[0], &other)).unwrap());
    }
}
