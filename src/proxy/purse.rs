//! What a peer may spend on frames of HTTP/2 that ask for work and carry nothing. Pure: the time is an argument.

use std::time::{Duration, Instant};

/// What is spent on frames of one kind: so many at once, and so many a second for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purse {
    left: f64,
    most: f64,
    per_second: f64,
    filled: Option<Instant>,
}

impl Purse {
    pub(crate) const fn new(most: f64, per_second: f64) -> Self {
        Self { left: most, most, per_second, filled: None }
    }

    pub(crate) fn earn(&mut self, share: f64) {
        self.left = (self.left + share).min(self.most);
    }

    /// `false`: there is nothing left.
    pub(crate) fn spend(&mut self, now: Instant) -> bool {
        let passed = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        self.earn(passed.as_secs_f64() * self.per_second);
        self.left -= 1.0;
        self.left >= 0.0
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> f64 {
        self.left
    }
}
