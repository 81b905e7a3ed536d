//! Active health checks: who is asked how, and when.
//!
//! Each endpoint has a task of its own, and times that are spread over the interval, so that a thousand endpoints are not asked at one
//! moment. A probe has one limit for all that it does. What it finds belongs to the endpoint, and goes on over a reload.

mod dial;
mod grpc;
mod http;
mod kept;
mod tcp;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pingora_core::protocols::l4::socket::SocketAddr;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::dial::{Detour, dial};
use self::kept::Kept;
use super::endpoint::Endpoint;
use super::health::Thresholds;
use crate::config::{GrpcHealthCheck, HealthCheck, HealthCheckMap, HealthCheckWord, HttpHealthCheck, Protocol, TcpHealthCheck};
use crate::types::WordOr;

/// How long a probe waits for a descriptor before it looks again.
const PAUSE: Duration = Duration::from_millis(50);
/// First probes of a configuration at once.
const AT_ONCE: usize = 256;

/// How the endpoints of an upstream are probed.
pub(super) struct Check {
    upstream: Box<str>,
    kind: Kind,
    interval: Duration,
    timeout: Duration,
    thresholds: Thresholds,
    detour: Detour,
}

enum Kind {
    Tcp,
    Http(HttpHealthCheck),
    Grpc(GrpcHealthCheck),
}

impl Kind {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Grpc(_) => "grpc",
        }
    }
}

/// Why a probe failed.
type Ill = String;

impl Check {
    /// `None`: nobody is probed.
    pub(super) fn new(upstream: &str, settings: &HealthCheck) -> Option<Self> {
        let (kind, interval, timeout, [healthy_after, unhealthy_after], port, tls) = match settings {
            WordOr::Word(HealthCheckWord::None) => return None,
            WordOr::Word(HealthCheckWord::Tcp) => {
                return Self::new(upstream, &WordOr::Map(HealthCheckMap::Tcp(TcpHealthCheck::default())));
            }
            WordOr::Map(HealthCheckMap::Tcp(tcp)) => {
                (Kind::Tcp, tcp.interval, tcp.timeout, [tcp.healthy_after, tcp.unhealthy_after], tcp.port, tcp.tls)
            }
            WordOr::Map(HealthCheckMap::Http(http)) => {
                let kind = Kind::Http(http.clone());
                (kind, http.interval, http.timeout, [http.healthy_after, http.unhealthy_after], http.port, http.tls)
            }
            WordOr::Map(HealthCheckMap::Grpc(grpc)) => {
                let kind = Kind::Grpc(grpc.clone());
                (kind, grpc.interval, grpc.timeout, [grpc.healthy_after, grpc.unhealthy_after], grpc.port, grpc.tls)
            }
        };
        let thresholds = Thresholds { healthy_after, unhealthy_after };
        let (interval, timeout) = (interval.get(), timeout.get());
        Some(Self { upstream: upstream.into(), kind, interval, timeout, thresholds, detour: Detour { port, tls } })
    }

    /// Finds out who is healthy among those of whom nothing is known yet.
    pub(super) async fn prepare(self: &Arc<Self>, endpoints: impl Iterator<Item = Arc<Endpoint>>) {
        let mut probing = JoinSet::new();
        for endpoint in endpoints.filter(|endpoint| !endpoint.vitals().state().probed) {
            if probing.len() >= AT_ONCE {
                probing.join_next().await;
            }
            let check = self.clone();
            probing.spawn(async move {
                for _ in 0..check.thresholds.unhealthy_after {
                    check.ask(&endpoint, None).await;
                    if endpoint.vitals().state().health == super::health::Health::new() {
                        break;
                    }
                }
            });
        }
        while probing.join_next().await.is_some() {}
    }

    /// Probes an endpoint on and on. `bell` is rung when its health has changed.
    async fn watch(self: Arc<Self>, endpoint: Arc<Endpoint>, bell: Arc<Notify>) {
        // Soon for the first time, and from then on spread out.
        sleep(self.interval.mul_f64(0.1 * fastrand::f64())).await;
        let mut next = Instant::now() + self.interval.mul_f64(0.5 + 0.5 * fastrand::f64());
        let mut kept = None;
        loop {
            if self.ask(&endpoint, Some(&mut kept)).await {
                bell.notify_one();
            }
            sleep_until(with_others(next, self.interval)).await;
            next = next.max(Instant::now()) + self.interval.mul_f64(0.95 + 0.1 * fastrand::f64());
        }
    }

    /// Probes an endpoint once. Whether its health has changed.
    async fn ask(&self, endpoint: &Endpoint, kept: Option<&mut Option<Kept>>) -> bool {
        let found = self.probe(endpoint, kept).await;
        let mut state = endpoint.vitals().state();
        state.probed = true;
        if !state.health.heard(found.is_ok(), self.thresholds) {
            return false;
        }
        let (upstream, address, check) = (&self.upstream, endpoint.as_str(), self.kind.as_str());
        state.news = Some(match found {
            Ok(()) => {
                (log::Level::Info, format!("endpoint is healthy again upstream={upstream} endpoint={address} check={check}"))
            }
            Err(ill) => {
                let news = format!("endpoint is unhealthy upstream={upstream} endpoint={address} check={check} reason={ill:?}");
                (log::Level::Warn, news)
            }
        });
        drop(state);
        endpoint.meter().health_changed();
        true
    }

    /// `kept`: where a connection waits between one probe and the next.
    async fn probe(&self, endpoint: &Endpoint, mut kept: Option<&mut Option<Kept>>) -> Result<(), Ill> {
        loop {
            let probing = async {
                if let Some(kept) = kept.as_deref_mut()
                    && let Some(waiting) = kept.take()
                    && let Ok((found, waiting)) = waiting.ask(&self.kind, endpoint.host()).await
                {
                    *kept = waiting;
                    return Ok(found);
                }
                if let (Kind::Tcp, Some(address)) = (&self.kind, self.detour.bare(endpoint)) {
                    return tcp::knock(address).await.map(Ok);
                }
                let protocol = if matches!(self.kind, Kind::Grpc(_)) { Protocol::Http2 } else { endpoint.link().protocol };
                let reached = dial(endpoint, self.detour, protocol).await?;
                if matches!(self.kind, Kind::Tcp) {
                    return Ok(tcp::probe(reached).await);
                }
                let asked = match Kept::over(reached, kept.is_some()).await {
                    Ok(connection) => connection.ask(&self.kind, endpoint.host()).await,
                    Err(broken) => Err(broken),
                };
                Ok(match asked {
                    Ok((found, waiting)) => {
                        if let Some(kept) = kept.as_deref_mut() {
                            *kept = waiting;
                        }
                        found
                    }
                    Err(broken) => Err(broken),
                })
            };
            return match timeout(self.timeout, probing).await {
                Ok(Ok(found)) => found,
                // That says nothing of the endpoint.
                Ok(Err(error)) if lacks_descriptors(&error) => {
                    sleep(PAUSE).await;
                    continue;
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            };
        }
    }
}

/// The probes that run, one task for each endpoint; they end with it.
#[derive(Default)]
pub(super) struct Rounds {
    tasks: JoinSet<()>,
    running: HashMap<SocketAddr, (Arc<Endpoint>, AbortHandle)>,
}

impl Rounds {
    /// Begins to probe those that are new, and leaves those alone that are gone.
    pub(super) fn follow(&mut self, check: &Arc<Check>, bell: &Arc<Notify>, endpoints: impl Iterator<Item = Arc<Endpoint>>) {
        let mut before = std::mem::take(&mut self.running);
        for endpoint in endpoints {
            let address = endpoint.address().clone();
            let running = before.remove(&address).filter(|(same, _)| Arc::ptr_eq(same, &endpoint));
            let running = running.unwrap_or_else(|| {
                let task = self.tasks.spawn(check.clone().watch(endpoint.clone(), bell.clone()));
                (endpoint, task)
            });
            self.running.insert(address, running);
        }
        before.into_values().for_each(|(_, task)| task.abort());
        // Those that were ended are taken off the set.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// The next moment at which probes begin: so one wake of a thread serves many of them, and a thousand still fall into a hundred groups.
fn with_others(at: Instant, interval: Duration) -> Instant {
    static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
    let tick = (interval / 100).clamp(Duration::from_millis(1), Duration::from_millis(50));
    let ticks = at.saturating_duration_since(*BEGINNING).as_nanos().div_ceil(tick.as_nanos());
    u32::try_from(ticks).map_or(at, |ticks| *BEGINNING + tick * ticks)
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    fn check(yaml: &str) -> Arc<Check> {
        Arc::new(Check::new("u", &decoded(yaml).unwrap()).unwrap())
    }

    #[test]
    fn probes_begin_together() {
        let (now, interval) = (Instant::now() + Duration::from_secs(1), Duration::from_secs(2));
        let begun: std::collections::BTreeSet<Instant> =
            (0..1000).map(|n| with_others(now + Duration::from_millis(2 * n), interval)).collect();
        assert!((100..=101).contains(&begun.len()), "{}", begun.len());
        assert!(with_others(now, interval) >= now && with_others(now, interval) < now + Duration::from_millis(20));
    }

    #[tokio::test]
    async fn whoever_listens_is_healthy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (check, endpoint) = (check("tcp"), Endpoint::testing(port));
        assert_eq!(check.probe(&endpoint, None).await, Ok(()));
        drop(listener);
        assert!(check.probe(&endpoint, None).await.unwrap_err().contains("refused"));
    }

    #[tokio::test]
    async fn another_port_is_asked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let check = check(&format!("{{tcp: {{port: {}}}}}", listener.local_addr().unwrap().port()));
        assert_eq!(check.probe(&Endpoint::testing(1), None).await, Ok(()));
    }

    #[tokio::test]
    async fn who_never_answers_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::testing(listener.local_addr().unwrap().port());
        for kind in ["http", "grpc"] {
            let check = check(&format!("{{{kind}: {{timeout: 20ms}}}}"));
            assert_eq!(check.probe(&endpoint, None).await.unwrap_err(), "no answer within 20ms");
        }
    }
}
