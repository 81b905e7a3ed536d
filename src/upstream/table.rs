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
use super::ramp;
use crate::config::Balance;
use crate::types::Percent;

/// Every endpoint, and the order of those that are given requests.
pub(super) struct Table {
    places: Box<[Place]>,
    /// Which places are given requests.
    open: Box<[bool]>,
    /// The ids of all places in their order, where clients stay at endpoints.
    ids: Box<[(u64, usize)]>,
    order: Order,
}

/// An endpoint's place.
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) weight: u32,
    /// By its probes.
    pub(super) healthy: bool,
    /// Left out for how its requests ended.
    pub(super) ejected: bool,
    /// Left out by an operator.
    pub(super) drained: bool,
    /// How much of its weight counts now, in hundredths: less while it starts slowly.
    pub(super) share: u32,
}

impl Place {
    pub(super) fn standing(&self) -> Standing {
        Standing { healthy: self.healthy && !self.ejected, backup: self.endpoint.is_backup() }
    }
}

/// What a pick asks of its request and of chance.
pub(super) struct Ask<'a, T, C> {
    /// Addresses that failed this request.
    pub(super) tried: &'a [SocketAddr],
    /// What of the request decides, for the order that asks for it.
    pub(super) key: Option<u64>,
    /// The endpoint at which its client is, by [`Endpoint::id`]: it is picked if it can be.
    pub(super) at: Option<u64>,
    /// Only one where fewer requests than this are under way.
    pub(super) room: Option<u32>,
    pub(super) turn: T,
    pub(super) chance: C,
}

impl Table {
    /// `sticky`: clients stay at endpoints. `previous`: the table before.
    pub(super) fn new(balance: &Balance, panic: Percent, sticky: bool, places: Vec<Place>, previous: Option<&Self>) -> Self {
        let members = places.iter().map(|place| Member::new(place.endpoint.as_str(), place.weight)).collect();
        // Whoever is drained is as if it were not there.
        let present: Vec<usize> = (0..places.len()).filter(|place| !places[*place].drained).collect();
        let standings: Vec<Standing> = present.iter().map(|place| places[*place].standing()).collect();
        let mut open = vec![false; places.len()];
        present.into_iter().zip(eligible(&standings, panic)).for_each(|(place, eligible)| open[place] = eligible);
        let given = places.iter().zip(&open).map(|(place, open)| (if *open { place.weight } else { 0 }, place.share));
        let weights = ramp::weights(given);
        Self {
            ids: if sticky { ids(&places) } else { Box::default() },
            open: open.into(),
            order: Order::new(balance, members, &weights, previous.map(|table| &table.order)),
            places: places.into(),
        }
    }

    /// An endpoint that is given requests: one that has not failed this request if there is one. `None`: there is none at all, or none
    /// with room.
    pub(super) fn pick<T: Fn() -> usize, C: Fn() -> u64>(&self, ask: &Ask<'_, T, C>) -> Option<&Arc<Endpoint>> {
        let moment = Now { places: &self.places, ask, time: OnceCell::new() };
        let fresh = |place: usize| !ask.tried.contains(self.places[place].endpoint.address());
        let has_room = |place: usize| ask.room.is_none_or(|most| self.has_room(place, most));
        let at = ask.at.and_then(|id| self.place_of(id));
        let picked = if let Some(place) = at.filter(|place| self.open[*place] && fresh(*place) && has_room(*place)) {
            Some(place)
        } else if ask.tried.is_empty() || !self.has_other(ask.tried) {
            self.order.pick(&moment, has_room)
        } else {
            // Rather one that is not known to refuse connections.
            let refuses = |place: usize| self.places[place].endpoint.vitals().is_refusing();
            let listening = self.order.pick(&moment, |place| fresh(place) && !refuses(place) && has_room(place));
            listening.or_else(|| self.order.pick(&moment, |place| fresh(place) && refuses(place) && has_room(place)))
        };
        picked.map(|place| &self.places[place].endpoint)
    }

    fn has_room(&self, place: usize, most: u32) -> bool {
        let endpoint = &self.places[place].endpoint;
        let room = endpoint.vitals().in_flight() < most;
        if !room {
            endpoint.meter().limit_hit();
        }
        room
    }

    fn place_of(&self, id: u64) -> Option<usize> {
        let found = self.ids.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.ids[found].1)
    }

    /// Whether the endpoint of this id is given requests.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.place_of(id).is_some_and(|place| self.open[place])
    }

    /// The endpoints that are given requests.
    pub(super) fn open(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.places.iter().zip(&self.open).filter(|(_, open)| **open).map(|(place, _)| &place.endpoint)
    }

    /// Whether an endpoint that is given requests is left that is not in `tried`.
    pub(super) fn has_other(&self, tried: &[SocketAddr]) -> bool {
        self.places.iter().zip(&self.open).any(|(place, open)| *open && !tried.contains(place.endpoint.address()))
    }

    /// And one that did not refuse the latest connection that it was asked for.
    pub(super) fn has_other_that_listens(&self, tried: &[SocketAddr]) -> bool {
        let refuses = |place: &Place| place.endpoint.vitals().is_refusing();
        let mut open = self.places.iter().zip(&self.open).filter(|(_, open)| **open).map(|(place, _)| place);
        open.any(|place| !refuses(place) && !tried.contains(place.endpoint.address()))
    }

    /// All places, in the order of addresses.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }
}

fn ids(places: &[Place]) -> Box<[(u64, usize)]> {
    let mut ids: Vec<(u64, usize)> = places.iter().enumerate().map(|(number, place)| (place.endpoint.id(), number)).collect();
    ids.sort_unstable();
    ids.into()
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

    fn place(number: usize, (weight, healthy, ejected, drained): (u32, bool, bool, bool)) -> Place {
        let endpoint = Endpoint::testing(u16::try_from(number).unwrap() + 1);
        Place { endpoint: Arc::new(endpoint), weight, healthy, ejected, drained, share: 100 }
    }

    fn balances() -> impl Strategy<Value = Balance> {
        let hash = Balance::Hash(HashBalance { key: HashKey::Uri });
        prop::sample::select(vec![Balance::RoundRobin, Balance::Random, Balance::LeastRequests, Balance::PeakEwma, hash])
    }

    proptest! {
        #[test]
        fn who_is_ill_or_left_out_or_full_is_never_picked_and_who_failed_only_where_there_is_no_other(
            places in prop::collection::vec((1_u32..4, any::<bool>(), any::<bool>(), any::<bool>()), 0..6),
            failed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            turn in any::<usize>(), chance in any::<u64>(), key in any::<Option<u64>>(), balance in balances(),
            full in any::<u8>(), refusing in any::<u8>(), at in any::<Option<prop::sample::Index>>(),
        ) {
            let at = at.filter(|_| !places.is_empty());
            let places: Vec<Place> = places.into_iter().enumerate().map(|(number, place_of)| place(number, place_of)).collect();
            let tried: Vec<SocketAddr> = failed.iter().filter(|_| !places.is_empty())
                .map(|index| index.get(&places).endpoint.address().clone()).collect();
            let healthy: Vec<SocketAddr> =
                places.iter().filter(|place| place.healthy && !place.ejected && !place.drained).map(|place| place.endpoint.address().clone()).collect();
            let fresh = healthy.iter().any(|address| !tried.contains(address));
            let full: Vec<bool> = places.iter().enumerate().map(|(number, _)| full & (1 << number) != 0).collect();
            places.iter().zip(&full).filter(|(_, full)| **full).for_each(|(place, _)| place.endpoint.vitals().begin());
            places.iter().enumerate().for_each(|(number, place)| place.endpoint.vitals().refuses(refusing & (1 << number) != 0));
            let listens = |address: &SocketAddr| {
                places.iter().any(|place| place.endpoint.address() == address && !place.endpoint.vitals().is_refusing())
            };
            let listening: Vec<SocketAddr> = healthy.iter().filter(|address| listens(address)).cloned().collect();
            let at = at.map(|at| at.get(&places).endpoint.id());
            let stay = places.iter().zip(&full).find(|(place, full)| {
                Some(place.endpoint.id()) == at && !**full && healthy.contains(place.endpoint.address()) && !tried.contains(place.endpoint.address())
            });
            let stay = stay.map(|(place, _)| place.endpoint.address().clone());
            let room = |address: &SocketAddr| places.iter().zip(&full).any(|(place, full)| !*full && place.endpoint.address() == address);
            let roomy: Vec<SocketAddr> = healthy.iter().filter(|address| room(address)).cloned().collect();
            let table = Table::new(&balance, Percent::default(), true, places, None);
            let ask = Ask { tried: &tried, key, at, room: Some(1), turn: || turn, chance: || chance };
            let picked = table.pick(&ask).map(|endpoint| endpoint.address().clone());
            let due = roomy.iter().any(|address| !fresh || !tried.contains(address));
            prop_assert_eq!(picked.is_some(), due);
            prop_assert_eq!(table.has_other(&tried), fresh);
            prop_assert_eq!(table.has_other_that_listens(&tried), listening.iter().any(|address| !tried.contains(address)));
            if let Some(picked) = picked {
                prop_assert!(roomy.contains(&picked));
                prop_assert!(stay.as_ref().is_none_or(|stay| *stay == picked));
                prop_assert!(!fresh || !tried.contains(&picked));
                // Whoever moves on goes to one that listens, if there is one.
                let other = roomy.iter().any(|address| listening.contains(address) && !tried.contains(address));
                prop_assert!(tried.is_empty() || !fresh || !other || stay.is_some() || listening.contains(&picked));
            }
        }
    }
}
