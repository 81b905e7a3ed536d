//! The adaptive limit: as much in flight as endpoints answer without getting slower. Pure.
//!
//! The idea is that of Netflix's `Gradient2`: compare what answers take now with what they have taken for long. While both are alike the
//! limit grows by the root of itself; when now is more than `TOLERANCE` times as long, the limit shrinks in proportion, to half at most,
//! and by a part of that in each window. A limit that nobody fills says nothing about what endpoints can bear, and does not grow.

/// How much slower than for long answers may be.
const TOLERANCE: f64 = 2.0;
/// The share of the new in each window.
const SMOOTHING: f64 = 0.2;
/// How many windows make what is taken for long: a minute.
const LONG: f64 = 600.0;
/// A limit below this would stop everything on a single slow answer.
const LEAST: f64 = 16.0;

/// What was seen in a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) answers: u64,
    pub(super) micros: u64,
    /// The most in flight.
    pub(super) peak: u64,
}

#[derive(Debug)]
pub(super) struct Gradient {
    /// `None`: nothing has been seen yet.
    limit: Option<f64>,
    /// What answers have taken for long, in microseconds.
    long: f64,
}

impl Gradient {
    pub(super) fn new() -> Self {
        Self { limit: None, long: 0.0 }
    }

    /// The limit after this window; never more than `most`.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate within bounds"
    )]
    pub(super) fn after(&mut self, window: &Window, most: u64) -> u64 {
        let most = most as f64;
        let limit = self.limit.unwrap_or(most).min(most);
        let now = (window.micros as f64 / window.answers.max(1) as f64).max(1.0);
        if self.limit.is_none() {
            self.long = now;
        }
        self.long += (now - self.long) / LONG;
        if self.long > 2.0 * now {
            // What was slow for long is no measure any more.
            self.long *= 0.95;
        }
        let gradient = (TOLERANCE * self.long / now).clamp(0.5, 1.0);
        let peak = window.peak as f64;
        let next = if gradient < 1.0 {
            // What is above the most that came has no part in how slow it was.
            let filled = limit.min(peak.max(LEAST));
            filled * (1.0 - SMOOTHING) + (filled * gradient + filled.sqrt()) * SMOOTHING
        } else if peak * 2.0 > limit {
            limit + limit.sqrt() * SMOOTHING
        } else {
            limit
        };
        let next = next.max(LEAST).min(most);
        self.limit = Some(next);
        next as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(millis: u64, peak: u64) -> Window {
        Window { answers: 100, micros: 100 * millis * 1000, peak }
    }

    #[test]
    fn it_stays_while_nothing_is_slower() {
        let mut gradient = Gradient::new();
        for millis in [10, 12, 9, 15, 18, 10] {
            assert_eq!(gradient.after(&window(millis, 50), 1000), 1000);
        }
    }

    #[test]
    fn it_falls_to_what_is_filled_and_below_when_answers_get_slow() {
        let mut gradient = Gradient::new();
        gradient.after(&window(10, 100), 50_000);
        let first = gradient.after(&window(100, 400), 50_000);
        assert!((300..400).contains(&first), "{first}");
        let mut limit = first;
        for _ in 0..100 {
            let next = gradient.after(&window(100, limit), 50_000);
            assert!(next <= limit, "{next} > {limit}");
            limit = next;
        }
        assert_eq!(limit, 16);
    }

    #[test]
    fn it_recovers_where_it_is_filled_and_only_there() {
        let mut gradient = Gradient::new();
        gradient.after(&window(10, 100), 1000);
        for _ in 0..20 {
            gradient.after(&window(100, 100), 1000);
        }
        let low = gradient.after(&window(100, 100), 1000);
        assert_eq!(gradient.after(&window(10, 1), 1000), low);
        let mut limit = low;
        for _ in 0..2000 {
            limit = gradient.after(&window(10, limit), 1000);
        }
        assert_eq!(limit, 1000);
    }

    #[test]
    fn a_new_pace_is_the_measure_after_some_minutes() {
        let mut gradient = Gradient::new();
        gradient.after(&window(10, 100), 1000);
        let mut limit = 0;
        for _ in 0..3000 {
            limit = gradient.after(&window(40, 1000), 1000);
        }
        assert!(limit > 500, "{limit}");
    }
}
