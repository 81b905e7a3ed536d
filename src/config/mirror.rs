//! `mirror`: copies of a route's requests, whose answers are dropped.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::types::{Name, Percent};

/// Copies of requests go to another upstream too, and its answers are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Where the copies go.
    pub upstream: Spanned<Name>,
    /// Of what share of the requests. Default: all.
    #[serde(default = "all")]
    pub ratio: Percent,
}

fn all() -> Percent {
    Percent::of(100)
}
