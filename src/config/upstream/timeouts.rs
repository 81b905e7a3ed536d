//! `timeouts`: how long each step of an exchange may take.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::positive_limit;
use crate::types::{Duration, Limit};

/// How long each step of an exchange may take; `none` switches one off.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To open a connection.
    #[serde(deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub connect: Limit<Duration>,
    /// From the request's end to the first byte of the response's head; over it 504.
    #[serde(deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub response: Limit<Duration>,
    /// Between two reads of a response body.
    #[serde(deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub read: Limit<Duration>,
    /// For one write of the request.
    #[serde(deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub write: Limit<Duration>,
    /// How long an unused connection is kept; `0s` keeps none.
    pub idle: Limit<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |n| Limit::at(Duration::from(StdDuration::from_secs(n)));
        Self { connect: seconds(3), response: seconds(60), read: seconds(60), write: seconds(60), idle: seconds(60) }
    }
}
