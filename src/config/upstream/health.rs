//! `health_check`: how endpoints are probed.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::config::bounds::{at_least_one, given, not_empty, positive_duration};
use crate::types::{Authority, Duration, RequestTarget, StatusRange, WordOr};

/// How endpoints are probed: `tcp`, `none`, `{tcp: {…}}`, `{http: {…}}` or `{grpc: {…}}`.
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
    /// Send a request.
    Http(HttpHealthCheck),
    /// Ask the gRPC health service (`grpc.health.v1.Health/Check`), over HTTP/2.
    Grpc(GrpcHealthCheck),
}

/// Settings of the TCP health check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpHealthCheck {
    /// Time between two probes of an endpoint.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// How long a probe may take, from the first packet to the end.
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
    /// Probed in the place of the endpoint's own port.
    #[serde(deserialize_with = "port")]
    #[schemars(with = "std::num::NonZeroU16")]
    pub port: Option<u16>,
    /// Whether it is probed over TLS; by default as requests go there.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub tls: Option<bool>,
}

/// Settings of the HTTP health check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpHealthCheck {
    /// What is asked for, by GET.
    pub path: RequestTarget,
    /// What is sent as `Host`; by default the endpoint as it is configured.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "Authority")]
    pub host: Option<Authority>,
    /// Statuses, and ranges of them, by which an endpoint is healthy.
    #[serde(deserialize_with = "not_empty")]
    pub expect: Vec<StatusRange>,
    /// Time between two probes of an endpoint.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// How long a probe may take, from the first packet to the end.
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
    /// Probed in the place of the endpoint's own port.
    #[serde(deserialize_with = "port")]
    #[schemars(with = "std::num::NonZeroU16")]
    pub port: Option<u16>,
    /// Whether it is probed over TLS; by default as requests go there.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub tls: Option<bool>,
}

/// Settings of the gRPC health check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcHealthCheck {
    /// The service that is asked about; by default the server as a whole.
    pub service: String,
    /// Time between two probes of an endpoint.
    #[serde(deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub interval: Duration,
    /// How long a probe may take, from the first packet to the end.
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
    /// Probed in the place of the endpoint's own port.
    #[serde(deserialize_with = "port")]
    #[schemars(with = "std::num::NonZeroU16")]
    pub port: Option<u16>,
    /// Whether it is probed over TLS; by default as requests go there.
    #[serde(deserialize_with = "given")]
    #[schemars(with = "bool")]
    pub tls: Option<bool>,
}

impl Default for TcpHealthCheck {
    fn default() -> Self {
        let (interval, timeout) = times();
        Self { interval, timeout, healthy_after: 1, unhealthy_after: 2, port: None, tls: None }
    }
}

impl Default for HttpHealthCheck {
    fn default() -> Self {
        let (interval, timeout) = times();
        Self {
            path: RequestTarget::healthz(),
            host: None,
            expect: vec![StatusRange::success()],
            interval,
            timeout,
            healthy_after: 1,
            unhealthy_after: 2,
            port: None,
            tls: None,
        }
    }
}

impl Default for GrpcHealthCheck {
    fn default() -> Self {
        let (interval, timeout) = times();
        Self { service: String::new(), interval, timeout, healthy_after: 1, unhealthy_after: 2, port: None, tls: None }
    }
}

fn times() -> (Duration, Duration) {
    (Duration::from(StdDuration::from_secs(2)), Duration::from(StdDuration::from_secs(1)))
}

/// A port that somebody can listen at.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    match u16::deserialize(deserializer)? {
        0 => Err(D::Error::custom("nobody listens at port 0")),
        port => Ok(Some(port)),
    }
}
