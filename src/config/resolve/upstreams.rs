//! Upstreams: somebody must be there to take a request.

use std::collections::HashMap;

use super::Resolver;
use crate::config::file::NamedEntry;
use crate::config::report::Diagnostic;
use crate::config::tree::NodeId;
use crate::config::{Action, Backoff, Balance, Discover, HealthCheck, HealthCheckWord, Named, Protocol, Route, Span, Upstream};
use crate::types::{Address, Duration, Percent, WordOr};

/// Characters of a key that seals cookies, at least.
const STICKY_KEY: usize = 16;

impl Resolver<'_> {
    /// `tries`: how often a request is tried at most, whatever an upstream says.
    pub(super) fn upstreams(&mut self, entries: Vec<NamedEntry<Upstream>>, tries: usize) -> Vec<Named<Upstream>> {
        let mut upstreams = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(upstream) = entry.decoded.value else { continue };
            self.endpoints(&upstream, entry.node, entry.name.span, entry.decoded.whole);
            self.connections(&upstream, entry.decoded.whole);
            self.health(&upstream, entry.node);
            self.outliers(&upstream, entry.node);
            self.limits(&upstream, entry.node);
            self.affinity(&upstream, entry.node);
            self.retries(&upstream, entry.node, tries);
            self.retry_times(&upstream, entry.node);
            upstreams.push(Named { name: entry.name, value: upstream });
        }
        upstreams
    }

    fn endpoints(&mut self, upstream: &Upstream, node: NodeId, name: Span, whole: bool) {
        let endpoints = &upstream.endpoints;
        let list = self.tree.at(node, &["endpoints"]);
        match (list, &upstream.discover) {
            (Some(list), Some(discover)) => {
                let diagnostic = Diagnostic::error(discover.span, "`discover` beside `endpoints`: they come from one place");
                self.report.push(diagnostic.hint("keep one of them").related(self.tree.place(list), "the endpoints are here"));
                return;
            }
            (None, Some(discover)) => {
                if let Discover::File(file) = &discover.value
                    && file.path.as_os_str().is_empty()
                {
                    self.report.push(Diagnostic::error(file.path.span, "`path` is empty: write the path of the list"));
                }
                return;
            }
            (None, None) if whole => {
                let diagnostic = Diagnostic::error(name, "an upstream needs `endpoints` or `discover`");
                self.report.push(diagnostic.hint("list its addresses: `endpoints: [10.0.0.1:8080]`"));
                return;
            }
            (None, None) => return,
            (Some(_), None) => {}
        }
        let given = list.map_or(&[][..], |list| self.tree.elements(list));
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

    /// How connections to endpoints are opened.
    fn connections(&mut self, upstream: &Upstream, whole: bool) {
        let Some(tls) = &upstream.tls else {
            if upstream.protocol.value == Protocol::Auto && whole {
                let diagnostic =
                    Diagnostic::error(upstream.protocol.span, "`auto` needs `tls`: there, both sides agree on a protocol");
                self.report.push(diagnostic.hint("add `tls: {}`, or write `http1` or `http2`"));
            }
            return;
        };
        for path in [&tls.ca, &tls.client_cert, &tls.client_key].into_iter().flatten().filter(|path| path.as_os_str().is_empty())
        {
            self.report.push(Diagnostic::error(path.span, "the path is empty").hint("write the path of a PEM file"));
        }
        match (&tls.client_cert, &tls.client_key) {
            (Some(cert), None) if whole => {
                let diagnostic = Diagnostic::error(cert.span, "`client_cert` without `client_key`");
                self.report.push(diagnostic.hint("add the file of its private key"));
            }
            (None, Some(key)) if whole => {
                let diagnostic = Diagnostic::error(key.span, "`client_key` without `client_cert`");
                self.report.push(diagnostic.hint("add the file of its certificate"));
            }
            _ => {}
        }
        if !tls.verify.value {
            let message = "`verify: false`: whoever is on the way to the endpoints can read and change everything";
            self.report
                .push(Diagnostic::warning(tls.verify.span, message).hint("name their authority instead: `ca: internal.pem`"));
        }
        if tls.sni.is_some() || !whole {
            return;
        }
        for endpoint in upstream.endpoints.iter().filter(|endpoint| !matches!(endpoint.address, Address::Name { .. })) {
            let message = "an endpoint without a name can't prove it: `tls` needs `sni` here";
            let diagnostic = Diagnostic::error(endpoint.span, message).related(tls.span, "the upstream's `tls`");
            self.report.push(diagnostic.hint("say which name is in its certificate: `tls: {sni: api.internal}`"));
        }
    }

    /// Where nothing tells who is ill, what follows from that would have no effect.
    fn health(&mut self, upstream: &Upstream, node: NodeId) {
        let unix = upstream.endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Unix(_)));
        for check in ["tcp", "http", "grpc"] {
            if let Some(port) = self.tree.at(node, &["health_check", check, "port"]).filter(|_| unix) {
                let message = "a unix socket has no port: this one would be probed where it is";
                self.report.push(Diagnostic::error(self.tree.place(port), message).hint("put it into an upstream of its own"));
            }
        }
        for check in ["tcp", "http", "grpc"] {
            let given = self.tree.at(node, &["health_check", check, "tls"]);
            let Some(given) = given.filter(|_| self.tree.at(node, &["tls"]).is_none() && !self.tree.node(node).broken) else {
                continue;
            };
            let diagnostic =
                Diagnostic::error(self.tree.place(given), "a probe's `tls` needs the upstream's: there it says who is believed");
            self.report.push(diagnostic.hint("add `tls: {…}` to the upstream, or remove this"));
        }
        let unknown = HealthCheck::Word(HealthCheckWord::None);
        if upstream.health_check != unknown || self.tree.at(node, &["outlier_detection"]).is_some() {
            return;
        }
        let backups = upstream.endpoints.iter().filter(|endpoint| endpoint.backup).map(|endpoint| (endpoint.span, "backup"));
        let panic = self.tree.at(node, &["panic_threshold"]).map(|given| (self.tree.place(given), "panic_threshold"));
        for (place, key) in backups.chain(panic) {
            let message = format!("`{key}` has no effect with `health_check: none`: every endpoint counts as healthy");
            self.report.push(Diagnostic::error(place, message));
        }
    }

    fn outliers(&mut self, upstream: &Upstream, node: NodeId) {
        let (Some(rules), Some(section)) = (&upstream.outlier_detection, self.tree.at(node, &["outlier_detection"])) else {
            return;
        };
        let zero = |ratio: Option<Percent>| ratio.is_some_and(|ratio| ratio == Percent::default());
        let mut faults = Vec::new();
        if rules.consecutive_errors.get().is_none() && rules.error_ratio.get().is_none() {
            faults.push((section, "without `consecutive_errors` and `error_ratio` no endpoint would ever be left out"));
        }
        if zero(rules.error_ratio.get()) {
            let given = self.tree.at(section, &["error_ratio"]).unwrap_or(section);
            faults.push((given, "a ratio of 0% is reached without an error: for no limit, write `none`"));
        }
        if zero(Some(rules.max_ejected)) {
            let given = self.tree.at(section, &["max_ejected"]).unwrap_or(section);
            faults.push((given, "with 0% no endpoint would ever be left out: leave `outlier_detection` out instead"));
        }
        for (place, message) in faults {
            self.report.push(Diagnostic::error(self.tree.place(place), message));
        }
    }

    fn limits(&mut self, upstream: &Upstream, node: NodeId) {
        let limits = &upstream.limits;
        let limited = limits.connections.get().is_some() || limits.requests.get().is_some();
        for key in ["queue", "queue_timeout"] {
            if let Some(given) = self.tree.at(node, &["limits", key]).filter(|_| !limited) {
                let message = format!("`{key}` has no effect without `connections` or `requests`: nobody ever waits");
                self.report.push(Diagnostic::error(self.tree.place(given), message));
            }
        }
        if let Some(given) = self.tree.at(node, &["limits", "queue_timeout"]).filter(|_| limited && limits.queue == 0) {
            let message = "`queue_timeout` has no effect with `queue: 0`: nobody ever waits";
            self.report.push(Diagnostic::error(self.tree.place(given), message));
        }
    }

    fn affinity(&mut self, upstream: &Upstream, node: NodeId) {
        if let (Balance::Hash(_), Some(given)) = (&upstream.balance, self.tree.at(node, &["slow_start"])) {
            let message = "`slow_start` has no effect with `balance: hash`: a key has one endpoint, however new it is";
            self.report.push(Diagnostic::error(self.tree.place(given), message));
        }
        if let Some(sticky) = &upstream.sticky
            && sticky.key.value.expose().len() < STICKY_KEY
        {
            let message = format!("the key must have at least {STICKY_KEY} characters: who guesses it can go to any endpoint");
            self.report.push(Diagnostic::error(sticky.key.span, message).hint("make one: `openssl rand -hex 32`"));
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

    /// Times and shares that would never have an effect, or let none of the retries happen.
    fn retry_times(&mut self, upstream: &Upstream, node: NodeId) {
        let retry = &upstream.retry;
        let Backoff { base, max } = retry.backoff;
        if base > max
            && let Some(given) = self.tree.at(node, &["retry", "backoff"]).filter(|given| !self.tree.node(*given).broken)
        {
            let message = format!("the first retry would wait up to {base}, but none may wait longer than {max}");
            let hint = "write a `base` that is not above `max`";
            self.report.push(Diagnostic::error(self.tree.place(given), message).hint(hint));
        }
        if let WordOr::Map(budget) = &retry.budget
            && budget.ratio == Percent::default()
            && budget.min.is_zero()
            && let Some(given) = self.tree.at(node, &["retry", "budget"])
        {
            let message = "this budget allows no retry at all";
            self.report.push(Diagnostic::error(self.tree.place(given), message).hint("for that, write `retries: 0`"));
        }
        if let WordOr::Map(_) = &retry.hedge
            && let Some(given) = self.tree.at(node, &["retry", "hedge"])
        {
            self.hedge(upstream, self.tree.place(given));
        }
        let most = upstream.timeouts.connect.get().zip(upstream.timeouts.response.get());
        if let (Some(limit), Some((connect, response))) = (retry.try_timeout.get(), most)
            && limit.get() >= connect.get() + response.get()
            && let Some(given) = self.tree.at(node, &["retry", "try_timeout"])
        {
            let message =
                format!("no try can take as long: `timeouts` end it after {connect} for the connection and {response} more");
            self.report.push(Diagnostic::warning(self.tree.place(given), message).hint("write less, or remove it"));
        }
    }

    /// What would keep a second endpoint from ever being asked.
    fn hedge(&mut self, upstream: &Upstream, place: Span) {
        let report = &mut self.report;
        if upstream.retry.methods.is_empty() {
            report.push(Diagnostic::error(place, "`hedge` has no effect with `methods: []`: no request may be sent twice"));
        }
        let other = upstream.endpoints.iter().filter(|endpoint| endpoint.weight > 0).count() != 1;
        // A name may have any number of addresses.
        let named = upstream.endpoints.iter().any(|endpoint| matches!(endpoint.address, Address::Name { .. }));
        if !other && !named {
            report.push(Diagnostic::error(place, "`hedge` has no effect with one endpoint: there is no other to ask"));
        }
    }

    /// A try that may take as long as its whole exchange leaves no time for another.
    pub(super) fn tries_within_routes(&mut self, routes: &[Named<Route>], upstreams: &[Named<Upstream>]) {
        let limits: HashMap<&str, (Duration, Span)> = upstreams
            .iter()
            .filter_map(|upstream| {
                let limit = upstream.value.retry.try_timeout.get()?;
                Some((upstream.name.as_str(), (limit, upstream.name.span)))
            })
            .collect();
        for route in routes {
            let Some(whole) = route.value.timeout.get() else { continue };
            let names: Vec<&str> = match &route.value.action {
                Action::Upstream(name) => vec![name.as_str()],
                Action::Split(sides, _) => sides.iter().map(|side| side.upstream.as_str()).collect(),
                Action::Redirect(_) | Action::Respond(_) => Vec::new(),
            };
            for (name, (limit, place)) in names.into_iter().filter_map(|name| Some((name, *limits.get(name)?))) {
                if limit >= whole {
                    let message = format!(
                        "`timeout: {whole}` ends this route's requests before a try may: `try_timeout` of `{name}` is {limit}"
                    );
                    let diagnostic = Diagnostic::warning(route.name.span, message);
                    self.report.push(diagnostic.hint("give a try less time, or the route more").related(place, "the upstream"));
                }
            }
        }
    }
}
