//! What ties a request to an endpoint: the key by which `balance: hash` chooses, and the cookie of `sticky`.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};

use crate::config::HashKey;
use crate::filter::{Exchange, Scheme, Target};
use crate::proxy::split::cookies;
use crate::upstream::{Stay, Upstream, Wish};

/// What of a request decides on its endpoint, and what its cookie says, where the upstream asks for these.
pub(super) fn wish(upstream: &Upstream, target: &Target, headers: &HeaderMap, client: Option<IpAddr>) -> (Wish, Option<Stay>) {
    let stay = upstream.seal().and_then(|seal| {
        let now = SystemTime::now();
        cookies(headers, seal.name()).find_map(|value| seal.open(value, now))
    });
    (Wish { key: key(upstream, target, headers, client), at: stay.map(|stay| stay.at) }, stay)
}

/// The cookie to set for a client that was served by this endpoint, if it should have another than it has.
pub(super) fn cookie(exchange: &Exchange, stay: Option<Stay>) -> Option<HeaderValue> {
    let (upstream, endpoint) = (exchange.upstream.as_ref()?, exchange.endpoint.as_ref()?);
    upstream.seal()?;
    let cookie = upstream.stick(endpoint, stay, SystemTime::now(), exchange.scheme == Scheme::Https)?;
    HeaderValue::try_from(cookie).ok()
}

/// The part of a request that decides, where its upstream asks for one. `None`: the request does not have it.
pub(super) fn key(upstream: &Upstream, target: &Target, headers: &HeaderMap, client: Option<IpAddr>) -> Option<u64> {
    match upstream.hash_key()? {
        HashKey::ClientIp => Some(match client? {
            IpAddr::V4(ip) => upstream.key_of(&[&ip.octets()]),
            IpAddr::V6(ip) => upstream.key_of(&[&ip.octets()]),
        }),
        HashKey::Uri => {
            let query = target.query().map_or([&b""[..], b""], |query| [b"?", query.as_bytes()]);
            Some(upstream.key_of(&[target.path().as_bytes(), query[0], query[1]]))
        }
        HashKey::Header(name) => headers.get(name.as_str()).map(|value| upstream.key_of(&[value.as_bytes()])),
        HashKey::Cookie(name) => cookies(headers, name.as_str()).next().map(|value| upstream.key_of(&[value.as_bytes()])),
    }
}
