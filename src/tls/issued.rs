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

#[expect(dead_code, reason = "for certificates that are obtained by themselves")]
impl Issued {
    /// Serves a certificate for each of its names, in the place of one that was there.
    pub(crate) fn publish(&self, certificate: &Arc<Certificate>) {
        self.certificates.change(|table| {
            let names = certificate.names().iter().map(|name| (name.clone(), [certificate.clone()]));
            table.iter().map(|(name, known)| (name.clone(), known.clone())).chain(names).collect()
        });
    }

    /// Serves none for this name any more.
    pub(crate) fn withdraw(&self, name: &str) {
        self.certificates.change(|table| without(table, name));
    }

    /// Answers an ACME server that asks for this name.
    pub(crate) fn challenge(&self, name: &str, certificate: &Arc<Certificate>) {
        self.challenges.change(|table| {
            let mut table = without(table, name);
            table.insert(name.into(), [certificate.clone()]);
            table
        });
    }

    /// It has asked.
    pub(crate) fn answered(&self, name: &str) {
        self.challenges.change(|table| without(table, name));
    }
}

fn without(table: &Table, name: &str) -> Table {
    table.iter().filter(|(known, _)| ***known != *name).map(|(name, known)| (name.clone(), known.clone())).collect()
}
