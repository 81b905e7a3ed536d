//! `health_check`: how endpoints are probed.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::{at_least_one, positive_duration};
use crate::types::{Duration, WordOr};

/// How endpoints are probed: `tcp`, `none`, or `{tcp: {…}}`.
pub type HealthCheck = WordOr<HealthCheckWord, HealthCheckMap>;

/// A health check without settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheckWord {
    /// A TCP connection with the default settings.
    #[default]
    Tcp,
    /// No probes: every endpoint counts as healthy.
    None,
}

/// A health check with settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthCheckMap {
    /// Open a TCP connection.
    Tcp(TcpHealthCheck),
}

/// Settings of the TCP health check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpHealthCheck {
    /// Time between two probes of an endpoint.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// How long a connection may take.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub timeout: Duration,
    /// Successes in a row that bring an endpoint back.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(with = "std::num::NonZeroU32")]
    pub healthy_after: u32,
    /// Failures in a row that take an endpoint out.
    #[serde(deserialize_with = "at_least_one")]
    #[schemars(with = "std::num::NonZeroU32")]
    pub unhealthy_after: u32,
}

impl Default for TcpHealthCheck {
    fn default() -> Self {
        Self {
            interval: Duration::from(StdDuration::from_secs(2)),
            timeout: Duration::from(StdDuration::from_secs(1)),
            healthy_after: 1,
            unhealthy_after: 2,
        }
    }
}
