//! Numbers belong to a name, for as long as anybody uses it.
//!
//! A snapshot holds the numbers of its routes, upstreams and listeners; this table only knows where they are. A reload that keeps
//! a name finds its numbers here while the old snapshot still lives, and goes on counting; once the last snapshot with the name is
//! gone, so are they.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(super) struct Identities<T>(Mutex<Known<T>>);

struct Known<T> {
    names: BTreeMap<Box<str>, Weak<T>>,
    /// With this many names, those that nobody uses are looked for: so each new one costs the same, however many there are.
    sweep_at: usize,
}

/// Fewer names are not worth looking through.
const FEW: usize = 32;

impl<T> Identities<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Known { names: BTreeMap::new(), sweep_at: FEW }))
    }

    /// The numbers of this name: those that there are, or new ones.
    pub(super) fn of(&self, name: &str, new: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.names.get(name).and_then(Weak::upgrade) {
            return found;
        }
        if known.names.len() >= known.sweep_at {
            known.names.retain(|_, numbers| numbers.strong_count() > 0);
            known.sweep_at = FEW.max(known.names.len() * 2);
        }
        let made = Arc::new(new());
        known.names.insert(name.into(), Arc::downgrade(&made));
        made
    }

    /// All that are in use, by name.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).names.values().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_numbers_while_somebody_has_them() {
        let names = Identities::new();
        let first = names.of("a", || 1);
        let second = names.of("a", || 2);
        assert!(Arc::ptr_eq(&first, &second));
        drop(first);
        assert_eq!(*names.of("a", || 3), 1);
        drop(second);
        assert!(names.all().is_empty());
        assert_eq!(*names.of("a", || 4), 4);
    }

    #[test]
    fn names_that_are_gone_take_little_memory() {
        let names = Identities::new();
        let kept: Vec<_> = (0..100).map(|number| names.of(&format!("kept {number}"), || number)).collect();
        for number in 0..10_000 {
            names.of(&number.to_string(), || number);
        }
        assert!(names.0.lock().unwrap().names.len() <= 2 * kept.len());
        assert_eq!(names.all().len(), kept.len());
    }
}
