//! `Via` (RFC 9110 §7.6.3): names this process on everything that passes, and finds requests that come back to it.
//!
//! Fields of proxies before us stay, as the RFC asks: without them a loop over two proxies would never be seen.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// This process's name in `Via`, drawn at start: replicas and chained Ravelins are not taken for one another.
pub(super) struct Via {
    name: String,
    /// The whole field of a message that has none yet, which is nearly every one: made once, shared by all.
    own: [HeaderValue; 3],
    /// The same as a line of a head, with its end.
    lines: [Box<[u8]>; 3],
}

impl Via {
    pub(super) fn new() -> Self {
        Self::named(format!("ravelin-{:08x}", fastrand::u32(..)))
    }

    /// Of what is asked offline: the same each time.
    pub(super) fn offline() -> Self {
        Self::named("ravelin".to_owned())
    }

    fn named(name: String) -> Self {
        let own = PROTOCOLS.map(|protocol| {
            // A name of our own making: it can't fail.
            HeaderValue::from_str(&format!("{protocol} {name}")).unwrap_or_else(|_| HeaderValue::from_static("1.1 ravelin"))
        });
        let lines = own.each_ref().map(|own| [b"via: ", own.as_bytes(), b"\r\n"].concat().into());
        Self { name, own, lines }
    }

    /// Whether a request has been through this process already.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().any(|value| value.to_str().is_ok_and(|value| value.split(',').any(|hop| self.is_hop(hop))))
    }

    /// What `Via` becomes: what it was, and this process.
    pub(super) fn extended(&self, headers: &HeaderMap, received: Version) -> HeaderValue {
        let own = &self.own[protocol(received)];
        if !headers.contains_key(VIA) {
            return own.clone();
        }
        let before = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<&str> = before.chain(own.to_str().ok()).collect();
        // Values that were header values before, joined: it can't fail.
        HeaderValue::from_str(&all.join(", ")).unwrap_or_else(|_| own.clone())
    }

    /// The line as on HTTP/1.1 it stands in a message that has none yet, and how long its name is.
    pub(super) fn line(&self, received: Version) -> (&[u8], usize) {
        (&self.lines[protocol(received)], "via".len())
    }

    fn is_hop(&self, hop: &str) -> bool {
        hop.split_ascii_whitespace().nth(1) == Some(self.name.as_str())
    }
}

/// `received-protocol`, without the name: it is HTTP.
const PROTOCOLS: [&str; 3] = ["1.0", "1.1", "2.0"];

/// The place in [`PROTOCOLS`].
fn protocol(version: Version) -> usize {
    match version {
        Version::HTTP_10 => 0,
        Version::HTTP_2 => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_back_is_known() {
        let via = Via::named("ravelin-1".to_owned());
        let mut headers = HeaderMap::new();
        assert_eq!(via.extended(&headers, Version::HTTP_2), "2.0 ravelin-1");
        assert!(!via.is_in(&headers));
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 ravelin-2 (x)"));
        assert!(!via.is_in(&headers));
        let extended = via.extended(&headers, Version::HTTP_11);
        assert_eq!(extended, "1.0 fred, 1.1 ravelin-2 (x), 1.1 ravelin-1");
        headers.insert(VIA, extended);
        assert!(via.is_in(&headers));
    }
}
