//! How many connections a listener has open. Over its limit, accepting waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// The open connections of a listener.
#[derive(Default)]
pub(super) struct Gate {
    open: AtomicU32,
    left: Notify,
}

/// An open connection; it counts for as long as it lives.
pub(super) struct Passed(Arc<Gate>);

impl Gate {
    /// Whether a connection more may be accepted. The limit may change from one call to the next.
    pub(super) fn is_open(&self, limit: Option<u32>) -> bool {
        limit.is_none_or(|limit| self.open.load(Ordering::Acquire) < limit)
    }

    /// How many more may be.
    pub(super) fn room(&self, limit: Option<u32>) -> usize {
        let open = self.open.load(Ordering::Acquire);
        limit.map_or(usize::MAX, |limit| limit.saturating_sub(open) as usize)
    }

    /// Counts a connection.
    pub(super) fn pass(self: &Arc<Self>) -> Passed {
        self.open.fetch_add(1, Ordering::AcqRel);
        Passed(self.clone())
    }

    /// Waits until one leaves. Made before [`Gate::is_open`] is asked, so that none leaves unseen.
    pub(super) fn left(&self) -> tokio::sync::futures::Notified<'_> {
        self.left.notified()
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_again_when_one_leaves() {
        let gate = Arc::new(Gate::default());
        let passed = gate.pass();
        let left = gate.left();
        assert!(!gate.is_open(Some(1)));
        assert!(gate.is_open(Some(2)) && gate.is_open(None));
        assert_eq!((gate.room(Some(3)), gate.room(Some(0)), gate.room(None)), (2, 0, usize::MAX));
        drop(passed);
        left.await;
        assert!(gate.is_open(Some(1)));
    }
}
