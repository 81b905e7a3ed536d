//! `overload`: how much the process takes on at once.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::types::{Count, Limit};

/// Requests in flight over this get 503 with `Retry-After`, those of less important routes first (`routes.priority`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Overload {
    /// In flight at once, in the whole process. Default: `50000`.
    #[serde(deserialize_with = "some")]
    pub requests: Option<Limit<Count>>,
    /// Lower the limit while endpoints answer more slowly than they did.
    pub adaptive: bool,
}

impl Overload {
    /// In flight at once.
    #[must_use]
    pub fn limit(&self) -> Option<u32> {
        self.requests.map_or(Some(50_000), |limit| limit.get().map(Count::get))
    }
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<Count>>, D::Error> {
    Limit::deserialize(deserializer).map(Some)
}

/// Who goes last when there is too much to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Up to the limit.
    Critical,
    /// Up to nine tenths of the limit.
    #[default]
    Normal,
    /// Up to eight tenths of the limit.
    Sheddable,
}
