//! `retry.hedge`: when a second endpoint is asked beside one that is slow.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::types::{Delay, WordOr};

/// `none`, or `{after: …}`.
pub type Hedging = WordOr<NoHedge, Hedge>;

/// Nobody else is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoHedge {
    /// An endpoint has the time that `timeouts` give it.
    #[default]
    None,
}

/// When another endpoint is asked too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// Once the first has taken so long: a time, or longer than this share of the upstream's requests lately.
    pub after: Delay,
}
