//! Whether a request is tried again, and when. All of it is decided here, of plain facts, whichever way a request is carried: a way of
//! carrying tells how a try ended ([`Outcome`]) and what it knows of the request ([`Facts`]), and does what the [`Verdict`] says.
//!
//! What holds: a request of which the client has seen anything is not tried again, nor one whose body is not at hand; retries are
//! bounded for a request (`retries`) and for all of them together (the budget), and none waits beyond the end of the exchange.

mod backoff;
mod budget;
mod hedge;

use std::time::{Duration, Instant};

use self::backoff::Backoff;
use self::budget::Budget;
use self::hedge::Hedge;
use crate::config::{self, RetryCondition};
use crate::observe::REASONS;
use crate::types::WordOr;
use crate::upstream::Outcome;

/// How often a request is sent again, beside `retries`, since the connection that it was given had been closed while it waited in the
/// pool: once for each endpoint of a small upstream.
const STALE: u32 = 3;

/// When requests of an upstream are tried again.
#[derive(Debug)]
pub(crate) struct Policy {
    max: u32,
    conditions: Vec<RetryCondition>,
    methods: Vec<http::Method>,
    backoff: Backoff,
    /// `None`: only `max` bounds retries.
    budget: Option<Budget>,
    try_timeout: Option<Duration>,
    /// `None`: one endpoint is asked at a time.
    hedge: Option<Hedge>,
}

/// How often a request was tried again so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Retried {
    /// By a condition.
    by_condition: u32,
    /// Since a pooled connection had been closed.
    stale: u32,
}

/// What bears on whether a request is tried again, beside how its try ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) method: &'a http::Method,
    pub(crate) retried: Retried,
    /// All that was read of the body is at hand, and may be sent once more. (So is a request without one.)
    pub(crate) replayable: bool,
    /// The client has been sent something: an informational head is enough.
    pub(crate) shown: bool,
    /// The connection had been waiting in the pool.
    pub(crate) reused: bool,
    /// An endpoint is left that has not failed this request.
    pub(crate) another: bool,
    /// And one that did not refuse the latest connection that it was asked for.
    pub(crate) listens: bool,
    /// The process allows a request one more try, for whatever reason.
    pub(crate) allowed: bool,
    /// The answer says when to come back, and that is not at once (RFC 9110 §10.2.3).
    pub(crate) retry_after: bool,
    /// How long the whole exchange may still take.
    pub(crate) left: Option<Duration>,
    /// How many requests the upstream has been given so far.
    pub(crate) requests: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again, after this time.
    Again(Again),
    /// What has come is the answer. With a reason where all else spoke for another try.
    Enough(Option<Refusal>),
}

/// A further try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    /// Why, in a word.
    pub(crate) reason: Reason,
    /// How long to wait before it.
    pub(crate) wait: Duration,
    /// How often it will have been tried again then.
    pub(crate) retried: Retried,
}

/// Why a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The endpoint had closed the connection while it waited in the pool.
    Stale,
    /// A condition.
    Condition(RetryCondition),
}

/// What kept a request from being tried again that had a try left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The budget is spent.
    Budget,
    /// Its body is no longer at hand.
    Body,
    /// The end of the whole exchange would come first.
    Time,
}

impl Policy {
    /// `requests`: how many the upstream has been given so far.
    pub(crate) fn new(settings: &config::Retry, requests: u64, now: Instant) -> Self {
        let budget = match &settings.budget {
            WordOr::Word(config::NoBudget::None) => None,
            WordOr::Map(settings) => Some(Budget::new(settings, requests, now)),
        };
        Self {
            max: settings.retries,
            conditions: settings.conditions.clone(),
            methods: settings.methods.iter().map(|method| method.as_http().clone()).collect(),
            backoff: Backoff::new(&settings.backoff),
            budget,
            try_timeout: settings.try_timeout.get().map(crate::types::Duration::get),
            hedge: match &settings.hedge {
                WordOr::Word(config::NoHedge::None) => None,
                WordOr::Map(settings) => Some(Hedge::new(settings.after, now)),
            },
        }
    }

    /// How long one try may take, up to the head of its response.
    pub(crate) fn try_timeout(&self) -> Option<Duration> {
        self.try_timeout
    }

    /// Whether requests of this method may be sent to a second endpoint beside the first.
    pub(crate) fn hedges(&self, method: &http::Method) -> bool {
        self.hedge.is_some() && self.methods.contains(method)
    }

    /// How long the first endpoint is asked alone. `None`: no other is asked beside it.
    pub(crate) fn hedge_after(&self, now: Instant) -> Option<Duration> {
        self.hedge.as_ref()?.after(now)
    }

    /// Whether the budget lets one more endpoint be asked. `requests`: how many the upstream has been given so far.
    pub(crate) fn spend(&self, requests: u64, now: Instant) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.take(requests, now))
    }

    /// The first endpoint that a request was sent to took so long, or longer.
    pub(crate) fn took(&self, time: Duration, now: Instant) {
        if let Some(hedge) = &self.hedge {
            hedge.took(time, now);
        }
    }

    /// Whether an answer may be a reason: to ask before anything is made of it.
    pub(crate) fn minds(&self, outcome: Outcome) -> bool {
        self.max > 0 && condition(outcome).is_some_and(|condition| self.conditions.contains(&condition))
    }

    /// Whether the request is tried again. `chance`: any number, at random.
    pub(crate) fn judge(&self, outcome: Outcome, facts: &Facts<'_>, now: Instant, chance: impl FnOnce() -> u64) -> Verdict {
        let Some(reason) = self.reason(outcome, facts) else { return Verdict::Enough(None) };
        if facts.shown || !facts.allowed {
            return Verdict::Enough(None);
        }
        if !facts.replayable {
            return Verdict::Enough(Some(Refusal::Body));
        }
        let Retried { by_condition, stale } = facts.retried;
        let (wait, retried) = match reason {
            Reason::Stale => (Duration::ZERO, Retried { stale: stale + 1, ..facts.retried }),
            Reason::Condition(_) => {
                let number = by_condition + 1;
                (self.backoff.wait(number, chance()), Retried { by_condition: number, ..facts.retried })
            }
        };
        if facts.left.is_some_and(|left| left <= wait) {
            return Verdict::Enough(Some(Refusal::Time));
        }
        // Who is not there has not been asked: the request is no more than one wherever it goes next. But where nobody is known to be
        // there, each request would knock at every door: one that refuses may be asked once to find that out, and not for each request.
        let moves_on = outcome == Outcome::Refused && facts.listens;
        if !moves_on && self.budget.as_ref().is_some_and(|budget| !budget.take(facts.requests, now)) {
            return Verdict::Enough(Some(Refusal::Budget));
        }
        Verdict::Again(Again { reason, wait, retried })
    }

    fn reason(&self, outcome: Outcome, facts: &Facts<'_>) -> Option<Reason> {
        let condition = condition(outcome)?;
        let unsent = condition == RetryCondition::ConnectError;
        if !unsent && !self.methods.contains(facts.method) {
            return None;
        }
        if outcome == Outcome::Reset && facts.reused && facts.retried.stale < STALE {
            return Some(Reason::Stale);
        }
        let obeys = match condition {
            // The limit is the client's own, and it is told when to return.
            RetryCondition::TooManyRequests => !facts.retry_after,
            // It speaks for this endpoint: another may be asked, but this one not before its time.
            RetryCondition::ServiceUnavailable => !facts.retry_after || facts.another,
            _ => true,
        };
        let wanted = obeys && facts.retried.by_condition < self.max && self.conditions.contains(&condition);
        wanted.then_some(Reason::Condition(condition))
    }
}

impl Reason {
    /// Its place among all that are counted.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::Stale => 0,
            Self::Condition(RetryCondition::ConnectError) => 1,
            Self::Condition(RetryCondition::Reset) => 2,
            Self::Condition(RetryCondition::Timeout) => 3,
            Self::Condition(RetryCondition::TooManyRequests) => 4,
            Self::Condition(RetryCondition::InternalServerError) => 5,
            Self::Condition(RetryCondition::BadGateway) => 6,
            Self::Condition(RetryCondition::ServiceUnavailable) => 7,
            Self::Condition(RetryCondition::GatewayTimeout) => 8,
        }
    }

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        REASONS[self.place()]
    }
}

impl Refusal {
    /// As it is noted of a request.
    pub(crate) fn note(self) -> &'static str {
        match self {
            Self::Budget => "not tried again: the retry budget is spent",
            Self::Body => "not tried again: the body is not at hand",
            Self::Time => "not tried again: the route's time would be over",
        }
    }
}

/// The condition that a try which ended so may fulfil.
fn condition(outcome: Outcome) -> Option<RetryCondition> {
    match outcome {
        Outcome::Refused | Outcome::ConnectError | Outcome::ConnectTimeout => Some(RetryCondition::ConnectError),
        Outcome::Reset => Some(RetryCondition::Reset),
        Outcome::Timeout => Some(RetryCondition::Timeout),
        Outcome::Answered(429) => Some(RetryCondition::TooManyRequests),
        Outcome::Answered(500) => Some(RetryCondition::InternalServerError),
        // What can't be relied on was an answer, which the client would be told of so.
        Outcome::Answered(502) | Outcome::Invalid => Some(RetryCondition::BadGateway),
        Outcome::Answered(503) => Some(RetryCondition::ServiceUnavailable),
        Outcome::Answered(504) => Some(RetryCondition::GatewayTimeout),
        Outcome::Answered(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::config::testing::decoded;

    const ALL: &str = "[connect_error, reset, timeout, 429, 500, 502, 503, 504]";

    fn policy(settings: &str) -> Policy {
        Policy::new(&decoded(settings).unwrap(), 0, Instant::now())
    }

    fn facts(method: &Method) -> Facts<'_> {
        Facts {
            method,
            retried: Retried::default(),
            replayable: true,
            shown: false,
            reused: false,
            another: true,
            listens: true,
            allowed: true,
            retry_after: false,
            left: None,
            requests: 0,
        }
    }

    fn judged(policy: &Policy, outcome: Outcome, facts: &Facts<'_>) -> Verdict {
        policy.judge(outcome, facts, Instant::now(), || u64::MAX)
    }

    fn word(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Again(again) => again.reason.word(),
            Verdict::Enough(None) => "enough",
            Verdict::Enough(Some(refusal)) => refusal.note().trim_start_matches("not tried again: "),
        }
    }

    const OUTCOMES: [Outcome; 15] = [
        Outcome::Refused,
        Outcome::ConnectError,
        Outcome::ConnectTimeout,
        Outcome::Reset,
        Outcome::Timeout,
        Outcome::Invalid,
        Outcome::Answered(200),
        Outcome::Answered(404),
        Outcome::Answered(429),
        Outcome::Answered(500),
        Outcome::Answered(501),
        Outcome::Answered(502),
        Outcome::Answered(503),
        Outcome::Answered(504),
        Outcome::Answered(599),
    ];

    fn words(policy: &Policy, facts: &Facts<'_>) -> String {
        OUTCOMES.map(|outcome| word(judged(policy, outcome, facts))).join(" ")
    }

    #[test]
    fn a_reason_is_what_the_conditions_name() {
        assert_eq!(
            words(&policy(&format!("{{conditions: {ALL}, budget: none}}")), &facts(&Method::GET)),
            "connect_error connect_error connect_error reset timeout 502 enough enough 429 500 enough 502 503 504 enough"
        );
        assert_eq!(
            words(&policy("{budget: none}"), &facts(&Method::GET)),
            "connect_error connect_error connect_error enough enough enough enough enough enough enough enough enough enough enough enough"
        );
    }

    #[test]
    fn of_a_method_that_is_not_listed_only_what_was_not_sent_is_tried_again() {
        let post = "connect_error connect_error connect_error enough enough enough enough enough enough enough enough enough enough enough enough";
        assert_eq!(words(&policy(&format!("{{conditions: {ALL}, budget: none}}")), &facts(&Method::POST)), post);
        let listed = policy("{conditions: [reset], methods: [POST]}");
        assert_eq!(word(judged(&listed, Outcome::Reset, &facts(&Method::POST))), "reset");
        assert_eq!(word(judged(&listed, Outcome::Reset, &facts(&Method::GET))), "enough");
    }

    #[test]
    fn a_pooled_connection_that_was_closed_costs_no_retry_but_has_a_bound() {
        let policy = policy("{retries: 0, conditions: []}");
        let mut facts = Facts { reused: true, ..facts(&Method::GET) };
        for _ in 0..STALE {
            let Verdict::Again(again) = judged(&policy, Outcome::Reset, &facts) else { panic!("enough") };
            assert_eq!((again.reason, again.wait), (Reason::Stale, Duration::ZERO));
            facts.retried = again.retried;
        }
        assert_eq!(judged(&policy, Outcome::Reset, &facts), Verdict::Enough(None));
        let post = Facts { reused: true, ..super::tests::facts(&Method::POST) };
        assert_eq!(judged(&policy, Outcome::Reset, &post), Verdict::Enough(None));
    }

    #[test]
    fn retries_end_and_wait_longer_each_time() {
        let policy = policy("{retries: 3, conditions: [503], backoff: {base: 100ms, max: 300ms}}");
        let mut facts = facts(&Method::GET);
        let mut waits = Vec::new();
        while let Verdict::Again(again) = judged(&policy, Outcome::Answered(503), &facts) {
            waits.push(again.wait.as_micros());
            facts.retried = again.retried;
        }
        assert_eq!(waits, [99_999, 199_999, 299_999]);
    }

    #[test]
    fn what_forbids_another_try() {
        let policy = policy("{conditions: [503], backoff: {base: 100ms, max: 100ms}}");
        let get = facts(&Method::GET);
        let said = |facts: Facts<'_>| word(judged(&policy, Outcome::Answered(503), &facts));
        assert_eq!(said(get), "503");
        assert_eq!(said(Facts { shown: true, ..get }), "enough");
        assert_eq!(said(Facts { allowed: false, ..get }), "enough");
        assert_eq!(said(Facts { replayable: false, ..get }), "the body is not at hand");
        assert_eq!(said(Facts { left: Some(Duration::from_millis(99)), ..get }), "the route's time would be over");
        assert_eq!(said(Facts { left: Some(Duration::from_millis(101)), ..get }), "503");
    }

    #[test]
    fn retry_after_is_heeded() {
        let policy = policy("{conditions: [429, 500, 503], budget: none}");
        let get = Facts { retry_after: true, ..facts(&Method::GET) };
        let said = |status, facts: Facts<'_>| word(judged(&policy, Outcome::Answered(status), &facts));
        assert_eq!([429, 500, 503].map(|status| said(status, get)), ["enough", "500", "503"]);
        assert_eq!([429, 500, 503].map(|status| said(status, Facts { another: false, ..get })), ["enough", "500", "enough"]);
    }

    #[test]
    fn the_budget_counts_all_but_what_moves_on_from_a_connection_that_was_refused() {
        let policy = policy("{conditions: [connect_error, 503], budget: {ratio: 0%, min: 1/s}}");
        let get = facts(&Method::GET);
        assert_eq!(word(judged(&policy, Outcome::Answered(503), &get)), "503");
        assert_eq!(word(judged(&policy, Outcome::Answered(503), &get)), "the retry budget is spent");
        assert_eq!(word(judged(&policy, Outcome::ConnectTimeout, &get)), "the retry budget is spent");
        assert_eq!(word(judged(&policy, Outcome::ConnectError, &get)), "the retry budget is spent");
        assert_eq!(word(judged(&policy, Outcome::Refused, &Facts { listens: false, ..get })), "the retry budget is spent");
        assert_eq!(word(judged(&policy, Outcome::Refused, &get)), "connect_error");
    }

    proptest! {
        /// Whatever happens, in whatever order: the tries of a request are bounded, and none follows on what the client has seen or
        /// on a body that is gone.
        #[test]
        fn tries_are_bounded(
            outcomes in prop::collection::vec(prop::sample::select(OUTCOMES.to_vec()), 0..60), retries in 0_u32..6, reused in any::<bool>(),
            another in any::<bool>(), shown_at in any::<u8>(), gone_at in any::<u8>(), chance in any::<u64>(),
        ) {
            let policy = policy(&format!("{{retries: {retries}, conditions: {ALL}, budget: none}}"));
            let mut facts = Facts { reused, another, ..facts(&Method::GET) };
            let mut again = 0;
            for (number, outcome) in outcomes.into_iter().enumerate() {
                facts.shown = number >= usize::from(shown_at);
                facts.replayable = number < usize::from(gone_at);
                if let Verdict::Again(next) = policy.judge(outcome, &facts, Instant::now(), || chance) {
                    prop_assert!(!facts.shown && facts.replayable && next.wait <= Duration::from_millis(250));
                    facts.retried = next.retried;
                    again += 1;
                }
            }
            prop_assert!(again <= retries + STALE);
        }
    }
}
