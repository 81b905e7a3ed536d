//! How much is logged of what others cause: so many lines a second of each kind. What is held back is counted, and said.
//!
//! Metrics and the access log have all of it. Without a lock, since many threads may have the same trouble at once. Pure: the time is an
//! argument.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lines of one kind in a second.
const LINES: u64 = 10;
const SECOND: Duration = Duration::from_secs(1);
/// Kinds are words and places of the program: there are fewer than this.
const KINDS: usize = 512;

/// A kind of line: a reason, or a place in a source file.
pub(crate) type Kind = (&'static str, u32);

/// Whether lines are written.
#[derive(Debug)]
pub(crate) struct Budget {
    born: Instant,
    places: Box<[Place]>,
}

#[derive(Debug, Default)]
struct Place {
    kind: OnceLock<Kind>,
    /// The bits of a [`Spent`].
    spent: AtomicU64,
    held: AtomicU64,
}

/// Since when lines are counted, in milliseconds, and how many they are.
#[derive(Debug, Clone, Copy)]
struct Spent {
    since: u64,
    lines: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { born: Instant::now(), places: (0..KINDS).map(|_| Place::default()).collect() }
    }
}

impl Budget {
    /// Whether a line of this kind may be written: `Some` says how many were held back before it.
    pub(crate) fn spend(&self, kind: Kind, now: Instant) -> Option<u64> {
        let (place, now) = (self.place(kind)?, self.age(now));
        let spent = |bits| Spent::of(bits).one_more(now).map(Spent::bits);
        if place.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_err() {
            place.held.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        // Mostly none was.
        if place.held.load(Ordering::Relaxed) == 0 { Some(0) } else { Some(place.held.swap(0, Ordering::Relaxed)) }
    }

    /// What was held back and not said yet, where no line has come since.
    pub(crate) fn held(&self, now: Instant) -> Vec<(Kind, u64)> {
        let now = self.age(now);
        let due = self.places.iter().filter(|place| Spent::of(place.spent.load(Ordering::Relaxed)).is_over(now));
        due.filter_map(|place| Some((*place.kind.get()?, place.held.swap(0, Ordering::Relaxed))))
            .filter(|(_, held)| *held > 0)
            .collect()
    }

    /// `None`: there are more kinds than there can be.
    fn place(&self, kind: Kind) -> Option<&Place> {
        let start = hash(kind);
        let places = (0..KINDS).map(|step| &self.places[start.wrapping_add(step) % KINDS]);
        // Who comes second to an empty place finds what the first put there.
        places.into_iter().find(|place| *place.kind.get_or_init(|| kind) == kind)
    }

    /// In milliseconds.
    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Spent {
    fn of(bits: u64) -> Self {
        Self { since: bits >> 8, lines: bits & 0xff }
    }

    fn bits(self) -> u64 {
        self.since << 8 | self.lines
    }

    fn is_over(self, now: u64) -> bool {
        now.saturating_sub(self.since) >= SECOND.as_millis() as u64
    }

    fn one_more(self, now: u64) -> Option<Self> {
        if self.is_over(now) {
            return Some(Self { since: now, lines: 1 });
        }
        (self.lines < LINES).then_some(Self { lines: self.lines + 1, ..self })
    }
}

/// FNV-1a.
fn hash((word, number): Kind) -> usize {
    let bytes = word.bytes().chain(number.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The upper half is the better mixed one.
    (hash >> 40) as usize
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

    #[test]
    fn threads_together_have_the_lines_of_one() {
        let budget = Budget::default();
        let now = Instant::now();
        let written = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1000).filter(|_| budget.spend(("a", 0), now).is_some()).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((written, budget.held(now + SECOND)), (10, vec![(("a", 0), 3990)]));
    }

    #[test]
    fn more_kinds_than_there_can_be_say_nothing() {
        let budget = Budget::default();
        let number = |kind| u32::try_from(kind).unwrap();
        assert!((0..KINDS).all(|kind| budget.spend(("a", number(kind)), Instant::now()).is_some()));
        assert_eq!(budget.spend(("a", number(KINDS)), Instant::now()), None);
    }
}
