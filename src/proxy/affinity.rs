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
    part(upstream.hash_key()?, target, headers, client, |parts| upstream.key_of(parts))
}

fn part<T>(
    key: &HashKey,
    target: &Target,
    headers: &HeaderMap,
    client: Option<IpAddr>,
    of: impl FnOnce(&[&[u8]]) -> T,
) -> Option<T> {
    match key {
        HashKey::ClientIp => Some(match client? {
            IpAddr::V4(ip) => of(&[&ip.octets()]),
            IpAddr::V6(ip) => of(&[&ip.octets()]),
        }),
        HashKey::Uri => {
            let query = target.query().map_or([&b""[..], b""], |query| [b"?", query.as_bytes()]);
            Some(of(&[target.path().as_bytes(), query[0], query[1]]))
        }
        HashKey::Header(name) => headers.get(name.as_str()).map(|value| of(&[value.as_bytes()])),
        HashKey::Cookie(name) => cookies(headers, name.as_str()).next().map(|value| of(&[value.as_bytes()])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn the_key_is_that_part_of_the_request_and_all_of_it() {
        let part = |key: &str, target: (&str, Option<&str>), fields: &[(&'static str, &str)], client: &str| {
            let target = Target::new(http::Method::GET, "a", target.0, target.1);
            let fields = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let headers: HeaderMap = fields.collect();
            let of = |parts: &[&[u8]]| String::from_utf8(parts.concat()).unwrap();
            super::part(&decoded(key).unwrap(), &target, &headers, client.parse().ok(), of)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(part("uri", ("/x", Some("y=1")), &[], ""), some("/x?y=1"));
        assert_eq!(part("uri", ("/x", Some("")), &[], ""), some("/x?"));
        assert_eq!(part("uri", ("/x", None), &[], ""), some("/x"));
        assert_eq!(part("client_ip", ("/", None), &[], "65.66.67.68"), some("ABCD"));
        assert_eq!(part("client_ip", ("/", None), &[], "4142:4344::4546"), some("ABCD\0\0\0\0\0\0\0\0\0\0EF"));
        assert_eq!(part("client_ip", ("/", None), &[], "none"), None);
        let fields = [("x-user", "alice"), ("cookie", "a=1; id=bob; b=2")];
        assert_eq!(part("{header: x-user}", ("/", None), &fields, ""), some("alice"));
        assert_eq!(part("{header: x-other}", ("/", None), &fields, ""), None);
        assert_eq!(part("{cookie: id}", ("/", None), &fields, ""), some("bob"));
        assert_eq!(part("{cookie: c}", ("/", None), &fields, ""), None);
    }
}
