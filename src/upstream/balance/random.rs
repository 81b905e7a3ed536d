//! Weighted random choice, independent from request to request.

use std::collections::BTreeSet;
use std::sync::Arc;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

/// Endpoints with the running sums of their weights.
pub(in crate::upstream) struct Random {
    backends: Box<[Backend]>,
    sums: Box<[u64]>,
}

impl BackendSelection for Random {
    type Iter = Draws;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let backends: Box<[Backend]> = backends.iter().filter(|backend| backend.weight > 0).cloned().collect();
        let mut sum = 0;
        let sums = backends
            .iter()
            .map(|backend| {
                sum += backend.weight as u64;
                sum
            })
            .collect();
        Self { backends, sums }
    }

    fn iter(self: &Arc<Self>, _key: &[u8]) -> Draws {
        let first = self.sums.last().map_or(0, |total| self.place_of(fastrand::u64(0..*total)));
        Draws { table: self.clone(), first, step: 0 }
    }
}

impl Random {
    /// The endpoint in whose share of the sum of all weights `ticket` falls.
    fn place_of(&self, ticket: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= ticket)
    }
}

/// One endpoint drawn by weight, then the others in turn, so that a healthy one is always found.
pub(in crate::upstream) struct Draws {
    table: Arc<Random>,
    first: usize,
    step: usize,
}

impl BackendIter for Draws {
    fn next(&mut self) -> Option<&Backend> {
        let backends = &self.table.backends;
        if self.step >= backends.len() {
            return None;
        }
        let place = (self.first + self.step) % backends.len();
        self.step += 1;
        Some(&backends[place])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(weights: &[usize]) -> Random {
        let backend = |(n, weight): (usize, &usize)| Backend::new_with_weight(&format!("127.0.0.1:{}", n + 1), *weight).unwrap();
        Random::build(&weights.iter().enumerate().map(backend).collect())
    }

    proptest! {
        #[test]
        fn tickets_fall_by_weight(weights in prop::collection::vec(1_usize..40, 1..8)) {
            let table = table(&weights);
            let total: u64 = weights.iter().map(|weight| *weight as u64).sum();
            let mut counts = vec![0; weights.len()];
            for ticket in 0..total {
                counts[table.place_of(ticket)] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }

    #[test]
    fn every_endpoint_is_offered_once() {
        let table = Arc::new(table(&[1, 9, 1]));
        let mut draws = table.iter(b"");
        let mut seen = BTreeSet::new();
        while let Some(backend) = draws.next() {
            assert!(seen.insert(backend.clone()));
        }
        assert_eq!(seen.len(), 3);
    }
}
