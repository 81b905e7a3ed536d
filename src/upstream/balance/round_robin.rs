//! Smooth weighted round robin: each endpoint in turn, those of more weight more often, never in bursts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};

/// Weights are scaled down until a schedule is no longer than this (or than the number of endpoints).
const MAX_SCHEDULE: usize = 4096;

/// A schedule that is computed once per set of endpoints, and a place in it.
pub(in crate::upstream) struct SmoothRoundRobin {
    backends: Box<[Backend]>,
    schedule: Box<[u32]>,
    next: AtomicUsize,
}

impl BackendSelection for SmoothRoundRobin {
    type Iter = Turns;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let backends: Box<[Backend]> = backends.iter().filter(|backend| backend.weight > 0).cloned().collect();
        let weights: Vec<usize> = backends.iter().map(|backend| backend.weight).collect();
        Self { schedule: schedule(&weights), backends, next: AtomicUsize::new(0) }
    }

    fn iter(self: &Arc<Self>, _key: &[u8]) -> Turns {
        Turns { start: self.next.fetch_add(1, Ordering::Relaxed), step: 0, table: self.clone() }
    }
}

/// The endpoints from one place in the schedule onwards.
pub(in crate::upstream) struct Turns {
    table: Arc<SmoothRoundRobin>,
    start: usize,
    step: usize,
}

impl BackendIter for Turns {
    fn next(&mut self) -> Option<&Backend> {
        let schedule = &self.table.schedule;
        if self.step >= schedule.len() {
            return None;
        }
        let place = self.start.wrapping_add(self.step) % schedule.len();
        self.step += 1;
        Some(&self.table.backends[schedule[place] as usize])
    }
}

/// The order in which endpoints of these weights take their turns: at each step every endpoint gains its weight, the
/// richest one goes and pays the sum of all.
fn schedule(weights: &[usize]) -> Box<[u32]> {
    let weights = scaled(weights);
    let total: i64 = weights.iter().sum();
    let mut credit = vec![0_i64; weights.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // The first among equals, so that equal weights give plain turns.
        let mut richest = 0;
        for index in 1..credit.len() {
            if credit[index] > credit[richest] {
                richest = index;
            }
        }
        credit[richest] -= total;
        order.push(u32::try_from(richest).unwrap_or(u32::MAX));
    }
    order.into_boxed_slice()
}

fn scaled(weights: &[usize]) -> Vec<i64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: usize = weights.iter().map(|weight| weight / divisor).sum();
    let bound = MAX_SCHEDULE.max(weights.len());
    weights
        .iter()
        .map(|weight| {
            let weight = weight / divisor;
            let fitted = if total > bound { (weight * MAX_SCHEDULE / total).max(1) } else { weight };
            i64::try_from(fitted).unwrap_or(i64::MAX)
        })
        .collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn heavy_endpoints_are_spread_out() {
        assert_eq!(*schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_give_plain_turns() {
        assert_eq!(*schedule(&[300, 300, 300]), [0, 1, 2]);
    }

    #[test]
    fn a_schedule_stays_small_whatever_the_weights() {
        assert!(schedule(&[65_535, 1, 65_534]).len() <= MAX_SCHEDULE + 3);
    }

    #[test]
    fn no_endpoints_give_no_turns() {
        let table = Arc::new(SmoothRoundRobin::build(&BTreeSet::new()));
        assert!(table.iter(b"").next().is_none());
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(1_usize..40, 1..8)) {
            let schedule = schedule(&weights);
            let total: usize = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let turns = schedule.iter().filter(|turn| **turn as usize == index).count();
                prop_assert_eq!(turns * total, weight * schedule.len());
            }
        }
    }
}
