//! `Via` (RFC 9110 §7.6.3): names this process on everything that passes, and finds requests that come back to it.
//!
//! Fields of proxies before us stay, as the RFC asks: without them a loop over two proxies would never be seen.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// This process's name in `Via`, drawn at start: replicas and chained Ravelins are not taken for one another.
pub(super) struct Via {
    name: String,
}

impl Via {
    pub(super) fn new() -> Self {
        Self { name: format!("ravelin-{:08x}", fastrand::u32(..)) }
    }

    /// Whether a request has been through this process already.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().any(|value| value.to_str().is_ok_and(|value| value.split(',').any(|hop| self.is_hop(hop))))
    }

    /// What `Via` becomes: what it was, and this process.
    pub(super) fn extended(&self, headers: &HeaderMap, received: Version) -> HeaderValue {
        let own = format!("{} {}", protocol(received), self.name);
        let before = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<&str> = before.chain(std::iter::once(own.as_str())).collect();
        // Values that were header values before, joined: it can't fail.
        HeaderValue::from_str(&all.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("1.1 ravelin"))
    }

    fn is_hop(&self, hop: &str) -> bool {
        hop.split_ascii_whitespace().nth(1) == Some(self.name.as_str())
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_back_is_known() {
        let via = Via { name: "ravelin-1".to_owned() };
        let mut headers = HeaderMap::new();
        assert!(!via.is_in(&headers));
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 ravelin-2 (x)"));
        assert!(!via.is_in(&headers));
        let extended = via.extended(&headers, Version::HTTP_11);
        assert_eq!(extended, "1.0 fred, 1.1 ravelin-2 (x), 1.1 ravelin-1");
        headers.insert(VIA, extended);
        assert!(via.is_in(&headers));
    }
}
