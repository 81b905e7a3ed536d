//! Copies of a route's requests: where they go, which requests are copied, and how many copies there may be at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::types::Percent;
use crate::upstream::Upstream;

/// Copies of a route that wait or are under way at most.
const QUEUE: usize = 256;
/// Of these so many are under way.
const UNDER_WAY: usize = 32;

/// The copies of a route's requests.
pub(crate) struct Mirror {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) ratio: Percent,
    queue: Arc<Semaphore>,
    under_way: Arc<Semaphore>,
}

impl Mirror {
    pub(super) fn new(upstream: Arc<Upstream>, ratio: Percent) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { upstream, ratio, queue: semaphore(QUEUE), under_way: semaphore(UNDER_WAY) }
    }

    /// Whether a request is copied. `chance`: any number, at random.
    pub(crate) fn draws(&self, chance: u64) -> bool {
        chance % 100 < u64::from(self.ratio.get())
    }

    /// A place in the queue. `None`: it is full.
    pub(crate) fn queue(&self) -> Option<Place> {
        let queued = self.queue.clone().try_acquire_owned().ok()?;
        Some(Place { under_way: self.under_way.clone(), _queued: queued })
    }
}

/// A copy's place in the queue.
pub(crate) struct Place {
    under_way: Arc<Semaphore>,
    _queued: OwnedSemaphorePermit,
}

impl Place {
    /// Waits for its turn, which lasts as long as what comes back lives.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.under_way.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(ratio: u8) -> Mirror {
        Mirror::new(Arc::new(Upstream::nowhere("u")), Percent::of(ratio))
    }

    #[test]
    fn so_many_of_a_hundred_are_copied() {
        for ratio in [0, 10, 100] {
            let mirror = mirror(ratio);
            assert_eq!((0..1000).filter(|chance| mirror.draws(*chance)).count(), usize::from(ratio) * 10);
        }
    }

    #[tokio::test]
    async fn copies_wait_for_their_turn_and_past_a_number_there_is_no_place() {
        let mirror = mirror(100);
        let mut places: Vec<Place> = (0..QUEUE).map(|_| mirror.queue().unwrap()).collect();
        assert!(mirror.queue().is_none());
        let mut turns = Vec::new();
        for place in places.iter().take(UNDER_WAY) {
            turns.push(place.turn().await.unwrap());
        }
        let soon = |place: &Place| place.under_way.clone().try_acquire_owned().is_ok();
        assert!(!soon(&places[0]));
        turns.pop();
        assert!(soon(&places[0]));
        places.pop();
        assert!(mirror.queue().is_some());
    }
}
