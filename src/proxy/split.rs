//! Which side of a split takes a request, and the cookie by which its client stays there.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::filter::Scheme;
use crate::runtime::{Side, Split};

/// The side of a request, and the cookie to set if it was drawn for a client that should stay. `None`: there is no side, which
/// no configuration allows.
pub(super) fn choose<'a>(
    split: &'a Split,
    headers: &HeaderMap,
    scheme: Scheme,
    random: impl FnOnce(u64) -> u64,
) -> Option<(&'a Side, Option<HeaderValue>)> {
    let cookie = split.cookie.as_ref();
    if let Some(side) = cookie.and_then(|cookie| cookies(headers, cookie.as_str()).find_map(|value| split.named(value))) {
        return Some((side, None));
    }
    let side = split.draw(random(split.total()))?;
    let set = cookie.and_then(|cookie| {
        let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
        let (name, value) = (cookie.as_str(), side.upstream.name());
        // Names of cookies and of upstreams hold nothing that ends a cookie, or a field.
        HeaderValue::try_from(format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}")).ok()
    });
    Some((side, set))
}

/// The values of a cookie, in the order in which they were sent (RFC 6265 §4.2.1).
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(other, _)| *other == name).map(|(_, value)| {
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        unquoted.unwrap_or(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; ab=2;a=\"3\""));
        headers.append(COOKIE, HeaderValue::from_static("A=4; a; a=5=6"));
        assert_eq!(cookies(&headers, "a").collect::<Vec<_>>(), ["1", "3", "5=6"]);
        assert_eq!(cookies(&headers, "b").count(), 0);
    }
}
