//! Which requests take the express lane. Anything unusual goes the general way.

use http::header::{EXPECT, UPGRADE};
use http::{HeaderValue, Method, Version};
use pingora_http::RequestHeader;

use super::head::{Head, text};
use super::table::{Rows, Table};
use super::{Express, Framing};
use crate::config::Underscores;
use crate::filter::{Exchange, RequestId, Target};
use crate::proxy::acme::challenge;
use crate::proxy::ctx::Connection;
use crate::proxy::enter::{Entrance, asks_why, believed, is_as_sent, is_forged};
use crate::proxy::forwarded::Believed;
use crate::proxy::https::agrees_with_session;
use crate::proxy::who::{FOR, HOST_FIELD, PROTO};
use crate::router::Question;
use crate::runtime::{Matched, Route};
use crate::types::{normalise_host, path};

/// A request that the lane takes on, and all that has been found out for that.
pub(crate) struct Admitted {
    pub(super) version: Version,
    pub(super) framing: Framing,
    pub(super) exchange: Exchange,
    pub(super) route: Matched,
    pub(super) head: Head,
    pub(super) seen: Seen,
    pub(super) believed: Option<Believed>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) referer: Option<HeaderValue>,
}

/// Why a request that takes this route goes the general way, as far as can be told beforehand.
pub(in crate::proxy) fn why_general(head: &RequestHeader, route: &Route) -> Option<String> {
    if let Some((filter, what)) = route.chain.general() {
        return Some(format!("filter `{filter}` {what}"));
    }
    if route.mirror.is_some() {
        return Some("the route has a mirror".to_owned());
    }
    let general = route.action.upstreams().find_map(|upstream| Some((upstream.name(), upstream.general()?)));
    if let Some((upstream, what)) = general {
        return Some(format!("upstream `{upstream}` {what}"));
    }
    if !matches!(head.version, Version::HTTP_11 | Version::HTTP_2) {
        return Some("the client speaks neither HTTP/1.1 nor HTTP/2".to_owned());
    }
    let unusual = [UPGRADE, EXPECT].into_iter().find(|name| head.headers.contains_key(name));
    unusual.map(|name| format!("the request has `{name}`"))
}

/// What stands in a head that must be seen to.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a kind of field")]
pub(super) struct Seen {
    pub(super) via: bool,
    pub(super) connection: bool,
    /// What is a matter of one connection, `Connection` itself too.
    pub(super) hop_by_hop: bool,
    /// What may be taken for ours.
    pub(super) forged: bool,
    /// What is ours to say.
    pub(super) claims: bool,
    underscore: bool,
    /// What the general way must see to.
    unusual: bool,
    user_agent: bool,
    referer: bool,
}

impl Express {
    /// A request whose head is `bytes`. `None`: it goes the general way, and nothing has happened to it.
    pub(super) fn admit_line(&self, bytes: &[u8], rows: Rows, framing: Framing, connection: &Connection) -> Option<Admitted> {
        let (method, target, usual) = (rows.method, rows.target, !rows.is_http10);
        // Absolute targets and `*` are rare.
        if !usual || target.of(bytes).first() != Some(&b'/') {
            return None;
        }
        self.admit(Head { fields: Table::of_request(bytes, rows), method, target }, framing, connection)
    }

    /// Likewise, where the target is a path.
    pub(super) fn admit(&self, mut head: Head, framing: Framing, connection: &Connection) -> Option<Admitted> {
        let snapshot = self.common.store.look();
        let seen = Seen::of(&head.fields, snapshot.claims());
        if seen.unusual || (seen.via && self.comes_back(&head.fields)) {
            return None;
        }
        let entrance = Entrance { listener: connection.index, peer: connection.client.ip() };
        let policy = snapshot.listener(entrance.listener?);
        if policy.redirect_to_https.is_some() {
            return None;
        }
        let mut exchange = Exchange::new(RequestId::mint(), connection.client, connection.scheme);
        exchange.tls.clone_from(&connection.tls);
        let believed =
            policy.trust.forwards(entrance.peer).and_then(|_| believed(&head.fields.map(), &mut exchange, entrance, &snapshot));
        if seen.underscore {
            match policy.underscores {
                Underscores::Drop => _ = head.fields.take_away(|name| name.contains(&b'_')),
                Underscores::Pass => {}
                Underscores::Refuse => return None,
            }
        }
        exchange.target = normal(&head, snapshot.keeps_slashes())?;
        if challenge(&exchange, entrance, &snapshot).is_some() || agrees_with_session(&exchange, entrance, &snapshot).is_err() {
            return None;
        }
        let asked = &exchange.target;
        let question = Question {
            host: asked.host(),
            path: asked.path(),
            unmerged: None,
            method: asked.method(),
            query: asked.query(),
            client: exchange.client.ip(),
            listener: entrance.listener,
            headers: &head.fields,
        };
        let route = snapshot.route(&question)?;
        let reachable = |route: &Route| route.action.upstreams().all(|upstream| upstream.general().is_none());
        if !route.chain.is_express() || route.mirror.is_some() || !reachable(&route) {
            return None;
        }
        exchange.route = Some(route.name.clone());
        if !is_as_sent(head.target.of(head.fields.text()), asked.path(), asked.query()) {
            let Exchange { target, .. } = &exchange;
            head.send_as(target.path(), target.query());
        }
        let logged = self.common.observers.access_log.is_some();
        let kept = |there: bool, name: &[u8]| {
            let value = head.fields.first(name).filter(|_| there && logged)?;
            HeaderValue::from_bytes(value).ok()
        };
        let (user_agent, referer) = (kept(seen.user_agent, b"user-agent"), kept(seen.referer, b"referer"));
        let version = if connection.stream.is_some() { Version::HTTP_2 } else { Version::HTTP_11 };
        Some(Admitted { version, framing, exchange, route, head, seen, believed, user_agent, referer })
    }

    fn comes_back(&self, fields: &Table) -> bool {
        self.common.via.is_in(&fields.map())
    }
}

/// The request as it is matched. `None`: it has no normal form, or one that the general way must find.
fn normal(head: &Head, keeps_slashes: bool) -> Option<Target> {
    let host = std::str::from_utf8(head.fields.first(b"host")?).ok()?;
    let host = normalise_host(host).ok()?;
    let bytes = head.fields.text();
    let target = text(head.target.of(bytes));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    if keeps_slashes && path.contains("//") {
        return None;
    }
    let method = Method::from_bytes(head.method.of(bytes)).ok()?;
    Some(Target::new(method, &host, &path::normalise(path).ok()?, query))
}

impl Seen {
    /// Fields are told apart by the lengths of their names first: few have one of these.
    pub(super) fn of(fields: &Table, claims: &[Box<str>]) -> Self {
        let mut seen = Self::default();
        for (name, _) in fields.iter() {
            let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
            match name.len() {
                2 => seen.hop_by_hop |= is(b"te"),
                3 => seen.via |= is(b"via"),
                6 => seen.unusual |= is(b"expect"),
                7 => {
                    seen.unusual |= is(b"upgrade");
                    seen.hop_by_hop |= is(b"trailer");
                    seen.referer |= is(b"referer");
                }
                10 => {
                    seen.user_agent |= is(b"user-agent");
                    let connection = is(b"connection");
                    seen.connection |= connection;
                    seen.hop_by_hop |= connection || is(b"keep-alive");
                }
                14 => seen.hop_by_hop |= is(b"http2-settings"),
                15 => seen.claims |= is(FOR.as_bytes()),
                16 => {
                    seen.claims |= is(HOST_FIELD.as_bytes());
                    seen.hop_by_hop |= is(b"proxy-connection");
                }
                17 => {
                    seen.claims |= is(PROTO.as_bytes());
                    seen.unusual |= asks_why(name);
                    seen.hop_by_hop |= is(b"transfer-encoding");
                }
                18 => seen.hop_by_hop |= is(b"proxy-authenticate"),
                19 => seen.hop_by_hop |= is(b"proxy-authorization"),
                _ => {}
            }
            seen.forged |= is_forged(name, claims);
            seen.underscore |= name.contains(&b'_');
        }
        seen
    }
}
