//! Who is expected to answer first, of two choices: by a moving average of latencies that follows a rise at once and forgets it
//! slowly, times the requests in flight (Finagle's peak EWMA).

use std::time::Duration;

use super::random::Shares;
use super::{Moment, two_choices};

/// In this time an estimate falls to a third, if nothing else is heard.
const DECAY_MS: f32 = 10_000.0;
/// The cost of one that nobody has heard of and that has been asked already: it is not asked by all at once.
const UNKNOWN: f32 = 1e9;

pub(super) fn pick(shares: &Shares, moment: &impl Moment, accept: impl Fn(usize) -> bool) -> Option<usize> {
    let cost = |place| cost(moment.latency(place), moment.in_flight(place), shares.relative(place));
    two_choices::pick(shares, || moment.chance(), accept, |other, first| cost(other) < cost(first))
}

fn cost(latency: Option<f32>, in_flight: u32, weight: f32) -> f32 {
    match (latency, in_flight) {
        (None, 0) => 0.0,
        (None, in_flight) => UNKNOWN * in_flight as f32,
        (Some(latency), in_flight) => latency * (in_flight as f32 / weight + 1.0),
    }
}

/// How long an endpoint takes until it answers, by what was seen of it. Times are milliseconds from any one moment on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::upstream) struct Estimate {
    micros: f32,
    at: u32,
}

impl Estimate {
    /// Nothing was seen. It is the estimate of the bits 0.
    pub(in crate::upstream) const NONE: Self = Self { micros: 0.0, at: 0 };

    /// So that it fits into an atomic number.
    pub(in crate::upstream) fn bits(self) -> u64 {
        u64::from(self.micros.to_bits()) << 32 | u64::from(self.at)
    }

    pub(in crate::upstream) fn from_bits(bits: u64) -> Self {
        Self { micros: f32::from_bits((bits >> 32) as u32), at: bits as u32 }
    }

    /// An exchange took so long.
    pub(in crate::upstream) fn observed(self, latency: Duration, now: u32) -> Self {
        let micros = (latency.as_secs_f32() * 1e6).max(1.0);
        let kept = self.kept(now);
        // A rise is believed at once, a fall by and by.
        Self { micros: if micros > self.micros { micros } else { self.micros * kept + micros * (1.0 - kept) }, at: now }
    }

    /// In microseconds, as it stands now; `None`: nothing was ever seen. One that is not asked any more is forgiven, and asked
    /// again some day.
    pub(in crate::upstream) fn at(self, now: u32) -> Option<f32> {
        (self != Self::NONE).then(|| self.micros * self.kept(now))
    }

    fn kept(self, now: u32) -> f32 {
        // Two threads may have read the clock in another order than they come here.
        let passed = now.wrapping_sub(self.at).cast_signed().max(0);
        (-(passed as f32) / DECAY_MS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scene;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_rise_is_believed_at_once_and_a_fall_by_and_by() {
        let estimate = Estimate::NONE.observed(MS(5), 1_000);
        assert_eq!(estimate.at(1_000), Some(5_000.0));
        let risen = estimate.observed(MS(2_000), 1_010);
        assert_eq!(risen.at(1_010), Some(2_000_000.0));
        let falling = risen.observed(MS(5), 1_020).at(1_020).unwrap();
        assert!((1_900_000.0..2_000_000.0).contains(&falling), "{falling}");
        let fallen = (0..100_u32).fold(risen, |estimate, n| estimate.observed(MS(5), 1_010 + n * 1_000)).at(101_010).unwrap();
        assert!((4_000.0..6_000.0).contains(&fallen), "{fallen}");
    }

    #[test]
    fn who_is_not_asked_is_forgiven() {
        let estimate = Estimate::NONE.observed(MS(2_000), 0);
        assert!(estimate.at(60_000).unwrap() < 5_000.0);
        assert_eq!(Estimate::NONE.at(5), None);
    }

    #[test]
    fn a_clock_that_was_read_before_does_no_harm() {
        let estimate = Estimate::NONE.observed(MS(5), 1_000);
        assert_eq!(estimate.at(900), Some(5_000.0));
        let wrapped = Estimate::NONE.observed(MS(5), u32::MAX - 5);
        assert!((4_000.0..5_000.0).contains(&wrapped.at(500).unwrap()));
    }

    #[test]
    fn it_fits_into_a_number() {
        let estimate = Estimate::NONE.observed(MS(5), 1_234);
        assert_eq!(Estimate::from_bits(estimate.bits()), estimate);
        assert_eq!(Estimate::from_bits(0), Estimate::NONE);
    }

    #[test]
    fn the_slow_one_is_avoided() {
        let shares = Shares::new(&[1, 1]);
        let scene = Scene { latency: vec![Some(2e6), Some(5e3)], ..Scene::of(2) };
        scene.in_flight.borrow_mut()[1] = 50;
        assert!((0..50).all(|_| pick(&shares, &scene, |_| true) == Some(1)));
    }

    #[test]
    fn a_stranger_is_asked_once_until_it_has_answered() {
        let shares = Shares::new(&[1, 1]);
        let scene = Scene { latency: vec![Some(5e3), None], ..Scene::of(2) };
        assert_eq!(pick(&shares, &scene, |_| true), Some(1));
        scene.in_flight.borrow_mut()[1] = 1;
        assert!((0..50).all(|_| pick(&shares, &scene, |_| true) == Some(0)));
    }
}
