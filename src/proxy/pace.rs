//! How a client sends its body: how long it pauses, and how much comes in a while. Pure: the time is an argument.
//!
//! Only time in which we wait for the client counts: while an endpoint takes nothing, we ask the client for nothing either.

use std::time::{Duration, Instant};

use crate::config::ListenerLimits;
use crate::proxy::Expired;

/// What the rate is averaged over where `body_timeout` is `none`.
const WINDOW: Duration = Duration::from_secs(30);

/// The pace of one request's body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// Between two reads.
    timeout: Option<Duration>,
    /// Bytes that must come in a window of waiting.
    least: Option<u64>,
    window: Duration,
    /// Since when we wait for more.
    since: Option<Instant>,
    /// From when that counts for this window.
    counts: Option<Instant>,
    /// For how long we have waited in this window, the current wait apart.
    waited: Duration,
    /// What came in this window.
    bytes: u64,
}

impl Pace {
    pub(crate) fn new(limits: &ListenerLimits) -> Self {
        let window = limits.body_timeout.unwrap_or(WINDOW);
        let least =
            limits.min_body_rate.map(|rate| u64::try_from(u128::from(rate) * window.as_millis() / 1000).unwrap_or(u64::MAX));
        Self { timeout: limits.body_timeout, least, window, since: None, counts: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// How long it may pause.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Another body begins.
    pub(crate) fn restart(&mut self) {
        *self = Self { since: None, counts: None, waited: Duration::ZERO, bytes: 0, ..*self };
    }

    /// There is nothing to read; `now` is asked only if that is news.
    pub(crate) fn waits(&mut self, now: impl FnOnce() -> Instant) {
        if self.since.is_none() && (self.timeout.is_some() || self.least.is_some()) {
            self.since = Some(now());
            self.counts = self.since;
        }
    }

    /// Something has come; `now` is asked only if we waited for it.
    pub(crate) fn came(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        self.since = None;
        if let Some(counts) = self.counts.take() {
            self.waited += now().saturating_duration_since(counts);
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When to look again, while we wait.
    pub(crate) fn due(&self) -> Option<Instant> {
        let since = self.since?;
        let silent = self.timeout.map(|timeout| since + timeout);
        let slow = self.least.and(self.counts).map(|counts| counts + self.window.saturating_sub(self.waited));
        silent.into_iter().chain(slow).min()
    }

    /// Whether the client is too slow.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Expired> {
        let passed = |from: Option<Instant>| from.map_or(Duration::ZERO, |from| now.saturating_duration_since(from));
        if self.since.is_some() && self.timeout.is_some_and(|timeout| passed(self.since) >= timeout) {
            return Some(Expired::Body);
        }
        if self.waited + passed(self.counts) < self.window {
            return None;
        }
        if self.least.is_some_and(|least| self.bytes < least) {
            return Some(Expired::BodyRate);
        }
        // This window was good: the next begins.
        self.counts = self.counts.map(|_| now);
        self.waited = Duration::ZERO;
        self.bytes = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(timeout: Option<u64>, rate: Option<u64>) -> Pace {
        let limits = Limits::default().or(&Limits::default());
        Pace::new(&ListenerLimits { body_timeout: timeout.map(Duration::from_secs), min_body_rate: rate, ..limits })
    }

    #[test]
    fn silence_has_an_end() {
        let start = Instant::now();
        let mut pace = pace(Some(10), None);
        assert_eq!(pace.due(), None);
        pace.waits(|| start);
        assert_eq!(pace.due(), Some(start + 10 * SECOND));
        assert_eq!(pace.look(start + 9 * SECOND), None);
        pace.came(1, || start + 9 * SECOND);
        pace.waits(|| start + 12 * SECOND);
        assert_eq!(pace.look(start + 21 * SECOND), None);
        assert_eq!(pace.look(start + 22 * SECOND), Some(Expired::Body));
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_stream_is_not() {
        for (bytes, verdict) in [(99, Some(Expired::BodyRate)), (100, None)] {
            let start = Instant::now();
            let mut pace = pace(Some(10), Some(100));
            let mut found = None;
            for second in 0..40 {
                let now = start + second * SECOND;
                pace.waits(|| now);
                assert_eq!(pace.look(now + SECOND / 2), found);
                pace.came(bytes, || now + SECOND);
                found = found.or(pace.look(now + SECOND));
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found, verdict);
        }
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_does_not_count() {
        let start = Instant::now();
        let mut pace = pace(None, Some(100));
        for minute in 0..10 {
            // A second of waiting in each minute.
            let now = start + 60 * minute * SECOND;
            pace.waits(|| now);
            pace.came(10, || now + SECOND);
            assert_eq!(pace.look(now + SECOND), None);
        }
    }

    #[test]
    fn nothing_is_due_where_nothing_is_limited() {
        let mut pace = pace(None, None);
        pace.waits(|| unreachable!());
        assert_eq!(pace.due(), None);
    }
}
