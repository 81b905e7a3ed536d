//! How an endpoint fares: what requests and probes have learned of it. It belongs to upstream and address, and outlives the
//! configuration under which it was learned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pingora_core::protocols::l4::socket::SocketAddr;

use super::balance::Estimate;

/// A try that failed counts as one that took at least this long: who refuses quickly is not quick.
const FAILED: Duration = Duration::from_secs(1);

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
}

impl Vitals {
    fn new() -> Self {
        Self { born: Instant::now(), in_flight: AtomicU32::new(0), latency: AtomicU64::new(Estimate::NONE.bits()) }
    }

    /// Requests that are under way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How long it is expected to take, in microseconds.
    pub(super) fn latency(&self, now: Instant) -> Option<f32> {
        Estimate::from_bits(self.latency.load(Ordering::Relaxed)).at(self.age(now))
    }

    fn observe(&self, latency: Duration, now: Instant) {
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

/// A request under way at an endpoint. It counts there until it is dropped.
pub(crate) struct Attempt {
    vitals: Arc<Vitals>,
    began: Instant,
    /// Whether how long it takes is wanted, and not known yet.
    timed: bool,
}

impl Attempt {
    pub(super) fn new(vitals: Arc<Vitals>, began: Instant, timed: bool) -> Self {
        vitals.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { vitals, began, timed }
    }

    /// The head of the response has come.
    pub(crate) fn answered(&mut self, now: Instant) {
        if std::mem::take(&mut self.timed) {
            self.vitals.observe(now.saturating_duration_since(self.began), now);
        }
    }

    /// It broke before there was a response, and the endpoint is to blame.
    pub(crate) fn failed(&mut self) {
        if std::mem::take(&mut self.timed) {
            let now = Instant::now();
            self.vitals.observe(now.saturating_duration_since(self.began).max(FAILED), now);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.vitals.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.timed {
            // Nobody waited for the response any longer: it would have taken more than this.
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.began);
            if self.vitals.latency(now).is_some_and(|expected| waited.as_secs_f32() * 1e6 > expected) {
                self.vitals.observe(waited, now);
            }
        }
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

    #[test]
    fn an_attempt_counts_until_it_is_over() {
        let vitals = Roster::default().of(&address(1));
        let now = Instant::now();
        let mut first = Attempt::new(vitals.clone(), now, true);
        let second = Attempt::new(vitals.clone(), now, true);
        assert_eq!((vitals.in_flight(), vitals.latency(now)), (2, None));
        let later = now + Duration::from_millis(7);
        first.answered(later);
        assert_eq!((vitals.in_flight(), vitals.latency(later)), (2, Some(7_000.0)));
        drop((first, second));
        assert_eq!(vitals.in_flight(), 0);
    }

    #[test]
    fn who_fails_at_once_is_slow() {
        let vitals = Roster::default().of(&address(1));
        let began = Instant::now();
        Attempt::new(vitals.clone(), began, true).failed();
        assert!(vitals.latency(began).unwrap() >= 1e6);
    }

    #[test]
    fn whom_a_client_did_not_wait_for_is_at_least_as_slow_as_that() {
        let vitals = Roster::default().of(&address(1));
        let long_ago = Instant::now() - Duration::from_secs(3);
        Attempt::new(vitals.clone(), long_ago, true).answered(long_ago + Duration::from_millis(1));
        drop(Attempt::new(vitals.clone(), long_ago, true));
        assert!(vitals.latency(long_ago).unwrap() >= 3e6);
    }
}
