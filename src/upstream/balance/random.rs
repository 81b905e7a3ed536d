//! Weighted random choice, independent from request to request.

/// The running sums of the weights.
pub(in crate::upstream) struct Shares {
    sums: Box<[u64]>,
}

impl Shares {
    pub(super) fn new(weights: &[u32]) -> Self {
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        Self { sums: sums.collect() }
    }

    /// A place drawn by weight; should it not be accepted, the next one that is, so that one is always found.
    pub(super) fn pick(&self, chance: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let total = *self.sums.last()?;
        let ticket = u64::try_from((u128::from(chance) * u128::from(total)) >> 64).unwrap_or(0);
        let drawn = self.place_of(ticket);
        (drawn..self.sums.len()).chain(0..drawn).find(|place| self.has_share(*place) && accept(*place))
    }

    /// The place in whose share of the sum of all weights `ticket` falls.
    fn place_of(&self, ticket: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= ticket).min(self.sums.len())
    }

    fn has_share(&self, place: usize) -> bool {
        let before = if place == 0 { 0 } else { self.sums[place - 1] };
        self.sums[place] > before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tickets_fall_by_weight(weights in prop::collection::vec(0_u32..40, 1..8)) {
            let shares = Shares::new(&weights);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let mut counts = vec![0; weights.len()];
            for ticket in 0..total {
                counts[shares.place_of(ticket)] += 1;
            }
            prop_assert_eq!(counts, weights);
        }

        #[test]
        fn whom_no_request_may_have_is_never_picked_while_there_is_another(
            weights in prop::collection::vec(0_u32..4, 0..8), chance in any::<u64>(), excluded in any::<u8>(),
        ) {
            let accept = |place: usize| excluded & (1 << place) == 0;
            let open = (0..weights.len()).any(|place| weights[place] > 0 && accept(place));
            let picked = Shares::new(&weights).pick(chance, accept);
            prop_assert_eq!(picked.is_some(), open);
            prop_assert!(picked.is_none_or(|place| weights[place] > 0 && accept(place)));
        }
    }

    #[test]
    fn the_whole_range_of_chances_is_the_whole_of_the_weights() {
        let shares = Shares::new(&[1, 2, 1]);
        let picked = |chance| shares.pick(chance, |_| true);
        assert_eq!((picked(0), picked(1 << 62), picked(u64::MAX)), (Some(0), Some(1), Some(2)));
    }
}
