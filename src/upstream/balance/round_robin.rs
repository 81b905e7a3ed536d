//! Smooth weighted round robin: each endpoint in turn, those of more weight more often, never in bursts.

/// Weights are scaled down until a schedule is no longer than this (or than the number of endpoints).
const MAX_SCHEDULE: u64 = 4096;

/// A schedule that is computed once per set of weights: places in the order of their turns.
pub(in crate::upstream) struct Turns {
    schedule: Box<[u32]>,
}

impl Turns {
    pub(super) fn new(weights: &[u32]) -> Self {
        Self { schedule: schedule(weights) }
    }

    /// The place whose turn it is; should it not be accepted, the next one that is.
    pub(super) fn pick(&self, turn: usize, accept: impl Fn(usize) -> bool) -> Option<usize> {
        if self.schedule.is_empty() {
            return None;
        }
        let (passed, ahead) = self.schedule.split_at(turn % self.schedule.len());
        ahead.iter().chain(passed).map(|place| *place as usize).find(|place| accept(*place))
    }
}

/// The order in which places of these weights take their turns: at each step every place gains its weight, the richest one goes
/// and pays the sum of all.
fn schedule(weights: &[u32]) -> Box<[u32]> {
    let weights = scaled(weights);
    if weights.iter().all(|weight| *weight <= 1) {
        // Plain turns: most upstreams, and those with very many endpoints, need no arithmetic.
        return (0_u32..).zip(&weights).filter(|(_, weight)| **weight > 0).map(|(place, _)| place).collect();
    }
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

fn scaled(weights: &[u32]) -> Vec<i64> {
    let divisor = u64::from(weights.iter().copied().fold(0, gcd).max(1));
    let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
    let bound = MAX_SCHEDULE.max(weights.len() as u64);
    let fitted = weights.iter().map(|weight| match u64::from(*weight) / divisor {
        0 => 0,
        weight if total > bound => (weight * MAX_SCHEDULE / total).max(1),
        weight => weight,
    });
    fitted.map(|weight| i64::try_from(weight).unwrap_or(i64::MAX)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
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
        assert_eq!(*schedule(&[300, 0, 300]), [0, 2]);
    }

    #[test]
    fn a_schedule_stays_small_whatever_the_weights() {
        assert!(schedule(&[65_535, 1, 65_534, u32::MAX]).len() <= MAX_SCHEDULE as usize + 4);
    }

    #[test]
    fn no_endpoints_give_no_turns() {
        assert_eq!(Turns::new(&[]).pick(1, |_| true), None);
        assert_eq!(Turns::new(&[0]).pick(1, |_| true), None);
    }

    #[test]
    fn who_is_passed_over_does_not_stop_the_others() {
        let turns = Turns::new(&[1, 1, 1]);
        let picked: Vec<_> = (0..4).map(|turn| turns.pick(turn, |place| place != 1)).collect();
        assert_eq!(picked, [Some(0), Some(2), Some(2), Some(0)]);
        assert_eq!(turns.pick(usize::MAX, |_| false), None);
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0_u32..40, 1..8)) {
            let schedule = schedule(&weights);
            let total: usize = weights.iter().map(|weight| *weight as usize).sum();
            for (index, weight) in weights.iter().enumerate() {
                let turns = schedule.iter().filter(|turn| **turn as usize == index).count();
                prop_assert_eq!(turns * total, *weight as usize * schedule.len());
            }
        }

        #[test]
        fn whom_no_request_may_have_is_never_picked_while_there_is_another(
            weights in prop::collection::vec(0_u32..4, 0..8), turn in any::<usize>(), excluded in any::<u8>(),
        ) {
            let accept = |place: usize| excluded & (1 << place) == 0;
            let open = (0..weights.len()).any(|place| weights[place] > 0 && accept(place));
            let picked = Turns::new(&weights).pick(turn, accept);
            prop_assert_eq!(picked.is_some(), open);
            prop_assert!(picked.is_none_or(|place| weights[place] > 0 && accept(place)));
        }
    }
}
