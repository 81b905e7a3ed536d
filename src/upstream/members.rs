//! Who an upstream's endpoints are and how they fare: Pingora's `LoadBalancer`, whose backends come from `directory`; what probes
//! (`checkup`), requests (`outlier`) and operators say of them; and the table that requests pick from, laid out anew whenever one of
//! these changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use pingora_core::server::ShutdownWatch;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use tokio::time::{Interval, MissedTickBehavior};

use super::checkup::{Check, Rounds};
use super::directory::{Directory, SharedDirectory};
use super::eligible::Standing;
use super::endpoint::Endpoint;
use super::outlier::{Fault, Rules};
use super::ramp;
use super::table::{Place, Table};
use super::vitals::{Roster, State};
use crate::config::{self, Balance};
use crate::types::Percent;

/// How often connections that wait are looked at.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) struct Members {
    name: Box<str>,
    directory: Arc<Directory>,
    /// Owns backends and their discovery. Its own selection is not asked: a pick there copies a backend, hashes it several
    /// times and keeps a set of those it has offered. Nor is its health, which would be forgotten with every other section.
    balancer: LoadBalancer<RoundRobin>,
    balance: Balance,
    panic: Percent,
    sticky: bool,
    check: Option<Arc<Check>>,
    rules: Option<Arc<Rules>>,
    slow_start: Option<Duration>,
    table: ArcSwap<Table>,
    /// Tables are made one after the other, so that an older one never takes the place of a newer.
    making: Mutex<()>,
}

impl Members {
    /// Nothing is resolved or probed yet.
    pub(super) fn new(name: &str, section: &config::Upstream, directory: Directory) -> Arc<Self> {
        let directory = Arc::new(directory);
        let (panic, sticky) = (section.panic_threshold, section.sticky.is_some());
        Arc::new(Self {
            name: name.into(),
            balancer: LoadBalancer::from_backends(Backends::new(Box::new(SharedDirectory(directory.clone())))),
            balance: section.balance.clone(),
            panic,
            sticky,
            check: Check::new(name, &section.health_check).map(Arc::new),
            rules: directory.rules().cloned(),
            slow_start: section.slow_start.map(crate::types::Duration::get),
            directory,
            table: ArcSwap::from_pointee(Table::new(&section.balance, panic, sticky, Vec::new(), None)),
            making: Mutex::new(()),
        })
    }

    /// How its endpoints fare.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        self.directory.roster()
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Resolves names and probes endpoints until the process stops.
    pub(super) async fn run(&self, mut shutdown: ShutdownWatch) {
        let stopping = async {
            // Should nobody be left to say so, it is over too.
            let _ = shutdown.wait_for(|stop| *stop).await;
        };
        // The one never waits for the other: a name that does not resolve takes its time.
        tokio::select! {
            () = stopping => {}
            () = self.resolve_on_and_on() => {}
            () = self.attend() => {}
        }
    }

    /// Resolves names once; with `probe` also finds out who is healthy.
    pub(super) async fn prepare(&self, probe: bool) {
        self.resolve().await;
        if let Some(check) = self.check.as_ref().filter(|_| probe) {
            check.prepare(self.endpoints().into_iter()).await;
            self.lay_out(Instant::now());
        }
    }

    /// Lays out what the file says alone: nothing is resolved or probed.
    pub(super) async fn lay_out_offline(&self) {
        self.directory.go_offline();
        self.resolve().await;
    }

    async fn resolve_on_and_on(&self) {
        let resolving = async {
            loop {
                self.resolve().await;
                self.roster().bell().notify_one();
                match self.directory.pause() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            }
        };
        let sweeping = async {
            let mut ticks = every(Some(SWEEP));
            loop {
                tick(&mut ticks).await;
                self.roster().sweep_pools(Instant::now());
            }
        };
        tokio::join!(resolving, sweeping);
    }

    async fn resolve(&self) {
        // Resolution that fails is logged by the directory, and tried again later.
        let _ = self.balancer.update().await;
        self.lay_out(Instant::now());
    }

    /// Probes endpoints, and lays out the table whenever one of them stands in another way than before.
    async fn attend(&self) {
        let (bell, mut rounds) = (self.roster().bell().clone(), Rounds::default());
        loop {
            let next = self.lay_out(Instant::now());
            if let Some(check) = &self.check {
                rounds.follow(check, &bell, self.endpoints().into_iter());
            }
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = bell.notified() => {}
                () = due => {}
            }
        }
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.table().places().iter().map(|place| place.endpoint.clone()).collect()
    }

    /// Makes the table anew, from what is known now. When it changes next by itself, if it will.
    pub(super) fn lay_out(&self, now: Instant) -> Option<Instant> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Arc<BTreeSet<Backend>> = self.balancer.backends().get_backend();
        let places = known.iter().filter_map(|backend| {
            let endpoint = self.directory.endpoint(&backend.addr)?;
            Some(self.place(endpoint, u32::try_from(backend.weight).unwrap_or(u32::MAX), now))
        });
        let mut places: Vec<Place> = places.collect();
        let left_out = self.eject(&mut places, now);
        let next = self.begin(&mut places, now);
        let table = Arc::new(Table::new(&self.balance, self.panic, self.sticky, places, Some(&self.table.load())));
        let open: Vec<_> = table.open().map(|endpoint| endpoint.vitals().clone()).collect();
        self.roster().open(&open);
        self.table.store(table);
        self.call(0);
        // What was opened as the configuration before this one said is not used any more.
        self.table().places().iter().for_each(|place| place.endpoint.close_others());
        // Said once it is so.
        left_out.iter().for_each(|news| log::warn!("endpoint is left out {news}"));
        for place in self.table().places() {
            let news = place.endpoint.vitals().state().news.take();
            if let Some((level, news)) = news {
                log::log!(level, "{news}");
            }
        }
        next
    }

    /// Calls those who wait to endpoints that have room. `turn`: with whom it begins.
    pub(super) fn call(&self, turn: usize) {
        let queue = self.roster().queue();
        if !queue.is_waiting() {
            return;
        }
        let table = self.table();
        queue.relent(|tried| table.has_other(tried));
        let count = table.open().count();
        let first = turn.checked_rem(count).unwrap_or_default();
        table.open().skip(first).chain(table.open().take(first)).for_each(Endpoint::call);
    }

    /// An endpoint as it stands.
    fn place(&self, endpoint: Arc<Endpoint>, weight: u32, now: Instant) -> Place {
        let vitals = endpoint.vitals();
        let (drained, mut state) = (vitals.is_drained(), vitals.state());
        let ejected = self.rules.is_some() && state.ejection.is_out(now);
        let healthy = self.check.is_none() || state.health.is_healthy();
        if std::mem::replace(&mut state.out, ejected) && !ejected {
            // Tries from before it was left out say nothing of it any more.
            vitals.forget();
            log::info!("{} upstream={} endpoint={}", back(healthy, drained), self.name, endpoint.as_str());
        }
        drop(state);
        Place { endpoint, weight, healthy, ejected, drained, share: ramp::WHOLE }
    }

    /// Leaves those out against whom requests spoke. Who they are, and why.
    fn eject(&self, places: &mut [Place], now: Instant) -> Vec<String> {
        let mut left_out = Vec::new();
        let Some(rules) = &self.rules else { return left_out };
        let suspects: Vec<(usize, Fault)> = places
            .iter()
            .enumerate()
            .filter_map(|(number, place)| Some((number, place.endpoint.vitals().take_suspicion()?)))
            .filter(|(number, _)| !places[*number].ejected && !places[*number].drained)
            .collect();
        for (number, fault) in suspects {
            let present = || places.iter().enumerate().filter(|(_, place)| !place.drained);
            let standings: Vec<Standing> = present().map(|(_, place)| place.standing()).collect();
            let ejected: Vec<bool> = present().map(|(_, place)| place.ejected).collect();
            let Some(candidate) = present().position(|(other, _)| other == number) else { continue };
            let endpoint = places[number].endpoint.clone();
            if !rules.allow(&standings, &ejected, candidate, self.panic) {
                log::debug!(
                    "endpoint fails and is kept, for too many are left out upstream={} endpoint={}",
                    self.name,
                    endpoint.as_str()
                );
                continue;
            }
            let mut state = endpoint.vitals().state();
            let time = state.ejection.eject(rules, now);
            state.out = true;
            drop(state);
            places[number].ejected = true;
            endpoint.meter().ejected();
            let (upstream, address, reason) = (&self.name, endpoint.as_str(), fault.as_str());
            left_out.push(format!("upstream={upstream} endpoint={address} reason={reason} for={time:?}"));
        }
        left_out
    }

    /// Notes who begins to serve, and gives those their shares who began a while ago. When the table changes next.
    fn begin(&self, places: &mut [Place], now: Instant) -> Option<Instant> {
        let serves = |place: &Place| place.healthy && !place.ejected && !place.drained;
        let others = places.iter().any(|place| serves(place) && place.endpoint.vitals().state().serving.is_some());
        let mut next: Option<Instant> = None;
        let mut due = |time: Instant| next = Some(next.map_or(time, |next| next.min(time)));
        for place in places {
            let serves = serves(place);
            let endpoint = place.endpoint.clone();
            let mut guard = endpoint.vitals().state();
            let state: &mut State = &mut guard;
            if place.ejected
                && let Some(until) = state.ejection.until()
            {
                due(until);
            }
            if !serves {
                state.serving = None;
                continue;
            }
            // Where nobody else serves, there is nobody to whom its share could go.
            let long_ago = || now.checked_sub(self.slow_start.unwrap_or_default()).unwrap_or(now);
            let since = *state.serving.get_or_insert_with(|| if others { now } else { long_ago() });
            if let Some(over) = self.slow_start {
                place.share = ramp::share(now.saturating_duration_since(since), over);
                if place.share < ramp::WHOLE {
                    due(now + ramp::step(over));
                }
            }
        }
        next
    }
}

/// What is said of an endpoint that requests do not speak against any more.
fn back(healthy: bool, drained: bool) -> &'static str {
    match (healthy, drained) {
        (true, false) => "endpoint is given requests again",
        (false, _) => "endpoint is left out no more for its requests, but is unhealthy still",
        (true, true) => "endpoint is left out no more for its requests, but is drained",
    }
}

fn every(interval: Option<Duration>) -> Option<Interval> {
    interval.map(|interval| {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    })
}

async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::upstream;
    use crate::upstream::Upstream;
    use crate::upstream::health::Thresholds;

    #[test]
    fn who_is_out_for_another_reason_is_not_said_to_be_given_requests() {
        assert!(back(true, false).contains("given requests"));
        assert!(back(false, false).contains("is unhealthy") && back(false, true).contains("is unhealthy"));
        assert!(back(true, true).contains("is drained"));
    }

    /// Whoever comes back, from an illness or from having been left out, begins with a tenth of its share and gets more and more of it.
    #[tokio::test]
    async fn who_returns_starts_slowly() {
        let section = "endpoints: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3]\nslow_start: 10s\noutlier_detection: {eject_for: 30s}";
        let upstream = Upstream::new("returns", upstream(section), None).unwrap();
        upstream.lay_out_offline().await;
        let members = &upstream.members;
        let mut now = Instant::now();
        let lay_out = |now: Instant| {
            members.lay_out(now);
            let shares: Vec<u32> = members.table().places().iter().map(|place| place.share).collect();
            shares
        };
        let given = || {
            let mut counts = [0; 3];
            for _ in 0..210 {
                let picked = upstream.select(&[], None).unwrap();
                counts[usize::from(picked.as_str().as_bytes()[10] - b'1')] += 1;
            }
            counts
        };
        let vitals = members.endpoints()[1].vitals().clone();
        let probed = |well| vitals.state().health.heard(well, Thresholds { healthy_after: 1, unhealthy_after: 1 });
        assert_eq!((lay_out(now), given()), (vec![100; 3], [70; 3]), "at the start nobody else serves");
        for illness in ["a probe fails", "requests fail"] {
            let rules = members.rules.clone().unwrap();
            let back = if illness == "a probe fails" {
                assert!(probed(false));
                now += Duration::from_secs(1);
                assert_eq!((lay_out(now)[0], given()), (100, [105, 0, 105]), "{illness}");
                assert!(probed(true));
                now
            } else {
                let out = vitals.state().ejection.eject(&rules, now);
                assert_eq!((lay_out(now)[0], given()), (100, [105, 0, 105]), "{illness}");
                now + out
            };
            assert_eq!((lay_out(back), given()), (vec![100, 10, 100], [100, 10, 100]), "{illness}");
            let shares: Vec<u32> = (1..10).map(|seconds| lay_out(back + Duration::from_secs(seconds))[1]).collect();
            assert!(shares.is_sorted_by(|a, b| a < b) && shares[0] > 10 && shares[8] < 100, "{illness}: {shares:?}");
            now = back + Duration::from_secs(10);
            assert_eq!((lay_out(now), given()), (vec![100; 3], [70; 3]), "{illness}");
            now += Duration::from_secs(60);
        }
    }
}
