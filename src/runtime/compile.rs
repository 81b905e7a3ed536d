//! Configuration → snapshot. Pure but for the files that filters read; every mistake goes to the report.
//!
//! `check`, boot and reload all come through here: what one accepts, the others do too.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use pingora_core::server::configuration::ServerConf;

use crate::config::{self, AccessLog, Config, Diagnostic, Given, Hardening, Named, Report, Step, Test};
use crate::filter::{BuildCx, Chain, Keeping, Kept, Registry, Slot, TaskFuture};
use crate::observe::metrics;
use crate::router::Router;
use crate::runtime::acme::Clients;
use crate::runtime::circles::{self, Door, Lead};
use crate::runtime::snapshot::Route;
use crate::runtime::{Action, ErrorPages, HttpsPorts, ListenerPolicy, Mirror, Redirect, Respond, Side, Snapshot, Split, Trust};
use crate::tls::{ClientTls, Roots, Terminator};
use crate::types::{Duration, FileMode, ListenAddress, Secret, Status};
use crate::upstream::Upstream;

/// What is fixed for the life of the process: a change needs a new one.
pub(crate) struct BootPlan {
    pub(crate) pingora: ServerConf,
    pub(crate) given: Given,
    pub(crate) listeners: Vec<ListenerPlan>,
    /// `None`: no access log is written.
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) admin: Option<AdminPlan>,
    pub(crate) hardening: Hardening,
}

/// Where the process is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminPlan {
    pub(crate) address: ListenAddress,
    /// `None`: only this machine can connect.
    pub(crate) token: Option<Secret>,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerPlan {
    pub(crate) name: Arc<str>,
    pub(crate) address: ListenAddress,
    pub(crate) mode: Option<FileMode>,
    pub(crate) http2: bool,
    /// Whether PROXY headers are read.
    pub(crate) proxy_protocol: bool,
    pub(crate) tls: bool,
}

/// The boot plan that the process runs by.
pub(crate) struct InForce {
    /// Pingora's keys, which can't be copied.
    pub(crate) pingora: serde_json::Value,
    pub(crate) listeners: Vec<ListenerPlan>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) admin: Option<AdminPlan>,
    pub(crate) hardening: Hardening,
}

impl BootPlan {
    /// Pingora's keys and their values.
    pub(crate) fn keys(&self) -> serde_json::Value {
        serde_json::to_value(&self.pingora).unwrap_or_default()
    }

    /// What of this plan is otherwise than in the one in force, in the words of the file.
    pub(crate) fn differences(&self, in_force: &InForce) -> Vec<String> {
        let InForce { pingora, listeners, access_log, admin, hardening } = in_force;
        let mut differences = Vec::new();
        if self.access_log != *access_log {
            differences.push("`access_log`".to_owned());
        }
        if let (serde_json::Value::Object(own), serde_json::Value::Object(others)) = (pingora, self.keys()) {
            differences
                .extend(own.iter().filter(|(key, value)| others.get(*key) != Some(value)).map(|(key, _)| format!("`{key}`")));
        }
        let find = |plans: &[ListenerPlan], name: &Arc<str>| plans.iter().find(|plan| plan.name == *name).cloned();
        for plan in listeners {
            match find(&self.listeners, &plan.name) {
                None => differences.push(format!("listener `{}` is gone", plan.name)),
                Some(new) if new != *plan => differences.push(format!("listener `{}`", plan.name)),
                Some(_) => {}
            }
        }
        for plan in &self.listeners {
            if find(listeners, &plan.name).is_none() {
                differences.push(format!("listener `{}` is new", plan.name));
            }
        }
        if differences.is_empty() && self.listeners != *listeners {
            differences.push("the order of the listeners".to_owned());
        }
        if self.admin != *admin {
            differences.push("`admin`".to_owned());
        }
        if self.hardening != *hardening {
            differences.push("`hardening`".to_owned());
        }
        differences
    }
}

/// A configuration in its final form, and the work to start once it is in force.
pub(crate) struct Compiled {
    pub(crate) boot: BootPlan,
    pub(crate) reload: config::Reload,
    pub(crate) snapshot: Snapshot,
    pub(crate) tasks: Vec<TaskFuture>,
    /// What its author expects of it.
    pub(crate) tests: Vec<Test>,
}

/// Compiles a configuration. `None`: the report says why. One with errors is compiled as far as it goes, so that all of them are
/// shown at once. What is as it was in `previous` is taken from there, with all that it has learned.
pub(crate) fn compile(config: Config, registry: &Registry, previous: Option<&Snapshot>, report: &mut Report) -> Option<Compiled> {
    compile_for(Use::Serving, config, registry, previous, report)
}

/// The same, to be asked and not served: keys and certificates need not be there, which no answer depends on.
pub(crate) fn compile_offline(config: Config, registry: &Registry, report: &mut Report) -> Option<Compiled> {
    compile_for(Use::Offline, config, registry, None, report)
}

/// What a configuration is compiled for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Serving,
    Offline,
}

impl Use {
    /// Reads what TLS needs.
    fn secrets<T>(self, report: &mut Report, read: impl FnOnce(&mut Report) -> T) -> T {
        match self {
            Self::Serving => read(report),
            Self::Offline => report.softened(read),
        }
    }
}

fn compile_for(
    purpose: Use,
    config: Config,
    registry: &Registry,
    previous: Option<&Snapshot>,
    report: &mut Report,
) -> Option<Compiled> {
    let partial = report.has_errors();
    let roots = Roots::new(&config.pingora);
    purpose.secrets(report, |report| roots.check(report));
    let upstreams = upstreams(purpose, config.upstreams, &roots, previous, report);
    let mut chains = Chains {
        registry,
        upstreams: &upstreams,
        tasks: Vec::new(),
        before: previous.map(Snapshot::kept),
        kept: Kept::default(),
        claims: BTreeSet::new(),
        named: HashMap::new(),
        pending: HashMap::new(),
        partial,
    };
    for chain in config.chains {
        chains.pending.insert(chain.name.value.as_str().to_owned(), chain.value);
    }
    let names: Vec<String> = chains.pending.keys().cloned().collect();
    for name in names {
        chains.named(&name, report);
    }
    let defaults = chains.slots("defaults", config.default_filters, report);
    let names: Vec<Arc<str>> = config.listeners.iter().map(|listener| listener.name.value.as_str().into()).collect();
    let mut router = Router::new(names);
    let mut routes = Vec::with_capacity(config.routes.len());
    let mut leads = Vec::new();
    for Named { name, value: route } in config.routes {
        if let config::Action::Redirect(redirect) = &route.action {
            let hosts = route.matches.hosts.iter().map(|host| host.value.clone()).collect();
            let listeners = route.listeners.iter().map(|listener| listener.as_str().to_owned()).collect();
            leads.push(Lead { route: routes.len(), hosts, listeners, span: redirect.to.span });
        }
        router.add(route.matches, route.listeners.iter().map(|listener| listener.value.as_str()), !route.merge_slashes);
        let mut slots = if route.skip_defaults { Vec::new() } else { defaults.clone() };
        slots.extend(chains.slots(&format!("route {name}", name = name.value), route.filters, report));
        let Some(action) = action(route.action, &upstreams) else { continue };
        let mirror =
            route.mirror.and_then(|mirror| Some(Mirror::new(upstreams.get(mirror.upstream.as_str())?.clone(), mirror.ratio)));
        routes.push(Route {
            name: name.value.as_str().into(),
            span: name.span,
            chain: Chain::new(slots),
            timeout: route.timeout.get().map(Duration::get),
            priority: route.priority,
            action,
            mirror,
            meter: metrics().route(name.value.as_str()),
        });
    }
    router.finish();
    let Chains { tasks, kept, claims, .. } = chains;
    let errors = ErrorPages::read(config.errors, report);
    let terminators: Vec<_> = purpose
        .secrets(report, |report| config.listeners.iter().map(|listener| terminator(listener, previous, report)).collect());
    let Clients { tokens, by_listener } = purpose.secrets(report, |report| Clients::of(&config.listeners, previous, report));
    if report.has_errors() {
        return None;
    }
    // What is sent to https as a whole redirects by itself.
    let door = |listener: &Named<config::Listener>| {
        let redirects = listener.value.redirect_to_https.as_ref().is_some_and(|redirect| redirect.value);
        (!redirects).then(|| Door { name: listener.name.as_str().to_owned(), secure: listener.value.tls.is_some() })
    };
    let doors: Vec<_> = config.listeners.iter().map(door).collect();
    circles::report(&leads, &doors, &router, &routes, report);
    let served = terminators.into_iter().zip(by_listener);
    let policies = config.listeners.iter().zip(served).map(|(listener, (tls, acme))| ListenerPolicy {
        limits: listener.value.limits.or(&config.default_limits),
        trust: Trust::of(&listener.value),
        underscores: listener.value.underscores,
        redirect_to_https: listener
            .value
            .redirect_to_https
            .as_ref()
            .filter(|redirect| redirect.value)
            .map(|_| HttpsPorts::of(&listener.value, &config.listeners)),
        tls,
        acme,
    });
    let policies = policies.collect();
    let listeners = config.listeners.into_iter().map(listener).collect();
    let mut explain_token = None;
    let admin = config.admin.map(|admin| {
        explain_token = admin.explain_token.map(|token| token.value);
        AdminPlan { address: admin.address.value, token: admin.token.map(|token| token.value) }
    });
    let boot = BootPlan {
        pingora: config.pingora,
        given: config.given,
        listeners,
        access_log: config.access_log,
        admin,
        hardening: config.hardening,
    };
    let upstreams = upstreams.into_values().collect();
    let snapshot = Snapshot::new(router, routes, upstreams, policies, errors, config.overload, kept)
        .explained_to(explain_token)
        .claiming(claims)
        .answering(tokens);
    Some(Compiled { boot, reload: config.reload, snapshot, tasks, tests: config.tests })
}

type Upstreams = HashMap<String, Arc<Upstream>>;

fn upstreams(
    purpose: Use,
    sections: Vec<Named<config::Upstream>>,
    roots: &Roots,
    previous: Option<&Snapshot>,
    report: &mut Report,
) -> Upstreams {
    let known: HashMap<&str, &Arc<Upstream>> =
        previous.iter().flat_map(|snapshot| snapshot.upstreams()).map(|upstream| (upstream.name(), upstream)).collect();
    let mut upstreams = HashMap::new();
    for Named { name, value: section } in sections {
        let name = name.value.as_str().to_owned();
        if let Some(config::Discover::File(file)) = section.discover.as_ref().map(|discover| &discover.value) {
            report.follows(file.path.value.clone());
        }
        let tls = match &section.tls {
            Some(tls) => match purpose.secrets(report, |report| ClientTls::read(tls, roots, report)) {
                None if purpose == Use::Serving => continue,
                tls => tls,
            },
            None => None,
        };
        if let Some(same) = known.get(name.as_str()).filter(|upstream| upstream.is_of(&section, tls.as_ref())) {
            upstreams.insert(name, Arc::clone(same));
            continue;
        }
        let span = section.discover.as_ref().map_or(section.endpoints.span, |discover| match &discover.value {
            config::Discover::File(file) => file.path.span,
            _ => discover.span,
        });
        match Upstream::over(&name, section, tls, known.get(name.as_str()).map(|previous| &***previous)) {
            Ok(upstream) => {
                upstreams.insert(name, Arc::new(upstream));
            }
            Err(error) => report.push(Diagnostic::error(span, error.to_string())),
        }
    }
    upstreams
}

/// Builds filters: each entry of the file once, however many routes run it.
struct Chains<'a> {
    registry: &'a Registry,
    upstreams: &'a Upstreams,
    tasks: Vec<TaskFuture>,
    /// What filters of the configuration in force keep.
    before: Option<&'a Kept>,
    kept: Kept,
    /// Names of fields that say who a client is.
    claims: BTreeSet<String>,
    named: HashMap<String, Vec<Slot>>,
    /// Chains that are not built yet.
    pending: HashMap<String, Vec<Step>>,
    /// Parts of the configuration are missing, since they are broken.
    partial: bool,
}

impl Chains<'_> {
    /// `place` tells lists of filters apart.
    fn slots(&mut self, place: &str, steps: Vec<Step>, report: &mut Report) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for step in steps {
            match step {
                Step::Use(name) => slots.extend(self.named(name.value.as_str(), report)),
                Step::Filter(entry) => {
                    let upstreams = self.upstreams;
                    let diverts = Cell::new(false);
                    let find = |name: &str| {
                        let found = upstreams.get(name).cloned();
                        diverts.set(diverts.get() || found.as_ref().is_some_and(|upstream| upstream.general().is_some()));
                        found
                    };
                    let nth = seen.entry(entry.kind).and_modify(|nth| *nth += 1).or_default();
                    let identity = match &entry.id {
                        Some(id) => format!("id {}", id.value),
                        None => format!("{place}, {} {nth}", entry.kind),
                    };
                    let keeping = Keeping { identity: &identity, before: self.before, kept: &mut self.kept };
                    let mut cx = BuildCx::new(&find, &mut self.tasks, keeping);
                    let built = self.registry.build(entry.kind, entry.settings, &mut cx);
                    let found = cx.found();
                    self.claims.extend(found.claims.iter().map(|name| name.as_str().to_ascii_lowercase()));
                    for warning in found.warnings {
                        let place = warning.place().unwrap_or(entry.span);
                        report.push(Diagnostic::warning(place, format!("filter `{}`: {warning}", entry.kind)));
                    }
                    match built {
                        Ok(filter) => slots.push(Slot::new(filter).diverting(diverts.get())),
                        Err(error) if self.partial && error.is_unresolved() => {}
                        Err(error) => {
                            let place = error.place().unwrap_or(entry.span);
                            report.push(Diagnostic::error(place, format!("filter `{}`: {error}", entry.kind)));
                        }
                    }
                }
            }
        }
        slots
    }

    /// The chain of this name, built when it is first asked for. That it exists and does not use itself is known.
    fn named(&mut self, name: &str, report: &mut Report) -> Vec<Slot> {
        if let Some(steps) = self.pending.remove(name) {
            let slots = self.slots(&format!("chain {name}"), steps, report);
            self.named.insert(name.to_owned(), slots);
        }
        self.named.get(name).cloned().unwrap_or_default()
    }
}

/// `None`: the upstream could not be built, and the report says so already.
fn action(action: config::Action, upstreams: &Upstreams) -> Option<Action> {
    Some(match action {
        config::Action::Upstream(name) => Action::Upstream(upstreams.get(name.value.as_str())?.clone()),
        config::Action::Split(sides, sticky) => {
            let side = |side: config::Side| {
                Some(Side { upstream: upstreams.get(side.upstream.as_str())?.clone(), weight: side.weight.value })
            };
            let sides: Option<Vec<Side>> = sides.into_iter().map(side).collect();
            Action::Split(Split::new(sides?, sticky.map(|sticky| sticky.cookie)))
        }
        config::Action::Redirect(redirect) => {
            Action::Redirect(Redirect { to: redirect.to.value, status: redirect.status.map_or(308, |status| status.value.get()) })
        }
        config::Action::Respond(respond) => Action::Respond(Respond {
            status: respond.status.map_or(200, |status| Status::get(status.value)),
            headers: respond.headers.into_iter().map(|(name, value)| (name, value.value)).collect(),
            body: respond.body.map(|body| body.value),
        }),
    })
}

fn listener(section: Named<config::Listener>) -> ListenerPlan {
    let http2 = speaks_http2(&section.value);
    ListenerPlan {
        name: section.name.value.as_str().into(),
        address: section.value.address.value,
        mode: section.value.mode.map(|mode| mode.value),
        http2,
        proxy_protocol: section.value.proxy_protocol.is_some(),
        tls: section.value.tls.is_some(),
    }
}

/// With TLS both sides agree on it; without, a client must know beforehand.
fn speaks_http2(listener: &config::Listener) -> bool {
    listener.http2.unwrap_or(listener.tls.is_some())
}

/// TLS of a listener, which goes on from that of the listener of its name.
fn terminator(listener: &Named<config::Listener>, previous: Option<&Snapshot>, report: &mut Report) -> Option<Arc<Terminator>> {
    let section = listener.value.tls.as_ref()?;
    let before = previous.and_then(|previous| previous.tls_of(listener.name.value.as_str()));
    Terminator::read(section, speaks_http2(&listener.value), before, SystemTime::now(), report).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn compiled(yaml: &str, previous: Option<&Snapshot>) -> Compiled {
        let mut registry = Registry::default();
        crate::filters::register(&mut registry).unwrap();
        let (config, mut report) = config::parse(yaml, Path::new("a.yaml"), &registry, &|_| None);
        compile(config.unwrap(), &registry, previous, &mut report).unwrap()
    }

    fn yaml(address: &str, endpoint: &str) -> String {
        format!(
            "listeners: {{main: {{address: \"{address}\"}}}}\n\
             upstreams: {{a: {{endpoints: [\"{endpoint}\"]}}, b: {{endpoints: [127.0.0.1:2]}}}}\n\
             routes: {{a: {{upstream: a}}, b: {{match: {{paths: [/b]}}, upstream: b}}}}\n"
        )
    }

    #[test]
    fn an_upstream_that_says_the_same_is_the_same() {
        let first = compiled(&yaml("127.0.0.1:1", "127.0.0.1:1"), None).snapshot;
        let second = compiled(&yaml("127.0.0.1:1", "127.0.0.1:3"), Some(&first)).snapshot;
        let find =
            |snapshot: &Snapshot, name| snapshot.upstreams().iter().find(|upstream| upstream.name() == name).unwrap().clone();
        assert!(Arc::ptr_eq(&find(&first, "b"), &find(&second, "b")));
        assert!(!Arc::ptr_eq(&find(&first, "a"), &find(&second, "a")));
    }

    #[test]
    fn what_needs_a_new_process_is_named() {
        let before = compiled(&yaml("127.0.0.1:1", "127.0.0.1:1"), None).boot;
        let in_force = InForce {
            pingora: before.keys(),
            listeners: before.listeners,
            access_log: before.access_log,
            admin: before.admin,
            hardening: before.hardening,
        };
        let same = compiled(&yaml("127.0.0.1:1", "127.0.0.1:9"), None).boot;
        assert_eq!(same.differences(&in_force), Vec::<String>::new());
        let other = compiled(&format!("threads: 77\n{}", yaml("127.0.0.1:2", "127.0.0.1:1")), None).boot;
        assert_eq!(other.differences(&in_force), ["`threads`", "listener `main`"]);
    }
}
