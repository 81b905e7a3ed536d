//! Which certificate a name is answered with.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;

use crate::tls::Certificate;

/// Certificates by name. Pure: it is made anew when one of them changes.
#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: HashMap<Box<str>, Candidates>,
    /// By what follows `*.`: a wildcard stands for one label (RFC 9525 §6.3).
    wildcard: HashMap<Box<str>, Candidates>,
    /// For whoever asks for no name, or for one that is not there.
    fallback: Candidates,
}

/// Certificates for one name, of several kinds of keys: those that cost least come first.
type Candidates = Vec<Arc<Certificate>>;

impl Names {
    /// Of certificates in the order of the file. Of two for a name with the same kind of key the first is taken.
    pub(crate) fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut names = Self::default();
        for certificate in certificates {
            for name in certificate.names() {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut names.wildcard, rest),
                    None => (&mut names.exact, &**name),
                };
                add(table.entry(name.into()).or_default(), certificate);
            }
        }
        if let Some(first) = certificates.first() {
            // With it, those of other kinds of keys for one of its names.
            let same = first.names().first().and_then(|name| match name.strip_prefix("*.") {
                Some(rest) => names.wildcard.get(rest),
                None => names.exact.get(name),
            });
            names.fallback = same.filter(|same| same.iter().any(|one| Arc::ptr_eq(one, first))).cloned().unwrap_or_default();
            if names.fallback.is_empty() {
                names.fallback.push(first.clone());
            }
        }
        names
    }

    /// The certificates for exactly this name, in lower case.
    pub(crate) fn exact(&self, name: &str) -> Option<&[Arc<Certificate>]> {
        self.exact.get(name).map(Vec::as_slice)
    }

    /// Those of the wildcard that it falls under.
    pub(crate) fn wildcard(&self, name: &str) -> Option<&[Arc<Certificate>]> {
        let (_, rest) = name.split_once('.')?;
        self.wildcard.get(rest).map(Vec::as_slice)
    }

    /// Those for whoever asks for nothing that is there.
    pub(crate) fn fallback(&self) -> Option<&[Arc<Certificate>]> {
        Some(self.fallback.as_slice()).filter(|fallback| !fallback.is_empty())
    }

    /// Whether a certificate is never served, since others come first for each of its names.
    pub(crate) fn never_serves(&self, certificate: &Arc<Certificate>) -> bool {
        let is = |candidates: &Candidates| candidates.iter().any(|one| Arc::ptr_eq(one, certificate));
        !is(&self.fallback) && !self.exact.values().any(is) && !self.wildcard.values().any(is)
    }
}

fn add(candidates: &mut Candidates, certificate: &Arc<Certificate>) {
    if candidates.iter().any(|one| one.rank() == certificate.rank()) {
        return;
    }
    candidates.push(certificate.clone());
    candidates.sort_by_key(|one| one.rank());
}

/// The first of these that a client can verify, by the schemes that it names. If it can verify none it is told so by its own means.
pub(crate) fn choose(candidates: &[Arc<Certificate>], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
    let fits = |certificate: &&Arc<Certificate>| certificate.key().key.choose_scheme(schemes).is_some();
    candidates.iter().find(fits).or(candidates.first()).map(|certificate| certificate.key().clone())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

    use super::*;
    use crate::tls::certificate::tests::certificate;

    fn find(names: &Names, name: &str) -> Option<Arc<Certificate>> {
        let found = names.exact(name).or_else(|| names.wildcard(name)).or_else(|| names.fallback());
        found.map(|candidates| candidates[0].clone())
    }

    #[test]
    fn an_exact_name_beats_a_wildcard_which_beats_the_first() {
        let (first, exact, wild) = (certificate(&["first.example"]), certificate(&["a.b.c"]), certificate(&["*.b.c"]));
        let names = Names::new(&[first.clone(), wild.clone(), exact.clone()]);
        for (name, expected) in
            [("a.b.c", &exact), ("x.b.c", &wild), ("x.y.b.c", &first), ("b.c", &first), ("", &first), ("first.example", &first)]
        {
            assert!(Arc::ptr_eq(&find(&names, name).unwrap(), expected), "{name}");
        }
        assert!(find(&Names::new(&[]), "a").is_none());
    }

    fn other_kind(names: &[&str]) -> Arc<Certificate> {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Arc::new(Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes(), None).unwrap())
    }

    #[test]
    fn each_client_gets_a_key_that_it_can_verify() {
        let (ed, ec) = (other_kind(&["a.example"]), certificate(&["a.example"]));
        let names = Names::new(&[ed.clone(), ec.clone()]);
        let chosen = |candidates: &[Arc<Certificate>], schemes: &[SignatureScheme]| choose(candidates, schemes).unwrap();
        for candidates in [names.exact("a.example").unwrap(), names.fallback().unwrap()] {
            let both = [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256];
            assert!(Arc::ptr_eq(&chosen(candidates, &both), ec.key()));
            assert!(Arc::ptr_eq(&chosen(candidates, &both[..1]), ed.key()));
        }
    }

    #[test]
    fn the_first_of_a_kind_is_taken() {
        let (one, two) = (certificate(&["a.example"]), certificate(&["a.example"]));
        let names = Names::new(&[one.clone(), two.clone()]);
        assert!(names.never_serves(&two) && !names.never_serves(&one));
        assert_eq!(names.exact("a.example").unwrap().len(), 1);
    }
}
