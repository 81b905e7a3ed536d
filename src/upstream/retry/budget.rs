//! How many retries there may be: a share of the requests that there are, and a few besides. So retries can't become a storm, however
//! many requests fail.
//!
//! Requests are counted where each thread has its own number; only a retry adds them up. So a request that succeeds pays nothing
//! for the budget, and a retry takes no lock.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use crate::config;

/// What was not used is forgotten over this time: a long good while does not pay for a storm.
const WINDOW_MS: u64 = 1000;
/// What one retry takes. A share of a hundred of one request, and one in a minute for a millisecond, are whole numbers of it.
const RETRY: i64 = 60_000;

/// The retries of an upstream.
#[derive(Debug)]
pub(crate) struct Budget {
    /// For each request.
    share: i64,
    /// For each millisecond.
    trickle: i64,
    base: Instant,
    /// Until when and with which request the purse was filled: milliseconds since `base` above the number of requests.
    mark: AtomicU64,
    purse: AtomicI64,
}

impl Budget {
    /// `requests`: how many have been counted so far.
    pub(crate) fn new(settings: &config::Budget, requests: u64, now: Instant) -> Self {
        let trickle = i64::try_from(settings.min.per_minute()).unwrap_or(i64::MAX / RETRY);
        let budget = Self {
            share: i64::from(settings.ratio.get()) * (RETRY / 100),
            trickle: trickle.saturating_mul(RETRY / 60_000),
            base: now,
            mark: AtomicU64::new(mark(0, requests)),
            purse: AtomicI64::new(0),
        };
        // A window of its own before it: the first failures need not wait.
        budget.purse.store(budget.trickle.saturating_mul(WINDOW_MS as i64), Ordering::Relaxed);
        budget
    }

    /// Takes one retry, if there is one left. `requests`: how many have been counted so far.
    pub(crate) fn take(&self, requests: u64, now: Instant) -> bool {
        self.fill(requests, now);
        let taken = |purse: i64| (purse >= RETRY).then_some(purse - RETRY);
        self.purse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Puts in what has come together since the last time. Whoever moves the mark does it for all that have seen the same.
    fn fill(&self, requests: u64, now: Instant) {
        let time = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX);
        let (old, new) = (self.mark.load(Ordering::Relaxed), mark(time, requests));
        // A thread that read its clock a little earlier leaves it to the others. Half a turn of the numbers is 24 days.
        let (elapsed, came) = (part(new, 32).wrapping_sub(part(old, 32)), part(new, 0).wrapping_sub(part(old, 0)));
        if elapsed > u32::MAX / 2 || came > u32::MAX / 2 || old == new {
            return;
        }
        if self.mark.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let elapsed = u64::from(elapsed);
        let shares = i64::from(came).saturating_mul(self.share);
        // Of requests that came over a longer time, those of one window count; but for one retry the saving may take as long as it likes.
        let fresh = if elapsed > WINDOW_MS {
            let lately = i128::from(shares) * i128::from(WINDOW_MS) / i128::from(elapsed);
            shares.min(RETRY.max(i64::try_from(lately).unwrap_or(i64::MAX)))
        } else {
            shares
        };
        let trickle = self.trickle.saturating_mul(elapsed.min(WINDOW_MS) as i64);
        let filled = |purse: i64| {
            let left = i128::from(purse) * i128::from(WINDOW_MS.saturating_sub(elapsed)) / i128::from(WINDOW_MS);
            let left = i64::try_from(left).unwrap_or(i64::MAX).max(purse.min(RETRY));
            Some(left.saturating_add(fresh).saturating_add(trickle))
        };
        // It never refuses.
        let _ = self.purse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, filled);
    }
}

fn mark(time: u64, requests: u64) -> u64 {
    (time << 32) | (requests & u64::from(u32::MAX))
}

fn part(mark: u64, shift: u32) -> u32 {
    (mark >> shift) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn budget(ratio: u8, min: &str) -> (Budget, Instant) {
        let now = Instant::now();
        let settings = config::Budget { ratio: format!("{ratio}%").parse().unwrap(), min: min.parse().unwrap() };
        (Budget::new(&settings, 0, now), now)
    }

    /// `rate` requests a second, each of which wants `wanted` retries: how many are granted in this time.
    fn granted(budget: &Budget, (from, counted): (Instant, &mut u64), rate: u64, seconds: u64, wanted: u32) -> u64 {
        let mut granted = 0;
        for number in 1..=rate * seconds {
            let now = from + Duration::from_micros(number * 1_000_000 / rate);
            *counted += 1;
            granted += (0..wanted).map(|_| u64::from(budget.take(*counted, now))).sum::<u64>();
        }
        granted
    }

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_besides() {
        let (budget, now) = budget(20, "10/s");
        let granted = granted(&budget, (now, &mut 0), 1000, 10, 3);
        assert!((2_000 + 90..=2_000 + 110 + 1).contains(&granted), "{granted}");
    }

    #[test]
    fn a_long_good_while_pays_for_one_window_only() {
        let (budget, now) = budget(20, "0/s");
        assert!(!budget.take(0, now));
        // An hour at 1000 a second, without a retry; then everything fails, for a second.
        let mut counted = 3_600_000;
        let later = now + Duration::from_secs(3600);
        let granted = granted(&budget, (later, &mut counted), 1000, 1, 1);
        assert!((350..=401).contains(&granted), "{granted}");
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let (budget, now) = budget(0, "10/s");
        for seconds in [0, 60, 3600] {
            let now = now + Duration::from_secs(seconds);
            let granted = (0..100).filter(|_| budget.take(0, now)).count();
            assert!((10..=11).contains(&granted), "{granted}");
        }
    }

    #[test]
    fn a_share_of_few_requests_adds_up_however_long_it_takes() {
        let (budget, now) = budget(20, "0/s");
        let mut granted = Vec::new();
        for number in 1..=20 {
            if budget.take(number, now + Duration::from_secs(30 * number)) {
                granted.push(number);
            }
        }
        assert_eq!(granted, [5, 10, 15, 20]);
    }

    #[test]
    fn threads_that_meet_take_no_more_than_there_is() {
        let (budget, now) = budget(50, "0/s");
        let taken: u64 = std::thread::scope(|scope| {
            let take = || (0..1000).map(|_| u64::from(budget.take(1000, now + Duration::from_millis(5)))).sum::<u64>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 500);
    }

    proptest! {
        #[test]
        fn however_requests_come_retries_never_exceed_share_and_trickle_by_more_than_a_window(
            steps in prop::collection::vec((0_u64..3_000, 0_u64..50, 0_usize..50), 1..60), ratio in 0_u8..=100, min in 0_u32..50,
        ) {
            let (budget, start) = budget(ratio, &format!("{min}/s"));
            let (mut time, mut requests, mut granted) = (0, 0, 0_u64);
            for (wait, came, wanted) in steps {
                time += wait;
                requests += came;
                let now = start + Duration::from_millis(time);
                granted += (0..wanted).filter(|_| budget.take(requests, now)).count() as u64;
                let allowed = requests * u64::from(ratio) / 100 + u64::from(min) * (time + WINDOW_MS) / 1000 + 1;
                prop_assert!(granted <= allowed, "{granted} of {allowed}");
            }
        }
    }
}
