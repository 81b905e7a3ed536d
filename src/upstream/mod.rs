//! Upstreams: who can serve a request, and who is picked.
//!
//! Each upstream rests on one Pingora `LoadBalancer`: its backends come from `directory`, its health from Pingora's
//! TCP check, its order from `balance`. What the request path needs of an endpoint (the peer, the name for
//! `Host`) is built once per endpoint and kept in the directory's table.

mod balance;
mod directory;
mod endpoint;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::server::ShutdownWatch;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Backends, LoadBalancer};

pub use self::endpoint::{Endpoint, EndpointError};

use self::balance::{Random, SmoothRoundRobin};
use self::directory::{Directory, SharedDirectory};
use self::probe::Probe;
use crate::config::{self, Balance, HealthCheckMap, HealthCheckWord, HostHeader, RetryCondition};
use crate::observe::{UpstreamMeter, metrics};
use crate::types::WordOr;

/// Endpoints that serve the same thing, and the rules by which one of them is picked.
pub struct Upstream {
    name: Box<str>,
    directory: Arc<Directory>,
    balancer: Balancer,
    deadlines: Deadlines,
    retries: Retries,
    /// Failures in a row that take an endpoint out; 0 without a health check.
    probes: u32,
    section: config::Upstream,
    meter: Arc<UpstreamMeter>,
}

/// When another endpoint is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// How often, after the first try.
    pub max: u32,
    /// Whether a connection that could not be opened is a reason.
    pub on_connect_error: bool,
}

/// How long an exchange with an endpoint may wait for the next step; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the end of the request to the response's head.
    pub response: Option<Duration>,
    /// Between two reads of a response body.
    pub read: Option<Duration>,
}

enum Balancer {
    RoundRobin(LoadBalancer<SmoothRoundRobin>),
    Random(LoadBalancer<Random>),
}

impl Upstream {
    /// Builds an upstream from its section. Nothing is resolved, probed or connected yet: [`Upstream::run`] does that.
    ///
    /// # Errors
    /// An endpoint's address can't be used.
    pub fn new(name: &str, section: config::Upstream) -> Result<Self, EndpointError> {
        let meter = metrics().upstream(name);
        let directory = Arc::new(Directory::new(name, &section, meter.clone())?);
        let retries = Retries {
            max: section.retry.retries,
            on_connect_error: section.retry.conditions.contains(&RetryCondition::ConnectError),
        };
        let limit = |limit: &crate::types::Limit<crate::types::Duration>| limit.get().map(crate::types::Duration::get);
        let deadlines = Deadlines { response: limit(&section.timeouts.response), read: limit(&section.timeouts.read) };
        let balancer = match section.balance {
            Balance::RoundRobin => Balancer::RoundRobin(load_balancer(name, &directory, &section)),
            Balance::Random => Balancer::Random(load_balancer(name, &directory, &section)),
        };
        let probes = probes(&section);
        Ok(Self { name: name.into(), directory, balancer, deadlines, retries, probes, section, meter })
    }

    /// An upstream without endpoints, for tests of filters that choose one by name.
    pub(crate) fn nowhere(name: &str) -> Self {
        let section = config::Upstream::nowhere();
        let meter = metrics().upstream(name);
        let directory = Arc::new(Directory::empty(name, meter.clone()));
        let balancer = Balancer::RoundRobin(load_balancer(name, &directory, &section));
        let retries = Retries { max: 0, on_connect_error: false };
        let deadlines = Deadlines { response: None, read: None };
        Self { name: name.into(), directory, balancer, deadlines, retries, probes: 0, section, meter }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was built from a section that says the same.
    pub(crate) fn is_of(&self, section: &config::Upstream) -> bool {
        self.section == *section
    }

    /// When another endpoint is tried.
    #[must_use]
    pub fn retries(&self) -> Retries {
        self.retries
    }

    /// How long an exchange may wait.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// What an endpoint gets as `Host`, where it is not what the client sent.
    #[must_use]
    pub fn host_for<'a>(&'a self, endpoint: &'a Endpoint) -> Option<&'a str> {
        match &self.section.host {
            HostHeader::Preserve => None,
            HostHeader::Endpoint => Some(endpoint.host()),
            HostHeader::Set(host) => Some(host.as_str()),
        }
    }

    /// What is counted of it.
    pub(crate) fn meter(&self) -> &Arc<UpstreamMeter> {
        &self.meter
    }

    /// Each endpoint's address, and whether it is given requests as far as its health goes; in the order of addresses.
    pub(crate) fn health(&self) -> Vec<(String, bool)> {
        let backends = self.backends();
        backends.get_backend().iter().map(|backend| (backend.addr.to_string(), backends.ready(backend))).collect()
    }

    /// Picks a healthy endpoint: one that is not in `tried` if there is one. `None`: no endpoint is healthy.
    #[must_use]
    pub fn select(&self, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let fresh = self.pick(|backend, healthy| healthy && !tried.contains(&backend.addr));
        let picked = match fresh {
            None if !tried.is_empty() => self.pick(|_, healthy| healthy),
            other => other,
        };
        picked.and_then(|backend| self.directory.endpoint(&backend.addr))
    }

    /// Whether a healthy endpoint is left that is not in `tried`.
    #[must_use]
    pub fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.backends().get_backend().iter().any(|backend| !tried.contains(&backend.addr) && self.backends().ready(backend))
    }

    /// Resolves names and probes endpoints until the process stops. Endpoints given by address are known from the start.
    pub async fn run(&self, shutdown: ShutdownWatch) {
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.run(shutdown, None).await,
            Balancer::Random(balancer) => balancer.run(shutdown, None).await,
        }
    }

    /// Resolves names once, so that the first requests find endpoints; with `probe` also finds out which are healthy.
    pub async fn prepare(&self, probe: bool) {
        // Resolution that fails is logged by the directory and tried again by `run`.
        let _ = match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.update().await,
            Balancer::Random(balancer) => balancer.update().await,
        };
        if probe {
            for _ in 0..self.probes {
                self.backends().run_health_check(true).await;
            }
        }
    }

    fn pick(&self, accept: impl Fn(&Backend, bool) -> bool) -> Option<Backend> {
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.select_with(b"", balance::MAX_STEPS, accept),
            Balancer::Random(balancer) => balancer.select_with(b"", balance::MAX_STEPS, accept),
        }
    }

    fn backends(&self) -> &Backends {
        match &self.balancer {
            Balancer::RoundRobin(balancer) => balancer.backends(),
            Balancer::Random(balancer) => balancer.backends(),
        }
    }
}

fn load_balancer<S>(name: &str, directory: &Arc<Directory>, section: &config::Upstream) -> LoadBalancer<S>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let mut balancer = LoadBalancer::from_backends(Backends::new(Box::new(SharedDirectory(directory.clone()))));
    balancer.update_frequency = directory.refresh();
    balancer.parallel_health_check = true;
    if let Some(settings) = health_check(section) {
        balancer.health_check_frequency = Some(settings.interval.get());
        balancer.set_health_check(Box::new(Probe::new(name, &settings)));
    }
    balancer
}

fn health_check(section: &config::Upstream) -> Option<config::TcpHealthCheck> {
    match &section.health_check {
        WordOr::Word(HealthCheckWord::None) => None,
        WordOr::Word(HealthCheckWord::Tcp) => Some(config::TcpHealthCheck::default()),
        WordOr::Map(HealthCheckMap::Tcp(settings)) => Some(settings.clone()),
    }
}

fn probes(section: &config::Upstream) -> u32 {
    health_check(section).map_or(0, |settings| settings.unhealthy_after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::upstream;

    fn picks(upstream: &Upstream, n: usize) -> Vec<String> {
        (0..n).map(|_| upstream.select(&[]).unwrap().address().to_string()).collect()
    }

    async fn ready(yaml: &str) -> Upstream {
        let upstream = Upstream::new("u", upstream(yaml)).unwrap();
        upstream.prepare(false).await;
        upstream
    }

    #[tokio::test]
    async fn endpoints_take_turns() {
        let upstream = ready("endpoints: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3]").await;
        let mut seen = picks(&upstream, 3);
        seen.sort();
        assert_eq!(seen, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    }

    #[tokio::test]
    async fn a_weight_of_zero_takes_an_endpoint_out() {
        let upstream = ready("endpoints: [127.0.0.1:1, {address: 127.0.0.1:2, weight: 0}]").await;
        assert_eq!(picks(&upstream, 3), ["127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1"]);
    }

    #[tokio::test]
    async fn a_tried_endpoint_is_avoided_while_there_is_another() {
        let upstream = ready("endpoints: [127.0.0.1:1, 127.0.0.1:2]\nbalance: random").await;
        let tried = [upstream.select(&[]).unwrap().address().clone()];
        for _ in 0..20 {
            assert_ne!(upstream.select(&tried).unwrap().address(), &tried[0]);
        }
        assert!(upstream.has_other(&tried));
        let both = [tried[0].clone(), upstream.select(&tried).unwrap().address().clone()];
        assert!(!upstream.has_other(&both));
        assert!(upstream.select(&both).is_some());
    }

    #[tokio::test]
    async fn a_name_becomes_its_addresses() {
        let upstream = ready("endpoints: [localhost:7]\nhost: endpoint").await;
        let endpoint = upstream.select(&[]).unwrap();
        assert_eq!(upstream.host_for(&endpoint), Some("localhost:7"));
    }
}
