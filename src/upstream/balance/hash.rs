//! Consistent hashing: the same endpoint for the same key, whoever comes or goes (ketama).
//!
//! Each endpoint has points on a ring, more of them with more weight; a key belongs to the next point. Where they are follows from
//! the endpoint's address alone: every Ravelin with the same endpoints sends a key to the same one. How many they are follows from its
//! weight and the power of two that the largest weight reaches: one that comes and is not heavier takes keys from the others without
//! moving any between them.

use std::hash::Hasher as _;

use fnv::FnvHasher;

/// Points of an endpoint of weight 1. The shares of equals differ by about 8 %.
const POINTS: u64 = 160;
/// Points of one endpoint at most: where the heaviest had more, each has half as many, and again. So it is with a weight above 16, 32,
/// 64 and so on. A point takes 12 bytes: the 1,024 endpoints that discovery finds at most take 30 MiB (40 more while they are sorted) and,
/// when they change, an eighth of a second.
const MOST: u64 = 16 * POINTS;

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

/// How many points each has: by its own weight, and by how often the heaviest must be halved. However many others there are changes
/// nothing, as long as none is the first above a power of two.
fn counts(members: &[Member]) -> impl Iterator<Item = u64> {
    let points = |member: &Member| u64::from(member.weight) * POINTS;
    let largest = members.iter().map(points).max().unwrap_or(0);
    let halvings = (0..u64::BITS).find(|halvings| largest >> halvings <= MOST).unwrap_or(0);
    members.iter().map(move |member| match points(member) {
        0 => 0,
        points => (points >> halvings).max(1),
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

    /// All points together were bounded once: the seventeenth halved those of all.
    #[test]
    fn no_number_of_equals_is_one_too_many() {
        for (weight, count) in [(10, 163), (50, 32), (100, 16), (256, 6)] {
            one_more(weight, count, 0).unwrap();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_more_of_n_moves_few_keys_and_those_only_to_itself(count in 1_usize..40, salt in any::<u8>()) {
            one_more(1, count, salt)?;
        }

        #[test]
        fn one_more_changes_nobodys_points(weights in prop::collection::vec(any::<u32>(), 1..200), more in any::<prop::sample::Index>()) {
            let (before, mut members) = (members(&weights, 0), members(&weights, 0));
            members.push(Member::new("another", *more.get(&weights)));
            prop_assert!(counts(&before).eq(counts(&members).take(weights.len())));
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
        assert_eq!(picked, [0, 1, 2, 1, 0, 0].map(Some));
    }

    #[test]
    fn a_ring_stays_small_whatever_the_weights() {
        let ring = Ring::new(members(&[u32::MAX, 1, u32::MAX], 0));
        assert!(ring.points.len() as u64 <= 2 * MOST + 1);
        assert!(ring.pick(0, |place| place == 1).is_some());
        for weights in [[1, 1], [16, 1], [17, 1], [33, 100], [u32::MAX, u32::MAX]].map(|[a, b]| members(&[a, b], 0)) {
            assert!(counts(&weights).all(|count| (1..=MOST).contains(&count)), "{weights:?}");
        }
    }

    #[test]
    fn nobody_on_the_ring_takes_nothing() {
        assert_eq!(Ring::new(Vec::new()).pick(1, |_| true), None);
        assert_eq!(Ring::new(members(&[0], 0)).pick(1, |_| true), None);
    }
}
