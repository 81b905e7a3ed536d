//! Upstreams: who can serve a request, and who is picked.
//!
//! Each upstream rests on one Pingora `LoadBalancer` (`members`): its backends come from `directory`, its health from
//! `checkup` and `outlier`. What a request needs of that is computed before it comes, and kept in a `table` of endpoints in the order
//! of an algorithm in `balance`. A pick neither locks nor allocates.

mod attempt;
mod balance;
mod checkup;
mod directory;
mod discovery;
mod eligible;
mod endpoint;
mod gate;
mod health;
mod link;
mod members;
mod outcome;
mod outlier;
mod pool;
mod proxy_header;
mod ramp;
pub(crate) mod retry;
mod sticky;
mod table;
mod vitals;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::server::ShutdownWatch;

pub(crate) use self::attempt::Attempt;
pub(crate) use self::endpoint::Spoken;
pub use self::endpoint::{Endpoint, EndpointError};
pub(crate) use self::link::Link;
pub(crate) use self::outcome::Outcome;
pub(crate) use self::pool::Room;
pub(crate) use self::proxy_header::Parties;
pub(crate) use self::sticky::{Seal, Stay};
pub(crate) use self::wire::Wire;

use self::directory::Directory;
use self::gate::{Patience, capacity};
use self::members::Members;
use self::table::Ask;
use crate::config::{self, Balance, HashKey, HostHeader};
use crate::observe::{UpstreamMeter, metrics};
use crate::tls::ClientTls;
use crate::types::Address;

/// Endpoints that serve the same thing, and the rules by which one of them is picked.
pub struct Upstream {
    name: Box<str>,
    members: Arc<Members>,
    link: Arc<Link>,
    /// Counts picks, whatever becomes of the endpoints: nobody begins anew because another came or went.
    turn: AtomicUsize,
    deadlines: Deadlines,
    retries: retry::Policy,
    /// How long a request waits where endpoints have limits, and how many it may be at most at one of them.
    limits: Option<(Patience, u32)>,
    seal: Option<Seal>,
    section: config::Upstream,
    meter: Arc<UpstreamMeter>,
}

/// What a pick would be made of.
pub(crate) struct Outlook {
    pub(crate) balance: &'static str,
    /// In the order of addresses.
    pub(crate) endpoints: Vec<Candidate>,
    /// One that may be picked: the next whose turn it is. `None`: none is healthy.
    pub(crate) next: Option<Arc<Endpoint>>,
}

/// An endpoint, and how it stands.
pub(crate) struct Candidate {
    pub(crate) address: String,
    pub(crate) weight: u32,
    /// By its probes.
    pub(crate) healthy: bool,
    /// Left out for how its requests ended.
    pub(crate) ejected: bool,
    /// Left out by an operator.
    pub(crate) drained: bool,
    /// How much of its weight counts now, in hundredths.
    pub(crate) share: u32,
    /// Requests under way.
    pub(crate) in_flight: u32,
}

impl Candidate {
    fn of(place: &table::Place) -> Self {
        Self {
            address: place.endpoint.as_str().to_owned(),
            weight: place.weight,
            healthy: place.healthy,
            ejected: place.ejected,
            drained: place.drained,
            share: place.share,
            in_flight: place.endpoint.vitals().in_flight(),
        }
    }
}

/// What of a request decides on its endpoint, where the upstream asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// What `balance: hash` goes by ([`Upstream::hash_key`]).
    pub(crate) key: Option<u64>,
    /// The endpoint at which its client is, by its cookie ([`Upstream::seal`]).
    pub(crate) at: Option<u64>,
}

/// Why a request gets no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// None is given requests.
    NoneHealthy,
    /// All have as much as they may be given, and as many wait as may.
    QueueFull,
    /// It has waited as long as it may.
    QueueTimeout,
}

/// How long an exchange with an endpoint may wait for the next step; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From the end of the request to the response's head.
    pub response: Option<Duration>,
    /// Between two reads of a response body.
    pub read: Option<Duration>,
    /// While the endpoint takes nothing of the request.
    pub write: Option<Duration>,
}

impl Upstream {
    /// Builds an upstream without TLS from its section. Nothing is resolved, probed or connected yet: [`Upstream::run`] does that.
    /// `previous` is the upstream of this name before: how its endpoints fared is not forgotten.
    ///
    /// # Errors
    /// An endpoint's address can't be used, or the section has `tls`, of which no file has been read.
    pub fn new(name: &str, section: config::Upstream, previous: Option<&Self>) -> Result<Self, EndpointError> {
        if section.tls.is_some() {
            return Err(EndpointError::Unread);
        }
        Self::over(name, section, None, previous)
    }

    /// As [`Upstream::new`], with what the files of the section's `tls` hold.
    pub(crate) fn over(
        name: &str,
        section: config::Upstream,
        tls: Option<Arc<ClientTls>>,
        previous: Option<&Self>,
    ) -> Result<Self, EndpointError> {
        let link = Arc::new(Link::new(name, &section, tls));
        let meter = metrics().upstream(name);
        let previous = previous.map(|previous| previous.members.directory());
        let directory = Directory::new(name, &section, link.clone(), meter.clone(), previous)?;
        let retries = retry::Policy::new(&section.retry, meter.requests(), Instant::now());
        let limit = |limit: &crate::types::Limit<crate::types::Duration>| limit.get().map(crate::types::Duration::get);
        let deadlines = Deadlines {
            response: limit(&section.timeouts.response),
            read: limit(&section.timeouts.read),
            write: limit(&section.timeouts.write),
        };
        let members = Members::new(name, &section, directory);
        let limits = capacity(&section.limits, section.protocol.value.requests())
            .map(|capacity| (Patience::new(&section.limits), capacity));
        let seal = section.sticky.as_ref().map(|sticky| Seal::new(name, sticky));
        Ok(Self { name: name.into(), members, link, turn: AtomicUsize::new(0), deadlines, retries, limits, seal, section, meter })
    }

    /// An upstream without endpoints, for tests of filters that choose one by name.
    pub(crate) fn nowhere(name: &str) -> Self {
        let section = config::Upstream::nowhere();
        let meter = metrics().upstream(name);
        let link = Arc::new(Link::new(name, &section, None));
        let members = Members::new(name, &section, Directory::empty(name, link.clone(), meter.clone()));
        let retries = retry::Policy::new(&section.retry, meter.requests(), Instant::now());
        let deadlines = Deadlines { response: None, read: None, write: None };
        let turn = AtomicUsize::new(0);
        Self { name: name.into(), members, link, turn, deadlines, retries, limits: None, seal: None, section, meter }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether endpoints are looked up by name.
    pub(crate) fn has_names(&self) -> bool {
        let listed = self.section.endpoints.value.iter().any(|endpoint| matches!(endpoint.value.address, Address::Name { .. }));
        listed || self.section.discover.is_some()
    }

    /// Whether it was built from a section that says the same, and from files that held the same.
    pub(crate) fn is_of(&self, section: &config::Upstream, tls: Option<&Arc<ClientTls>>) -> bool {
        self.section == *section && self.link.is_of(tls)
    }

    /// When a request is tried again.
    pub(crate) fn retries(&self) -> &retry::Policy {
        &self.retries
    }

    /// The same as the file has it.
    pub(crate) fn retry_settings(&self) -> &config::Retry {
        &self.section.retry
    }

    /// Why requests that go there can't take the express lane, if they can't: for whoever adds to upstreams what it does not do.
    pub(crate) fn general(&self) -> Option<&'static str> {
        self.link.general()
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

    /// How each endpoint stands, in the order of addresses.
    pub(crate) fn standings(&self) -> Vec<Candidate> {
        self.members.table().places().iter().map(Candidate::of).collect()
    }

    /// Requests that wait for an endpoint with room.
    pub(crate) fn waiting(&self) -> usize {
        self.members.roster().queue().length()
    }

    /// From now on this endpoint is given no requests, or is again. `None`: there is no such endpoint; else whether that is a change.
    pub(crate) fn drain(&self, address: &str, drained: bool) -> Option<bool> {
        let table = self.members.table();
        let place = table.places().iter().find(|place| place.endpoint.as_str() == address)?;
        let changed = place.endpoint.vitals().drain(drained);
        if changed {
            self.members.lay_out(Instant::now());
            self.members.roster().bell().notify_one();
            let what = if drained { "drained" } else { "drained no more" };
            log::info!("endpoint is {what} upstream={} endpoint={address}", self.name);
        }
        Some(changed)
    }

    /// Makes endpoints known from what the file says alone: nothing is resolved, probed or connected.
    pub(crate) async fn lay_out_offline(&self) {
        self.members.lay_out_offline().await;
    }

    /// Who could be picked now for a request with this key, without picking.
    pub(crate) fn outlook(&self, wish: Wish) -> Outlook {
        let table = self.members.table();
        let turn = || self.turn.load(Ordering::Relaxed);
        let next = table.pick(&Ask { tried: &[], key: wish.key, at: wish.at, room: None, turn, chance: || 0 }).cloned();
        let endpoints: Vec<Candidate> = table.places().iter().map(Candidate::of).collect();
        let balance = match &self.section.balance {
            Balance::RoundRobin => "round_robin",
            Balance::Random => "random",
            Balance::LeastRequests => "least_requests",
            Balance::PeakEwma => "peak_ewma",
            Balance::Hash(_) => "hash",
        };
        Outlook { balance, endpoints, next }
    }

    /// The limits on waiting for an endpoint, as the file has them.
    pub(crate) fn timeouts(&self) -> &config::Timeouts {
        &self.section.timeouts
    }

    /// What of a request decides on its endpoint, if anything does.
    #[must_use]
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.section.balance {
            Balance::Hash(hash) => Some(&hash.key),
            _ => None,
        }
    }

    /// The key that these parts of a request make, one after the other.
    #[must_use]
    pub fn key_of(&self, parts: &[&[u8]]) -> u64 {
        balance::key_of(parts)
    }

    /// Picks a healthy endpoint: one that is not in `tried` if there is one. `key` is the request's, where the upstream asks for it
    /// ([`Upstream::hash_key`]). `None`: no endpoint is healthy.
    #[must_use]
    pub fn select(&self, tried: &[SocketAddr], key: Option<u64>) -> Option<Arc<Endpoint>> {
        self.pick(tried, Wish { key, at: None }, None)
    }

    fn pick(&self, tried: &[SocketAddr], wish: Wish, room: Option<u32>) -> Option<Arc<Endpoint>> {
        let turn = || self.turn.fetch_add(1, Ordering::Relaxed);
        let ask = Ask { tried, key: wish.key, at: wish.at, room, turn, chance: || fastrand::u64(..) };
        self.members.table().pick(&ask).cloned()
    }

    /// A try at an endpoint: one that is healthy, that has room, and that is not in `tried` if there is one. Where none has room, it waits
    /// for its turn. May be dropped at any time.
    ///
    /// # Errors
    /// There is none, or not in time.
    pub(crate) async fn engage(&self, tried: &[SocketAddr], wish: Wish, now: Instant) -> Result<Attempt, Refusal> {
        match self.try_engage(tried, wish, now)? {
            Some(attempt) => Ok(attempt),
            None => self.wait(tried).await,
        }
    }

    /// As [`Upstream::engage`], without waiting: `None` where none has room, or others wait for it.
    ///
    /// # Errors
    /// No endpoint is given requests.
    pub(crate) fn try_engage(&self, tried: &[SocketAddr], wish: Wish, now: Instant) -> Result<Option<Attempt>, Refusal> {
        let Some((_, capacity)) = self.limits else {
            let endpoint = self.pick(tried, wish, None).ok_or(Refusal::NoneHealthy)?;
            return Ok(Some(Attempt::new(endpoint, now, self.is_timed())));
        };
        if self.members.table().open().next().is_none() {
            return Err(Refusal::NoneHealthy);
        }
        let queue = self.members.roster().queue();
        while let Some(endpoint) = self.pick(tried, wish, Some(capacity)) {
            // Who was failed by it waits for another one, and is in nobody's way.
            if queue.is_waiting() && queue.is_wanted(&endpoint) {
                break;
            }
            // Another thread may have been faster.
            if endpoint.vitals().try_begin(capacity) {
                return Ok(Some(Attempt::begun(endpoint, now, self.is_timed())));
            }
        }
        Ok(None)
    }

    /// Waits for an endpoint with room, and not in `tried` if there is one, in the line of those who do. May be dropped at any time.
    ///
    /// # Errors
    /// The line is too long, or it took too long.
    pub(crate) async fn wait(&self, tried: &[SocketAddr]) -> Result<Attempt, Refusal> {
        let Some((patience, _)) = self.limits else { return Err(Refusal::NoneHealthy) };
        let queue = self.members.roster().queue();
        let most = patience.queue.saturating_mul(self.members.table().open().count());
        let tried = if self.has_other(tried) { tried } else { &[] };
        let Some(mut ticket) = queue.join(most, tried) else {
            self.meter.queue_full();
            return Err(Refusal::QueueFull);
        };
        self.meter.queued();
        // Somebody may have left between the look at the endpoints and this.
        self.members.call(self.turn.fetch_add(1, Ordering::Relaxed));
        match tokio::time::timeout(patience.timeout, ticket.called()).await {
            Ok(Some(endpoint)) => Ok(Attempt::begun(endpoint, Instant::now(), self.is_timed())),
            Ok(None) | Err(_) => {
                self.meter.queue_timeout();
                Err(Refusal::QueueTimeout)
            }
        }
    }

    fn is_timed(&self) -> bool {
        matches!(self.section.balance, Balance::PeakEwma)
    }

    /// What keeps clients at endpoints, if anything does.
    pub(crate) fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// The cookie, as text, to set for a client whose request went to this endpoint, `came` being what its own cookie said. `None`: it
    /// may keep that, or clients do not stay. An endpoint that merely had no room keeps its clients.
    pub(crate) fn stick(&self, endpoint: &Endpoint, came: Option<Stay>, now: SystemTime, secure: bool) -> Option<String> {
        let seal = self.seal.as_ref()?;
        let keep = came.is_some_and(|stay| !stay.ages && (stay.at == endpoint.id() || self.members.table().is_open(stay.at)));
        if keep { None } else { seal.cookie(endpoint.id(), now, secure) }
    }

    /// Whether a healthy endpoint is left that is not in `tried`.
    #[must_use]
    pub fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.members.table().has_other(tried)
    }

    /// And one that did not refuse the latest connection that it was asked for.
    pub(crate) fn has_other_that_listens(&self, tried: &[SocketAddr]) -> bool {
        self.members.table().has_other_that_listens(tried)
    }

    /// Resolves names and probes endpoints until the process stops. Endpoints given by address are known from the start.
    pub async fn run(&self, shutdown: ShutdownWatch) {
        self.members.run(shutdown).await;
    }

    /// Resolves names once, so that the first requests find endpoints; with `probe` also finds out which are healthy.
    pub async fn prepare(&self, probe: bool) {
        self.members.prepare(probe).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::upstream;

    fn picks(upstream: &Upstream, n: usize) -> Vec<String> {
        (0..n).map(|_| upstream.select(&[], None).unwrap().address().to_string()).collect()
    }

    async fn ready(yaml: &str) -> Upstream {
        let upstream = Upstream::new("u", upstream(yaml), None).unwrap();
        upstream.prepare(false).await;
        upstream
    }

    #[test]
    fn the_express_lane_goes_wherever_http1_is_spoken() {
        let general = |more: &str| {
            let section = upstream(&format!("endpoints: [127.0.0.1:1]\n{more}"));
            Upstream::new("u", section, None).unwrap().general()
        };
        for more in ["", "limits: {requests: 1}", "sticky: {key: correct horse battery staple}", "proxy_protocol: v2"] {
            assert_eq!(general(more), None, "{more}");
        }
        assert_eq!(general("protocol: http2"), Some("its upstream speaks HTTP/2"));
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
        let tried = [upstream.select(&[], None).unwrap().address().clone()];
        for _ in 0..20 {
            assert_ne!(upstream.select(&tried, None).unwrap().address(), &tried[0]);
        }
        assert!(upstream.has_other(&tried));
        let both = [tried[0].clone(), upstream.select(&tried, None).unwrap().address().clone()];
        assert!(!upstream.has_other(&both));
        assert!(upstream.select(&both, None).is_some());
    }

    /// A thousand requests in a second, for ten seconds: how often endpoints were turned to, and how many requests were not answered.
    async fn refused(retries: u32, balance: &str, dead: &[&str]) -> (u32, u32) {
        let (name, began) = (format!("refused {retries} {balance} {dead:?}"), Instant::now());
        let section = format!(
            "endpoints: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3]\nhealth_check: none\nbalance: {balance}\nretry: {{retries: {retries}}}"
        );
        let upstream = Upstream::new(&name, upstream(&section), None).unwrap();
        upstream.prepare(false).await;
        let (mut turns, mut lost) = (0, 0);
        for number in 0..10_000 {
            let now = began + Duration::from_millis(number);
            upstream.meter().began();
            let (mut tried, mut retried) = (Vec::new(), retry::Retried::default());
            loop {
                let mut attempt = upstream.try_engage(&tried, Wish::default(), now).unwrap().unwrap();
                turns += 1;
                if !dead.contains(&attempt.endpoint().as_str()) {
                    attempt.ended(Outcome::Answered(200), now);
                    break;
                }
                attempt.ended(Outcome::Refused, now);
                tried.push(attempt.endpoint().address().clone());
                let facts = retry::Facts {
                    method: &http::Method::POST,
                    retried,
                    replayable: true,
                    shown: false,
                    reused: false,
                    another: upstream.has_other(&tried),
                    listens: upstream.has_other_that_listens(&tried),
                    allowed: true,
                    retry_after: false,
                    left: None,
                    requests: upstream.meter().requests(),
                };
                match upstream.retries().judge(Outcome::Refused, &facts, now, || 0) {
                    retry::Verdict::Again(again) => retried = again.retried,
                    retry::Verdict::Enough(_) => {
                        lost += 1;
                        break;
                    }
                }
                if !facts.another {
                    tried.drain(..tried.len() - 1);
                }
            }
        }
        (turns, lost)
    }

    #[tokio::test]
    async fn who_dies_is_not_noticed_and_where_all_have_died_there_is_no_storm() {
        let all = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        for balance in ["round_robin", "random", "least_requests"] {
            for retries in [1, 10] {
                for dead in [&all[..1], &all[..2]] {
                    let (turns, lost) = refused(retries, balance, dead).await;
                    // Where a request is tried twice, the first one may have met both.
                    assert!(
                        lost <= u32::from(retries == 1 && dead.len() == 2),
                        "{lost} lost, {dead:?} of three are dead, {balance}"
                    );
                    assert!(turns <= 20_000, "{turns} turns, {dead:?} of three are dead, {balance}");
                }
                let (turns, lost) = refused(retries, balance, &all).await;
                assert!(lost == 10_000 && turns <= 12_500, "{turns} turns, {lost} lost, {balance}");
            }
        }
    }

    /// `tests/allocations.rs` has the others.
    #[tokio::test]
    async fn a_client_that_stays_costs_no_allocation() {
        let upstream =
            ready("endpoints: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3]\nhealth_check: none\nsticky: {key: correct horse battery}")
                .await;
        let (at, other) = (upstream.select(&[], None).unwrap(), upstream.select(&[], None).unwrap());
        let wish = Wish { key: None, at: Some(at.id()) };
        let tried = [at.address().clone(), other.address().clone()];
        let pick = || {
            assert_eq!(upstream.pick(&[], wish, Some(9)).unwrap().address(), at.address());
            let elsewhere = upstream.pick(&tried, wish, Some(9)).unwrap();
            assert!(!tried.contains(elsewhere.address()));
        };
        pick();
        let counted = allocation_counter::measure(|| (0..100).for_each(|_| pick()));
        assert_eq!(counted.count_total, 0, "{counted:?}");
    }

    /// In a file that is a mistake where it can be seen; what names stand for can't.
    #[tokio::test]
    async fn whoever_is_found_twice_is_one_endpoint() {
        let upstream = ready("endpoints: [{address: 127.0.0.1:7, weight: 3}, localhost:7, localhost:8]").await;
        let seven = upstream.standings().into_iter().filter(|one| one.address == "127.0.0.1:7").map(|one| one.weight);
        assert_eq!(seven.collect::<Vec<_>>(), [3]);
    }

    #[tokio::test]
    async fn a_name_becomes_its_addresses() {
        let upstream = ready("endpoints: [localhost:7]\nhost: endpoint").await;
        let endpoint = upstream.select(&[], None).unwrap();
        assert_eq!(upstream.host_for(&endpoint), Some("localhost:7"));
    }
}
