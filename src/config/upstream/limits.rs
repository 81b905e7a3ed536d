//! `limits`: how much of an endpoint is asked for at once.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::positive_duration;
use crate::types::{Count, Duration, Limit};

/// How much each endpoint is given at once. What is beyond it waits for its turn, and over `queue` and `queue_timeout` the answer is 503.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointLimits {
    /// Connections that carry a request.
    pub connections: Limit<Count>,
    /// Requests under way.
    pub requests: Limit<Count>,
    /// Requests that wait, for each endpoint that is given requests; 0: none waits.
    pub queue: u32,
    /// How long a request waits.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub queue_timeout: Duration,
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self {
            connections: Limit::none(),
            requests: Limit::none(),
            queue: 128,
            queue_timeout: Duration::from(StdDuration::from_secs(1)),
        }
    }
}
