//! When the next order is due. Pure: the time and a chance, from 0 up to 1, are arguments.

use std::time::{Duration, SystemTime};

use crate::tls::acme::failure::{Cost, Failure};

/// However long an authority says to wait, it is asked again.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// After a start, what has failed before is tried again, but not sooner than this after the last time: a process that is started over and
/// over again is not to use up what an authority grants.
const AFTER_START: Duration = Duration::from_secs(60);

/// When a certificate is renewed: after two thirds of its lifetime, and not together with those that were obtained with it.
pub(crate) fn renewal(not_before: SystemTime, not_after: SystemTime, chance: f64) -> SystemTime {
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    not_before + lifetime.mul_f64(2.0 / 3.0 + chance / 30.0)
}

/// What became of the orders for a certificate since the last one that was filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attempts {
    /// How many have failed, one after the other.
    pub(crate) failures: u32,
    /// When the last one was made.
    pub(crate) last: Option<SystemTime>,
    /// When the next may be made.
    pub(crate) next: Option<SystemTime>,
    /// The authority has said so: nothing shortens it.
    pub(crate) demanded: bool,
}

impl Attempts {
    /// After one more that has failed.
    #[must_use]
    pub(crate) fn after(self, failure: &Failure, now: SystemTime, chance: f64) -> Self {
        let failures = self.failures.saturating_add(1);
        let pause = backoff(failure.cost, failures, chance);
        let demanded = failure.retry_after.map(|until| until.min(now + LONGEST)).filter(|until| *until > now + pause);
        Self { failures, last: Some(now), next: Some(demanded.unwrap_or(now + pause)), demanded: demanded.is_some() }
    }

    /// As they bind a process that begins.
    #[must_use]
    pub(crate) fn at_start(self, now: SystemTime) -> Self {
        // A clock that was wrong holds nobody up for ever.
        let next = self.next.map(|next| next.min(now + LONGEST));
        if self.demanded {
            return Self { next, ..self };
        }
        let sooner = self.last.map(|last| (last + AFTER_START).min(now + AFTER_START));
        Self { next: next.zip(sooner).map(|(next, sooner)| next.min(sooner)), ..self }
    }

    /// When the next order is made, given when the certificate that is there is to be renewed; `None`: there is none.
    pub(crate) fn due(&self, renewal: Option<SystemTime>, now: SystemTime) -> SystemTime {
        let due = renewal.unwrap_or(now);
        self.next.map_or(due, |next| next.max(due))
    }
}

/// How long to wait after so many failures: twice as long each time, up to a limit, and a quarter more or less.
fn backoff(cost: Cost, failures: u32, chance: f64) -> Duration {
    let (first, longest) = match cost {
        Cost::None => (Duration::from_secs(5), Duration::from_secs(3600)),
        Cost::Order => (Duration::from_secs(60), Duration::from_secs(6 * 3600)),
        Cost::Limit => (Duration::from_secs(3600), Duration::from_secs(24 * 3600)),
    };
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(longest).mul_f64(0.75 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn failure(cost: Cost, retry_after: Option<Duration>) -> Failure {
        Failure { cost, retry_after: retry_after.map(|after| now() + after), ..Failure::internal("") }
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_lifetime() {
        let until = now() + 90 * DAY;
        assert_eq!(renewal(now(), until, 0.0), now() + 60 * DAY);
        assert_eq!(renewal(now(), until, 1.0), now() + 63 * DAY);
        assert_eq!(renewal(until, now(), 0.5), until);
    }

    #[test]
    fn each_failure_doubles_the_pause_up_to_a_limit() {
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            attempts = attempts.after(&failure(Cost::Order, None), now(), 0.5);
            pauses.push(attempts.next.unwrap().duration_since(now()).unwrap().as_secs());
        }
        assert_eq!(pauses[..4], [60, 120, 240, 480]);
        assert_eq!(pauses[9..], [6 * 3600; 3]);
        assert!(!attempts.demanded);
    }

    #[test]
    fn what_costs_the_authority_nothing_is_tried_sooner_and_a_limit_later() {
        let pause =
            |cost| Attempts::default().after(&failure(cost, None), now(), 0.0).next.unwrap().duration_since(now()).unwrap();
        assert_eq!([Cost::None, Cost::Order, Cost::Limit].map(|cost| pause(cost).as_millis()), [3750, 45_000, 2_700_000]);
    }

    #[test]
    fn what_the_authority_demands_is_kept_even_by_a_process_that_begins_anew() {
        let attempts = Attempts::default().after(&failure(Cost::Limit, Some(2 * DAY)), now(), 0.5);
        assert_eq!((attempts.next, attempts.demanded), (Some(now() + 2 * DAY), true));
        assert_eq!(attempts.at_start(now() + DAY), attempts);
        // It can shorten nothing, nor end renewals for good.
        let soon = Attempts::default().after(&failure(Cost::Order, Some(Duration::from_secs(1))), now(), 0.5);
        assert_eq!((soon.next, soon.demanded), (Some(now() + Duration::from_secs(60)), false));
        let never = Attempts::default().after(&failure(Cost::Order, Some(36_500 * DAY)), now(), 0.5);
        assert_eq!(never.next, Some(now() + 7 * DAY));
    }

    #[test]
    fn a_start_is_a_chance_to_have_mended_it() {
        let mut attempts = Attempts::default();
        for _ in 0..9 {
            attempts = attempts.after(&failure(Cost::Order, None), now(), 0.5);
        }
        let minute = Duration::from_secs(60);
        assert_eq!(attempts.at_start(now() + minute / 2).next, Some(now() + minute));
        assert_eq!(attempts.at_start(now() + DAY).due(None, now() + DAY), now() + DAY);
        assert_eq!(attempts.at_start(now()).failures, 9);
        // It was made in the future: somebody has set the clock.
        assert_eq!(attempts.at_start(now() - DAY).next, Some(now() - DAY + minute));
        assert_eq!(Attempts::default().at_start(now()), Attempts::default());
    }

    #[test]
    fn an_order_waits_for_both_the_renewal_and_the_pause() {
        let attempts = Attempts { next: Some(now() + DAY), ..Attempts::default() };
        assert_eq!(attempts.due(None, now()), now() + DAY);
        assert_eq!(attempts.due(Some(now() + 2 * DAY), now()), now() + 2 * DAY);
        assert_eq!(Attempts::default().due(None, now()), now());
        assert_eq!(Attempts::default().due(Some(now() - DAY), now()), now() - DAY);
    }

    proptest! {
        #[test]
        fn a_pause_is_neither_nothing_nor_for_ever(failures in 0_u32.., chance in 0.0..1.0_f64, cost in 0..3) {
            let cost = [Cost::None, Cost::Order, Cost::Limit][usize::try_from(cost).unwrap()];
            let pause = backoff(cost, failures, chance);
            prop_assert!(pause >= Duration::from_secs(3) && pause <= 2 * DAY);
        }
    }
}
