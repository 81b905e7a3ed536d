//! The configuration file: text → tree → typed sections → [`Config`].
//!
//! Two stages. The first (`File` and its sections) is what was typed: each key has its type, each value
//! its place. The second ([`Config`]) is what it means: names are resolved, each filter's settings are of
//! the filter's own type, each route has exactly one action. Every mistake of a file is collected in one
//! [`Report`]; nothing here reads the network, spawns a task or knows Pingora's sessions.
//!
//! On the way: `yaml` reads a file into a `tree` whose nodes know their places, `env` expands variables in it, `load` joins the
//! files that are included, `de` decodes the tree by serde and collects mistakes, `resolve` finds the meaning.

mod acme;
mod admin;
mod bounds;
mod catalog;
mod conceal;
mod de;
mod env;
mod errors;
mod file;
mod hardening;
mod limits;
mod listener;
mod load;
mod matches;
mod mirror;
mod not_yet;
mod observe;
mod overload;
mod pingora;
mod render;
mod report;
mod resolve;
mod route;
mod schema;
mod section;
mod single;
mod sockets;
mod span;
mod suggest;
mod suite;
#[cfg(test)]
pub(crate) mod testing;
mod tls;
mod tree;
mod upstream;
mod yaml;

use std::any::Any;

use pingora_core::server::configuration::ServerConf;

use crate::types::{Duration, Limit, Name};

pub use acme::{Acme, AcmeChallenge};
pub use admin::Admin;
pub use catalog::{Body, Catalog, NoFilters};
pub use env::Environment;
pub use errors::{ErrorPage, Errors};
pub use file::Reload;
pub use hardening::Hardening;
pub use limits::{Limits, ListenerLimits};
pub use listener::{ForwardedHeader, Listener, ProxyProtocol, TrustForwarded, Underscores};
pub(crate) use load::{found_by, in_words, load_partial, load_with_tests, would_find};
pub use load::{load, parse};
pub use matches::{Conditions, Match, PathMatch, ValueMatch};
pub use mirror::Mirror;
pub use observe::{AccessLog, LogFormat, LogOutput};
pub use overload::{Overload, Priority};
pub use pingora::Given;
pub use report::{Diagnostic, Report, Severity};
pub use route::{Redirect, Respond, Side, StickySplit};
pub use schema::schema;
pub(crate) use single::decode_filter;
pub use span::{Span, Spanned};
pub use suite::{Expect, ExpectRequest, Test, TestRequest, UpstreamReply};
pub use tls::{CertificateFiles, ClientAuth, ClientAuthMode, Tls, TlsVersion};
pub use upstream::{
    Backoff, Balance, Budget, Discover, DnsDiscovery, Endpoint, EndpointLimits, FileDiscovery, GrpcHealthCheck, HashBalance,
    HashKey, HealthCheck, HealthCheckMap, HealthCheckWord, Hedge, Hedging, HostHeader, HttpHealthCheck, NoBudget, NoHedge,
    OutlierDetection, Protocol, ProxyHeader, Retry, RetryBudget, RetryCondition, SrvDiscovery, Sticky, TcpHealthCheck, Timeouts,
    Upstream, UpstreamTls,
};
pub(crate) use upstream::{STREAMS, endpoints_of};

/// What a file means.
pub struct Config {
    /// Pingora's own settings, Ravelin's defaults applied.
    pub pingora: ServerConf,
    /// What of them the file gives.
    pub given: Given,
    /// In the order of the file.
    pub listeners: Vec<Named<Listener>>,
    /// In the order of the file.
    pub upstreams: Vec<Named<Upstream>>,
    /// In the order of the file.
    pub routes: Vec<Named<Route>>,
    /// In the order of the file.
    pub chains: Vec<Named<Vec<Step>>>,
    /// `defaults.filters`: in front of every route's own.
    pub default_filters: Vec<Step>,
    /// `defaults.limits`: for every listener.
    pub default_limits: Limits,
    /// Bodies of errors that Ravelin answers with itself.
    pub errors: Vec<(Errors, ErrorPage)>,
    /// When the file is read anew.
    pub reload: Reload,
    /// `None`: no access log is written.
    pub access_log: Option<AccessLog>,
    /// Where the process is watched.
    pub admin: Option<Admin>,
    /// How much the process takes on at once.
    pub overload: Overload,
    /// What the process takes from itself before it serves.
    pub hardening: Hardening,
    /// What its author expects of it.
    pub tests: Vec<Test>,
}

/// An entry of a section, with the name that it was given.
pub struct Named<T> {
    /// The key in the file, and where it stands.
    pub name: Spanned<Name>,
    /// What stands under it.
    pub value: T,
}

/// A route's meaning.
pub struct Route {
    /// What a request must be; its patterns are over paths in the form that `merge_slashes` says.
    pub matches: Match,
    /// Listeners, which exist, whose requests may take it; empty: all.
    pub listeners: Vec<Spanned<Name>>,
    /// Whether `//` is `/` in its paths.
    pub merge_slashes: bool,
    /// Whether `defaults.filters` are left out.
    pub skip_defaults: bool,
    /// The route's own filters.
    pub filters: Vec<Step>,
    /// For the whole exchange.
    pub timeout: Limit<Duration>,
    /// Who goes last when there is too much to do.
    pub priority: Priority,
    /// Where the request goes.
    pub action: Action,
    /// Where copies go, of those that are forwarded; the upstream exists.
    pub mirror: Option<Mirror>,
}

/// Where a request goes.
pub enum Action {
    /// To this upstream, which exists.
    Upstream(Spanned<Name>),
    /// To one of these upstreams, which exist; not all weights are zero.
    Split(Vec<Side>, Option<StickySplit>),
    /// A redirect.
    Redirect(Redirect),
    /// A fixed answer.
    Respond(Respond),
}

/// One entry of a list of filters.
pub enum Step {
    /// `use: name` of a chain that exists.
    Use(Spanned<Name>),
    /// A filter with its settings.
    Filter(FilterEntry),
}

/// A filter with its settings, decoded to the filter's own `Config` type.
pub struct FilterEntry {
    /// Where the entry stands.
    pub span: Span,
    /// The filter's `NAME`.
    pub kind: &'static str,
    /// Its identity over reloads, if one was given.
    pub id: Option<Spanned<Name>>,
    /// A value of the filter's `Config` type.
    pub settings: Box<dyn Any + Send>,
}
