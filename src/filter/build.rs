//! What a filter may reach while it is built: names of upstreams, and work for after the configuration is in force.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::config::{Span, Spanned};
use crate::filter::Kept;
use crate::types::{HeaderName, Template};
use crate::upstream::Upstream;

/// Work that runs beside requests, for as long as the configuration is in force.
pub type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What [`Filter::build`](crate::filter::Filter::build) is given.
pub struct BuildCx<'a> {
    upstreams: &'a dyn Fn(&str) -> Option<Arc<Upstream>>,
    tasks: &'a mut Vec<TaskFuture>,
    keeping: Keeping<'a>,
    found: Found,
}

/// What is found while a filter is built.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) claims: Vec<HeaderName>,
    pub(crate) warnings: Vec<BuildError>,
}

/// Where a filter's state comes from and goes to.
pub(crate) struct Keeping<'a> {
    /// Of the filter that is built.
    pub(crate) identity: &'a str,
    /// What the configuration in force keeps.
    pub(crate) before: Option<&'a Kept>,
    pub(crate) kept: &'a mut Kept,
}

impl<'a> BuildCx<'a> {
    pub(crate) fn new(
        upstreams: &'a dyn Fn(&str) -> Option<Arc<Upstream>>,
        tasks: &'a mut Vec<TaskFuture>,
        keeping: Keeping<'a>,
    ) -> Self {
        Self { upstreams, tasks, keeping, found: Found::default() }
    }

    /// Says that a request field of this name is Ravelin's own word on who the client has proved to be. What clients send by that name, or by
    /// one that many read as the same (`_` for `-`), is taken away on every listener and route.
    pub fn claim(&mut self, name: &HeaderName) {
        self.found.claims.push(name.clone());
    }

    /// Says that a setting will hardly do what was meant: a warning of `ravelin check`, at its place.
    pub fn warn(&mut self, warning: BuildError) {
        self.found.warnings.push(warning);
    }

    /// Warns of names that another server would put a value in the place of.
    pub(crate) fn look_over(&mut self, template: &Spanned<Template>) {
        for foreign in template.foreign() {
            self.warn(BuildError::new(foreign.to_string()).at(template.span));
        }
    }

    pub(crate) fn found(self) -> Found {
        self.found
    }

    /// State that outlives this configuration: on a reload, the filter of the same identity is given what this one has. Its identity is
    /// the `id` of its entry; without one, its place: the route, the chain or the defaults, and which of its kind there. There is one of
    /// each type; what a configuration does not ask for any more is dropped with the last request of the one before.
    pub fn keep<T: Send + Sync + 'static>(&mut self, make: impl FnOnce() -> T) -> Arc<T> {
        let Keeping { identity, before, kept } = &mut self.keeping;
        kept.carry(*before, identity, make)
    }

    /// The upstream of this name, for [`RequestCx::use_upstream`](crate::filter::RequestCx::use_upstream).
    ///
    /// # Errors
    /// There is none.
    pub fn upstream(&self, name: &str) -> Result<UpstreamRef, BuildError> {
        match (self.upstreams)(name) {
            Some(upstream) => Ok(UpstreamRef(upstream)),
            None => Err(BuildError { unresolved: true, ..BuildError::new(format!("unknown upstream `{name}`")) }),
        }
    }

    /// Starts `work` once the configuration is in force, and drops it when the configuration goes. A configuration that
    /// is refused starts nothing.
    pub fn task(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(Box::pin(work));
    }
}

/// An upstream that exists.
#[derive(Clone)]
pub struct UpstreamRef(Arc<Upstream>);

impl UpstreamRef {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn upstream(&self) -> Arc<Upstream> {
        self.0.clone()
    }
}

impl fmt::Debug for UpstreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamRef({})", self.name())
    }
}

/// Why a filter can't be built; shown with the place of its settings in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    message: String,
    place: Option<Span>,
    /// A name that is not there: no mistake of its own where what it names is broken.
    unresolved: bool,
}

impl BuildError {
    /// `message` says what is wrong and what would be right.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None, unresolved: false }
    }

    /// Points at one value: the span of a [`Spanned`](crate::config::Spanned) of the settings.
    #[must_use]
    pub fn at(mut self, place: Span) -> Self {
        self.place = Some(place);
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn is_unresolved(&self) -> bool {
        self.unresolved
    }

    /// Where, if it is known more closely than the filter's entry.
    #[must_use]
    pub fn place(&self) -> Option<Span> {
        self.place
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BuildError {}
