//! `retry`: when a request is tried again.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Hedging;
use crate::config::bounds::positive_limit;
use crate::types::{Duration, Limit, Method, Percent, Rate, WordOr};

/// When a request is tried again: at another endpoint while there is one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// How often, after the first try.
    pub retries: u32,
    /// What counts as a reason. An empty list: nothing does.
    pub conditions: Vec<RetryCondition>,
    /// Methods that may be sent again. A connection that could not be opened is a reason for every method.
    pub methods: Vec<Method>,
    /// How long a retry waits.
    pub backoff: Backoff,
    /// How many retries there may be for the requests that there are.
    pub budget: RetryBudget,
    /// How long one try may take, from the choice of its endpoint to the head of its response.
    #[serde(deserialize_with = "positive_limit")]
    #[schemars(with = "Limit<Duration>")]
    pub try_timeout: Limit<Duration>,
    /// When a second endpoint is asked beside one that is slow; the first answer counts.
    pub hedge: Hedging,
}

impl Default for Retry {
    fn default() -> Self {
        let method = |method| Method::from(method);
        Self {
            retries: 1,
            conditions: vec![RetryCondition::ConnectError],
            methods: [http::Method::GET, http::Method::HEAD, http::Method::OPTIONS, http::Method::PUT, http::Method::DELETE]
                .map(method)
                .into(),
            backoff: Backoff::default(),
            budget: RetryBudget::Map(Budget::default()),
            try_timeout: Limit::none(),
            hedge: Hedging::default(),
        }
    }
}

/// A reason to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryCondition {
    /// The connection could not be opened; safe for every method.
    ConnectError,
    /// The connection broke before the head of the response had come.
    Reset,
    /// The head of the response did not come in time.
    Timeout,
    /// The endpoint answers 429.
    #[serde(rename = "429")]
    TooManyRequests,
    /// The endpoint answers 500.
    #[serde(rename = "500")]
    InternalServerError,
    /// The endpoint answers 502.
    #[serde(rename = "502")]
    BadGateway,
    /// The endpoint answers 503.
    #[serde(rename = "503")]
    ServiceUnavailable,
    /// The endpoint answers 504.
    #[serde(rename = "504")]
    GatewayTimeout,
}

/// How long a retry waits: a random time up to `base`, twice that for each further retry, and never longer than `max`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// At most so long before the first retry. `0s`: at once, each time.
    pub base: Duration,
    /// At most so long before any.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let millis = |n| Duration::from(StdDuration::from_millis(n));
        Self { base: millis(25), max: millis(250) }
    }
}

/// `none`, or `{ratio, min}`.
pub type RetryBudget = WordOr<NoBudget, Budget>;

/// No budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoBudget {
    /// Only `retries` bounds them.
    #[default]
    None,
}

/// How many retries there may be: both together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// As a share of the requests.
    pub ratio: Percent,
    /// Beside these, whatever the requests.
    pub min: Rate,
}

impl Default for Budget {
    fn default() -> Self {
        Self { ratio: Percent::of(20), min: Rate::per_second(10) }
    }
}
