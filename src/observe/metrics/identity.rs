//! Numbers belong to a name, for as long as anybody uses it.
//!
//! A snapshot holds the numbers of its routes, upstreams and listeners; this table only knows where they are. A reload that keeps
//! a name finds its numbers here while the old snapshot still lives, and goes on counting; once the last snapshot with the name is
//! gone, so are they.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub(super) struct Identities<T>(Mutex<BTreeMap<Box<str>, Weak<T>>>);

impl<T> Identities<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The numbers of this name: those that there are, or new ones.
    pub(super) fn of(&self, name: &str, new: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name).and_then(Weak::upgrade) {
            return found;
        }
        known.retain(|_, numbers| numbers.strong_count() > 0);
        let made = Arc::new(new());
        known.insert(name.into(), Arc::downgrade(&made));
        made
    }

    /// All that are in use, by name.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
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
    fn names_that_are_gone_take_no_memory() {
        let names = Identities::new();
        for number in 0..100 {
            names.of(&number.to_string(), || number);
        }
        assert_eq!(names.0.lock().unwrap().len(), 1);
    }
}
