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
