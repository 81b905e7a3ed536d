//! How many connections each client has open, so that one alone can't take them all.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections by client. Parts are locked apart, each for an instant.
pub(super) struct Clients {
    parts: Box<[Mutex<HashMap<Client, u32>>]>,
    hasher: RandomState,
}

/// An IPv4 address, or the /64 of an IPv6 one: who has one address of it has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    V6(u64),
}

/// A connection that counts for its client for as long as this lives.
pub(super) struct Counted {
    clients: Arc<Clients>,
    client: Client,
}

const PARTS: usize = 16;

impl Clients {
    pub(super) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Counts a connection. `None`: the client has as many as it may have.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<Counted> {
        let client = Client::of(address);
        let mut part = self.part(client).lock().unwrap_or_else(PoisonError::into_inner);
        let open = part.entry(client).or_default();
        if *open >= limit {
            return None;
        }
        *open += 1;
        Some(Counted { clients: self.clone(), client })
    }

    fn part(&self, client: Client) -> &Mutex<HashMap<Client, u32>> {
        &self.parts[(self.hasher.hash_one(client) % PARTS as u64) as usize]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut part = self.clients.part(self.client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = part.get_mut(&self.client) {
            *open -= 1;
            if *open == 0 {
                part.remove(&self.client);
            }
        }
    }
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_limit_and_gets_back_what_it_closes() {
        let clients = Arc::new(Clients::new());
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = clients.enter(one, 2).unwrap();
        let _second = clients.enter(one, 2).unwrap();
        assert!(clients.enter(one, 2).is_none());
        assert!(clients.enter(two, 2).is_some());
        drop(first);
        assert!(clients.enter(one, 2).is_some());
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        let clients = Arc::new(Clients::new());
        let _first = clients.enter("2001:db8::1".parse().unwrap(), 1).unwrap();
        assert!(clients.enter("2001:db8::ffff:2".parse().unwrap(), 1).is_none());
        assert!(clients.enter("2001:db8:0:1::1".parse().unwrap(), 1).is_some());
    }

    #[test]
    fn a_client_that_left_is_forgotten() {
        let clients = Arc::new(Clients::new());
        for n in 0..100_u32 {
            drop(clients.enter(IpAddr::V4(n.into()), 1));
        }
        assert!(clients.parts.iter().all(|part| part.lock().unwrap().is_empty()));
    }
}
