//! Where the snapshot in force is kept: the only swappable pointer to configuration.

use std::sync::Arc;

use arc_swap::ArcSwap;

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
}
