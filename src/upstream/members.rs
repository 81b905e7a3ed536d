//! Who an upstream's endpoints are and how they fare: Pingora's `LoadBalancer`, whose backends come from `directory` and whose
//! health comes from `probe`, and the table that requests pick from, laid out anew whenever either changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use pingora_core::server::ShutdownWatch;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use tokio::time::{Interval, MissedTickBehavior};

use super::directory::{Directory, SharedDirectory};
use super::probe::Probe;
use super::table::{Place, Table};
use super::vitals::Roster;
use crate::config::{self, Balance, HealthCheckMap, HealthCheckWord};
use crate::types::{Percent, WordOr};

/// How often connections that wait are looked at.
const SWEEP: Duration = Duration::from_secs(1);

pub(super) struct Members {
    directory: Arc<Directory>,
    /// Owns backends, discovery and health. Its own selection is not asked: a pick there copies a backend, hashes it several
    /// times and keeps a set of those it has offered.
    balancer: LoadBalancer<RoundRobin>,
    balance: Balance,
    panic: Percent,
    table: ArcSwap<Table>,
    /// Tables are made one after the other, so that an older one never takes the place of a newer.
    making: Mutex<()>,
    /// Time between two probes; `None` without a health check.
    interval: Option<Duration>,
    /// Failures in a row that take an endpoint out; 0 without a health check.
    probes: u32,
}

impl Members {
    /// Nothing is resolved or probed yet.
    pub(super) fn new(name: &str, section: &config::Upstream, directory: Directory) -> Arc<Self> {
        let directory = Arc::new(directory);
        let check = health_check(section);
        Arc::new_cyclic(|members: &Weak<Self>| {
            let mut backends = Backends::new(Box::new(SharedDirectory(directory.clone())));
            if let Some(settings) = &check {
                let members = members.clone();
                let changed = move || members.upgrade().iter().for_each(|members| members.lay_out());
                backends.set_health_check(Box::new(Probe::new(name, settings, Box::new(changed))));
            }
            Self {
                directory,
                balancer: LoadBalancer::from_backends(backends),
                balance: section.balance.clone(),
                panic: section.panic_threshold,
                table: ArcSwap::from_pointee(Table::new(&section.balance, section.panic_threshold, Vec::new(), None)),
                making: Mutex::new(()),
                interval: check.as_ref().map(|settings| settings.interval.get()),
                probes: check.map_or(0, |settings| settings.unhealthy_after),
            }
        })
    }

    /// How its endpoints fare.
    pub(super) fn roster(&self) -> &Arc<Roster> {
        self.directory.roster()
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
        tokio::select! {
            () = stopping => {}
            () = self.resolve_on_and_on() => {}
        }
    }

    /// Resolves names once; with `probe` also finds out who is healthy.
    pub(super) async fn prepare(&self, probe: bool) {
        self.resolve().await;
        if probe {
            for _ in 0..self.probes {
                self.balancer.backends().run_health_check(true).await;
            }
        }
    }

    /// Lays out what the file says alone: nothing is resolved or probed.
    pub(super) async fn lay_out_offline(&self) {
        self.directory.go_offline();
        self.resolve().await;
    }

    /// The one never waits for the other: a name that does not resolve takes its time.
    async fn resolve_on_and_on(&self) {
        let resolving = async {
            let mut ticks = every(self.directory.refresh());
            loop {
                tick(&mut ticks).await;
                self.resolve().await;
            }
        };
        let probing = async {
            let mut ticks = every(self.interval);
            loop {
                tick(&mut ticks).await;
                self.balancer.backends().run_health_check(true).await;
            }
        };
        let sweeping = async {
            let mut ticks = every(Some(SWEEP));
            loop {
                tick(&mut ticks).await;
                self.roster().sweep_pools(Instant::now());
            }
        };
        tokio::join!(resolving, probing, sweeping);
    }

    async fn resolve(&self) {
        // Resolution that fails is logged by the directory, and tried again later.
        let _ = self.balancer.update().await;
        self.lay_out();
    }

    /// Makes the table anew, from what the balancer knows now.
    fn lay_out(&self) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let backends = self.balancer.backends();
        let known: Arc<BTreeSet<Backend>> = backends.get_backend();
        let places = known.iter().filter_map(|backend| {
            let endpoint = self.directory.endpoint(&backend.addr)?;
            let weight = u32::try_from(backend.weight).unwrap_or(u32::MAX);
            Some(Place { endpoint, weight, healthy: backends.ready(backend) })
        });
        let table = Table::new(&self.balance, self.panic, places.collect(), Some(&self.table.load()));
        self.table.store(Arc::new(table));
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

fn health_check(section: &config::Upstream) -> Option<config::TcpHealthCheck> {
    match &section.health_check {
        WordOr::Word(HealthCheckWord::None) => None,
        WordOr::Word(HealthCheckWord::Tcp) => Some(config::TcpHealthCheck::default()),
        WordOr::Map(HealthCheckMap::Tcp(settings)) => Some(settings.clone()),
    }
}
