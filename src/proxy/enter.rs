//! What is made of a request's head before its filters see it: who asks, its normal form, its route. Live traffic and what is asked
//! offline both come through here: neither can differ from the other.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{CONNECTION, REFERER, UPGRADE, USER_AGENT, VIA};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;

use crate::config::Underscores;
use crate::filter::{Error, Exchange, InvalidField, Party, Target, parse_target};
use crate::proxy::forwarded::{Believed, believe};
use crate::proxy::head::{authority, connection_options, set_target};
use crate::proxy::https::{is_of_another_listener, misdirected};
use crate::proxy::settle::{Unsettled, settle_fields};
use crate::proxy::via::Via;
use crate::proxy::who::WhoAsks;
use crate::router::Question;
use crate::runtime::{Matched, Snapshot};
use crate::types::{PathError, normalise_host, path};

/// Where a request came in.
#[derive(Clone, Copy)]
pub(super) struct Entrance {
    /// The listener's place among those of every snapshot; `None`: it is none of them.
    pub(super) listener: Option<usize>,
    /// Who is connected to us.
    pub(super) peer: Option<IpAddr>,
}

/// What is known of a request before it is routed.
pub(super) struct Arrival {
    pub(super) entrance: Entrance,
    pub(super) seen: Seen,
    believed: Option<Believed>,
}

impl Arrival {
    /// Looks at a head, and takes a trusted proxy's word on who the client is.
    pub(super) fn new(head: &RequestHeader, exchange: &mut Exchange, entrance: Entrance, snapshot: &Snapshot) -> Self {
        let believed = believed(&head.headers, exchange, entrance, snapshot);
        Self { entrance, seen: look_over(head, snapshot.claims()), believed }
    }

    /// What its listener does with names that hold a `_`.
    pub(super) fn underscores(&self, snapshot: &Snapshot) -> Underscores {
        self.entrance.listener.map_or_else(Underscores::default, |place| snapshot.listener(place).underscores)
    }

    /// [`admit`], once the fields are settled.
    pub(super) fn admit(&self, head: &mut RequestHeader, via: &Via, snapshot: &Snapshot) -> Result<Admitted, Error> {
        settle_fields(head, &self.seen.unsettled, self.underscores(snapshot))?;
        admit(head, &self.seen, via, snapshot.keeps_slashes())
    }

    /// Takes away the fields by which a request asks for its own trace, right or wrong: they are for nobody else. The token that it
    /// sent, if it sent one.
    pub(super) fn take_token(&self, head: &mut RequestHeader) -> Option<HeaderValue> {
        if !self.seen.asks_why {
            return None;
        }
        let mut tokens = head.headers.get_all(ASKS_WHY).iter().cloned();
        let token = tokens.next().filter(|_| tokens.next().is_none());
        drop(tokens);
        let names: Vec<HeaderName> = head.headers.keys().filter(|name| asks_why(name.as_str().as_bytes())).cloned().collect();
        for name in names {
            head.remove_header(&name);
        }
        token
    }

    /// The route of a request that was admitted: from now on the request is what was matched.
    pub(super) fn route(
        &self,
        head: &mut RequestHeader,
        exchange: &mut Exchange,
        unmerged: Option<String>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Matched, Error> {
        let question = question(head, exchange, self.entrance, unmerged.as_deref());
        let route = snapshot.route(&question).ok_or_else(|| {
            if is_of_another_listener(&question, exchange, snapshot) {
                misdirected("the host is another listener's")
            } else {
                Error::new(404, Party::Client, "no_route")
            }
        })?;
        if let Some(path) = unmerged.filter(|_| route.keeps_slashes()) {
            let target = &exchange.target;
            let target = Target::new(target.method().clone(), target.host(), &path, target.query());
            send_as(head, &path, target.query())?;
            exchange.target = target;
        }
        exchange.route = Some(route.name.clone());
        Ok(route)
    }

    /// Takes away what a client must not say, and has what is said in its place ready.
    pub(super) fn claims(&self, head: &mut RequestHeader, exchange: &Exchange, snapshot: &Snapshot) -> Result<WhoAsks, Error> {
        strip_claims(head, &self.seen, snapshot.claims());
        Ok(WhoAsks::new(head, self.entrance.peer, exchange.scheme, self.believed.as_ref())?)
    }
}

/// What decides on the route of a request whose target is in normal form.
pub(super) fn question<'a>(
    head: &'a RequestHeader,
    exchange: &'a Exchange,
    entrance: Entrance,
    unmerged: Option<&'a str>,
) -> Question<'a> {
    let target = &exchange.target;
    Question {
        host: target.host(),
        path: target.path(),
        unmerged,
        method: target.method(),
        query: target.query(),
        client: exchange.client.ip(),
        listener: entrance.listener,
        headers: &head.headers,
    }
}

/// Reads a request as routing and the upstream will: in normal form. What has none is refused. `keeps_slashes`: a route may want
/// the path with `//` kept.
pub(super) fn admit(head: &mut RequestHeader, seen: &Seen, via: &Via, keeps_slashes: bool) -> Result<Admitted, Error> {
    let bad = |reason| Error::new(400, Party::Client, reason);
    if seen.via && via.is_in(&head.headers) {
        return Err(Error::new(508, Party::Operator, "loop")
            .with_message("the request has been through this proxy already: an upstream leads back to it"));
    }
    // Over HTTP/1 they do not come this far.
    if ["TRACE", "CONNECT"].iter().any(|method| head.method.as_str().eq_ignore_ascii_case(method)) {
        return Err(Error::new(405, Party::Client, "method"));
    }
    let named = authority(head);
    let host = match (&*named, head.version) {
        // Only HTTP/1.0 has requests without a host (RFC 9112 §3.2).
        ("", http::Version::HTTP_10 | http::Version::HTTP_09) => Cow::Borrowed(""),
        (named, _) => normalise_host(named).map_err(|error| bad("bad_host").with_message(error.to_string()))?,
    };
    if !head.raw_path_is_utf8() {
        return Err(bad("bad_path"));
    }
    let bad_path = |error: PathError| bad("bad_path").with_message(error.to_string());
    let path = match head.uri.path() {
        // Asked of the server as a whole, which only `OPTIONS` does: also by an absolute form without a path (RFC 9112 §3.2.4).
        "*" if head.method != Method::OPTIONS => return Err(bad("bad_target")),
        "/" if head.method == Method::OPTIONS && lacks_path(head.raw_path()) => Cow::Borrowed("*"),
        path => path::normalise(path).map_err(bad_path)?,
    };
    // Without `//` the two forms are one.
    let unmerged = if keeps_slashes && head.uri.path().contains("//") {
        Some(path::normalise_unmerged(head.uri.path()).map_err(bad_path)?.into_owned())
    } else {
        None
    };
    let query = head.uri.query();
    let target = Target::new(head.method.clone(), &host, &path, query);
    if !is_as_sent(head.raw_path(), &path, query) {
        send_as(head, target.path(), target.query())?;
    }
    Ok(Admitted { target, unmerged })
}

/// A request in normal form.
pub(super) struct Admitted {
    pub(super) target: Target,
    /// The path with `//` kept, if a route may want it and it is another.
    pub(super) unmerged: Option<String>,
}

/// What was matched is what is sent on, whatever form the client chose.
fn send_as(head: &mut RequestHeader, path: &str, query: Option<&str>) -> Result<(), Error> {
    let bad = |error: InvalidField| Error::new(400, Party::Client, "bad_target").with_message(error.to_string());
    Ok(set_target(head, parse_target(path, query).map_err(bad)?)?)
}

/// Whether a request's target, which has been parsed once, is this normal path and this query and holds nothing else.
pub(super) fn is_as_sent(raw: &[u8], path: &str, query: Option<&str>) -> bool {
    let Some(rest) = raw.strip_prefix(path.as_bytes()) else { return false };
    match query {
        None => rest.is_empty(),
        Some(query) => rest.strip_prefix(b"?") == Some(query.as_bytes()) && query.bytes().all(|byte| byte.is_ascii_graphic()),
    }
}

/// Whether a target in absolute form ends with its authority.
fn lacks_path(target: &[u8]) -> bool {
    let authority = target.windows(3).position(|three| three == b"://").map_or(target.len(), |at| at + 3);
    !target.starts_with(b"/") && !target[authority..].iter().any(|byte| matches!(byte, b'/' | b'?'))
}

/// A refused request as the log shows it.
pub(super) fn as_sent(head: &RequestHeader) -> Target {
    let target = String::from_utf8_lossy(head.raw_path());
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    Target::new(head.method.clone(), &authority(head), path, query)
}

/// What the record of a request keeps of its head, and which fields that Ravelin must see to are in it.
#[derive(Default)]
pub(super) struct Seen {
    /// As the client sent it, whatever filters make of it.
    pub(super) user_agent: Option<HeaderValue>,
    /// Likewise.
    pub(super) referer: Option<HeaderValue>,
    via: bool,
    connection: bool,
    forged: bool,
    pub(super) unsettled: Unsettled,
    /// It asks for its trace, in one spelling or another.
    asks_why: bool,
}

/// One walk over the few fields that there are is cheaper than asking for each that may be there.
fn look_over(head: &RequestHeader, claims: &[Box<str>]) -> Seen {
    let mut seen = Seen::default();
    for (name, value) in &head.headers {
        if *name == USER_AGENT {
            // Shared with the head's memory, not copied.
            seen.user_agent.get_or_insert_with(|| value.clone());
        } else if *name == REFERER {
            seen.referer.get_or_insert_with(|| value.clone());
        } else {
            seen.unsettled.note(name);
            seen.via |= *name == VIA;
            seen.connection |= *name == CONNECTION;
            seen.forged |= is_forged(name.as_str().as_bytes(), claims);
            seen.asks_why |= asks_why(name.as_str().as_bytes());
        }
    }
    seen
}

/// Takes a trusted proxy's word on who the client is.
pub(super) fn believed(
    headers: &HeaderMap,
    exchange: &mut Exchange,
    entrance: Entrance,
    snapshot: &Snapshot,
) -> Option<Believed> {
    let trust = &snapshot.listener(entrance.listener?).trust;
    let believed = believe(headers, trust, entrance.peer)?;
    if let Some(node) = believed.client() {
        exchange.client.address = Some(SocketAddr::new(node.ip, node.port.unwrap_or(0)));
    }
    exchange.scheme = believed.scheme.unwrap_or(exchange.scheme);
    Some(believed)
}

/// Takes away what a client must not say: fields of its own connection, and those that are forged.
fn strip_claims(head: &mut RequestHeader, seen: &Seen, claims: &[Box<str>]) {
    if seen.connection {
        strip_nominated(head);
    }
    if seen.forged {
        let forged: Vec<HeaderName> =
            head.headers.keys().filter(|name| is_forged(name.as_str().as_bytes(), claims)).cloned().collect();
        for name in forged {
            head.remove_header(&name);
        }
    }
}

/// The field by which a request asks for its own trace.
pub(super) const ASKS_WHY: &str = "x-ravelin-explain";

/// Whether this is that field, or would be one to who reads `_` as `-`.
pub(super) fn asks_why(name: &[u8]) -> bool {
    is_alike(name, ASKS_WHY)
}

fn is_alike(name: &[u8], own: &str) -> bool {
    let alike = |(byte, own): (&u8, u8)| byte.to_ascii_lowercase() == own || matches!((*byte, own), (b'_', b'-') | (b'-', b'_'));
    name.len() == own.len() && name.iter().zip(own.bytes()).all(alike)
}

/// Whether a service may take a field for our word on who asks, though we don't put it in place: `Forwarded`, what is one of
/// ours but for its `_`, which many read as `-`, and what proxies that know clients by their certificates say (RFC 9440; Envoy). `claims`:
/// what filters say themselves, later than this.
pub(super) fn is_forged(name: &[u8], claims: &[Box<str>]) -> bool {
    // By its length: most names are none of these, and are known as such by that alone.
    let found = match name.len() {
        9 => name.eq_ignore_ascii_case(b"forwarded"),
        11 => is_alike(name, "client-cert"),
        15 => is_alike(name, "x-forwarded-for") && name.contains(&b'_'),
        16 => is_alike(name, "x-forwarded-host") && name.contains(&b'_'),
        17 => (is_alike(name, "x-forwarded-proto") && name.contains(&b'_')) || is_alike(name, "client-cert-chain"),
        23 => is_alike(name, "x-forwarded-client-cert"),
        _ => false,
    };
    found || claims.iter().any(|claim| is_alike(name, claim))
}

/// What is never a matter of one connection, or is seen to by itself.
pub(super) fn is_kept(option: &[u8]) -> bool {
    const KEPT: [&str; 6] = ["close", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"];
    KEPT.iter().any(|kept| kept.as_bytes().eq_ignore_ascii_case(option))
}

/// Takes away what `Connection` nominates (RFC 9110 §7.6.1), before Ravelin and its filters set fields of their own: a client
/// could have those taken away otherwise. What frames the message or names its host is never a matter of one connection.
fn strip_nominated(head: &mut RequestHeader) {
    let taken = |option: &&str| !is_kept(option.as_bytes());
    let nominated: Vec<String> = connection_options(&head.headers).filter(taken).map(str::to_owned).collect();
    let upgrades = head.headers.contains_key(UPGRADE)
        && connection_options(&head.headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    for name in nominated {
        head.remove_header(name.as_str());
    }
    head.remove_header(&CONNECTION);
    if upgrades {
        // A constant: it can't fail.
        let _ = head.insert_header(CONNECTION, "upgrade");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_target_in_normal_form_passes_as_it_was_sent() {
        assert!(is_as_sent(b"/a?b=1", "/a", Some("b=1")));
        assert!(is_as_sent(b"/a?", "/a", Some("")));
        assert!(is_as_sent(b"/a", "/a", None));
        for (raw, path, query) in [
            ("http://h/a", "/a", None),
            ("/%61", "/a", None),
            ("/a?", "/a", None),
            ("/a?b", "/a", Some("c")),
            ("/a?b\u{e9}", "/a", Some("b\u{e9}")),
        ] {
            assert!(!is_as_sent(raw.as_bytes(), path, query), "{raw}");
        }
    }
}
