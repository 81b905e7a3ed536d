//! One immutable snapshot of everything that a request needs: it loads it once and keeps it.

use std::sync::Arc;
use std::time::Duration;

use crate::config::ListenerLimits;
use crate::filter::Chain;
use crate::router::{Question, Router};
use crate::types::{HeaderName, Template};
use crate::upstream::Upstream;

/// A configuration, ready to serve.
pub(crate) struct Snapshot {
    pub(super) router: Router,
    pub(super) routes: Box<[Arc<Route>]>,
    pub(super) upstreams: Box<[Arc<Upstream>]>,
    /// In the order of the boot plan's listeners.
    pub(super) limits: Box<[ListenerLimits]>,
}

/// A route, ready to serve. Nothing in it is looked up by name.
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) chain: Chain,
    pub(crate) timeout: Option<Duration>,
    pub(crate) action: Action,
}

pub(crate) enum Action {
    Upstream(Arc<Upstream>),
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

impl Snapshot {
    pub(crate) fn route(&self, question: &Question<'_>) -> Option<&Arc<Route>> {
        self.router.find(question).map(|index| &self.routes[index])
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    pub(crate) fn route_count(&self) -> usize {
        self.routes.len()
    }
}
