//! Why a request goes where it goes: what is told of it.

mod refused;
mod tracer;

use serde::Serialize;

pub(crate) use self::refused::explained;
pub(super) use self::tracer::Tracer;

/// Why a request goes where it goes. `docs/EXPLAIN.md` says what stands in its JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Trace {
    /// The request as it is matched.
    pub request: Asked,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The routes that were considered: the one that is taken, those that match too, then those that don't, the nearest first.
    pub candidates: Vec<Candidate>,
    /// How many more routes there are, none of which matches.
    pub candidates_left_out: usize,
    /// The route that is taken.
    pub route: Option<Taken>,
    /// What its filters would do, in order.
    pub filters: Vec<Step>,
    /// What the route does.
    pub action: Option<Action>,
    /// Where a copy of it may go.
    pub mirror: Option<Copied>,
    /// The upstream that the request would go to.
    pub upstream: Option<Target>,
    /// The request as it would leave.
    pub sent: Option<Sent>,
}

impl Trace {
    /// One that says no more yet than what was asked, and what becomes of it.
    pub(super) fn new(request: Asked, outcome: Outcome) -> Self {
        Self {
            request,
            outcome,
            candidates: Vec::new(),
            candidates_left_out: 0,
            route: None,
            filters: Vec::new(),
            action: None,
            mirror: None,
            upstream: None,
            sent: None,
        }
    }
}

/// A request as it is matched: in normal form.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// In lower case, without port.
    pub host: String,
    /// In normal form.
    pub path: String,
    /// Without the `?`.
    pub query: Option<String>,
    /// The client's address, as far as proxies in front are believed.
    pub client: Option<String>,
    /// Who is connected, where that is somebody else.
    pub peer: Option<String>,
    /// The listener that it came through.
    pub listener: Option<String>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// `forwarded`, `answered` (by Ravelin itself), `no_route`, `refused` (before it was routed) or `failed` (after).
    pub kind: &'static str,
    /// The status of Ravelin's own answer.
    pub status: Option<u16>,
    /// Why it is refused or failed, in a word.
    pub reason: Option<String>,
    /// And in a sentence.
    pub message: Option<String>,
}

/// A route, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// The route's name.
    pub route: String,
    /// `file:line:column`; not known to a process that serves.
    pub place: Option<String>,
    /// `taken`, `outranked` (it matches too) or `failed` (it does not match).
    pub verdict: &'static str,
    /// `outranked`: the criterion by which the one that is taken is more specific.
    pub by: Option<String>,
    /// The same in words.
    pub why: Option<&'static str>,
    /// `failed`: the first condition that does not hold, as it stands in the file.
    pub condition: Option<String>,
    /// What the request has in its place.
    pub saw: Option<String>,
    /// Whether host and path match.
    pub near: bool,
}

/// The route that is taken.
#[derive(Debug, Clone, Serialize)]
pub struct Taken {
    /// Its name.
    pub name: String,
    /// `file:line:column`; not known to a process that serves.
    pub place: Option<String>,
    /// The limit on the whole exchange.
    pub timeout: Option<String>,
    /// How its requests are carried: `express`, or `general`.
    pub lane: &'static str,
    /// `general`: why.
    pub lane_reason: Option<String>,
}

/// A filter, and what it would do.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Its key in the file.
    pub filter: &'static str,
    /// What it says that it would do.
    pub does: Option<String>,
    /// It runs on live requests only: what it would change is not in `sent`.
    pub unseen: bool,
}

/// What a route does.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It forwards to its upstream.
    Upstream,
    /// It forwards to one of several.
    Split {
        /// The cookie by which a client stays on its side.
        cookie: Option<String>,
        /// Whether the request has that cookie, with the name of a side in it.
        by_cookie: bool,
        /// The upstreams and their weights.
        sides: Vec<Side>,
    },
    /// It redirects.
    Redirect {
        /// Where to.
        location: String,
    },
    /// It answers.
    Respond {
        /// The type of the body.
        content_type: Option<String>,
    },
    /// A filter answers before the route can.
    Filter,
}

/// Where a copy may go.
#[derive(Debug, Clone, Serialize)]
pub struct Copied {
    /// The upstream's name.
    pub upstream: String,
    /// Of what share of the requests.
    pub ratio: String,
}

/// A side of a split.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// The upstream.
    pub upstream: String,
    /// Its weight.
    pub weight: u32,
}

/// Where the request would go.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// The upstream's name.
    pub name: String,
    /// `round_robin`, `random`, `least_requests`, `peak_ewma` or `hash`.
    pub balance: &'static str,
    /// Where clients stay at endpoints: by which cookie.
    pub sticky: Option<Sticky>,
    /// Who can be picked.
    pub endpoints: Vec<Endpoint>,
    /// The one that `sent` is shown for: the next whose turn it is. `None`: none is healthy.
    pub endpoint: Option<String>,
    /// How long to wait for a connection.
    pub connect_timeout: String,
    /// For the response's head.
    pub response_timeout: String,
    /// Between two reads of its body.
    pub read_timeout: String,
    /// How often it may be tried again.
    pub retries: u32,
    /// When it would be.
    pub retry: Retry,
}

/// When a request would be tried again.
#[derive(Debug, Clone, Serialize)]
pub struct Retry {
    /// The reasons that hold for its method.
    pub conditions: Vec<&'static str>,
    /// The first retry waits so long at most.
    pub backoff_base: String,
    /// Any retry waits so long at most.
    pub backoff_max: String,
    /// What share of the requests may be retries, and how many beside these. `None`: there is no budget.
    pub budget: Option<(String, String)>,
    /// How long one try may take.
    pub try_timeout: Option<String>,
    /// How long the first endpoint is asked alone; `None`: no other is asked beside it.
    pub hedge: Option<String>,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// Its address; a name that was not looked up.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// Whether it is, by its health check; not known offline, as all below.
    pub healthy: Option<bool>,
    /// Whether it is left out for how its requests ended.
    pub ejected: Option<bool>,
    /// Whether it is left out by an operator.
    pub drained: Option<bool>,
    /// How much of its weight counts now, in hundredths: less than 100 while it starts slowly.
    pub share: Option<u32>,
    /// Requests under way at it.
    pub requests: Option<u32>,
}

/// What keeps a client at an endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// Whether the request has that cookie, it is one of ours, and its endpoint takes requests: so it decides.
    pub by_cookie: bool,
}

/// A request as it would leave.
#[derive(Debug, Clone, Serialize)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The path, and the query.
    pub target: String,
    /// Names and values of its fields; a secret of the configuration's is `***`.
    pub headers: Vec<(String, String)>,
    /// Filters whose changes are not in it.
    pub without: Vec<&'static str>,
}
