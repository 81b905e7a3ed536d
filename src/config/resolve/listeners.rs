//! Listeners: two cannot share an address.

use std::collections::HashMap;

use super::Resolver;
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;
use crate::config::{Listener, Named, Span};
use crate::types::ListenAddress;

impl Resolver<'_> {
    pub(super) fn listeners(&mut self, entries: Vec<NamedEntry<Listener>>) -> Vec<Named<Listener>> {
        let mut places: HashMap<ListenAddress, Span> = HashMap::new();
        let mut listeners = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(listener) = entry.decoded.value else { continue };
            let address = &listener.address;
            if let (ListenAddress::Tcp(_), Some(mode)) = (&address.value, &listener.mode) {
                let diagnostic = Diagnostic::error(mode.span, "`mode` is for unix sockets: a TCP address has no file");
                self.report.push(diagnostic.hint("remove it, or listen on unix:/path").related(address.span, "the address"));
            }
            // Each listener on port 0 gets a port of its own.
            let takes_any = matches!(address.value, ListenAddress::Tcp(address) if address.port() == 0);
            match places.get(&address.value).filter(|_| !takes_any) {
                Some(first) => {
                    let shown = self.report.shown(address.span, &address.to_string());
                    let diagnostic = Diagnostic::error(address.span, format!("another listener has the address `{shown}`"));
                    self.report.push(diagnostic.related(*first, "first given here"));
                }
                None => {
                    places.insert(address.value.clone(), address.span);
                }
            }
            listeners.push(Named { name: entry.name, value: listener });
        }
        listeners
    }
}
