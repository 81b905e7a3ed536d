//! `upstreams`: the services behind the proxy.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::config::Spanned;
use crate::config::bounds::{at_least_one, positive_duration, positive_limit};
use crate::types::{Address, Authority, Duration, HeaderName, Limit, Percent, Token, WordOr};

/// A group of endpoints that serve the same thing.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Addresses, names or unix sockets, each with an optional weight.
    pub endpoints: Spanned<Vec<Spanned<Endpoint>>>,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub balance: Balance,
    /// What the endpoint sees as `Host`.
    #[serde(default)]
    pub host: HostHeader,
    /// How endpoints are probed.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// With a smaller share of healthy endpoints than this, all are used.
    #[serde(default)]
    pub panic_threshold: Percent,
    /// How long each step of an exchange with an endpoint may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When another endpoint is tried.
    #[serde(default)]
    pub retry: Retry,
}

impl Upstream {
    /// A section without endpoints or health checks.
    pub(crate) fn nowhere() -> Self {
        Self {
            endpoints: Spanned::new(Vec::new(), crate::config::Span::default()),
            balance: Balance::default(),
            host: HostHeader::default(),
            health_check: HealthCheck::Word(HealthCheckWord::None),
            panic_threshold: Percent::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
        }
    }
}

/// One endpoint: `10.0.0.1:8080`, `name:8080`, `unix:/path`, or a map with `address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its share of requests relative to the others; 0 takes it out of rotation.
    pub weight: u32,
    /// Used only while no other is healthy.
    pub backup: bool,
}

/// The long form of an [`Endpoint`].
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Endpoint", deny_unknown_fields)]
struct EndpointMap {
    /// `10.0.0.1:8080`, `name:8080` or `unix:/path`.
    address: Address,
    /// Its share of requests relative to the others; 0 takes it out of rotation.
    #[serde(default = "one")]
    weight: u32,
    /// Used only while no other is healthy.
    #[serde(default)]
    backup: bool,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for Endpoint {
    /// As a struct, so that the deserialiser of configuration files knows the keys; it hands over text as well.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Endpoint", &["address", "weight", "backup"], EndpointVisitor)
    }
}

struct EndpointVisitor;

impl<'de> Visitor<'de> for EndpointVisitor {
    type Value = Endpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a map with `address` and `weight`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Endpoint, E> {
        let address = text.parse().map_err(E::custom)?;
        Ok(Endpoint { address, weight: one(), backup: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        let EndpointMap { address, weight, backup } = EndpointMap::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Endpoint { address, weight, backup })
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (address, map) = (generator.subschema_for::<Address>(), EndpointMap::json_schema(generator));
        json_schema!({ "description": "One server.", "anyOf": [address, map] })
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, smoothly by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// Of two drawn by weight, the one with fewer requests in flight for its weight.
    LeastRequests,
    /// Of two drawn by weight, the one that is expected to answer sooner: by how long it took of late, and what it has in flight.
    PeakEwma,
    /// The same endpoint for the same key.
    Hash(HashBalance),
}

/// Settings of `balance: {hash: {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashBalance {
    /// What of a request decides.
    pub key: HashKey,
}

/// What of a request decides to which endpoint it goes. A request that has no such thing goes to one by chance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The path and the query.
    Uri,
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Token),
}

/// What the endpoint sees as `Host`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostHeader {
    /// What the client sent.
    #[default]
    Preserve,
    /// The endpoint's own address or name.
    Endpoint,
    /// A fixed value.
    Set(Authority),
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn an_endpoint_is_text_or_a_map() {
        let endpoint = |text: &str| decoded::<Endpoint>(text).unwrap();
        let address: Address = "10.0.0.1:80".parse().unwrap();
        assert_eq!(endpoint("10.0.0.1:80"), Endpoint { address: address.clone(), weight: 1, backup: false });
        assert_eq!(endpoint("{address: 10.0.0.1:80}"), Endpoint { address: address.clone(), weight: 1, backup: false });
        assert_eq!(endpoint("{address: 10.0.0.1:80, weight: 0, backup: true}"), Endpoint { address, weight: 0, backup: true });
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let upstream = decoded::<Upstream>("{endpoints: [a:80]}").unwrap();
        assert_eq!(upstream.balance, Balance::RoundRobin);
        assert_eq!(upstream.host, HostHeader::Preserve);
        assert_eq!(upstream.health_check, WordOr::Word(HealthCheckWord::Tcp));
        assert_eq!(upstream.timeouts, decoded("{connect: 3s, response: 60s, read: 60s, write: 60s, idle: 60s}").unwrap());
        assert_eq!(upstream.retry, decoded("{retries: 1, conditions: [connect_error]}").unwrap());
        let check = "{tcp: {interval: 2s, timeout: 1s, healthy_after: 1, unhealthy_after: 2}}";
        let given: HealthCheck = decoded(check).unwrap();
        assert_eq!(given, WordOr::Map(HealthCheckMap::Tcp(TcpHealthCheck::default())));
    }

    #[test]
    fn words_and_maps() {
        assert_eq!(decoded::<HealthCheck>("none"), Ok(WordOr::Word(HealthCheckWord::None)));
        assert_eq!(decoded::<HostHeader>("endpoint"), Ok(HostHeader::Endpoint));
        assert_eq!(decoded::<HostHeader>("{set: api.internal}"), Ok(HostHeader::Set("api.internal".parse().unwrap())));
        let hash = |key| Ok(Balance::Hash(HashBalance { key }));
        assert_eq!(decoded::<Balance>("peak_ewma"), Ok(Balance::PeakEwma));
        assert_eq!(decoded::<Balance>("{hash: {key: uri}}"), hash(HashKey::Uri));
        assert_eq!(decoded::<Balance>("{hash: {key: {header: x-user}}}"), hash(HashKey::Header("x-user".parse().unwrap())));
        assert_eq!(decoded::<Timeouts>("{read: none}").unwrap().read, Limit::none());
    }
}
