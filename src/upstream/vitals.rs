//! How an endpoint fares: what requests and probes have learned of it. It belongs to upstream and address, and outlives the
//! configuration under which it was learned.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use pingora_core::protocols::l4::socket::SocketAddr;
use tokio::sync::Notify;

use super::balance::Estimate;
use super::gate::Queue;
use super::health::Health;
use super::outlier::{Ejection, Fault, Record, Rules};
use super::pool::Pool;

/// The vitals of all endpoints of an upstream, handed on from one configuration to the next, and what belongs to all of them.
#[derive(Default)]
pub(super) struct Roster {
    known: Mutex<HashMap<SocketAddr, Weak<Vitals>>>,
    /// Rung when somebody's standing may have changed: the table is laid out anew.
    bell: Arc<Notify>,
    /// Requests that wait for an endpoint with room.
    queue: Arc<Queue>,
}

impl Roster {
    /// Those that are known, or new ones.
    pub(super) fn of(&self, address: &SocketAddr) -> Arc<Vitals> {
        let mut known = self.known();
        if let Some(vitals) = known.get(address).and_then(Weak::upgrade) {
            return vitals;
        }
        let vitals = Arc::new(Vitals::new());
        known.insert(address.clone(), Arc::downgrade(&vitals));
        vitals
    }

    /// Closes connections that have waited too long.
    pub(super) fn sweep_pools(&self, now: Instant) {
        let known: Vec<Arc<Vitals>> = self.known().values().filter_map(Weak::upgrade).collect();
        known.iter().for_each(|vitals| vitals.pool.sweep(now));
    }

    /// Forgets addresses that no endpoint has any more.
    pub(super) fn sweep(&self) {
        self.known().retain(|_, vitals| vitals.strong_count() > 0);
    }

    /// Who is given requests from now on. Whoever is not among them, such as an endpoint that a file has no more, is not.
    pub(super) fn open(&self, open: &[Arc<Vitals>]) {
        for vitals in self.known().values().filter_map(Weak::upgrade) {
            vitals.open.store(open.iter().any(|one| Arc::ptr_eq(one, &vitals)), Ordering::Relaxed);
        }
    }

    pub(super) fn bell(&self) -> &Arc<Notify> {
        &self.bell
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SocketAddr, Weak<Vitals>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Vitals {
    born: Instant,
    in_flight: AtomicU32,
    /// The bits of an [`Estimate`].
    latency: AtomicU64,
    /// Its connections that wait.
    pool: Pool,
    record: Record,
    /// What requests have found: 0, or a [`Fault`]. Whoever lays out the table takes it.
    suspicion: AtomicU8,
    /// It refused a connection, and has not answered since.
    refusing: AtomicBool,
    /// It is given requests.
    open: AtomicBool,
    /// An operator wants it to be given none.
    drained: AtomicBool,
    /// What requests do not look at.
    state: Mutex<State>,
}

/// How it stands, apart from its requests.
pub(super) struct State {
    pub(super) health: Health,
    /// A probe has ended.
    pub(super) probed: bool,
    /// What is to be said of it, once requests know.
    pub(super) news: Option<(log::Level, String)>,
    pub(super) ejection: Ejection,
    /// It was left out when the table was laid out last.
    pub(super) out: bool,
    /// Since when it could be given requests.
    pub(super) serving: Option<Instant>,
}

impl Vitals {
    fn new() -> Self {
        Self {
            born: Instant::now(),
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(Estimate::NONE.bits()),
            pool: Pool::new(),
            record: Record::default(),
            suspicion: AtomicU8::new(0),
            refusing: AtomicBool::new(false),
            open: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            state: Mutex::new(State {
                health: Health::new(),
                probed: false,
                news: None,
                ejection: Ejection::default(),
                out: false,
                serving: None,
            }),
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

    /// Unless as many are under way as may be.
    pub(super) fn try_begin(&self, capacity: u32) -> bool {
        let more = |count| (count < capacity).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
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

    /// A request has ended. Whether there is a suspicion that was none before.
    pub(super) fn heard(&self, failed: bool, now: Instant, rules: &Rules) -> bool {
        match self.record.heard(failed, now.saturating_duration_since(self.born), rules) {
            Some(fault) => self.suspicion.swap(code(fault), Ordering::Relaxed) == 0,
            None => false,
        }
    }

    /// The suspicion, which is none after this.
    pub(super) fn take_suspicion(&self) -> Option<Fault> {
        match self.suspicion.swap(0, Ordering::Relaxed) {
            1 => Some(Fault::Consecutive),
            2 => Some(Fault::Ratio),
            _ => None,
        }
    }

    /// What requests told so far does not count any more.
    pub(super) fn forget(&self) {
        self.suspicion.store(0, Ordering::Relaxed);
        self.record.forget();
    }

    /// It has refused a connection, or has answered.
    pub(super) fn refuses(&self, refusing: bool) {
        // Mostly it is so already, and then no other thread loses what it knows of this.
        if self.is_refusing() != refusing {
            self.refusing.store(refusing, Ordering::Relaxed);
        }
    }

    /// Whether it refused a connection, and has not answered since.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn open_up(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// Whether that is a change.
    pub(super) fn drain(&self, drained: bool) -> bool {
        self.drained.swap(drained, Ordering::Relaxed) != drained
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In milliseconds, from 1 on: a stamp of 0 would be that of one that was never seen. Over in 49 days, then from the start.
    fn age(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.born).as_millis() as u32).max(1)
    }
}

/// Above zero, which stands for none.
fn code(fault: Fault) -> u8 {
    match fault {
        Fault::Consecutive => 1,
        Fault::Ratio => 2,
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
        assert_eq!(roster.known().len(), 1);
    }

    #[test]
    fn only_those_that_are_named_are_open() {
        let roster = Roster::default();
        let (one, other) = (roster.of(&address(1)), roster.of(&address(2)));
        roster.open(std::slice::from_ref(&one));
        assert_eq!((one.is_open(), other.is_open()), (true, false));
        roster.open(std::slice::from_ref(&other));
        assert_eq!((one.is_open(), other.is_open()), (false, true));
    }

    #[test]
    fn no_more_than_may_be() {
        let vitals = Roster::default().of(&address(1));
        assert_eq!([vitals.try_begin(2), vitals.try_begin(2), vitals.try_begin(2)], [true, true, false]);
        vitals.end();
        assert!(vitals.try_begin(2));
    }
}
