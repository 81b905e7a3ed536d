//! How much is logged of what others cause: so many lines a second of each kind. What is held back is counted, and said.
//!
//! Metrics and the access log have all of it. Pure: the time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in a second.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Kinds are words and places of the program: there are fewer than this.
const KINDS: usize = 1024;

/// A kind of line: a reason, or a place in a source file.
pub(crate) type Kind = (&'static str, u32);

/// Whether lines are written.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    kinds: Mutex<HashMap<Kind, Spent>>,
}

#[derive(Debug)]
struct Spent {
    since: Instant,
    lines: u32,
    held: u64,
}

impl Budget {
    /// Whether a line of this kind may be written: `Some` says how many were held back before it.
    pub(crate) fn spend(&self, kind: Kind, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() >= KINDS && !kinds.contains_key(&kind) {
            return None;
        }
        let spent = kinds.entry(kind).or_insert(Spent { since: now, lines: 0, held: 0 });
        if now.saturating_duration_since(spent.since) >= SECOND {
            spent.since = now;
            spent.lines = 0;
        }
        if spent.lines >= LINES {
            spent.held += 1;
            return None;
        }
        spent.lines += 1;
        Some(std::mem::take(&mut spent.held))
    }

    /// What was held back and not said yet, where no line has come since.
    pub(crate) fn held(&self, now: Instant) -> Vec<(Kind, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let due = kinds.iter_mut().filter(|(_, spent)| spent.held > 0 && now.saturating_duration_since(spent.since) >= SECOND);
        due.map(|(kind, spent)| (*kind, std::mem::take(&mut spent.held))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_lines_and_the_rest_is_counted() {
        let budget = Budget::default();
        let start = Instant::now();
        let written = |kind, now| (0..100).filter(|_| budget.spend(kind, now).is_some()).count();
        assert_eq!((written(("a", 0), start), written(("b", 0), start), written(("b", 1), start)), (10, 10, 10));
        assert!(budget.held(start).is_empty());
        assert_eq!(budget.spend(("a", 0), start + SECOND), Some(90));
        assert_eq!(budget.spend(("a", 0), start + SECOND), Some(0));
        let mut held = budget.held(start + SECOND);
        held.sort_unstable();
        assert_eq!(held, [(("b", 0), 90), (("b", 1), 90)]);
        assert!(budget.held(start + 2 * SECOND).is_empty());
    }
}
