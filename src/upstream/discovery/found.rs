//! What is made of an answer: a good one is taken, one that failed changes nothing, and an empty one is believed after a while.

use std::time::{Duration, Instant};

use super::MAX;
use crate::upstream::directory::Entry;

/// For how long nothing but empty answers must come until they are believed: a service that is being replaced is not gone.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// An answer.
pub(super) enum Answer {
    Found(Vec<Entry>),
    /// Some of it could not be had, for this reason: what was known of that is among these.
    Part(Vec<Entry>, String),
    /// There is such a name, and nothing under it; or there is none.
    Empty,
    Failed(String),
}

/// What is worth saying.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It failed, and did not before.
    Fails(String),
    /// Some of it failed, and did not before.
    FailsInPart(String),
    /// It is empty, and was not before.
    Empties,
    /// It has been empty for so long that it is believed.
    Emptied,
    /// There are endpoints again.
    Recovers,
    /// More endpoints than an upstream can have: so many are left out.
    TooMany(usize),
}

/// The last answers.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    failing: Failing,
    empty_since: Option<Instant>,
    left_out: usize,
}

/// How much of the last answer failed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Failing {
    #[default]
    Nothing,
    Part,
    All,
}

impl Found {
    pub(super) fn take(&mut self, answer: Answer, now: Instant) -> Option<News> {
        match answer {
            Answer::Found(entries) => {
                let left_out = self.hold(entries);
                let failed = std::mem::take(&mut self.failing) != Failing::Nothing;
                let recovers = self.empty_since.take().is_some() || failed;
                self.leave_out(left_out).or_else(|| recovers.then_some(News::Recovers))
            }
            Answer::Part(entries, reason) => {
                let left_out = self.hold(entries);
                self.empty_since = None;
                if std::mem::replace(&mut self.failing, Failing::Part) != Failing::Part {
                    return Some(News::FailsInPart(reason));
                }
                self.leave_out(left_out)
            }
            Answer::Empty => {
                let first = self.empty_since.is_none();
                let since = *self.empty_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= GRACE && !self.entries.is_empty() {
                    self.entries.clear();
                    return Some(News::Emptied);
                }
                first.then_some(News::Empties)
            }
            Answer::Failed(reason) => {
                // Whether there is anything is not known now: the time begins anew.
                self.empty_since = None;
                (std::mem::replace(&mut self.failing, Failing::All) != Failing::All).then_some(News::Fails(reason))
            }
        }
    }

    /// As many of these as an upstream can have; says how many are too many.
    fn hold(&mut self, mut entries: Vec<Entry>) -> usize {
        entries.sort_by(|a, b| a.address.cmp(&b.address));
        entries.dedup_by(|b, a| a.address == b.address);
        let left_out = entries.len().saturating_sub(MAX);
        entries.truncate(MAX);
        self.entries = entries;
        left_out
    }

    fn leave_out(&mut self, left_out: usize) -> Option<News> {
        let said = std::mem::replace(&mut self.left_out, left_out) > 0;
        (left_out > 0 && !said).then_some(News::TooMany(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(ports: std::ops::Range<u16>) -> Answer {
        Answer::Found(ports.map(|port| Entry::of(([127, 0, 0, 1], port).into(), "a")).collect())
    }

    #[test]
    fn what_was_good_last_stays_until_something_better_is_known() {
        let (mut found, now) = (Found::default(), Instant::now());
        assert_eq!(found.take(entries(1..3), now), None);
        assert_eq!(found.take(Answer::Failed("x".into()), now), Some(News::Fails("x".into())));
        assert_eq!(found.take(Answer::Failed("y".into()), now), None, "it is said once");
        assert_eq!(found.entries.len(), 2);
        assert_eq!(found.take(entries(1..2), now), Some(News::Recovers));
        assert_eq!(found.entries.len(), 1);
    }

    #[test]
    fn what_fails_in_part_is_taken_and_said_once() {
        let part = |ports, reason: &str| match entries(ports) {
            Answer::Found(entries) => Answer::Part(entries, reason.into()),
            _ => unreachable!("they are found"),
        };
        let (mut found, now) = (Found::default(), Instant::now());
        found.take(entries(1..2), now);
        assert_eq!(found.take(part(1..3, "x"), now), Some(News::FailsInPart("x".into())));
        assert_eq!(found.take(part(1..4, "y"), now), None);
        assert_eq!(found.entries.len(), 3);
        assert_eq!(found.take(Answer::Failed("z".into()), now), Some(News::Fails("z".into())), "it got worse");
        assert_eq!(found.take(part(1..2001, "x"), now), Some(News::FailsInPart("x".into())));
        assert_eq!(found.take(part(1..2001, "x"), now), Some(News::TooMany(2000 - MAX)), "one after the other");
        assert_eq!(found.take(entries(1..3), now), Some(News::Recovers));
        assert_eq!(found.take(entries(1..3), now), None);
    }

    #[test]
    fn an_empty_answer_is_believed_after_a_while() {
        let (mut found, start) = (Found::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        found.take(entries(1..3), start);
        assert_eq!(found.take(Answer::Empty, at(1)), Some(News::Empties));
        assert_eq!(found.take(Answer::Empty, at(30)), None);
        assert_eq!(found.entries.len(), 2);
        // Flapping begins the time anew.
        assert_eq!(found.take(entries(1..3), at(31)), Some(News::Recovers));
        assert_eq!(found.take(Answer::Empty, at(32)), Some(News::Empties));
        assert_eq!(found.take(Answer::Failed("x".into()), at(40)), Some(News::Fails("x".into())));
        assert_eq!(found.take(Answer::Empty, at(63)), Some(News::Empties));
        assert_eq!(found.take(Answer::Empty, at(93)), Some(News::Emptied));
        assert_eq!(found.entries.len(), 0);
        assert_eq!(found.take(Answer::Empty, at(200)), None);
    }

    #[test]
    fn there_is_a_bound() {
        let (mut found, now) = (Found::default(), Instant::now());
        assert_eq!(found.take(entries(1..2001), now), Some(News::TooMany(2000 - MAX)));
        assert_eq!(found.take(entries(1..2001), now), None);
        assert_eq!(found.entries.len(), MAX);
    }
}
