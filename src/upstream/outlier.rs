//! Passive health: endpoints that fail requests are left out for a while.
//!
//! What requests tell is kept in atomics ([`Record`]), so that none of them waits for another. Who is to be left out, and for how long, is
//! decided beside requests, for one endpoint after the other. Time is an argument everywhere.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::eligible::{Standing, eligible};
use crate::config::OutlierDetection;
use crate::types::Percent;

/// Requests within a window before its share of failures says anything.
const ENOUGH: u64 = 20;
/// A window is so many slices: what is older than the oldest is forgotten.
const SLICES: usize = 8;
/// However often an endpoint was left out, it is tried again after this, or after `eject_for` should that be longer.
const LONGEST: Duration = Duration::from_secs(300);

/// When an endpoint is left out.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    consecutive: Option<u32>,
    ratio: Option<Percent>,
    slice: Duration,
    eject_for: Duration,
    max_ejected: Percent,
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Consecutive,
    Ratio,
}

impl Fault {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_errors",
            Self::Ratio => "error_ratio",
        }
    }
}

impl Rules {
    pub(super) fn new(settings: &OutlierDetection) -> Self {
        Self {
            consecutive: settings.consecutive_errors.get().map(crate::types::Count::get),
            ratio: settings.error_ratio.get(),
            slice: (settings.window.get() / SLICES as u32).max(Duration::from_millis(1)),
            eject_for: settings.eject_for.get(),
            max_ejected: settings.max_ejected,
        }
    }

    /// Whether one more of these may be left out, of whom those in `ejected` are already: not too many at once, and, unless all may be,
    /// never the last one that would be given requests.
    pub(super) fn allow(&self, standings: &[Standing], ejected: &[bool], candidate: usize, panic: Percent) -> bool {
        let total = standings.len();
        let out = ejected.iter().filter(|out| **out).count();
        let share = total * usize::from(self.max_ejected.get()) / 100;
        if out >= share.max(usize::from(total > 1)) {
            return false;
        }
        let mut after = standings.to_vec();
        after[candidate].healthy = false;
        self.max_ejected.get() == 100 || eligible(&after, panic).contains(&true)
    }
}

/// How an endpoint's latest requests ended.
#[derive(Default)]
pub(super) struct Record {
    /// Failures since the last success.
    streak: AtomicU32,
    /// What happened in each slice of the window, as a [`Slice`].
    slices: [AtomicU64; SLICES],
}

impl Record {
    /// A request ended, at this time since some fixed moment. `Some`: the endpoint should be left out. Then it is counted anew.
    pub(super) fn heard(&self, failed: bool, at: Duration, rules: &Rules) -> Option<Fault> {
        let epoch = (at.as_millis() / rules.slice.as_millis()) as u64;
        if rules.ratio.is_some() {
            let counted = |bits| Some(Slice::of(bits).at(epoch).plus(failed).bits());
            // It never refuses.
            let _ = self.slices[epoch as usize % SLICES].fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
        }
        if !failed {
            // Mostly it is so already, and then no other thread loses what it knows of this.
            if self.streak.load(Ordering::Relaxed) != 0 {
                self.streak.store(0, Ordering::Relaxed);
            }
            return None;
        }
        let streak = self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let fault = if rules.consecutive.is_some_and(|most| streak >= most) {
            Fault::Consecutive
        } else if rules.ratio.is_some_and(|ratio| self.has_share(ratio, epoch)) {
            Fault::Ratio
        } else {
            return None;
        };
        self.forget();
        Some(fault)
    }

    fn has_share(&self, ratio: Percent, epoch: u64) -> bool {
        let slices = self.slices.iter().map(|slice| Slice::of(slice.load(Ordering::Relaxed)));
        let within = slices.filter(|slice| (Slice::epoch(epoch).wrapping_sub(slice.epoch) & Slice::EPOCHS) < SLICES as u64);
        let (all, failed) = within.fold((0, 0), |(all, failed), slice| (all + slice.all, failed + slice.failed));
        all >= ENOUGH && !ratio.is_above(failed as usize, all as usize)
    }

    /// What was so far does not count any more.
    pub(super) fn forget(&self) {
        self.streak.store(0, Ordering::Relaxed);
        self.slices.iter().for_each(|slice| slice.store(0, Ordering::Relaxed));
    }
}

/// Requests of one slice of time, and how many of them failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    /// Which slice, as far as 24 bits tell.
    epoch: u64,
    all: u64,
    failed: u64,
}

impl Slice {
    const EPOCHS: u64 = (1 << 24) - 1;
    const MOST: u64 = (1 << 20) - 1;

    fn epoch(number: u64) -> u64 {
        number & Self::EPOCHS
    }

    fn of(bits: u64) -> Self {
        Self { epoch: bits >> 40, all: bits >> 20 & Self::MOST, failed: bits & Self::MOST }
    }

    fn bits(self) -> u64 {
        self.epoch << 40 | self.all << 20 | self.failed
    }

    fn at(self, number: u64) -> Self {
        let epoch = Self::epoch(number);
        if self.epoch == epoch { self } else { Self { epoch, all: 0, failed: 0 } }
    }

    fn plus(self, failed: bool) -> Self {
        // Where there is no room for more, half of what is there has the same share.
        let halves = u32::from(self.all == Self::MOST);
        Self { epoch: self.epoch, all: (self.all >> halves) + 1, failed: (self.failed >> halves) + u64::from(failed) }
    }
}

/// Whether an endpoint is left out, and how often it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ejection {
    until: Option<Instant>,
    times: u32,
}

impl Ejection {
    /// It is left out from now on, for the time that is returned: twice as long as the last time. Each `eject_for` that it was in since
    /// then takes one time back.
    pub(super) fn eject(&mut self, rules: &Rules, now: Instant) -> Duration {
        if let Some(returned) = self.until {
            let good = now.saturating_duration_since(returned).as_nanos() / rules.eject_for.as_nanos().max(1);
            self.times = self.times.saturating_sub(u32::try_from(good).unwrap_or(u32::MAX));
        }
        let longest = LONGEST.max(rules.eject_for);
        let time = rules.eject_for.saturating_mul(2_u32.saturating_pow(self.times)).min(longest);
        // More would make no difference, and take as long to be forgiven.
        self.times = if time < longest { self.times + 1 } else { self.times };
        self.until = Some(now + time);
        time
    }

    pub(super) fn is_out(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until > now)
    }

    /// When it returns.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::testing::decoded;

    fn rules(yaml: &str) -> Rules {
        Rules::new(&decoded(yaml).unwrap())
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn failures_in_a_row() {
        let (record, rules) = (Record::default(), rules("{consecutive_errors: 3, error_ratio: none}"));
        let heard =
            |outcomes: &str| outcomes.chars().map(|letter| record.heard(letter == 'x', MS(5), &rules)).collect::<Vec<_>>();
        assert_eq!(heard("xx.xx."), [None; 6]);
        assert_eq!(heard("xxx"), [None, None, Some(Fault::Consecutive)]);
        assert_eq!(heard("xx"), [None, None], "counted anew");
    }

    #[test]
    fn a_share_of_enough_requests() {
        let rules = rules("{consecutive_errors: none, error_ratio: 50%, window: 8s}");
        let record = Record::default();
        let heard = |failed: bool, at: u64| record.heard(failed, MS(at), &rules);
        assert!((0..19).all(|n| heard(n % 2 == 0, n * 100).is_none()), "too few to tell");
        assert_eq!(heard(true, 1_900), Some(Fault::Ratio));
        // Half a window later the first half of the requests is forgotten.
        assert!((0..19).all(|n| heard(false, 2_000 + n).is_none()));
        assert!((0..18).all(|n| heard(true, 3_000 + n).is_none()));
        assert_eq!(heard(true, 3_100), Some(Fault::Ratio), "19 of 38");
        assert!((0..19).all(|n| heard(true, 20_000 + n).is_none()));
        assert_eq!(heard(false, 28_000), None);
        assert_eq!(heard(true, 28_000), None, "the nineteen are long over");
    }

    #[test]
    fn each_time_is_twice_as_long_and_good_behaviour_is_rewarded() {
        let rules = rules("{eject_for: 30s}");
        let (mut ejection, mut now) = (Ejection::default(), Instant::now());
        let mut times = Vec::new();
        for _ in 0..6 {
            let time = ejection.eject(&rules, now);
            assert!(ejection.is_out(now) && !ejection.is_out(now + time));
            now += time + MS(1);
            times.push(time.as_secs());
        }
        assert_eq!(times, [30, 60, 120, 240, 300, 300]);
        assert_eq!(ejection.eject(&rules, now + Duration::from_secs(65)).as_secs(), 120, "two times are forgiven");
        let mut fresh = ejection.clone();
        assert_eq!(fresh.eject(&rules, now + Duration::from_secs(3_000)).as_secs(), 30);
    }

    #[test]
    fn what_is_longer_than_the_cap_is_its_own() {
        let (rules, now) = (rules("{eject_for: 10m}"), Instant::now());
        let mut ejection = Ejection::default();
        assert_eq!([ejection.eject(&rules, now), ejection.eject(&rules, now)].map(|time| time.as_secs()), [600, 600]);
    }

    fn allowed(share: &str, endpoints: &str, candidate: usize) -> bool {
        let rules = rules(&format!("{{max_ejected: {share}}}"));
        let standing = |letter: char| Standing { healthy: letter.eq_ignore_ascii_case(&'h'), backup: letter.is_uppercase() };
        let standings: Vec<Standing> = endpoints.chars().map(standing).collect();
        let ejected: Vec<bool> = endpoints.chars().map(|letter| letter.eq_ignore_ascii_case(&'e')).collect();
        rules.allow(&standings, &ejected, candidate, Percent::default())
    }

    /// `h`: healthy, `i`: ill, `e`: left out; in capitals a backup.
    #[test]
    fn not_too_many_and_never_the_last() {
        assert!(allowed("50%", "hhhh", 0) && allowed("50%", "ehhh", 1) && !allowed("50%", "eehh", 2));
        assert!(allowed("10%", "hh", 0), "one of two may always be");
        assert!(!allowed("50%", "h", 0), "a single one never is");
        assert!(allowed("50%", "hH", 0), "there is a backup");
        assert!(!allowed("50%", "hiii", 0), "nobody else is healthy");
        assert!(allowed("50%", "hiiH", 0), "a backup is");
        assert!(allowed("100%", "hiii", 0) && allowed("100%", "h", 0), "all may be");
    }

    proptest! {
        #[test]
        fn whoever_answers_is_never_left_out(at in prop::collection::vec(0_u64..100_000, 0..300)) {
            let (record, rules) = (Record::default(), rules("{}"));
            for at in at {
                prop_assert_eq!(record.heard(false, MS(at), &rules), None);
            }
        }

        #[test]
        fn by_a_count_alone_it_is_as_a_plain_counter_says(
            most in 1_u32..6, outcomes in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let (record, rules) = (Record::default(), rules(&format!("{{consecutive_errors: {most}, error_ratio: none}}")));
            let mut streak = 0;
            for failed in outcomes {
                streak = if failed { streak + 1 } else { 0 };
                let expected = (streak == most).then_some(Fault::Consecutive);
                streak %= most;
                prop_assert_eq!(record.heard(failed, MS(0), &rules), expected);
            }
        }

        /// Against one that remembers every request. A slice is an eighth of the window: at its edge they may differ.
        #[test]
        fn by_a_share_alone_it_is_as_one_that_remembers_all(
            outcomes in prop::collection::vec((any::<bool>(), 0_u64..400), 0..300), ratio in 1_u32..=100,
        ) {
            let (record, rules) = (Record::default(), rules(&format!("{{consecutive_errors: none, error_ratio: {ratio}%, window: 8s}}")));
            let (mut now, mut seen) = (0_u64, Vec::new());
            for (failed, passed) in outcomes {
                now += passed;
                seen.push((now / 1_000, failed));
                seen.retain(|(slice, _)| *slice + 8 > now / 1_000);
                let bad = seen.iter().filter(|(_, failed)| *failed).count();
                let due = failed && seen.len() >= 20 && bad * 100 >= seen.len() * ratio as usize;
                prop_assert_eq!(record.heard(failed, MS(now), &rules), due.then_some(Fault::Ratio));
                if due {
                    seen.clear();
                }
            }
        }

        #[test]
        fn a_slice_fits_into_a_number(epoch in 0_u64..1 << 24, outcomes in prop::collection::vec(any::<bool>(), 0..50)) {
            let slice = outcomes.iter().fold(Slice::of(0).at(epoch), |slice, failed| Slice::of(slice.plus(*failed).bits()));
            let failed = outcomes.iter().filter(|failed| **failed).count() as u64;
            prop_assert_eq!(slice, Slice { epoch, all: outcomes.len() as u64, failed });
        }

        /// However endpoints fail, some are left: as many as the share says, or all but one.
        #[test]
        fn the_cap_holds(kinds in prop::collection::vec(any::<(bool, bool)>(), 1..12), share in 1_u8..100, tries in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
            let rules = rules(&format!("{{max_ejected: {share}%}}"));
            let mut standings: Vec<Standing> = kinds.iter().map(|(healthy, backup)| Standing { healthy: *healthy, backup: *backup }).collect();
            let mut ejected = vec![false; standings.len()];
            for index in tries {
                let place = index.index(standings.len());
                if standings[place].healthy && rules.allow(&standings, &ejected, place, Percent::default()) {
                    (standings[place].healthy, ejected[place]) = (false, true);
                }
            }
            let out = ejected.iter().filter(|out| **out).count();
            prop_assert!(out <= (kinds.len() * usize::from(share) / 100).max(1));
            prop_assert!(out == 0 || kinds.len() > 1);
            prop_assert_eq!(standings.iter().any(|standing| standing.healthy), kinds.iter().any(|(healthy, _)| *healthy));
        }
    }
}
