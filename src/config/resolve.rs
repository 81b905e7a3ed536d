//! What was typed → what it means: names are looked up, and what no single value can show is checked.

mod acme;
mod admin;
mod answers;
mod conditions;
mod cover;
mod errors;
mod filters;
mod listeners;
mod overlap;
mod routes;
mod tests;
mod upstreams;

use std::collections::{HashMap, HashSet};

use pingora_core::server::configuration::ServerConf;

use crate::config::de::Decoded;
use crate::config::file::{File, NamedEntry};
use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{NodeId, Tree};
use crate::config::{Catalog, Config, Given, LogFormat, Named, Span, Spanned, Step, suggest};
use crate::types::Name;

/// Finds the meaning of a file. What is wrong is in the report; then what comes back is incomplete, or nothing.
pub(crate) fn resolve(
    tree: &Tree,
    root: NodeId,
    file: Decoded<File>,
    pingora: Option<(ServerConf, Given)>,
    catalog: &dyn Catalog,
    report: &mut Report,
) -> Option<Config> {
    let lost = |section: &str| file.may_have_lost(&[section]);
    let (lost_listeners, lost_upstreams, lost_chains) = (lost("listeners"), lost("upstreams"), lost("chains"));
    let lost_routes = lost("routes");
    let file = file.value?;
    let listeners = file.listeners.decode(tree, report);
    let upstreams = file.upstreams.decode(tree, report);
    let chains = file.chains.decode(tree, report);
    let routes = file.routes.decode(tree, report);
    let errors = file.errors.decode(tree, report);

    let mut resolver = Resolver {
        tree,
        report,
        catalog,
        listeners: Names::of("listener", &listeners, lost_listeners),
        upstreams: Names::of("upstream", &upstreams, lost_upstreams),
        chains: Names::of("chain", &chains, lost_chains),
        routes: Names::of("route", &routes, lost_routes),
        ids: HashMap::new(),
        passing: HashSet::new(),
        used_upstreams: HashSet::new(),
        used_chains: HashSet::new(),
        mentioned: HashSet::new(),
    };
    // What is there but broken is not missing.
    let none = |section: &str| tree.at(root, &[section]).is_none_or(|section| tree.entries(section).is_empty());
    resolver.something_to_do(root, none("listeners") && !lost_listeners, none("routes") && !lost_routes);
    let everything_read = routes.iter().all(|route| route.decoded.whole)
        && chains.iter().all(|chain| chain.decoded.whole)
        && !lost_routes
        && !lost_chains;

    let listeners = resolver.listeners(listeners);
    resolver.passing = Resolver::passing(&listeners);
    if !lost_listeners {
        resolver.acme_challenges(&listeners);
    }
    if let Some(admin) = &file.admin {
        resolver.admin(admin, &listeners);
    }
    let tries = pingora.as_ref().map_or(usize::MAX, |(pingora, _)| pingora.max_retries);
    let upstreams = resolver.upstreams(upstreams, tries);
    let default_filters = resolver.steps(&file.defaults.filters);
    let routes = resolver.routes(routes);
    resolver.tries_within_routes(&routes, &upstreams);
    let errors = resolver.errors(errors);
    resolver.tests(&file.tests);
    let roots: HashSet<String> = std::mem::take(&mut resolver.used_chains);
    let chains = resolver.chains(chains);
    resolver.cycles(&chains);
    if everything_read {
        resolver.unused(&upstreams, &chains, roots);
        resolver.served(&listeners, &routes);
    }
    let (default_limits, reload) = (file.defaults.limits, file.reload);
    if let Some(LogFormat::Template(template)) = file.access_log.as_ref().map(|log| &log.format) {
        resolver.foreign_names(template.template(), template.span);
    }
    let (access_log, admin) = (file.access_log, file.admin);
    let (overload, hardening) = (file.overload, file.hardening);
    let (pingora, given) = pingora?;
    Some(Config {
        pingora,
        given,
        listeners,
        upstreams,
        routes,
        chains,
        default_filters,
        default_limits,
        errors,
        reload,
        access_log,
        admin,
        overload,
        hardening,
        tests: file.tests,
    })
}

struct Resolver<'a> {
    tree: &'a Tree,
    report: &'a mut Report,
    catalog: &'a dyn Catalog,
    listeners: Names,
    upstreams: Names,
    chains: Names,
    routes: Names,
    /// Of filters: where each id was given.
    ids: HashMap<Name, Span>,
    /// Listeners that pass header names with a `_`.
    passing: HashSet<String>,
    used_upstreams: HashSet<String>,
    used_chains: HashSet<String>,
    /// Every text in the settings of a filter, which may be the name of an upstream.
    mentioned: HashSet<String>,
}

/// The names in a section, those of broken entries too: they exist, so whoever refers to them is right.
struct Names {
    /// What they name.
    kind: &'static str,
    names: HashSet<String>,
    /// Whether the section could not be read, so that nobody knows.
    unknown: bool,
}

impl Names {
    fn of<T>(kind: &'static str, entries: &[NamedEntry<T>], unknown: bool) -> Self {
        Self { kind, names: entries.iter().map(|entry| entry.name.as_str().to_owned()).collect(), unknown }
    }

    /// Reports a name that is not among them.
    fn check(&mut self, name: &Spanned<Name>, report: &mut Report) {
        if self.unknown || self.names.contains(name.as_str()) {
            return;
        }
        let kind = self.kind;
        let diagnostic = Diagnostic::error(name.span, format!("unknown {kind} `{}`", report.shown(name.span, name.as_str())));
        // What is not shown need not be looked for among very many.
        let names = (!report.is_full()).then_some(&self.names).into_iter().flatten();
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable();
        let hint = suggest::hint(name.as_str(), names);
        report.push(diagnostic.hint(hint.unwrap_or_else(|| format!("add it under `{kind}s`"))));
    }
}

impl Resolver<'_> {
    /// A file that serves nothing is hardly what was meant.
    fn something_to_do(&mut self, root: NodeId, no_listeners: bool, no_routes: bool) {
        let main = Span::whole(0);
        let place = |section: &str| self.tree.entry(root, section).map_or(main, |entry| entry.key_span);
        if no_listeners {
            let diagnostic = Diagnostic::error(place("listeners"), "there are no listeners: nobody could connect");
            self.report.push(diagnostic.hint("add one, such as `listeners: {http: {address: 127.0.0.1:8080}}`"));
        }
        if no_routes {
            let diagnostic =
                Diagnostic::warning(place("routes"), "there are no routes: every request would be answered with 404");
            self.report.push(diagnostic.hint("add one, such as `routes: {all: {upstream: NAME}}`"));
        }
    }

    /// Warns of what no request can reach. `roots`: the chains that are used other than by chains.
    fn unused(&mut self, upstreams: &[Named<crate::config::Upstream>], chains: &[Named<Vec<Step>>], roots: HashSet<String>) {
        // What is mistaken may be just what would reach it.
        if self.report.has_errors() {
            return;
        }
        for upstream in upstreams {
            let name = upstream.name.as_str();
            if !self.used_upstreams.contains(name) && !self.mentioned.contains(name) {
                self.report.push(Diagnostic::warning(upstream.name.span, format!("no route leads to the upstream `{name}`")));
            }
        }
        let by_name: HashMap<&str, &Named<Vec<Step>>> = chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
        let mut reached = roots;
        let mut todo: Vec<String> = reached.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            let Some(chain) = by_name.get(name.as_str()) else { continue };
            for used in filters::uses(&chain.value) {
                if reached.insert(used.as_str().to_owned()) {
                    todo.push(used.as_str().to_owned());
                }
            }
        }
        for chain in chains.iter().filter(|chain| !reached.contains(chain.name.as_str())) {
            let message = format!("no route uses the chain `{}`", chain.name.as_str());
            self.report.push(Diagnostic::warning(chain.name.span, message));
        }
    }
}
