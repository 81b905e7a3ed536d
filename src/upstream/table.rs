//! The endpoints of an upstream as requests find them: laid out once, whenever one comes, goes, or changes its health.
//!
//! It is a view. Who the endpoints are and how they fare is known to Pingora's `LoadBalancer` (`members`); a request only walks
//! over what was computed from that, whichever way the request is carried.

use std::sync::Arc;

use pingora_core::protocols::l4::socket::SocketAddr;

use super::balance::Order;
use super::endpoint::Endpoint;
use crate::config::Balance;

/// Every endpoint, and the order of those that are given requests.
pub(super) struct Table {
    places: Box<[Place]>,
    order: Order,
}

/// An endpoint's place.
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    pub(super) healthy: bool,
}

impl Table {
    pub(super) fn new(balance: Balance, places: Vec<Place>) -> Self {
        let weights: Vec<u32> = places.iter().map(|place| if place.healthy { place.weight } else { 0 }).collect();
        Self { order: Order::new(balance, &weights), places: places.into() }
    }

    /// A healthy endpoint: one that is not in `tried` if there is one. `turn` and `chance` are what the order may ask for.
    pub(super) fn pick(
        &self,
        tried: &[SocketAddr],
        turn: impl Fn() -> usize,
        chance: impl Fn() -> u64,
    ) -> Option<&Arc<Endpoint>> {
        let fresh = |place: usize| !tried.contains(self.places[place].endpoint.address());
        let picked = match self.order.pick(&turn, &chance, fresh) {
            None if !tried.is_empty() => self.order.pick(turn, chance, |_| true),
            picked => picked,
        };
        picked.map(|place| &self.places[place].endpoint)
    }

    /// Whether a healthy endpoint is left that is not in `tried`.
    pub(super) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.places.iter().any(|place| place.healthy && !tried.contains(place.endpoint.address()))
    }

    /// All places, in the order of addresses.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Timeouts;
    use crate::observe::metrics;

    fn place(number: usize, (weight, healthy): (u32, bool)) -> Place {
        let address = SocketAddr::Inet(([127, 0, 0, 1], u16::try_from(number).unwrap() + 1).into());
        let endpoint = Endpoint::new("u", address, "u", &Timeouts::default(), &metrics().upstream("u"));
        Place { endpoint: Arc::new(endpoint), weight, healthy }
    }

    proptest! {
        #[test]
        fn who_is_ill_is_never_picked_and_who_failed_only_where_there_is_no_other(
            places in prop::collection::vec((1_u32..4, any::<bool>()), 0..6),
            failed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            turn in any::<usize>(), chance in any::<u64>(), random in any::<bool>(),
        ) {
            let places: Vec<Place> = places.into_iter().enumerate().map(|(number, place_of)| place(number, place_of)).collect();
            let tried: Vec<SocketAddr> = failed.iter().filter(|_| !places.is_empty())
                .map(|index| index.get(&places).endpoint.address().clone()).collect();
            let healthy: Vec<SocketAddr> =
                places.iter().filter(|place| place.healthy).map(|place| place.endpoint.address().clone()).collect();
            let fresh = healthy.iter().any(|address| !tried.contains(address));
            let table = Table::new(if random { Balance::Random } else { Balance::RoundRobin }, places);
            let picked = table.pick(&tried, || turn, || chance).map(|endpoint| endpoint.address().clone());
            prop_assert_eq!(picked.is_some(), !healthy.is_empty());
            prop_assert_eq!(table.has_other(&tried), fresh);
            if let Some(picked) = picked {
                prop_assert!(healthy.contains(&picked));
                prop_assert!(!fresh || !tried.contains(&picked));
            }
        }
    }
}
