//! Weighted random choice, independent from request to request.

/// The running sums of the weights.
pub(in crate::upstream) struct Shares {
    sums: Box<[u64]>,
    /// The weight of those that have one, on average.
    average: f32,
}

impl Shares {
    pub(super) fn new(weights: &[u32]) -> Self {
        let mut sum = 0;
        let sums = weights.iter().map(|weight| {
            sum += u64::from(*weight);
            sum
        });
        let sums: Box<[u64]> = sums.collect();
        let sharing = weights.iter().filter(|weight| **weight > 0).count().max(1);
        Self { average: sums.last().map_or(1.0, |total| *total as f32 / sharing as f32), sums }
    }

    /// A place drawn by weight; should it not be accepted, the next one that is, so that one is always found.
    pub(super) fn pick(&self, chance: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let total = *self.sums.last()?;
        let drawn = self.place_of(ticket(chance, total));
        (drawn..self.sums.len()).chain(0..drawn).find(|place| self.has_share(*place) && accept(*place))
    }

    /// Likewise, of all places but this one.
    pub(super) fn pick_other(&self, chance: u64, but: usize, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let (start, end) = (self.before(but), self.sums[but]);
        let total = self.sums.last()? - (end - start);
        let ticket = ticket(chance, total);
        let drawn = self.place_of(if ticket < start { ticket } else { ticket + (end - start) });
        (drawn..self.sums.len()).chain(0..drawn).find(|place| *place != but && self.has_share(*place) && accept(*place))
    }

    /// A place's weight, where 1 is what they have on average.
    pub(super) fn relative(&self, place: usize) -> f32 {
        (self.sums[place] - self.before(place)) as f32 / self.average
    }

    /// The place in whose share of the sum of all weights `ticket` falls.
    fn place_of(&self, ticket: u64) -> usize {
        self.sums.partition_point(|sum| *sum <= ticket).min(self.sums.len())
    }

    pub(super) fn has_share(&self, place: usize) -> bool {
        self.sums[place] > self.before(place)
    }

    fn before(&self, place: usize) -> u64 {
        if place == 0 { 0 } else { self.sums[place - 1] }
    }
}

/// A number below `total`, from 64 random bits.
fn ticket(chance: u64, total: u64) -> u64 {
    u64::try_from((u128::from(chance) * u128::from(total)) >> 64).unwrap_or(0)
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

    proptest! {
        #[test]
        fn the_other_is_another(weights in prop::collection::vec(0_u32..4, 1..8), chances in any::<[u64; 2]>(), excluded in any::<u8>()) {
            let accept = |place: usize| excluded & (1 << place) == 0;
            let shares = Shares::new(&weights);
            if let Some(first) = shares.pick(chances[0], accept) {
                let open = (0..weights.len()).any(|place| place != first && weights[place] > 0 && accept(place));
                let other = shares.pick_other(chances[1], first, accept);
                prop_assert_eq!(other.is_some(), open);
                prop_assert!(other.is_none_or(|place| place != first && weights[place] > 0 && accept(place)));
            }
        }
    }

    #[test]
    fn the_whole_range_of_chances_is_the_whole_of_the_weights() {
        let shares = Shares::new(&[1, 2, 1]);
        let picked = |chance| shares.pick(chance, |_| true);
        assert_eq!((picked(0), picked(1 << 62), picked(u64::MAX)), (Some(0), Some(1), Some(2)));
    }
}
