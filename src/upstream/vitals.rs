//! How an endpoint fares: what requests and probes have learned of it. It belongs to upstream and address, and outlives the
//! configuration under which it was learned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pingora_core::protocols::l4::socket::SocketAddr;

use super::balance::Estimate;
use super::pool::Pool;

/// The vitals of all endpoints of an upstream, handed on from one configuration to the next.
#[derive(Default)]
pub(super) struct Roster(Mutex<HashMap<SocketAddr, Weak<Vitals>>>);

impl Roster {
    /// Those that are known, or new ones.
    pub(super) fn of(&self, address: &SocketAddr) -> Arc<Vitals> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vitals) = known.get(address).and_then(Weak::upgrade) {
            return vitals;
        }
        let vitals = Arc::new(Vitals::new());
        known.insert(address.clone(), Arc::downgrade(&vitals));
        vitals
    }

    /// Closes connections that have waited too long.
    pub(super) fn sweep_pools(&self, now: Instant) {
        let known: Vec<Arc<Vitals>> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect();
        known.iter().for_each(|vitals| vitals.pool.sweep(now));
    }

    /// Forgets addresses that no endpoint has any more.
    pub(super) fn sweep(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, vitals| vitals.strong_count() > 0);
    }
}

pub(super) struct Vitals {
    born: Instant,
    in_flight: AtomicU32,
    /// The bits of an [`Estimate`].
    latency: AtomicU64,
    /// Its connections that wait.
    pool: Pool,
}

impl Vitals {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(Estimate::NONE.bits()),
            pool: Pool::new(),
        }
    }

    /// Its connections that wait.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Requests that are under way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long it is expected to take, in microseconds.
    pub(super) fn latency(&self, now: Instant) -> Option<f32> {
        Estimate::from_bits(self.latency.load(Ordering::Relaxed)).at(self.age(now))
    }

    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        let now = self.age(now);
        let observed = |bits| Some(Estimate::from_bits(bits).observed(latency, now).bits());
        // It never refuses.
        let _ = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, observed);
    }

    /// In milliseconds, from 1 on: a stamp of 0 would be that of one that was never seen. Over in 49 days, then from the start.
    fn age(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.born).as_millis() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::Inet(([127, 0, 0, 1], port).into())
    }

    #[test]
    fn vitals_belong_to_an_address_for_as_long_as_somebody_has_it() {
        let roster = Roster::default();
        let vitals = roster.of(&address(1));
        assert!(Arc::ptr_eq(&vitals, &roster.of(&address(1))));
        assert!(!Arc::ptr_eq(&vitals, &roster.of(&address(2))));
        roster.sweep();
        assert_eq!(roster.0.lock().unwrap().len(), 1);
    }
}
