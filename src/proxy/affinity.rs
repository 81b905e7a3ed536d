//! What ties a request to an endpoint: the key by which `balance: hash` chooses.

use std::net::IpAddr;

use http::HeaderMap;

use crate::config::HashKey;
use crate::filter::Target;
use crate::proxy::split::cookies;
use crate::upstream::Upstream;

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
