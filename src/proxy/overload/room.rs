//! How many are in flight, counted so that threads do not meet at one number.
//!
//! Where the limit is far larger than what threads may hold back, a thread takes some places in advance, and gives them back when it has
//! too many. Whoever finds no place collects what others do not use: so nobody is turned away while there is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;

use crate::observe::shard;

/// Places that a thread takes in advance at most.
const LOT: u64 = 32;
/// All that threads may hold is less than this part of the limit.
const MARGIN: u64 = 32;
/// More parts than this are not worth their memory.
const MAX_PARTS: usize = 64;

/// The places there are.
pub(super) struct Room {
    taken: Arc<Taken>,
    /// As many as threads that may run at once, in powers of two: to divide by them is a shift.
    parts: Box<[Arc<Part>]>,
}

/// No two of these numbers have a cache line in common.
#[derive(Default)]
#[repr(align(128))]
struct Taken(AtomicU64);

/// What a thread has taken and does not use.
#[repr(align(128))]
struct Part {
    spare: AtomicU64,
    taken: Arc<Taken>,
}

/// A request that was let in, until it is over.
pub(crate) struct Admitted {
    part: Arc<Part>,
    lot: u64,
    /// How many there were with it, where they are counted one by one.
    pub(super) count: u64,
}

impl Room {
    pub(super) fn new() -> Self {
        let parts = available_parallelism().map_or(1, std::num::NonZeroUsize::get).next_power_of_two().min(MAX_PARTS);
        Self::with(parts)
    }

    fn with(parts: usize) -> Self {
        debug_assert!(parts.is_power_of_two());
        let taken = Arc::<Taken>::default();
        let part = || Arc::new(Part { spare: AtomicU64::new(0), taken: taken.clone() });
        Self { parts: (0..parts).map(|_| part()).collect(), taken }
    }

    /// Takes a place, where fewer than `limit` are taken. `whole` is the limit for all kinds of requests. `Err`: how many there would be.
    pub(super) fn enter(&self, limit: u64, whole: u64) -> Result<Admitted, u64> {
        let part = &self.parts[shard() & (self.parts.len() - 1)];
        // Twice as many may be held.
        let lot = (whole >> (2 * MARGIN * self.parts.len() as u64).ilog2()).clamp(1, LOT);
        let admitted = |count| Ok(Admitted { part: part.clone(), lot, count });
        if lot == 1 {
            // Taken under another limit.
            part.give_back(u64::MAX);
        } else if part.use_spare() {
            return admitted(0);
        }
        let count = self.taken.add(lot);
        if count <= limit {
            part.spare.fetch_add(lot - 1, Ordering::Relaxed);
            return admitted(count);
        }
        self.taken.take(lot);
        self.parts.iter().for_each(|part| part.give_back(u64::MAX));
        let count = self.taken.add(1);
        if count <= limit {
            return admitted(count);
        }
        self.taken.take(1);
        Err(count)
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u64 {
        self.parts.iter().for_each(|part| part.give_back(u64::MAX));
        self.taken.0.load(Ordering::Relaxed)
    }
}

impl Taken {
    /// How many there are with these.
    fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed).saturating_add(count)
    }

    fn take(&self, count: u64) {
        if count > 0 {
            self.0.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

impl Part {
    fn use_spare(&self) -> bool {
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| spare.checked_sub(1)).is_ok()
    }

    /// Gives back so many of those that are not used, or all of them if they are fewer.
    fn give_back(&self, most: u64) {
        // Mostly there is nothing, and no other thread loses what it knows of this.
        if self.spare.load(Ordering::Relaxed) == 0 {
            return;
        }
        let before = self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| Some(spare.saturating_sub(most)));
        let (Ok(spare) | Err(spare)) = before;
        self.taken.take(spare.min(most));
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.lot == 1 {
            self.part.taken.take(1);
        } else if self.part.spare.fetch_add(1, Ordering::Relaxed) >= 2 * self.lot {
            self.part.give_back(self.lot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(room: &Room, limit: u64, whole: u64) -> Vec<Admitted> {
        std::iter::from_fn(|| room.enter(limit, whole).ok()).collect()
    }

    #[test]
    fn exactly_as_many_as_there_are_places() {
        for whole in [1, 2, 100, 1_000, 9_999, 50_000] {
            let room = Room::with(4);
            let all = fill(&room, whole, whole);
            assert_eq!(all.len() as u64, whole);
            drop(all);
            assert_eq!(room.in_flight(), 0);
            assert_eq!(fill(&room, whole, whole).len() as u64, whole);
        }
    }

    #[test]
    fn what_others_hold_and_do_not_use_is_collected() {
        let room = Room::with(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                // Each leaves spare places behind.
                scope.spawn(|| drop(room.enter(20_000, 20_000)));
            }
        });
        assert!(room.taken.0.load(Ordering::Relaxed) > 0);
        assert_eq!(fill(&room, 20_000, 20_000).len(), 20_000);
    }

    #[test]
    fn little_is_held_back_and_nothing_under_a_small_limit() {
        let room = Room::with(4);
        drop(fill(&room, 40_000, 40_000));
        assert!(room.taken.0.load(Ordering::Relaxed) <= 40_000 / MARGIN);
        assert_eq!(room.enter(10, 10).map(|admitted| admitted.count).ok(), Some(1));
    }

    #[test]
    fn under_many_threads_no_place_is_lost_and_none_is_made() {
        let (room, most) = (Room::with(4), AtomicU64::new(0));
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..2_000_u64 {
                        // As many as there may be, and more.
                        let held: Vec<_> = (0..round % 200).filter_map(|_| room.enter(1_000, 1_000).ok()).collect();
                        let now = inside.fetch_add(held.len() as u64, Ordering::SeqCst) + held.len() as u64;
                        most.fetch_max(now, Ordering::SeqCst);
                        inside.fetch_sub(held.len() as u64, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.into_inner() <= 1_000);
        assert_eq!(room.in_flight(), 0);
    }
}
