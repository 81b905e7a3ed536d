//! Consistent hashing: the same endpoint for the same key, whoever comes or goes (ketama).
//!
//! Each endpoint has points on a ring, more of them with more weight; a key belongs to the next point. Where they are follows from
//! the endpoint's address alone: every Ravelin with the same endpoints sends a key to the same one. How many they are goes by its weight
//! and the average of all weights. So weights may be of any size, and one more of N changes the average, and with it the others' points, by
//! less than its own share or one in N: at most 2/N of the keys move, or twice the share of one that is heavier than that. Beside equals
//! it takes keys from them without moving any between them.

use std::hash::Hasher as _;

use fnv::FnvHasher;

/// Points of an endpoint of average weight. The shares of equals differ by about 6 %. A point takes 12 bytes: the 1,024 endpoints that
/// discovery finds at most take 4 MiB, and a little more while they are sorted. With twice as many, a pick among a thousand waits for memory.
const POINTS: u64 = 320;

/// An endpoint as the ring knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) struct Member {
    id: u64,
    weight: u32,
}

impl Member {
    pub(in crate::upstream) fn new(address: &str, weight: u32) -> Self {
        Self { id: key_of(&[address.as_bytes()]), weight }
    }
}

/// Where on the ring these bytes are, one part after the other: the same in every process, on every machine.
pub(in crate::upstream) fn key_of(parts: &[&[u8]]) -> u64 {
    let mut hasher = FnvHasher::default();
    parts.iter().for_each(|part| hasher.write(part));
    mixed(hasher.finish())
}

/// The points of all endpoints in their order, each with its endpoint's place.
pub(in crate::upstream) struct Ring {
    members: Box<[Member]>,
    points: Box<[u64]>,
    places: Box<[u32]>,
}

impl Ring {
    pub(super) fn new(members: Vec<Member>) -> Self {
        let counts: Vec<u64> = counts(&members).collect();
        let mut points = Vec::with_capacity(usize::try_from(counts.iter().sum::<u64>()).unwrap_or_default());
        for ((place, member), count) in (0_u32..).zip(&members).zip(counts) {
            points.extend((0..count).map(|number| (point(member.id, number), place)));
        }
        // Should two share a point, their addresses' order decides, not that of the file.
        points.sort_unstable_by(|(a, first), (b, second)| {
            a.cmp(b).then_with(|| members[*first as usize].id.cmp(&members[*second as usize].id))
        });
        let (points, places): (Vec<u64>, Vec<u32>) = points.into_iter().unzip();
        Self { members: members.into(), points: points.into(), places: places.into() }
    }

    pub(super) fn is_of(&self, members: &[Member]) -> bool {
        *self.members == *members
    }

    /// The place to which a key belongs; should it not be accepted, the next one on the ring that is.
    pub(super) fn pick(&self, key: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let next = self.points.partition_point(|point| *point < key);
        let (passed, ahead) = self.places.split_at(next);
        ahead.iter().chain(passed).map(|place| *place as usize).find(|place| accept(*place))
    }
}

/// How many points each has: `POINTS` times its weight, by the average. A part of a point is one whole for some and none for others, as
/// their addresses say: else all of one weight would lose or win a point at once.
fn counts(members: &[Member]) -> impl Iterator<Item = u64> {
    let present = members.iter().filter(|member| member.weight > 0).count() as u128;
    let total: u128 = members.iter().map(|member| u128::from(member.weight)).sum();
    members.iter().map(move |member| match u128::from(member.weight) {
        0 => 0,
        weight => {
            let parts = ((weight * u128::from(POINTS) * present) << 16) / total + u128::from(member.id >> 48);
            u64::try_from(parts >> 16).unwrap_or(u64::MAX).max(1)
        }
    })
}

fn point(id: u64, number: u64) -> u64 {
    mixed(id.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Spreads bits that are alike over the whole ring (the finish of SplitMix64).
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u32 = 10_000;

    fn members(weights: &[u32], salt: u8) -> Vec<Member> {
        weights.iter().enumerate().map(|(n, weight)| Member::new(&format!("10.{salt}.0.{n}:8080"), *weight)).collect()
    }

    fn picks(ring: &Ring, accept: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        (0..KEYS).map(|key| ring.pick(key_of(&[&key.to_le_bytes()]), &accept)).collect()
    }

    /// One more beside equals of a weight.
    fn one_more(weight: u32, count: usize, salt: u8) -> Result<(), TestCaseError> {
        let before = picks(&Ring::new(members(&vec![weight; count], salt)), |_| true);
        let after = picks(&Ring::new(members(&vec![weight; count + 1], salt)), |_| true);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        prop_assert!(moved * count <= 2 * KEYS as usize, "{} of {} keys, with {} of weight {}", moved, KEYS, count, weight);
        prop_assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == Some(count)));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn so_it_is_with_equals_of_any_weight(
            weight in prop::sample::select(vec![10, 16, 17, 50, 100, 256]), count in 1_usize..200, salt in any::<u8>(),
        ) {
            one_more(weight, count, salt)?;
        }
    }

    #[test]
    fn no_number_of_equals_is_one_too_many() {
        for (weight, count) in [(10, 163), (50, 32), (100, 16), (256, 6), (1, 1), (u32::MAX, 3)] {
            one_more(weight, count, 0).unwrap();
        }
    }

    /// Weights as service records have them, and whoever comes beside them: the heaviest too, and one beyond all powers of two.
    #[test]
    fn one_more_beside_others_moves_no_more_than_two_of_n_or_twice_its_share() {
        let sets: [&[u32]; 13] = [
            &[1; 3],
            &[10; 10],
            &[16; 10],
            &[100; 17],
            &[60, 20, 20],
            &[70, 20, 10],
            &[50, 50],
            &[5, 95],
            &[1, 1, 98],
            &[65_535; 3],
            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
            &[10, 20, 30, 40],
            &[1, 10, 1, 10, 1, 10, 1, 10, 1, 10],
        ];
        for weights in sets {
            let largest = weights.iter().max().copied().unwrap();
            for more in [1, largest / 2, largest, largest + 1, 2 * largest] {
                let more = more.max(1);
                let (before, mut members) = (picks(&Ring::new(members(weights, 0)), |_| true), members(weights, 0));
                members.push(Member::new("10.1.0.1:8080", more));
                let after = picks(&Ring::new(members), |_| true);
                let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count() as f64 / f64::from(KEYS);
                let share = f64::from(more) / (weights.iter().map(|weight| f64::from(*weight)).sum::<f64>() + f64::from(more));
                let most = (2.0 / weights.len() as f64).max(2.0 * share);
                assert!(moved <= most, "{moved} of the keys, {most} may, with {more} beside {weights:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_more_of_n_moves_few_keys_and_those_only_to_itself(count in 1_usize..40, salt in any::<u8>()) {
            one_more(1, count, salt)?;
        }

        /// Whatever they weigh: all points together are as many as the endpoints say, and each has its share of them.
        #[test]
        fn points_follow_weights(weights in prop::collection::vec(any::<u32>(), 1..200)) {
            let members = members(&weights, 0);
            let present = weights.iter().filter(|weight| **weight > 0).count() as f64;
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (weight, count) in weights.iter().zip(counts(&members)) {
                let due = if *weight == 0 { 0.0 } else { f64::from(*weight) / total * present * POINTS as f64 };
                prop_assert!((count as f64 - due).abs() <= 1.0, "{count} points, {due} are due");
            }
        }

        #[test]
        fn who_falls_ill_gives_up_its_own_keys_only(count in 2_usize..20, ill in any::<prop::sample::Index>(), salt in any::<u8>()) {
            let (ring, ill) = (Ring::new(members(&vec![1; count], salt)), ill.index(count));
            let (before, after) = (picks(&ring, |_| true), picks(&ring, |place| place != ill));
            let as_before = before.iter().zip(&after).filter(|(before, _)| **before != Some(ill)).all(|(before, after)| before == after);
            prop_assert!(as_before && after.iter().all(|place| place.is_some_and(|place| place != ill)));
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let mut turned = members(&[1, 2, 3], 0);
        let ring = Ring::new(turned.clone());
        turned.reverse();
        let other = Ring::new(turned);
        let same = picks(&other, |_| true).into_iter().map(|place| place.map(|place| 2 - place)).collect::<Vec<_>>();
        assert_eq!(picks(&ring, |_| true), same);
    }

    #[test]
    fn keys_stay_where_they_are_from_version_to_version() {
        let ring = Ring::new(members(&[1, 1, 1], 0));
        let picked: Vec<_> =
            ["a", "b", "c", "d", "e", "f"].iter().map(|key| ring.pick(key_of(&[key.as_bytes()]), |_| true)).collect();
        assert_eq!(picked, [1, 1, 1, 2, 0, 0].map(Some));
    }

    #[test]
    fn a_ring_stays_small_whatever_the_weights() {
        for weights in [[u32::MAX, 1, u32::MAX], [1, 1, 1], [16, 1, 17], [33, 100, 0], [u32::MAX, u32::MAX, u32::MAX]] {
            let ring = Ring::new(members(&weights, 0));
            assert!(ring.points.len() as u64 <= 3 * POINTS + 3, "{weights:?}");
            assert!(weights[1] == 0 || ring.pick(0, |place| place == 1).is_some());
        }
    }

    #[test]
    fn nobody_on_the_ring_takes_nothing() {
        assert_eq!(Ring::new(Vec::new()).pick(1, |_| true), None);
        assert_eq!(Ring::new(members(&[0], 0)).pick(1, |_| true), None);
    }
}
