//! Certificates that come and go while a configuration is in force, and are in no file of it: those that are obtained by themselves.

use std::collections::HashMap;
use std::sync::Arc;

use crate::tls::Certificate;
use crate::types::Watched;

/// The protocol by which an ACME server asks whether a name is ours (RFC 8737).
pub(crate) const ACME_TLS: &[u8] = b"acme-tls/1";

/// What was put here belongs to the listener, and outlives its configuration.
#[derive(Debug)]
pub(crate) struct Issued {
    certificates: Watched<Table>,
    /// For whoever speaks `acme-tls/1`, and nobody else.
    challenges: Watched<Table>,
}

/// By name, in lower case.
type Table = HashMap<Box<str>, [Arc<Certificate>; 1]>;

impl Default for Issued {
    fn default() -> Self {
        Self { certificates: Watched::new(Table::new()), challenges: Watched::new(Table::new()) }
    }
}

impl Issued {
    /// Looks at the certificates for exactly this name, and at those of its wildcard.
    pub(crate) fn with<T>(&self, name: &str, look: impl FnOnce(&[Arc<Certificate>]) -> T) -> Option<T> {
        let table = self.certificates.now();
        let wildcard = || name.split_once('.').and_then(|(_, rest)| table.get(&*format!("*.{rest}")));
        table.get(name).or_else(wildcard).map(|found| look(found))
    }

    /// Likewise, of an ACME server's question.
    pub(crate) fn with_challenge<T>(&self, name: &str, look: impl FnOnce(&[Arc<Certificate>]) -> T) -> Option<T> {
        self.challenges.now().get(name).map(|found| look(found))
    }
}

impl Issued {
    /// Serves these, each for its name, in the place of all that was served.
    pub(crate) fn serve(&self, served: &[(Box<str>, Arc<Certificate>)]) {
        self.certificates.replace(served.iter().map(|(name, certificate)| (name.clone(), [certificate.clone()])).collect());
    }

    /// Serves these beside what is served, each for its name.
    pub(crate) fn add(&self, served: &[(Box<str>, Arc<Certificate>)]) {
        self.certificates.change(|table| {
            let mut table = table.clone();
            table.extend(served.iter().map(|(name, certificate)| (name.clone(), [certificate.clone()])));
            table
        });
    }

    /// Answers an ACME server that asks for this name.
    pub(crate) fn challenge(&self, name: &str, certificate: &Arc<Certificate>) {
        self.challenges.change(|table| {
            let mut table = table.clone();
            table.insert(name.into(), [certificate.clone()]);
            table
        });
    }

    /// It has asked, or will not. What has taken this answer's place stays.
    pub(crate) fn answered(&self, name: &str, certificate: &Arc<Certificate>) {
        self.challenges.change(|table| {
            let mut table = table.clone();
            if table.get(name).is_some_and(|[known]| Arc::ptr_eq(known, certificate)) {
                table.remove(name);
            }
            table
        });
    }
}
