//! Where the snapshot in force is kept: the only swappable pointer to configuration.

use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};

use crate::config::ListenerLimits;
use crate::runtime::{Snapshot, Trust};
use crate::tls::Terminator;

pub(crate) struct Store(ArcSwap<Snapshot>);

impl Store {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self(ArcSwap::from_pointee(snapshot))
    }

    /// The snapshot in force; a request that loads it finishes on it.
    pub(crate) fn load(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// For a short look at it, which is cheaper: threads share no counter. Not to be kept.
    pub(crate) fn look(&self) -> Guard<Arc<Snapshot>> {
        self.0.load()
    }

    /// Puts a snapshot in force, for requests from now on.
    pub(crate) fn replace(&self, snapshot: Arc<Snapshot>) {
        self.0.store(snapshot);
    }

    /// Looks at whom a listener trusts, by its place in the boot plan.
    pub(crate) fn trust<T>(&self, listener: usize, look: impl FnOnce(&Trust) -> T) -> T {
        look(&self.0.load().listener(listener).trust)
    }

    /// TLS of a listener, by its place in the boot plan.
    pub(crate) fn tls(&self, listener: usize) -> Option<Arc<Terminator>> {
        self.0.load().listener(listener).tls.clone()
    }

    /// The limits of a listener, by its place in the boot plan.
    pub(crate) fn limits(&self, listener: usize) -> ListenerLimits {
        self.0.load().listener(listener).limits
    }

    /// Likewise, unless the snapshot is still the one that was `seen`. Memory that a weak reference points to is not given to anybody else.
    pub(crate) fn limits_after(&self, seen: &mut Weak<Snapshot>, listener: usize) -> Option<ListenerLimits> {
        let snapshot = self.0.load();
        if std::ptr::eq(seen.as_ptr(), Arc::as_ptr(&snapshot)) {
            return None;
        }
        *seen = Arc::downgrade(&snapshot);
        Some(snapshot.listener(listener).limits)
    }
}
