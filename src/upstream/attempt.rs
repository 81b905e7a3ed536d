//! One try at an endpoint: what it costs the endpoint while it lasts, and what is learned from its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::outcome::Outcome;

/// A try that failed counts as one that took at least this long: who refuses quickly is not quick.
const FAILED: Duration = Duration::from_secs(1);

/// A request under way at an endpoint. It counts there until it is dropped.
pub(crate) struct Attempt {
    endpoint: Arc<Endpoint>,
    began: Instant,
    /// Whether how long it takes is wanted, and not known yet.
    timed: bool,
    outcome: Option<Outcome>,
}

impl Attempt {
    pub(super) fn new(endpoint: Arc<Endpoint>, began: Instant, timed: bool) -> Self {
        endpoint.vitals().begin();
        Self::begun(endpoint, began, timed)
    }

    /// The request is counted at the endpoint already.
    pub(super) fn begun(endpoint: Arc<Endpoint>, began: Instant, timed: bool) -> Self {
        Self { endpoint, began, timed, outcome: None }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// When it began: a time in line is none of it.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// How it ended. An answer may still become a failure, when it breaks off; the first failure stands.
    pub(crate) fn ended(&mut self, outcome: Outcome, now: Instant) {
        if self.outcome.is_some_and(|known| !known.is_answer()) {
            return;
        }
        self.outcome = Some(outcome);
        if outcome == Outcome::Refused || outcome.is_answer() {
            self.endpoint.vitals().refuses(outcome == Outcome::Refused);
        }
        if outcome.is_failure() {
            self.endpoint.heard(true, || now);
        }
        if std::mem::take(&mut self.timed) {
            let took = now.saturating_duration_since(self.began);
            self.endpoint.vitals().observe(if outcome.is_answer() { took } else { took.max(FAILED) }, now);
        }
    }

    /// How it ended, as far as that is known. `None`: the endpoint has not answered, and is not to blame for that.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        match self.outcome() {
            Some(outcome) if outcome.is_failure() => self.endpoint.meter().failed(),
            // Only now: until here it could have broken off.
            Some(_) => self.endpoint.heard(false, Instant::now),
            None => {}
        }
        if self.timed {
            // Nobody waited for the response any longer: it would have taken more than this.
            let now = Instant::now();
            let waited = now.saturating_duration_since(self.began);
            if self.endpoint.vitals().latency(now).is_some_and(|expected| waited.as_secs_f32() * 1e6 > expected) {
                self.endpoint.vitals().observe(waited, now);
            }
        }
        self.endpoint.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint::testing(1))
    }

    #[test]
    fn an_attempt_counts_until_it_is_over() {
        let (endpoint, now) = (endpoint(), Instant::now());
        let vitals = endpoint.vitals();
        let mut first = Attempt::new(endpoint.clone(), now, true);
        let second = Attempt::new(endpoint.clone(), now, true);
        assert_eq!((vitals.in_flight(), vitals.latency(now)), (2, None));
        let later = now + Duration::from_millis(7);
        first.ended(Outcome::Answered(200), later);
        assert_eq!((vitals.in_flight(), vitals.latency(later)), (2, Some(7_000.0)));
        drop((first, second));
        assert_eq!(vitals.in_flight(), 0);
    }

    #[test]
    fn an_answer_may_break_off_and_the_first_failure_stands() {
        let mut attempt = Attempt::new(endpoint(), Instant::now(), false);
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
    fn who_refuses_a_connection_is_known_to_until_it_answers() {
        let (endpoint, now) = (endpoint(), Instant::now());
        let ended = |outcome| {
            Attempt::new(endpoint.clone(), now, false).ended(outcome, now);
            endpoint.vitals().is_refusing()
        };
        let outcomes = [Outcome::Reset, Outcome::Refused, Outcome::Timeout, Outcome::Answered(503), Outcome::ConnectTimeout];
        assert_eq!(outcomes.map(ended), [false, true, true, false, false]);
    }

    #[test]
    fn who_fails_at_once_is_slow() {
        let (endpoint, began) = (endpoint(), Instant::now());
        Attempt::new(endpoint.clone(), began, true).ended(Outcome::ConnectError, began);
        assert!(endpoint.vitals().latency(began).unwrap() >= 1e6);
    }

    #[test]
    fn whom_a_client_did_not_wait_for_is_at_least_as_slow_as_that() {
        let endpoint = endpoint();
        let long_ago = Instant::now() - Duration::from_secs(3);
        Attempt::new(endpoint.clone(), long_ago, true).ended(Outcome::Answered(200), long_ago + Duration::from_millis(1));
        drop(Attempt::new(endpoint.clone(), long_ago, true));
        assert!(endpoint.vitals().latency(long_ago).unwrap() >= 3e6);
    }
}
