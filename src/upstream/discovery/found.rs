//! What is made of an answer: a good one is taken, one that failed changes nothing, and an empty one is believed after a while.

use std::time::{Duration, Instant};

use super::MAX;
use crate::upstream::directory::Entry;

/// For how long nothing but empty answers must come until they are believed: a service that is being replaced is not gone.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// An answer.
pub(super) enum Answer {
    Found(Vec<Entry>),
    /// There is such a name, and nothing under it; or there is none.
    Empty,
    Failed(String),
}

/// What is worth saying.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It failed, and did not before.
    Fails(String),
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
    failing: bool,
    empty_since: Option<Instant>,
    left_out: usize,
}

impl Found {
    pub(super) fn take(&mut self, answer: Answer, now: Instant) -> Option<News> {
        match answer {
            Answer::Found(mut entries) => {
                entries.sort_by(|a, b| a.address.cmp(&b.address));
                entries.dedup_by(|b, a| a.address == b.address);
                let left_out = entries.len().saturating_sub(MAX);
                entries.truncate(MAX);
                self.entries = entries;
                let recovers = std::mem::take(&mut self.failing) | self.empty_since.take().is_some();
                let said = std::mem::replace(&mut self.left_out, left_out) > 0;
                if left_out > 0 && !said {
                    return Some(News::TooMany(left_out));
                }
                recovers.then_some(News::Recovers)
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
                (!std::mem::replace(&mut self.failing, true)).then_some(News::Fails(reason))
            }
        }
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
