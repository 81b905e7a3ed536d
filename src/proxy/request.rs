//! From a request's head to a decision: admitted and routed, answered by a filter or by the route itself, or refused.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, FORWARDED, HOST, InvalidHeaderValue, REFERER, UPGRADE, USER_AGENT};
use http::{HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::config::ForwardedHeader;
use crate::filter::{Error, InvalidField, Party, Reply, Target, parse_target};
use crate::proxy::forwarded::{Believed, believe};
use crate::proxy::head::{ClientRequest, authority, connection_options, set_target};
use crate::proxy::split::choose;
use crate::proxy::{Ctx, Proxy, Result};
use crate::router::Question;
use crate::runtime::{Action, Redirect, Respond, Snapshot};
use crate::types::{Template, normalise_host, path};

impl Proxy {
    /// `Ok(true)`: the request is answered. `Ok(false)`: it goes to an upstream.
    pub(super) async fn handle_request(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if ctx.connection.last {
            session.set_keepalive(None);
        }
        let decision = self.decide(session, ctx).await;
        ctx.timing.routed = Some(ctx.exchange.started.elapsed());
        match decision {
            Ok(None) => Ok(false),
            Ok(Some(reply)) => self.answer(session, ctx, reply).await.map(|()| true),
            Err(error) => self.answer_error(session, ctx, error).await.map(|()| true),
        }
    }

    async fn decide(&self, session: &mut Session, ctx: &mut Ctx) -> std::result::Result<Option<Reply>, Error> {
        note_client(session, ctx);
        let snapshot = self.store.load();
        let believed = believed(session, ctx, &snapshot);
        match self.admit(session) {
            Ok(target) => ctx.exchange.target = target,
            Err(error) => {
                ctx.exchange.target = as_sent(session);
                // Who sends what can't be trusted gets no second request on this connection.
                session.set_keepalive(None);
                return Err(error);
            }
        }
        let target = &ctx.exchange.target;
        let question = Question { host: target.host(), path: target.path(), method: target.method() };
        let route = snapshot.route(&question).ok_or_else(|| Error::new(404, Party::Client, "no_route"))?;
        ctx.exchange.route = Some(route.name.clone());
        if let Some(limit) = route.timeout {
            ctx.connection.clock.limit_exchange(limit);
        }
        say_who_asks(session, ctx, believed.as_ref())?;
        ctx.route = Some(route.clone());
        let reply = route.chain.request(&mut ctx.run, &mut ClientRequest(session), &mut ctx.exchange).await?;
        if reply.is_some() || ctx.exchange.upstream.is_some() {
            ctx.own_answer = reply.as_ref().map(|_| "filter");
            return Ok(reply);
        }
        match &route.action {
            Action::Upstream(upstream) => {
                ctx.exchange.upstream = Some(upstream.clone());
                Ok(None)
            }
            Action::Split(split) => {
                let headers = &session.req_header().headers;
                let chosen = choose(split, headers, ctx.exchange.scheme, |bound| fastrand::u64(..bound.max(1)));
                let (side, stick) = chosen.ok_or_else(|| Error::internal("the split has no side"))?;
                ctx.exchange.upstream = Some(side.upstream.clone());
                ctx.stick = stick;
                Ok(None)
            }
            Action::Redirect(redirect) => {
                ctx.own_answer = Some("redirect");
                redirection(redirect, ctx).map(Some)
            }
            Action::Respond(respond) => {
                ctx.own_answer = Some("respond");
                response(respond, ctx).map(Some)
            }
        }
    }

    /// Reads a request as routing and the upstream will: in normal form. What has none is refused.
    fn admit(&self, session: &mut Session) -> std::result::Result<Target, Error> {
        let bad = |reason| Error::new(400, Party::Client, reason);
        let head = session.req_header();
        if self.via.is_in(&head.headers) {
            return Err(Error::new(508, Party::Operator, "loop")
                .with_message("the request has been through this proxy already: an upstream leads back to it"));
        }
        // Over HTTP/1 they do not come this far.
        if matches!(head.method, Method::TRACE | Method::CONNECT) {
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
        let path = path::normalise(head.uri.path()).map_err(|error| bad("bad_path").with_message(error.to_string()))?;
        let query = head.uri.query();
        let target = Target::new(head.method.clone(), &host, &path, query);
        if !is_as_sent(head.raw_path(), &path, query) {
            let normal = parse_target(&path, query).map_err(|error| bad("bad_target").with_message(error.to_string()))?;
            // What was matched is what is sent on, whatever form the client chose.
            set_target(session.req_header_mut(), normal)?;
        }
        Ok(target)
    }
}

/// Whether a request's target, which has been parsed once, is this normal path and this query and holds nothing else.
fn is_as_sent(raw: &[u8], path: &str, query: Option<&str>) -> bool {
    let Some(rest) = raw.strip_prefix(path.as_bytes()) else { return false };
    match query {
        None => rest.is_empty(),
        Some(query) => rest.strip_prefix(b"?") == Some(query.as_bytes()) && query.bytes().all(|byte| byte.is_ascii_graphic()),
    }
}

/// A refused request as the log shows it.
fn as_sent(session: &Session) -> Target {
    let head = session.req_header();
    let target = String::from_utf8_lossy(head.raw_path());
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    Target::new(head.method.clone(), &authority(head), path, query)
}

/// Keeps what the record of the request shows of its head, before filters change it.
fn note_client(session: &Session, ctx: &mut Ctx) {
    let head = session.req_header();
    ctx.version = head.version;
    // Shared with the head's memory, not copied.
    ctx.user_agent = head.headers.get(USER_AGENT).cloned();
    ctx.referer = head.headers.get(REFERER).cloned();
}

/// Takes a trusted proxy's word on who the client is.
fn believed(session: &Session, ctx: &mut Ctx, snapshot: &Snapshot) -> Option<Believed> {
    let trust = &snapshot.listener(ctx.connection.index?).trust;
    let believed = believe(&session.req_header().headers, trust, ctx.connection.client.ip())?;
    if let Some(node) = believed.client() {
        ctx.exchange.client.address = Some(SocketAddr::new(node.ip, node.port.unwrap_or(0)));
    }
    ctx.exchange.scheme = believed.scheme.unwrap_or(ctx.exchange.scheme);
    Some(believed)
}

/// Puts Ravelin's own word on the client in the place of what the client says of itself. What is believed is passed on.
fn say_who_asks(session: &mut Session, ctx: &Ctx, believed: Option<&Believed>) -> std::result::Result<(), InvalidField> {
    let head = session.req_header_mut();
    strip_nominated(head);
    let lookalikes: Vec<HeaderName> = head.headers.keys().filter(|name| looks_like_ours(name.as_str())).cloned().collect();
    for name in lookalikes {
        head.remove_header(&name);
    }
    let invalid = |name: &str| InvalidField::Value(name.to_owned());
    let host = match head.uri.authority() {
        Some(authority) => Some(HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("x-forwarded-host"))?),
        None => head.headers.get(HOST).cloned(),
    };
    head.remove_header(&FORWARDED);
    let peer = ctx.connection.client.ip();
    let chain = believed.filter(|believed| !believed.hops.is_empty());
    let addresses = match (chain, peer) {
        (Some(chain), _) => Some(HeaderValue::try_from(chain.x_forwarded_for(peer))),
        (None, peer) => peer.map(address_value),
    };
    match addresses {
        Some(value) => {
            let value = value.map_err(|_| invalid("x-forwarded-for"))?;
            head.insert_header("x-forwarded-for", value).map_err(|_| invalid("x-forwarded-for"))?;
        }
        None => drop(head.remove_header("x-forwarded-for")),
    }
    if let Some(believed) = believed.filter(|believed| believed.header == ForwardedHeader::Forwarded) {
        let value = believed.forwarded(peer);
        if !value.is_empty() {
            head.insert_header(FORWARDED, value).map_err(|_| invalid("forwarded"))?;
        }
    }
    let scheme = HeaderValue::from_static(ctx.exchange.scheme.as_str());
    head.insert_header("x-forwarded-proto", scheme).map_err(|_| invalid("x-forwarded-proto"))?;
    match host.filter(|host| !host.is_empty()) {
        Some(host) => head.insert_header("x-forwarded-host", host).map_err(|_| invalid("x-forwarded-host"))?,
        None => drop(head.remove_header("x-forwarded-host")),
    }
    Ok(())
}

/// Whether a field is one of ours but for its `_`: many a service reads them as `-`.
fn looks_like_ours(name: &str) -> bool {
    const OURS: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    let alike = |ours: &str| {
        name.len() == ours.len() && name.bytes().zip(ours.bytes()).all(|(byte, own)| byte == own || (byte == b'_' && own == b'-'))
    };
    name.contains('_') && OURS.into_iter().any(alike)
}

/// An address as a field's value. Written by hand for IPv4, where the formatting machinery costs more than all of the field.
fn address_value(ip: IpAddr) -> std::result::Result<HeaderValue, InvalidHeaderValue> {
    let IpAddr::V4(ip) = ip else { return HeaderValue::try_from(ip.to_string()) };
    let mut text = Vec::with_capacity("255.255.255.255".len());
    for (place, octet) in ip.octets().into_iter().enumerate() {
        if place > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
    HeaderValue::try_from(text)
}

/// Takes away what `Connection` nominates (RFC 9110 §7.6.1), before Ravelin and its filters set fields of their own: a client
/// could have those taken away otherwise. What frames the message or names its host is never a matter of one connection.
fn strip_nominated(head: &mut RequestHeader) {
    const KEPT: [&str; 6] = ["close", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"];
    if !head.headers.contains_key(CONNECTION) {
        return;
    }
    let taken = |option: &&str| !KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(option));
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

fn redirection(redirect: &Redirect, ctx: &Ctx) -> std::result::Result<Reply, Error> {
    let to = render(&redirect.to, ctx);
    Ok(Reply::new(redirect.status).with_header("location", &to)?)
}

fn response(respond: &Respond, ctx: &Ctx) -> std::result::Result<Reply, Error> {
    let mut reply = Reply::new(respond.status);
    for (name, value) in &respond.headers {
        reply = reply.with_header(name.as_str(), &render(value, ctx))?;
    }
    if let Some(body) = &respond.body {
        if !respond.headers.iter().any(|(name, _)| name.as_str() == "content-type") {
            reply = reply.with_header("content-type", "text/plain; charset=utf-8")?;
        }
        reply = reply.with_body(render(body, ctx));
    }
    Ok(reply)
}

fn render(template: &Template, ctx: &Ctx) -> String {
    let mut text = String::new();
    template.render(&ctx.exchange, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_everywhere_else() {
        for octet in 0..=255 {
            let ip = IpAddr::from([octet, 255 - octet, 0, octet / 7]);
            assert_eq!(address_value(ip).unwrap(), ip.to_string());
        }
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(address_value(ip).unwrap(), "2001:db8::1");
    }

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
