//! `retry`: when another endpoint is tried.

use schemars::JsonSchema;
use serde::Deserialize;

/// When another endpoint is tried.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often, after the first try.
    pub retries: u32,
    /// What counts as a reason. An empty list: nothing does.
    pub conditions: Vec<RetryCondition>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { retries: 1, conditions: vec![RetryCondition::ConnectError] }
    }
}

/// A reason to try another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryCondition {
    /// The connection could not be opened; safe for every method.
    ConnectError,
}
