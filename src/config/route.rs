//! `routes`: which request goes where.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::{not_empty, positive_limit};
use crate::config::section::RawFilter;
use crate::config::{Match, Mirror, Priority, Spanned};
use crate::types::{Duration, HeaderName, Limit, Name, Status, Template, Token};

/// One route: what it matches, what runs on the way, and where the request goes.
///
/// Exactly one of `upstream`, `split`, `redirect` and `respond` must be given.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Route {
    /// What a request must be for this route. Default: everything.
    #[serde(default, rename = "match")]
    pub(crate) matches: Match,
    /// The listeners whose requests may take this route. Default: all.
    #[serde(default, deserialize_with = "not_empty")]
    #[schemars(with = "Vec<Name>", length(min = 1))]
    pub(crate) listeners: Vec<Spanned<Name>>,
    /// How the path is read.
    #[serde(default)]
    pub(crate) path: PathRules,
    /// Leave out `defaults.filters`.
    #[serde(default)]
    pub(crate) skip_defaults: bool,
    /// Filters, in the order in which they see the request.
    #[serde(default)]
    pub(crate) filters: Vec<RawFilter>,
    /// For the whole exchange: 504 before the response's head, an abort after it.
    #[serde(default, deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub(crate) timeout: Limit<Duration>,
    /// Who goes last when the process has too much to do. Default: `normal`.
    #[serde(default)]
    pub(crate) priority: Priority,
    /// Action: forward to this upstream.
    pub(crate) upstream: Option<Spanned<Name>>,
    /// Action: forward to one of these upstreams, by weight.
    pub(crate) split: Option<Spanned<Vec<Side>>>,
    /// With `split`: a client stays on its side. Default: each request is drawn anew.
    pub(crate) sticky_split: Option<Spanned<StickySplit>>,
    /// Beside `upstream` or `split`: copies of requests go here too, and the answers to them are dropped.
    pub(crate) mirror: Option<Spanned<Mirror>>,
    /// Action: answer with a redirect.
    pub(crate) redirect: Option<Spanned<Redirect>>,
    /// Action: answer with a fixed response.
    pub(crate) respond: Option<Spanned<Respond>>,
}

/// How the path is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PathRules {
    /// Whether `//` is `/`, for matching and for what is forwarded. Default: true.
    pub(crate) merge_slashes: bool,
}

impl Default for PathRules {
    fn default() -> Self {
        Self { merge_slashes: true }
    }
}

/// One side of a `split`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// The upstream.
    pub upstream: Spanned<Name>,
    /// Its share of the requests, relative to the others. 0: none but those of clients that are on it already.
    pub weight: Spanned<u32>,
}

/// How a client is kept on its side.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickySplit {
    /// The name of the cookie that names the side.
    pub cookie: Token,
}

/// Answer with a redirect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// The `Location`; may hold `{{ … }}`.
    pub to: Spanned<Template>,
    /// 301, 302, 303, 307 or 308. Default: 308.
    pub status: Option<Spanned<Status>>,
}

/// Answer with a fixed response.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Default: 200.
    pub status: Option<Spanned<Status>>,
    /// Header fields; values may hold `{{ … }}`.
    #[serde(default)]
    pub headers: BTreeMap<HeaderName, Spanned<Template>>,
    /// The body; may hold `{{ … }}`. Default: empty.
    #[serde(default)]
    pub body: Option<Spanned<Template>>,
}
