//! One immutable snapshot of everything that a request needs: it loads it once and keeps it.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::config::{ListenerLimits, Overload, Priority, Span, Underscores};
use crate::filter::{Chain, Kept};
use crate::observe::{LiveSnapshot, RouteMeter, metrics};
use crate::router::{Found, Question, Router, Verdict};
use crate::runtime::{ErrorPages, HttpsPorts, Mirror, Split, Trust};
use crate::tls::acme::{Client, Tokens};
use crate::tls::{Issued, Terminator};
use crate::types::{HeaderName, Secret, Template};
use crate::upstream::Upstream;

/// A configuration, ready to serve. It lives until the last request that began under it has ended.
pub(crate) struct Snapshot {
    router: Router,
    routes: Box<[Route]>,
    upstreams: Box<[Arc<Upstream>]>,
    /// In the order of the boot plan's listeners.
    listeners: Box<[ListenerPolicy]>,
    /// Lets a request ask for its own trace.
    explain_token: Option<Secret>,
    /// Fields by which filters say who a client is: no client may.
    claims: Box<[Box<str>]>,
    errors: ErrorPages,
    overload: Overload,
    /// What authorities may ask for in the clear.
    tokens: Arc<Tokens>,
    /// What filters hand on to those of the next one.
    kept: Kept,
    /// What filters asked to have done beside requests, once it has been started.
    work: OnceLock<Vec<Work>>,
    /// Counts it: there are several only while requests end that began under an older one.
    _live: LiveSnapshot,
}

/// What of a listener a reload can change.
pub(crate) struct ListenerPolicy {
    pub(crate) limits: ListenerLimits,
    pub(crate) trust: Trust,
    pub(crate) underscores: Underscores,
    /// Everything in the clear is sent to https.
    pub(crate) redirect_to_https: Option<HttpsPorts>,
    /// `None`: it speaks in the clear.
    pub(crate) tls: Option<Arc<Terminator>>,
    /// Who obtains its certificate.
    pub(crate) acme: Option<Arc<Client>>,
}

/// Work beside requests: it ends with the snapshot.
pub(super) struct Work(pub(super) AbortHandle);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A route that a request takes, and the snapshot that it is of.
#[derive(Clone)]
pub(crate) struct Matched {
    snapshot: Arc<Snapshot>,
    found: Found,
}

impl Matched {
    /// What was matched is the path with `//` kept.
    pub(crate) fn keeps_slashes(&self) -> bool {
        self.found.keeps_slashes
    }
}

impl Matched {
    /// The bodies of errors that go with the route.
    pub(crate) fn errors(&self) -> &ErrorPages {
        &self.snapshot.errors
    }

    /// Names of fields that no client may send.
    pub(crate) fn claims(&self) -> &[Box<str>] {
        self.snapshot.claims()
    }

    /// How much the process takes on at once.
    pub(crate) fn overload(&self) -> &Overload {
        &self.snapshot.overload
    }
}

impl Deref for Matched {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.snapshot.routes[self.found.route]
    }
}

/// A route, ready to serve. Nothing in it is looked up by name.
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    /// Where it stands in the file.
    pub(crate) span: Span,
    pub(crate) chain: Chain,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) action: Action,
    /// Where copies of its requests go.
    pub(crate) mirror: Option<Mirror>,
    pub(crate) meter: Arc<RouteMeter>,
}

pub(crate) enum Action {
    Upstream(Arc<Upstream>),
    Split(Split),
    Redirect(Redirect),
    Respond(Respond),
}

pub(crate) struct Redirect {
    pub(crate) to: Template,
    pub(crate) status: u16,
}

pub(crate) struct Respond {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(HeaderName, Template)>,
    pub(crate) body: Option<Template>,
}

impl Action {
    /// Where requests may go whose filters don't say otherwise.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let (one, several) = match self {
            Self::Upstream(upstream) => (Some(upstream), None),
            Self::Split(split) => (None, Some(split.sides().iter().map(|side| &side.upstream))),
            Self::Redirect(_) | Self::Respond(_) => (None, None),
        };
        one.into_iter().chain(several.into_iter().flatten())
    }
}

impl Snapshot {
    pub(super) fn new(
        router: Router,
        routes: Vec<Route>,
        upstreams: Vec<Arc<Upstream>>,
        listeners: Box<[ListenerPolicy]>,
        errors: ErrorPages,
        overload: Overload,
        kept: Kept,
    ) -> Self {
        Self {
            router,
            routes: routes.into(),
            upstreams: upstreams.into(),
            listeners,
            explain_token: None,
            claims: Box::default(),
            errors,
            overload,
            tokens: Arc::default(),
            kept,
            work: OnceLock::new(),
            _live: metrics().snapshot(),
        }
    }

    /// The bodies of errors.
    pub(crate) fn errors(&self) -> &ErrorPages {
        &self.errors
    }

    /// How many snapshots there are.
    pub(crate) fn live() -> u64 {
        metrics().live_snapshots()
    }

    /// The route that a request takes.
    pub(crate) fn route(self: &Arc<Self>, question: &Question<'_>) -> Option<Matched> {
        self.router.find(question).map(|found| Matched { snapshot: self.clone(), found })
    }

    /// The index of the route that a request takes.
    pub(super) fn find(&self, question: &Question<'_>) -> Option<usize> {
        self.router.find(question).map(|found| found.route)
    }

    /// Whether there is a route for the question on another listener.
    pub(crate) fn takes_elsewhere(&self, question: &Question<'_>) -> bool {
        let others = (0..self.listeners.len()).filter(|place| Some(*place) != question.listener);
        others.into_iter().any(|place| self.router.find(&Question { listener: Some(place), ..*question }).is_some())
    }

    /// Whether a question must hold the path with `//` kept too.
    pub(crate) fn keeps_slashes(&self) -> bool {
        self.router.keeps_slashes()
    }

    /// Each route, and what becomes of it for a request.
    pub(crate) fn explain(&self, question: &Question<'_>) -> impl Iterator<Item = (&Route, Verdict)> {
        let candidates = self.router.explain(question).into_iter();
        candidates.map(|candidate| (&self.routes[candidate.route], candidate.verdict))
    }

    /// Lets requests with this token ask for their trace.
    pub(super) fn explained_to(mut self, token: Option<Secret>) -> Self {
        self.explain_token = token;
        self
    }

    /// Lets no client send fields of these names, which are in lower case.
    pub(super) fn claiming(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.claims = names.into_iter().map(String::into_boxed_str).collect();
        self
    }

    /// Names of fields, in lower case, that no client may send.
    pub(crate) fn claims(&self) -> &[Box<str>] {
        &self.claims
    }

    /// Answers authorities that ask for these.
    pub(super) fn answering(mut self, tokens: Arc<Tokens>) -> Self {
        self.tokens = tokens;
        self
    }

    /// What authorities may ask for in the clear.
    pub(crate) fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// Those who obtain certificates, each once.
    pub(crate) fn acme_clients(&self) -> impl Iterator<Item = &Arc<Client>> {
        let all = || self.listeners.iter().filter_map(|policy| policy.acme.as_ref());
        all()
            .enumerate()
            .filter(move |(at, client)| !all().take(*at).any(|other| Arc::ptr_eq(other, client)))
            .map(|(_, client)| client)
    }

    /// Who obtains the certificate of each listener, with its name.
    pub(crate) fn obtained(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Client>)> {
        let names = self.router.listeners().iter();
        names.zip(&self.listeners).filter_map(|(name, policy)| policy.acme.as_ref().map(|client| (name, client)))
    }

    /// The certificates of each listener with TLS that are in no file, and who obtains them.
    pub(super) fn issued(&self) -> impl Iterator<Item = (&Arc<Issued>, Option<&Arc<Client>>)> {
        self.listeners.iter().filter_map(|policy| Some((policy.tls.as_ref()?.issued(), policy.acme.as_ref())))
    }

    /// Whether a request with this token may ask for its trace.
    pub(crate) fn explains_to(&self, token: &[u8]) -> bool {
        self.explain_token.as_ref().is_some_and(|secret| secret.matches(token))
    }

    /// The place of a listener of this name.
    pub(crate) fn listener_named(&self, name: &str) -> Option<usize> {
        self.router.listeners().iter().position(|listener| **listener == *name)
    }

    /// The name of a listener.
    pub(crate) fn listener_name(&self, place: usize) -> Option<&Arc<str>> {
        self.router.listeners().get(place)
    }

    /// TLS of the listener of this name.
    pub(super) fn tls_of(&self, name: &str) -> Option<&Terminator> {
        self.listeners.get(self.listener_named(name)?)?.tls.as_deref()
    }

    /// TLS of each listener that has it, with its name.
    pub(crate) fn terminators(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Terminator>)> {
        let names = self.router.listeners().iter();
        names.zip(&self.listeners).filter_map(|(name, policy)| policy.tls.as_ref().map(|tls| (name, tls)))
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    pub(crate) fn route_count(&self) -> usize {
        self.routes.len()
    }

    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What holds on a listener, by its place in the boot plan.
    pub(crate) fn listener(&self, place: usize) -> &ListenerPolicy {
        &self.listeners[place]
    }

    /// Keeps work that was started for this snapshot.
    pub(super) fn keep(&self, work: Vec<Work>) {
        // A snapshot is put in force once.
        let _ = self.work.set(work);
    }
}
