//! What filters keep over reloads: state that belongs to an identity, not to a configuration.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

/// By the identity of the filter and the type of what it keeps. What no filter of a configuration asks for is not carried on.
#[derive(Default)]
pub(crate) struct Kept(HashMap<(String, TypeId), Arc<dyn Any + Send + Sync>>);

impl Kept {
    /// What was kept before, or a new one; it is in here afterwards.
    pub(super) fn carry<T: Send + Sync + 'static>(
        &mut self,
        before: Option<&Self>,
        identity: &str,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let key = (identity.to_owned(), TypeId::of::<T>());
        let known = self.0.get(&key).or_else(|| before?.0.get(&key)).cloned();
        let kept = known.and_then(|known| known.downcast::<T>().ok()).unwrap_or_else(|| Arc::new(make()));
        self.0.insert(key, kept.clone());
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_type_decide() {
        let mut first = Kept::default();
        let count = first.carry(None, "a", || 1_u32);
        first.carry(None, "gone", || 0_u32);
        let mut second = Kept::default();
        assert!(Arc::ptr_eq(&count, &second.carry(Some(&first), "a", || 2_u32)));
        assert_eq!(*second.carry(Some(&first), "b", || 3_u32), 3);
        assert_eq!(*second.carry(Some(&first), "a", || 4_u64), 4);
        assert_eq!(second.0.len(), 3);
    }
}
