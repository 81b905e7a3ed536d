//! Upstreams: somebody must be there to take a request.

use std::collections::HashMap;

use super::Resolver;
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;
use crate::config::tree::NodeId;
use crate::config::{HealthCheck, HealthCheckWord, Named, Span, Upstream};
use crate::types::Address;

impl Resolver<'_> {
    /// `tries`: how often a request is tried at most, whatever an upstream says.
    pub(super) fn upstreams(&mut self, entries: Vec<NamedEntry<Upstream>>, tries: usize) -> Vec<Named<Upstream>> {
        let mut upstreams = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(upstream) = entry.decoded.value else { continue };
            self.endpoints(&upstream, entry.node, entry.decoded.whole);
            self.health(&upstream, entry.node);
            self.retries(&upstream, entry.node, tries);
            upstreams.push(Named { name: entry.name, value: upstream });
        }
        upstreams
    }

    fn endpoints(&mut self, upstream: &Upstream, node: NodeId, whole: bool) {
        let endpoints = &upstream.endpoints;
        let given = self.tree.at(node, &["endpoints"]).map_or(&[][..], |list| self.tree.elements(list));
        if given.is_empty() {
            let diagnostic = Diagnostic::error(endpoints.span, "an upstream needs at least one endpoint");
            self.report.push(diagnostic.hint("write its address, such as 10.0.0.1:8080"));
        } else if whole && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            let message = "every endpoint has the weight 0: none would ever be chosen";
            self.report.push(Diagnostic::error(endpoints.span, message));
        } else if whole && endpoints.iter().all(|endpoint| endpoint.weight == 0 || endpoint.backup) {
            let message = "every endpoint is a backup: there is none that they could stand in for";
            self.report.push(Diagnostic::error(endpoints.span, message));
        }
        let mut places: HashMap<&Address, Span> = HashMap::new();
        for endpoint in endpoints.iter() {
            match places.get(&endpoint.address) {
                Some(first) => {
                    let shown = self.report.shown(endpoint.span, &endpoint.address.to_string());
                    let diagnostic = Diagnostic::error(endpoint.span, format!("the endpoint `{shown}` is given twice"));
                    self.report
                        .push(diagnostic.hint("for a larger share, give it a `weight`").related(*first, "first given here"));
                }
                None => {
                    places.insert(&endpoint.address, endpoint.span);
                }
            }
        }
    }

    /// Where nothing tells who is ill, what follows from that would have no effect.
    fn health(&mut self, upstream: &Upstream, node: NodeId) {
        if upstream.health_check != HealthCheck::Word(HealthCheckWord::None) {
            return;
        }
        let backups = upstream.endpoints.iter().filter(|endpoint| endpoint.backup).map(|endpoint| (endpoint.span, "backup"));
        let panic = self.tree.at(node, &["panic_threshold"]).map(|given| (self.tree.place(given), "panic_threshold"));
        for (place, key) in backups.chain(panic) {
            let message = format!("`{key}` has no effect with `health_check: none`: every endpoint counts as healthy");
            self.report.push(Diagnostic::error(place, message));
        }
    }

    fn retries(&mut self, upstream: &Upstream, node: NodeId, tries: usize) {
        let retries = upstream.retry.retries;
        let Some(given) = self.tree.at(node, &["retry", "retries"]) else { return };
        if usize::try_from(retries).is_ok_and(|retries| retries >= tries) && !self.tree.node(given).broken {
            let message = format!("`max_retries: {tries}` ends a request before its last retry: it counts the first try too");
            self.report.push(Diagnostic::error(self.tree.place(given), message).hint("write less here, or raise `max_retries`"));
        }
    }
}
