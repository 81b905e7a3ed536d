//! `upstreams`: the services behind the proxy.

mod balance;
mod discover;
mod endpoint;
mod health;
mod hedge;
mod limits;
mod outlier;
mod paths;
mod protocol;
mod retry;
mod sticky;
mod timeouts;
mod tls;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::config::bounds::{given, positive_given};
use crate::types::{Authority, Duration, Percent};

pub use self::balance::{Balance, HashBalance, HashKey};
pub(crate) use self::discover::endpoints_of;
pub use self::discover::{Discover, DnsDiscovery, FileDiscovery, SrvDiscovery};
pub use self::endpoint::Endpoint;
pub use self::health::{GrpcHealthCheck, HealthCheck, HealthCheckMap, HealthCheckWord, HttpHealthCheck, TcpHealthCheck};
pub use self::hedge::{Hedge, Hedging, NoHedge};
pub use self::limits::EndpointLimits;
pub use self::outlier::OutlierDetection;
pub(crate) use self::paths::make_absolute;
pub(crate) use self::protocol::STREAMS;
pub use self::protocol::{Protocol, ProxyHeader};
pub use self::retry::{Backoff, Budget, NoBudget, Retry, RetryBudget, RetryCondition};
pub use self::sticky::Sticky;
pub use self::timeouts::Timeouts;
pub use self::tls::UpstreamTls;

/// A group of endpoints that serve the same thing.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Addresses, names or unix sockets, each with an optional weight.
    #[serde(default)]
    pub endpoints: Spanned<Vec<Spanned<Endpoint>>>,
    /// Endpoints that are looked up, in the place of `endpoints`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Discover")]
    pub discover: Option<Spanned<Discover>>,
    /// How an endpoint is chosen for a request.
    #[serde(default)]
    pub balance: Balance,
    /// What is spoken with endpoints.
    #[serde(default)]
    pub protocol: Spanned<Protocol>,
    /// TLS towards endpoints. Default: none.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "UpstreamTls")]
    pub tls: Option<Spanned<UpstreamTls>>,
    /// Which PROXY header tells endpoints whom a connection is for. Default: none.
    pub proxy_protocol: Option<ProxyHeader>,
    /// What the endpoint sees as `Host`.
    #[serde(default)]
    pub host: HostHeader,
    /// How endpoints are probed.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// When an endpoint is left out for how its requests ended. Default: it never is.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OutlierDetection")]
    pub outlier_detection: Option<OutlierDetection>,
    /// An endpoint that is new, or has recovered, is given its whole share of requests only after this time; until then, more and more.
    /// Default: at once.
    #[serde(default, deserialize_with = "positive_given")]
    #[schemars(with = "Duration")]
    pub slow_start: Option<Duration>,
    /// With a smaller share of healthy endpoints than this, all are used.
    #[serde(default)]
    pub panic_threshold: Percent,
    /// A client stays at the endpoint that it was given first. Default: each request is balanced for itself.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Sticky")]
    pub sticky: Option<Sticky>,
    /// How much each endpoint is given at once.
    #[serde(default)]
    pub limits: EndpointLimits,
    /// How long each step of an exchange with an endpoint may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// When a request is tried again.
    #[serde(default)]
    pub retry: Retry,
}

impl Upstream {
    /// A section without endpoints or health checks.
    pub(crate) fn nowhere() -> Self {
        Self {
            endpoints: Spanned::new(Vec::new(), crate::config::Span::default()),
            discover: None,
            balance: Balance::default(),
            protocol: Spanned::default(),
            tls: None,
            proxy_protocol: None,
            host: HostHeader::default(),
            health_check: HealthCheck::Word(HealthCheckWord::None),
            outlier_detection: None,
            slow_start: None,
            panic_threshold: Percent::default(),
            sticky: None,
            limits: EndpointLimits::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;
    use crate::types::{Address, Limit, WordOr};

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
        let retry = "{retries: 1, conditions: [connect_error], methods: [GET, HEAD, OPTIONS, PUT, DELETE], \
                     backoff: {base: 25ms, max: 250ms}, budget: {ratio: 20%, min: 10/s}, try_timeout: none, hedge: none}";
        assert_eq!(upstream.retry, decoded(retry).unwrap());
        let ejecting = "{consecutive_errors: 5, error_ratio: 50%, window: 10s, eject_for: 30s, max_ejected: 50%}";
        assert_eq!(decoded::<OutlierDetection>("{}").unwrap(), decoded(ejecting).unwrap());
        assert_eq!(upstream.limits, decoded("{connections: none, requests: none, queue: 128, queue_timeout: 1s}").unwrap());
        let sticky = |text: &str| decoded::<Sticky>(text).unwrap();
        assert_eq!(sticky("{key: sesame}"), sticky("{cookie: ravelin_lb, key: sesame, ttl: 1h}"));
        let http = "{http: {path: /healthz, expect: [200-299], interval: 2s, timeout: 1s, healthy_after: 1, unhealthy_after: 2}}";
        assert_eq!(decoded::<HealthCheck>("{http: {}}").unwrap(), decoded(http).unwrap());
        let grpc = "{grpc: {service: '', interval: 2s, timeout: 1s, healthy_after: 1, unhealthy_after: 2}}";
        assert_eq!(decoded::<HealthCheck>("{grpc: {}}").unwrap(), decoded(grpc).unwrap());
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
