//! Balancing algorithms, one file each: in which order endpoints are offered to a request.
//!
//! They are pure: an endpoint is its place in the upstream's table, what they ask of the moment (a [`Moment`]) is an argument, and
//! whom this request may not have is the caller's to say. What can be computed of them is computed once per table, so that a pick
//! neither allocates nor locks. An endpoint of weight 0 is never picked: so the table takes out those that are not given requests.

mod hash;
mod least_requests;
mod peak_ewma;
mod random;
mod round_robin;
mod two_choices;

use std::sync::Arc;

pub(super) use self::hash::{Member, key_of};
pub(super) use self::peak_ewma::Estimate;

use self::hash::Ring;
use self::random::Shares;
use self::round_robin::Turns;
use crate::config::Balance;

/// The order of an upstream's endpoints, for one set of weights.
pub(super) enum Order {
    RoundRobin(Turns),
    Random(Shares),
    LeastRequests(Shares),
    PeakEwma(Shares),
    Hash(Arc<Ring>, Shares),
}

/// What an algorithm may ask of the moment: each is asked for only by one that needs it.
pub(super) trait Moment {
    /// Counts picks.
    fn turn(&self) -> usize;
    /// 64 random bits, others each time.
    fn chance(&self) -> u64;
    /// What of the request decides, if it has it.
    fn key(&self) -> Option<u64>;
    /// Requests that are under way at this place.
    fn in_flight(&self, place: usize) -> u32;
    /// How long this place is expected to take, in microseconds; `None`: nobody knows.
    fn latency(&self, place: usize) -> Option<f32>;
}

impl Order {
    /// `members` are all places, with the weights that were configured; `weights` are those of the moment. `previous` is the order
    /// before: what still holds of it is kept.
    pub(super) fn new(balance: &Balance, members: Vec<Member>, weights: &[u32], previous: Option<&Self>) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Turns::new(weights)),
            Balance::Random => Self::Random(Shares::new(weights)),
            Balance::LeastRequests => Self::LeastRequests(Shares::new(weights)),
            Balance::PeakEwma => Self::PeakEwma(Shares::new(weights)),
            Balance::Hash(_) => {
                let ring = match previous {
                    // Who is ill stays on the ring, and is passed over: the keys of the others stay where they are.
                    Some(Self::Hash(ring, _)) if ring.is_of(&members) => ring.clone(),
                    _ => Arc::new(Ring::new(members)),
                };
                Self::Hash(ring, Shares::new(weights))
            }
        }
    }

    /// The first place in this order that is accepted.
    pub(super) fn pick(&self, moment: &impl Moment, accept: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.pick(moment.turn(), accept),
            Self::Random(shares) => shares.pick(moment.chance(), accept),
            Self::LeastRequests(shares) => least_requests::pick(shares, moment, accept),
            Self::PeakEwma(shares) => peak_ewma::pick(shares, moment, accept),
            Self::Hash(ring, shares) => match moment.key() {
                Some(key) => ring.pick(key, |place| shares.has_share(place) && accept(place)),
                None => shares.pick(moment.chance(), accept),
            },
        }
    }
}

#[cfg(test)]
mod testing {
    use std::cell::{Cell, RefCell};

    use super::Moment;

    /// A moment that tests make up.
    #[derive(Default)]
    pub(super) struct Scene {
        pub(super) turn: Cell<usize>,
        pub(super) random: RefCell<fastrand::Rng>,
        pub(super) key: Option<u64>,
        pub(super) in_flight: RefCell<Vec<u32>>,
        pub(super) latency: Vec<Option<f32>>,
    }

    impl Scene {
        pub(super) fn of(places: usize) -> Self {
            Self {
                random: RefCell::new(fastrand::Rng::with_seed(7)),
                in_flight: RefCell::new(vec![0; places]),
                latency: vec![Some(100.0); places],
                ..Self::default()
            }
        }
    }

    impl Moment for Scene {
        fn turn(&self) -> usize {
            self.turn.replace(self.turn.get() + 1)
        }
        fn chance(&self) -> u64 {
            self.random.borrow_mut().u64(..)
        }
        fn key(&self) -> Option<u64> {
            self.key
        }
        fn in_flight(&self, place: usize) -> u32 {
            self.in_flight.borrow()[place]
        }
        fn latency(&self, place: usize) -> Option<f32> {
            self.latency[place]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::Scene;
    use super::*;
    use crate::config::{HashBalance, HashKey};

    fn all() -> [Balance; 5] {
        let hash = Balance::Hash(HashBalance { key: HashKey::Uri });
        [Balance::RoundRobin, Balance::Random, Balance::LeastRequests, Balance::PeakEwma, hash]
    }

    fn order(balance: &Balance, weights: &[u32]) -> Order {
        let members = weights.iter().enumerate().map(|(place, weight)| Member::new(&format!("10.0.0.{place}:80"), *weight));
        Order::new(balance, members.collect(), weights, None)
    }

    proptest! {
        #[test]
        fn whom_no_request_may_have_is_never_picked_while_there_is_another(
            places in prop::collection::vec((0_u32..4, 0_u32..5, prop::option::of(0_f32..1e6)), 0..8),
            excluded in any::<u8>(), key in prop::option::of(any::<u64>()), turn in any::<usize>(), seed in any::<u64>(),
        ) {
            let weights: Vec<u32> = places.iter().map(|place| place.0).collect();
            let accept = |place: usize| excluded & (1 << place) == 0;
            let open = (0..weights.len()).any(|place| weights[place] > 0 && accept(place));
            let scene = Scene {
                turn: turn.saturating_sub(9).into(),
                random: fastrand::Rng::with_seed(seed).into(),
                key,
                in_flight: places.iter().map(|place| place.1).collect::<Vec<_>>().into(),
                latency: places.iter().map(|place| place.2).collect(),
            };
            for balance in all() {
                let picked = order(&balance, &weights).pick(&scene, accept);
                prop_assert_eq!(picked.is_some(), open, "{:?}", balance);
                prop_assert!(picked.is_none_or(|place| weights[place] > 0 && accept(place)), "{:?}", balance);
            }
        }

        /// Whether requests end at once or pile up.
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0_u32..8, 2..6), ending in prop_oneof![Just(0_usize), 40..80_usize]) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let total: u32 = weights.iter().sum();
            for balance in all() {
                let mut scene = Scene::of(weights.len());
                let order = order(&balance, &weights);
                let mut counts = vec![0_u32; weights.len()];
                let mut open = std::collections::VecDeque::new();
                for number in 0..8_000_u64 {
                    scene.key = Some(key_of(&[&number.to_le_bytes()]));
                    let place = order.pick(&scene, |_| true).unwrap();
                    counts[place] += 1;
                    scene.in_flight.borrow_mut()[place] += 1;
                    open.push_back(place);
                    if open.len() > ending {
                        scene.in_flight.borrow_mut()[open.pop_front().unwrap()] -= 1;
                    }
                }
                for (place, weight) in weights.iter().enumerate() {
                    let (due, got) = (f64::from(*weight) / f64::from(total), f64::from(counts[place]) / 8_000.0);
                    let slack = if matches!(balance, Balance::Hash(_)) { 0.1 } else { 0.04 };
                    prop_assert!((due - got).abs() < slack, "{:?}: {:?} for {:?}", balance, counts, weights);
                }
            }
        }
    }
}
