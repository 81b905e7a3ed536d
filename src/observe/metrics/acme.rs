//! What is counted of certificates that are obtained.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::cells::Count;
use super::text::Text;
use super::words::Words;

/// The numbers of one certificate, by the first of its names.
pub(crate) struct AcmeMeter {
    name: Box<str>,
    orders: Count,
    /// By party and reason.
    failures: Words,
    /// In seconds since 1970.
    next: AtomicU64,
}

impl AcmeMeter {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), orders: Count::default(), failures: Words::new(64), next: AtomicU64::new(0) }
    }

    /// An order was filled.
    pub(crate) fn obtained(&self) {
        self.orders.add(1);
    }

    /// An order was not; the words are constant.
    pub(crate) fn failed(&self, party: &'static str, reason: &'static str) {
        self.failures.add((party, reason));
    }

    /// The next order is made at this time.
    pub(crate) fn next(&self, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.next.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn write_orders(&self, out: &mut Text<'_>) {
        out.sample(&[("certificate", &self.name)], self.orders.get());
    }

    pub(super) fn write_failures(&self, out: &mut Text<'_>) {
        for ((party, reason), count) in self.failures.all() {
            out.sample(&[("certificate", &self.name), ("party", party), ("reason", reason)], count);
        }
    }

    pub(super) fn write_next(&self, out: &mut Text<'_>) {
        out.sample(&[("certificate", &self.name)], self.next.load(Ordering::Relaxed));
    }
}
