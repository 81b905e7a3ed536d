//! The endpoints of an upstream as requests find them: laid out once, whenever one comes, goes, or changes its health.
//!
//! It is a view. Who the endpoints are and how they fare is known to Pingora's `LoadBalancer` (`members`); a request only walks
//! over what was computed from that, whichever way the request is carried.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use pingora_core::protocols::l4::socket::SocketAddr;

use super::balance::{Member, Moment, Order};
use super::eligible::{Standing, eligible};
use super::endpoint::Endpoint;
use crate::config::Balance;
use crate::types::Percent;

/// Every endpoint, and the order of those that are given requests.
pub(super) struct Table {
    places: Box<[Place]>,
    /// Which places are given requests.
    open: Box<[bool]>,
    order: Order,
}

/// An endpoint's place.
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    pub(super) healthy: bool,
}

/// What a pick asks of its request and of chance.
pub(super) struct Ask<'a, T, C> {
    /// Addresses that failed this request.
    pub(super) tried: &'a [SocketAddr],
    /// What of the request decides, for the order that asks for it.
    pub(super) key: Option<u64>,
    pub(super) turn: T,
    pub(super) chance: C,
}

impl Table {
    /// `previous`: the table before.
    pub(super) fn new(balance: &Balance, panic: Percent, places: Vec<Place>, previous: Option<&Self>) -> Self {
        let members = places.iter().map(|place| Member::new(place.endpoint.as_str(), place.weight)).collect();
        let standing = |place: &Place| Standing { healthy: place.healthy, backup: place.endpoint.is_backup() };
        let open = eligible(&places.iter().map(standing).collect::<Vec<_>>(), panic);
        let weights: Vec<u32> = places.iter().zip(&open).map(|(place, open)| if *open { place.weight } else { 0 }).collect();
        Self {
            open: open.into(),
            order: Order::new(balance, members, &weights, previous.map(|table| &table.order)),
            places: places.into(),
        }
    }

    /// An endpoint that is given requests: one that has not failed this request if there is one.
    pub(super) fn pick<T: Fn() -> usize, C: Fn() -> u64>(&self, ask: &Ask<'_, T, C>) -> Option<&Arc<Endpoint>> {
        let moment = Now { places: &self.places, ask, time: OnceCell::new() };
        let fresh = |place: usize| !ask.tried.contains(self.places[place].endpoint.address());
        let picked = if ask.tried.is_empty() || !self.has_other(ask.tried) {
            self.order.pick(&moment, |_| true)
        } else {
            self.order.pick(&moment, fresh)
        };
        picked.map(|place| &self.places[place].endpoint)
    }

    /// Whether an endpoint that is given requests is left that is not in `tried`.
    pub(super) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.places.iter().zip(&self.open).any(|(place, open)| *open && !tried.contains(place.endpoint.address()))
    }

    /// All places, in the order of addresses.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

/// The moment of a pick. The clock is read only where an order looks at latencies.
struct Now<'a, T, C> {
    places: &'a [Place],
    ask: &'a Ask<'a, T, C>,
    time: OnceCell<Instant>,
}

impl<T: Fn() -> usize, C: Fn() -> u64> Moment for Now<'_, T, C> {
    fn turn(&self) -> usize {
        (self.ask.turn)()
    }

    fn chance(&self) -> u64 {
        (self.ask.chance)()
    }

    fn key(&self) -> Option<u64> {
        self.ask.key
    }

    fn in_flight(&self, place: usize) -> u32 {
        self.places[place].endpoint.vitals().in_flight()
    }

    fn latency(&self, place: usize) -> Option<f32> {
        self.places[place].endpoint.vitals().latency(*self.time.get_or_init(Instant::now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{HashBalance, HashKey};

    fn place(number: usize, (weight, healthy): (u32, bool)) -> Place {
        let endpoint = Endpoint::testing(u16::try_from(number).unwrap() + 1);
        Place { endpoint: Arc::new(endpoint), weight, healthy }
    }

    fn balances() -> impl Strategy<Value = Balance> {
        let hash = Balance::Hash(HashBalance { key: HashKey::Uri });
        prop::sample::select(vec![Balance::RoundRobin, Balance::Random, Balance::LeastRequests, Balance::PeakEwma, hash])
    }

    proptest! {
        #[test]
        fn who_is_ill_is_never_picked_and_who_failed_only_where_there_is_no_other(
            places in prop::collection::vec((1_u32..4, any::<bool>()), 0..6),
            failed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            turn in any::<usize>(), chance in any::<u64>(), key in any::<Option<u64>>(), balance in balances(),
        ) {
            let places: Vec<Place> = places.into_iter().enumerate().map(|(number, place_of)| place(number, place_of)).collect();
            let tried: Vec<SocketAddr> = failed.iter().filter(|_| !places.is_empty())
                .map(|index| index.get(&places).endpoint.address().clone()).collect();
            let healthy: Vec<SocketAddr> =
                places.iter().filter(|place| place.healthy).map(|place| place.endpoint.address().clone()).collect();
            let fresh = healthy.iter().any(|address| !tried.contains(address));
            let table = Table::new(&balance, Percent::default(), places, None);
            let ask = Ask { tried: &tried, key, turn: || turn, chance: || chance };
            let picked = table.pick(&ask).map(|endpoint| endpoint.address().clone());
            prop_assert_eq!(picked.is_some(), !healthy.is_empty());
            prop_assert_eq!(table.has_other(&tried), fresh);
            if let Some(picked) = picked {
                prop_assert!(healthy.contains(&picked));
                prop_assert!(!fresh || !tried.contains(&picked));
            }
        }
    }
}
