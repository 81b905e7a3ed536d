//! What follows a file or a name while a configuration is in force.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// A value that whoever watches its source replaces, and that who uses it looks at as it is now.
#[derive(Debug)]
pub struct Watched<T>(ArcSwap<T>);

impl<T> Watched<T> {
    /// A value, until another takes its place.
    pub fn new(value: T) -> Self {
        Self(ArcSwap::from_pointee(value))
    }

    /// The value as it is now, for a moment.
    pub fn now(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// The value as it is now, to keep.
    pub fn keep(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts another value in its place. Who keeps the old one is not disturbed.
    pub fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }

    /// Makes another value of the one that is there. `change` may be called again if somebody else was faster.
    pub fn change(&self, mut change: impl FnMut(&T) -> T) {
        self.0.rcu(|value| change(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_stays_as_it_was() {
        let watched = Watched::new(1);
        let kept = watched.keep();
        watched.replace(2);
        watched.change(|value| value + 1);
        assert_eq!((*kept, **watched.now()), (1, 3));
    }
}
