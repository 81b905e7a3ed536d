//! One try at an endpoint: what it costs the endpoint while it lasts, and what is learned from its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::outcome::Outcome;
use super::vitals::Vitals;

/// A try that failed counts as one that took at least this long: who refuses quickly is not quick.
const FAILED: Duration = Duration::from_secs(1);

/// A request under way at an endpoint. It counts there until it is dropped.
pub(crate) struct Attempt {
    vitals: Arc<Vitals>,
    began: Instant,
    /// Whether how long it takes is wanted, and not known yet.
    timed: bool,
    outcome: Option<Outcome>,
}

impl Attempt {
    pub(super) fn new(vitals: Arc<Vitals>, began: Instant, timed: bool) -> Self {
        vitals.begin();
        Self { vitals, began, timed, outcome: None }
    }

    /// How it ended. An answer may still become a failure, when it breaks off; the first failure stands.
    pub(crate) fn ended(&mut self, outcome: Outcome, now: Instant) {
        if self.outcome.is_some_and(|known| !known.is_answer()) {
            return;
        }
        self.outcome = Some(outcome);
        if std::mem::take(&mut self.timed) {
            let took = now.saturating_duration_since(self.began);
            self.vitals.observe(if outcome.is_answer() { took } else { took.max(FAILED) }, now);
        }
    }

    /// How it ended, as far as that is known. `None`: the endpoint has not answered, and is not to blame for that.
    #[allow(dead_code, reason = "outlier detection and the retry engine read it")]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.vitals.end();
        if self.timed {
            // Nobody waited for the response any longer: it would have taken more than this.
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.began);
            if self.vitals.latency(now).is_some_and(|expected| waited.as_secs_f32() * 1e6 > expected) {
                self.vitals.observe(waited, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_core::protocols::l4::socket::SocketAddr;

    use super::*;
    use crate::upstream::vitals::Roster;

    fn vitals() -> Arc<Vitals> {
        Roster::default().of(&SocketAddr::Inet(([127, 0, 0, 1], 1).into()))
    }

    #[test]
    fn an_attempt_counts_until_it_is_over() {
        let (vitals, now) = (vitals(), Instant::now());
        let mut first = Attempt::new(vitals.clone(), now, true);
        let second = Attempt::new(vitals.clone(), now, true);
        assert_eq!((vitals.in_flight(), vitals.latency(now)), (2, None));
        let later = now + Duration::from_millis(7);
        first.ended(Outcome::Answered(200), later);
        assert_eq!((vitals.in_flight(), vitals.latency(later)), (2, Some(7_000.0)));
        drop((first, second));
        assert_eq!(vitals.in_flight(), 0);
    }

    #[test]
    fn an_answer_may_break_off_and_the_first_failure_stands() {
        let mut attempt = Attempt::new(vitals(), Instant::now(), false);
        assert_eq!(attempt.outcome(), None);
        for (outcome, known) in [
            (Outcome::Answered(200), Outcome::Answered(200)),
            (Outcome::Reset, Outcome::Reset),
            (Outcome::Answered(200), Outcome::Reset),
            (Outcome::Timeout, Outcome::Reset),
        ] {
            attempt.ended(outcome, Instant::now());
            assert_eq!(attempt.outcome(), Some(known));
        }
    }

    #[test]
    fn who_fails_at_once_is_slow() {
        let (vitals, began) = (vitals(), Instant::now());
        Attempt::new(vitals.clone(), began, true).ended(Outcome::ConnectError, began);
        assert!(vitals.latency(began).unwrap() >= 1e6);
    }

    #[test]
    fn whom_a_client_did_not_wait_for_is_at_least_as_slow_as_that() {
        let vitals = vitals();
        let long_ago = Instant::now() - Duration::from_secs(3);
        Attempt::new(vitals.clone(), long_ago, true).ended(Outcome::Answered(200), long_ago + Duration::from_millis(1));
        drop(Attempt::new(vitals.clone(), long_ago, true));
        assert!(vitals.latency(long_ago).unwrap() >= 3e6);
    }
}
