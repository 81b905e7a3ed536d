//! Whether one route takes all that another could.

use crate::config::resolve::overlap::Candidate;
use crate::config::{Conditions, Match, ValueMatch};
use crate::types::Cidr;

/// What decides between routes of the same host and path, but for their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Rank {
    methods: bool,
    values: [usize; 3],
    clients: bool,
}

impl Rank {
    pub(super) fn of(matches: &Match) -> Self {
        Self {
            methods: !matches.methods.is_empty(),
            values: [matches.headers.0.len(), matches.query.0.len(), matches.cookies.0.len()],
            clients: !matches.client_ips.is_empty(),
        }
    }

    pub(super) fn asks_nothing(self) -> bool {
        self.values == [0; 3] && !self.clients
    }
}

/// What a message adds to host, path and method.
pub(super) fn beside(matches: &Match) -> &'static str {
    if Rank::of(matches).asks_nothing() { "" } else { ", under the same conditions" }
}

pub(super) fn share_listener(one: &Candidate, other: &Candidate) -> bool {
    one.listeners.is_empty() || other.listeners.is_empty() || one.listeners.iter().any(|name| other.listeners.contains(name))
}

/// Whether the same network is in both lists.
pub(super) fn share_client(one: &Candidate, other: &Candidate) -> bool {
    let (one, other) = (&one.matches.client_ips, &other.matches.client_ips);
    (one.is_empty() && other.is_empty()) || one.iter().any(|network| other.contains(network))
}

/// Whether what it asks for can be less than what another of its rank does.
pub(super) fn is_wide(matches: &Match) -> bool {
    fn any<K>(conditions: &Conditions<K>) -> bool {
        conditions.0.iter().any(|(_, value)| !matches!(value.value, ValueMatch::Exact(_)))
    }
    any(&matches.headers) || any(&matches.query) || any(&matches.cookies) || !matches.client_ips.is_empty()
}

/// Whether every request of a host and path that both match takes the earlier one, if it matches the later one at all. Both are of
/// one rank.
pub(super) fn takes_all_of(earlier: &Candidate, later: &Candidate) -> bool {
    let (one, other) = (&earlier.matches, &later.matches);
    let within = |network: &Cidr| {
        one.client_ips.iter().any(|wider| wider.prefix_len() <= network.prefix_len() && wider.contains(network.network()))
    };
    earlier.merge_slashes == later.merge_slashes
        && (earlier.listeners.is_empty()
            || (!later.listeners.is_empty() && later.listeners.iter().all(|name| earlier.listeners.contains(name))))
        && other.methods.iter().all(|method| one.methods.contains(method))
        && follow(&one.headers, &other.headers)
        && follow(&one.query, &other.query)
        && follow(&one.cookies, &other.cookies)
        && other.client_ips.iter().all(|network| within(&network.value))
}

/// Whether the conditions of the one hold wherever those of the other do.
fn follow<K: PartialEq>(one: &Conditions<K>, other: &Conditions<K>) -> bool {
    one.0.iter().all(|(name, value)| {
        other.0.iter().any(|(theirs, given)| theirs.value == name.value && follows(&value.value, &given.value))
    })
}

fn follows(value: &ValueMatch, given: &ValueMatch) -> bool {
    match (value, given) {
        (ValueMatch::Present(true), ValueMatch::Exact(_) | ValueMatch::Regex(_)) => true,
        (ValueMatch::Regex(regex), ValueMatch::Exact(text)) => regex.is_match(text.as_bytes()),
        (value, given) => value == given,
    }
}
