//! Certificates that are obtained: who sees to them, and on which listeners they are served.

use std::sync::Arc;

use crate::config::{Listener, Named, Report};
use crate::runtime::Snapshot;
use crate::tls::Issued;
use crate::tls::acme::{Client, Tokens};

/// The clients of a configuration. Those of the one before are taken over where the section says the same.
pub(super) struct Clients {
    pub(super) tokens: Arc<Tokens>,
    /// In the order of the listeners.
    pub(super) by_listener: Vec<Option<Arc<Client>>>,
}

impl Clients {
    pub(super) fn of(listeners: &[Named<Listener>], previous: Option<&Snapshot>, report: &mut Report) -> Self {
        let tokens = previous.map_or_else(Arc::default, |previous| previous.tokens().clone());
        let mut made: Vec<Arc<Client>> = Vec::new();
        let mut of = |listener: &Named<Listener>| {
            let section = listener.value.tls.as_ref()?.acme.as_ref()?;
            let known = previous.iter().flat_map(|previous| previous.acme_clients()).chain(&made);
            let client = Client::of(section, known, &tokens, report)?;
            made.push(client.clone());
            Some(client)
        };
        let by_listener = listeners.iter().map(&mut of).collect();
        Self { tokens, by_listener }
    }
}

impl Snapshot {
    /// Serves names on listeners that are about to be responsible for them: before this snapshot is in force.
    pub(super) fn lend_certificates(&self) {
        for (issued, client) in self.issued() {
            if let Some(client) = client {
                client.lend(issued);
            }
        }
    }

    /// Serves the names of this snapshot, and no others.
    pub(super) fn serve_certificates(&self) {
        let all: Vec<Arc<Issued>> = self.issued().map(|(issued, _)| issued.clone()).collect();
        for (issued, _) in self.issued().filter(|(_, client)| client.is_none()) {
            issued.serve(&[]);
        }
        for client in self.acme_clients() {
            let own = self.issued().filter(|(_, served)| served.is_some_and(|served| Arc::ptr_eq(served, client)));
            client.serve_on(own.map(|(issued, _)| issued.clone()).collect(), all.clone());
        }
    }
}
