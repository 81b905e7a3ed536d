//! When a second endpoint is asked beside one that is slow: after a time, or once a request has taken longer than most did lately.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::types::{Delay, Percent};

/// What came before this time is forgotten, at latest after twice as long.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer requests than these say nothing of most.
const ENOUGH: u64 = 20;
/// Each step is at most an eighth longer than the one before.
const STEPS: usize = 8 * 40;

#[derive(Debug)]
pub(super) struct Hedge {
    after: Delay,
    latencies: Latencies,
}

impl Hedge {
    pub(super) fn new(after: Delay, now: Instant) -> Self {
        Self { after, latencies: Latencies::new(now) }
    }

    /// How long one endpoint is asked alone. `None`: nobody knows yet what is slow.
    pub(super) fn after(&self, now: Instant) -> Option<Duration> {
        match self.after {
            Delay::Time(time) => Some(time.get()),
            Delay::Share(share) => self.latencies.within(share, now),
        }
    }

    /// A request has taken so long with the first endpoint that it was sent to, or longer.
    pub(super) fn took(&self, time: Duration, now: Instant) {
        if matches!(self.after, Delay::Share(_)) {
            self.latencies.add(time, now);
        }
    }
}

/// How long requests took lately: counts by steps, of this window and the one before.
struct Latencies {
    base: Instant,
    windows: [Window; 2],
}

struct Window {
    /// Which it is, from 1 on.
    number: AtomicU64,
    counts: Box<[AtomicU32]>,
}

impl Latencies {
    fn new(now: Instant) -> Self {
        let window = || Window { number: AtomicU64::new(0), counts: (0..STEPS).map(|_| AtomicU32::new(0)).collect() };
        Self { base: now, windows: [window(), window()] }
    }

    fn add(&self, time: Duration, now: Instant) {
        let number = self.number(now);
        let window = &self.windows[(number % 2) as usize];
        let old = window.number.load(Ordering::Relaxed);
        // Whoever comes first clears it. What others count meanwhile may be lost with it: it is an estimate.
        if old < number && window.number.compare_exchange(old, number, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            window.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        }
        window.counts[step(time)].fetch_add(1, Ordering::Relaxed);
    }

    /// The time within which this share of the requests was done.
    fn within(&self, share: Percent, now: Instant) -> Option<Duration> {
        let number = self.number(now);
        let recent = |window: &&Window| number.saturating_sub(window.number.load(Ordering::Relaxed)) <= 1;
        let count = |step: usize| {
            let counts = self.windows.iter().filter(recent).map(|window| u64::from(window.counts[step].load(Ordering::Relaxed)));
            counts.sum::<u64>()
        };
        let all: u64 = (0..STEPS).map(count).sum();
        if all < ENOUGH {
            return None;
        }
        let (wanted, mut seen) = ((all * u64::from(share.get())).div_ceil(100), 0);
        (0..STEPS)
            .find(|step| {
                seen += count(*step);
                seen >= wanted
            })
            .map(end)
    }

    fn number(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_secs() / WINDOW.as_secs() + 1
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
}

/// The step that a time is in: eight for each doubling, in microseconds.
fn step(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(8);
    let doublings = micros.ilog2() as usize;
    let part = (micros >> (doublings - 3)) as usize & 7;
    ((doublings - 3) * 8 + part).min(STEPS - 1)
}

/// Where a step ends.
fn end(step: usize) -> Duration {
    let (doublings, part) = (step / 8, step as u64 % 8);
    Duration::from_micros((8 + part + 1) << doublings)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hedge(after: &str, now: Instant) -> Hedge {
        Hedge::new(after.parse().unwrap(), now)
    }

    #[test]
    fn a_time_is_a_time() {
        let now = Instant::now();
        assert_eq!(hedge("50ms", now).after(now), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_share_is_what_most_take() {
        let now = Instant::now();
        let hedge = hedge("95%", now);
        for number in 0..19 {
            hedge.took(Duration::from_millis(number), now);
        }
        assert_eq!(hedge.after(now), None, "too few to say");
        for number in 1..=1000 {
            hedge.took(Duration::from_micros(number * 100), now);
        }
        let after = hedge.after(now).unwrap().as_millis();
        assert!((94..=107).contains(&after), "{after}");
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let now = Instant::now();
        let hedge = hedge("50%", now);
        (0..100).for_each(|_| hedge.took(Duration::from_secs(2), now));
        let later = now + WINDOW;
        (0..300).for_each(|_| hedge.took(Duration::from_millis(5), later));
        assert!(hedge.after(later).unwrap() < Duration::from_millis(6));
        assert_eq!(hedge.after(later + WINDOW).unwrap(), hedge.after(later).unwrap());
        assert_eq!(hedge.after(later + WINDOW * 2), None);
    }

    proptest! {
        #[test]
        fn a_time_lies_within_its_step(micros in 8_u64..1 << 40) {
            let time = Duration::from_micros(micros);
            let end = end(step(time));
            prop_assert!(end > time && end.as_micros() <= time.as_micros() * 9 / 8 + 1);
        }

        #[test]
        fn no_time_is_too_long(time in any::<Duration>()) {
            prop_assert!(step(time) < STEPS);
        }
    }
}
