//! The one limit on waiting.

use std::env;
use std::time::{Duration, Instant};

/// When a test gives up waiting. Generous: it is met by broken code only, never by a slow machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// A minute from now, or as many seconds as `RAVELIN_TEST_DEADLINE` says.
    pub(crate) fn standard() -> Self {
        let seconds = env::var("RAVELIN_TEST_DEADLINE").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
        Self::after(Duration::from_secs(seconds))
    }

    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub(crate) fn at(self) -> Instant {
        self.0
    }

    /// What is left; never zero, as socket timeouts take no zero.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    /// This or 50 ms from now: for a loop that waits for two things by turns.
    pub(crate) fn min_step(self) -> Self {
        Self(self.0.min(Instant::now() + Duration::from_millis(50)))
    }

    pub(crate) fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}
