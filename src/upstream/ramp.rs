//! Slow start: an endpoint that is new, or has recovered, is given more and more requests, until it has its whole share.

use std::time::Duration;

/// A whole share, in hundredths.
pub(super) const WHOLE: u32 = 100;
/// The least, from the first moment on.
const LEAST: u32 = 10;
/// In how many steps a share grows.
const STEPS: u32 = 20;

/// The share of its weight that an endpoint has after this time, in hundredths.
pub(super) fn share(served: Duration, over: Duration) -> u32 {
    if served >= over {
        return WHOLE;
    }
    let step = served.as_nanos() * u128::from(STEPS) / over.as_nanos().max(1);
    LEAST + (WHOLE - LEAST) * u32::try_from(step).unwrap_or(STEPS).min(STEPS) / STEPS
}

/// How long until a share grows.
pub(super) fn step(over: Duration) -> Duration {
    (over / STEPS).max(Duration::from_millis(1))
}

/// Weights in which each endpoint has its share. All are whole mostly: then nothing changes.
pub(super) fn weights(weights_and_shares: impl Iterator<Item = (u32, u32)> + Clone) -> Vec<u32> {
    if weights_and_shares.clone().all(|(_, share)| share == WHOLE) {
        return weights_and_shares.map(|(weight, _)| weight).collect();
    }
    weights_and_shares.map(|(weight, share)| weight.min(u32::MAX / WHOLE) * share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn from_a_tenth_to_the_whole() {
        let shares = [0, 3, 15, 29, 30, 300].map(|seconds| share(S(seconds), S(30)));
        assert_eq!(shares, [10, 19, 55, 95, 100, 100]);
    }

    #[test]
    fn weights_stay_as_they_are_unless_somebody_begins() {
        assert_eq!(weights([(1, 100), (2, 100)].into_iter()), [1, 2]);
        assert_eq!(weights([(1, 100), (2, 10), (0, 50)].into_iter()), [100, 20, 0]);
        assert_eq!(weights([(u32::MAX, 100), (1, 10)].into_iter()), [u32::MAX / 100 * 100, 10]);
    }

    proptest! {
        #[test]
        fn a_share_only_grows(over in 1_u64..100_000, times in prop::array::uniform2(0_u64..200_000)) {
            let [first, later] = times.map(Duration::from_millis);
            let over = Duration::from_millis(over);
            let shares = [share(first.min(later), over), share(first.max(later), over)];
            prop_assert!((10..=100).contains(&shares[0]) && shares[0] <= shares[1]);
        }
    }
}
