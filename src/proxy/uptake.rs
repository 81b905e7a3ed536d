//! How a client takes what it is sent: how long it takes nothing, and how much it takes in a while. Pure: the time, and how much has been
//! taken, are arguments.
//!
//! Only time in which we wait for the client counts. What the system keeps to send is not taken: a client that reads some bytes now and
//! then would otherwise look like one that reads all of it in leaps, long pauses apart.

use std::time::{Duration, Instant};

use crate::config::ListenerLimits;
use crate::proxy::Expired;

/// What the rate is averaged over where `write_timeout` is `none`.
const WINDOW: Duration = Duration::from_secs(30);

/// What a client takes of what its connection is given.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uptake {
    /// For which it may take nothing.
    timeout: Option<Duration>,
    /// Bytes a second.
    rate: Option<u64>,
    window: Duration,
    /// Since when it takes nothing, as far as we know.
    since: Option<Instant>,
    /// From when the current wait counts for this window.
    counts: Option<Instant>,
    /// For how long we have waited in this window, the current wait apart.
    waited: Duration,
    /// What had been taken when this window began.
    first: Option<u64>,
    /// What had been taken when we looked last.
    last: u64,
}

impl Uptake {
    /// The limits of its listener, which a reload changes.
    pub(crate) fn limit(&mut self, limits: &ListenerLimits) {
        self.timeout = limits.write_timeout;
        self.rate = limits.min_write_rate;
        self.window = limits.write_timeout.unwrap_or(WINDOW);
    }

    /// It takes nothing more for now. `now`, and how much it has `taken` in all, are asked only if that is news.
    pub(crate) fn waits(&mut self, now: impl FnOnce() -> Instant, taken: impl FnOnce() -> u64) {
        if self.since.is_some() || (self.timeout.is_none() && self.rate.is_none()) {
            return;
        }
        self.since = Some(now());
        self.counts = self.since;
        if self.first.is_none() {
            self.last = taken();
            self.first = Some(self.last);
        }
    }

    /// It takes more; `now` is asked only if we waited for that. `true`: we did.
    pub(crate) fn flows(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.since = None;
        let Some(counts) = self.counts.take() else { return false };
        self.waited += now().saturating_duration_since(counts);
        true
    }

    /// When to look again, while we wait.
    pub(crate) fn due(&self) -> Option<Instant> {
        let silent = self.since.zip(self.timeout).map(|(since, timeout)| since + timeout);
        let slow = self.counts.filter(|_| self.rate.is_some()).map(|counts| counts + self.window.saturating_sub(self.waited));
        silent.into_iter().chain(slow).min()
    }

    /// Whether it is too slow. How much it has `taken` is asked only where that decides.
    pub(crate) fn look(&mut self, now: Instant, taken: impl FnOnce() -> u64) -> Option<Expired> {
        let passed = |from: Option<Instant>| from.map_or(Duration::ZERO, |from| now.saturating_duration_since(from));
        let silent = self.since.is_some() && self.timeout.is_some_and(|timeout| passed(self.since) >= timeout);
        let over = self.waited + passed(self.counts) >= self.window;
        if !silent && !over {
            return None;
        }
        let taken = taken();
        if silent {
            if taken == self.last {
                return Some(Expired::Client);
            }
            self.since = Some(now);
        }
        self.last = taken;
        if over {
            let least = self.rate.map_or(0, |rate| least(rate, self.window));
            if taken.saturating_sub(self.first.unwrap_or(taken)) < least {
                return Some(Expired::ClientRate);
            }
            // This window was good: the next begins.
            self.counts = self.counts.map(|_| now);
            self.waited = Duration::ZERO;
            self.first = Some(taken);
        }
        None
    }
}

fn least(rate: u64, window: Duration) -> u64 {
    u64::try_from(u128::from(rate) * window.as_millis() / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    const SECOND: Duration = Duration::from_secs(1);

    fn uptake(timeout: Option<u64>, rate: Option<u64>) -> Uptake {
        let limits = Limits::default().or(&Limits::default());
        let mut uptake = Uptake::default();
        uptake.limit(&ListenerLimits { write_timeout: timeout.map(Duration::from_secs), min_write_rate: rate, ..limits });
        uptake
    }

    #[test]
    fn who_takes_nothing_is_dropped_in_time() {
        let start = Instant::now();
        for rate in [None, Some(1)] {
            let mut uptake = uptake(Some(10), rate);
            assert_eq!(uptake.due(), None);
            uptake.waits(|| start, || 500);
            assert_eq!(uptake.due(), Some(start + 10 * SECOND));
            assert_eq!(uptake.look(start + 9 * SECOND, || unreachable!()), None);
            assert_eq!(uptake.look(start + 10 * SECOND, || 500), Some(Expired::Client));
        }
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_stream_is_not() {
        for (each, verdict) in [(99, Some(Expired::ClientRate)), (100, None)] {
            let start = Instant::now();
            let mut uptake = uptake(Some(10), Some(100));
            uptake.waits(|| start, || 0);
            let mut found = None;
            for second in 1..60 {
                found = found.or(uptake.look(start + second * SECOND, || u64::from(second) * each));
            }
            assert_eq!(found, verdict);
        }
    }

    #[test]
    fn a_little_now_and_then_is_something_where_there_is_no_rate() {
        let start = Instant::now();
        let mut uptake = uptake(Some(10), None);
        uptake.waits(|| start, || 0);
        for second in 1..60 {
            assert_eq!(uptake.look(start + second * SECOND, || u64::from(second) / 5), None, "{second}");
        }
        assert_eq!(uptake.look(start + 80 * SECOND, || 10), Some(Expired::Client));
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let start = Instant::now();
        let mut uptake = uptake(Some(10), Some(100));
        for minute in 0..30 {
            // A second of waiting in each minute, for a few bytes.
            let now = start + 60 * minute * SECOND;
            uptake.waits(|| now, || u64::from(minute) * 200);
            assert_eq!(uptake.look(now + SECOND, || u64::from(minute) * 200), None, "{minute}");
            assert!(uptake.flows(|| now + SECOND));
        }
    }

    #[test]
    fn leaps_between_short_waits_are_counted() {
        let start = Instant::now();
        let mut uptake = uptake(Some(10), Some(1000));
        let mut taken = 0;
        let mut found = None;
        for second in 0..30 {
            let now = start + second * SECOND;
            uptake.waits(|| now, || taken);
            found = found.or(uptake.look(now + SECOND, || taken));
            uptake.flows(|| now + SECOND);
            taken += 900;
        }
        assert_eq!(found, Some(Expired::ClientRate));
    }

    #[test]
    fn nothing_is_due_where_nothing_is_limited() {
        let mut uptake = uptake(None, None);
        uptake.waits(|| unreachable!(), || unreachable!());
        assert_eq!(uptake.due(), None);
    }
}
