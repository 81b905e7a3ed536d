//! Who the client is where a trusted proxy stands in front of us: its word is walked from the right, where it wrote itself, through
//! the hops that are trusted too, to the first address that is not. All before that may be the client's invention.

use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

use crate::config::ForwardedHeader;
use crate::filter::Scheme;
use crate::runtime::Trust;
use crate::types::forwarded::{Hop, Node, elements_from_right, secure};

/// What the peer says of whom it speaks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) header: ForwardedHeader,
    /// From the hop beside the peer to the client, which is the last; empty if the peer names nobody that can be read.
    pub(super) hops: Vec<Node>,
    /// What the client spoke, if that was said.
    pub(super) scheme: Option<Scheme>,
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// `None`: the peer is not believed.
pub(super) fn believe(headers: &HeaderMap, trust: &Trust, peer: Option<IpAddr>) -> Option<Believed> {
    let header = trust.forwards(peer)?;
    let mut believed = Believed { header, hops: Vec::new(), scheme: None };
    match header {
        ForwardedHeader::XForwardedFor => {
            walk_x_forwarded_for(headers, trust, &mut believed.hops);
            believed.scheme = x_forwarded_proto(headers);
        }
        ForwardedHeader::Forwarded => walk_forwarded(headers, trust, &mut believed),
    }
    Some(believed)
}

/// Several fields of a name are one list (RFC 9110 §5.3).
fn walk_x_forwarded_for(headers: &HeaderMap, trust: &Trust, hops: &mut Vec<Node>) {
    for field in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        let Ok(field) = field.to_str() else { return };
        for element in field.rsplit(',') {
            let Some(node) = Node::read(element) else { return };
            hops.push(node);
            if trust.forwards(Some(node.ip)).is_none() {
                return;
            }
        }
    }
}

fn walk_forwarded(headers: &HeaderMap, trust: &Trust, believed: &mut Believed) {
    for field in headers.get_all(FORWARDED).iter().rev() {
        let Ok(field) = field.to_str() else { return };
        for element in elements_from_right(field) {
            let Some(hop) = Hop::read(element) else { return };
            // Whoever is the client, this was spoken where a trusted hop took the request.
            believed.scheme = hop.secure.map(scheme);
            let Some(node) = hop.node else { return };
            believed.hops.push(node);
            if trust.forwards(Some(node.ip)).is_none() {
                return;
            }
        }
    }
}

/// One field with one word. Of several nobody can say which is whose.
fn x_forwarded_proto(headers: &HeaderMap) -> Option<Scheme> {
    let mut fields = headers.get_all(X_FORWARDED_PROTO).iter();
    let word = |field: &HeaderValue| field.to_str().ok().and_then(secure).map(scheme);
    match (fields.next(), fields.next()) {
        (Some(only), None) => word(only),
        _ => None,
    }
}

fn scheme(secure: bool) -> Scheme {
    if secure { Scheme::Https } else { Scheme::Http }
}

impl Believed {
    /// The client: the farthest hop that can be believed.
    pub(super) fn client(&self) -> Option<Node> {
        self.hops.last().copied()
    }

    /// `X-Forwarded-For` for the upstream: what was believed, then the peer.
    pub(super) fn x_forwarded_for(&self, peer: Option<IpAddr>) -> String {
        let all = self.hops.iter().rev().map(|node| node.ip).chain(peer);
        all.map(|ip| ip.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// `Forwarded` for the upstream, likewise.
    pub(super) fn forwarded(&self, peer: Option<IpAddr>) -> String {
        let mut all: Vec<String> = self.hops.iter().rev().map(|node| node.ip).chain(peer).map(element).collect();
        // Of a client that is hidden there is no element to say it in.
        if let (Some(first), Some(scheme), false) = (all.first_mut(), self.scheme, self.hops.is_empty()) {
            first.push_str(";proto=");
            first.push_str(scheme.as_str());
        }
        all.join(", ")
    }
}

fn element(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("for={ip}"),
        IpAddr::V6(ip) => format!("for=\"[{ip}]\""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trust(header: &str) -> Trust {
        Trust::forwarding(&["10.0.0.0/8", "2001:db8::/32"], header)
    }

    fn believed(header: &str, fields: &[(&'static str, &str)]) -> Believed {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        believe(&headers, &trust(header), Some("10.0.0.1".parse().unwrap())).unwrap()
    }

    fn client(header: &str, fields: &[(&'static str, &str)]) -> String {
        believed(header, fields).client().map_or_else(|| "peer".to_owned(), |node| node.ip.to_string())
    }

    #[test]
    fn only_peers_on_the_list_and_on_unix_sockets_are_believed() {
        let headers = HeaderMap::new();
        assert!(believe(&headers, &trust("x_forwarded_for"), Some("192.0.2.1".parse().unwrap())).is_none());
        assert!(believe(&headers, &trust("x_forwarded_for"), None).is_some());
        assert!(believe(&headers, &Trust::default(), None).is_none());
    }

    #[test]
    fn x_forwarded_for_is_walked_from_the_right() {
        let client = |fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(|value| (X_FORWARDED_FOR, *value)).collect();
            client("x_forwarded_for", &fields)
        };
        assert_eq!(client(&["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client(&["6.6.6.6, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(client(&["6.6.6.6, 192.0.2.7, 10.9.9.9, 2001:db8::5"]), "192.0.2.7");
        assert_eq!(client(&["6.6.6.6", "192.0.2.7", "10.9.9.9"]), "192.0.2.7");
        assert_eq!(client(&["10.3.3.3, 10.2.2.2"]), "10.3.3.3");
        assert_eq!(client(&[]), "peer");
    }

    #[test]
    fn a_malformed_element_ends_the_walk_at_the_last_good_address() {
        let client = |value| client("x_forwarded_for", &[(X_FORWARDED_FOR, value)]);
        assert_eq!(client("192.0.2.7, unknown, 10.9.9.9"), "10.9.9.9");
        assert_eq!(client("192.0.2.7, , 10.9.9.9"), "10.9.9.9");
        assert_eq!(client("192.0.2.7,"), "peer");
        assert_eq!(client("192.0.2.7 10.9.9.9"), "peer");
        assert_eq!(client("<script>"), "peer");
        assert_eq!(client("<script>, 192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn forwarded_is_walked_from_the_right() {
        let client = |value| client("forwarded", &[("forwarded", value)]);
        assert_eq!(client("for=6.6.6.6, for=192.0.2.7;proto=https, for=\"[2001:db8::5]:80\""), "192.0.2.7");
        assert_eq!(client("for=192.0.2.7, for=_hidden, for=10.9.9.9"), "10.9.9.9");
        assert_eq!(client("for=192.0.2.7, for=unknown"), "peer");
        assert_eq!(client("for=192.0.2.7, by=10.0.0.9"), "peer");
        assert_eq!(client("for=\"192.0.2.7, for=10.9.9.9"), "10.9.9.9");
        assert_eq!(client("for=\"6.6.6.6, for=192.0.2.7"), "192.0.2.7");
        assert_eq!(client("for=@, for=192.0.2.7"), "192.0.2.7");
    }

    proptest! {
        #[test]
        fn what_a_client_sends_before_changes_nothing(junk in proptest::collection::vec("[ -~]{0,30}", 0..3)) {
            let fields = |name: &'static str, own: &str| {
                let mut fields: Vec<(&'static str, String)> = junk.iter().map(|junk| (name, junk.clone())).collect();
                let joined = fields.pop().map_or_else(|| own.to_owned(), |(_, junk)| format!("{junk}, {own}"));
                fields.push((name, joined));
                fields
            };
            for (header, name, own) in [
                ("x_forwarded_for", X_FORWARDED_FOR, "192.0.2.7, 10.9.9.9"),
                ("forwarded", "forwarded", "for=\"192.0.2.7:1\";proto=https, for=10.9.9.9"),
            ] {
                let fields = fields(name, own);
                let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
                prop_assert_eq!(client(header, &fields), "192.0.2.7");
            }
        }
    }

    #[test]
    fn the_scheme_is_of_the_clients_own_hop() {
        let scheme = |header, fields: &[(&'static str, &str)]| believed(header, fields).scheme;
        assert_eq!(
            scheme("forwarded", &[("forwarded", "for=192.0.2.7;proto=https, for=10.9.9.9;proto=http")]),
            Some(Scheme::Https)
        );
        assert_eq!(scheme("forwarded", &[("forwarded", "for=192.0.2.7"), ("x-forwarded-proto", "https")]), None);
        assert_eq!(scheme("x_forwarded_for", &[("x-forwarded-proto", "HTTPS")]), Some(Scheme::Https));
        for bad in ["https, http", "ftp", "", "https;"] {
            assert_eq!(scheme("x_forwarded_for", &[("x-forwarded-proto", bad)]), None, "{bad}");
        }
        assert_eq!(scheme("x_forwarded_for", &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")]), None);
    }

    #[test]
    fn what_goes_on_is_what_was_believed_and_the_peer() {
        let peer = Some("10.0.0.1".parse().unwrap());
        let one = believed("x_forwarded_for", &[(X_FORWARDED_FOR, "6.6.6.6, 192.0.2.7:99, 10.9.9.9")]);
        assert_eq!(one.x_forwarded_for(peer), "192.0.2.7, 10.9.9.9, 10.0.0.1");
        let other = believed("forwarded", &[("forwarded", "for=\"[2001:dba::1]\";proto=https, for=10.9.9.9;by=_x")]);
        assert_eq!(other.forwarded(peer), "for=\"[2001:dba::1]\";proto=https, for=10.9.9.9, for=10.0.0.1");
        assert_eq!(other.x_forwarded_for(None), "2001:dba::1, 10.9.9.9");
    }
}
