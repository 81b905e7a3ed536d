//! From a request's head to a decision: admitted and routed, answered by a filter or by the route itself, or refused.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, FORWARDED, REFERER, UPGRADE, USER_AGENT, VIA};
use http::{HeaderName, Method};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::config::Underscores;
use crate::filter::{Error, InvalidField, Party, Reply, Target, parse_target};
use crate::proxy::bounds::{bounded, limit_body};
use crate::proxy::failure::missed;
use crate::proxy::forwarded::{Believed, believe};
use crate::proxy::head::{ClientRequest, authority, connection_options, set_target};
use crate::proxy::reply::OVERLOADED;
use crate::proxy::settle::{Unsettled, settle};
use crate::proxy::split::choose;
use crate::proxy::who::WhoAsks;
use crate::proxy::{Ctx, Proxy, Result};
use crate::router::Question;
use crate::runtime::{Action, Matched, Redirect, Respond, Snapshot};
use crate::types::{PathError, Template, normalise_host, path};

impl Proxy {
    /// `Ok(true)`: the request is answered. `Ok(false)`: it goes to an upstream.
    pub(super) async fn handle_request(&self, session: &mut Session, ctx: &mut Ctx) -> Result<bool> {
        if ctx.connection.last {
            session.set_keepalive(None);
        }
        let decision = self.decide(session, ctx).await;
        let now = Instant::now();
        ctx.timing.routed = Some(now.duration_since(ctx.exchange.started));
        ctx.step = Some(now);
        match decision {
            Ok(None) => Ok(false),
            Ok(Some(reply)) => self.answer(session, ctx, reply).await.map(|()| true),
            Err(error) => {
                // A filter that waits for the body sees no more than that it broke off.
                let error = ctx.connection.clock.expired().map_or(error, missed);
                self.answer_error(session, ctx, error).await.map(|()| true)
            }
        }
    }

    async fn decide(&self, session: &mut Session, ctx: &mut Ctx) -> std::result::Result<Option<Reply>, Error> {
        let seen = look_over(session, ctx);
        limit_body(session, ctx);
        let snapshot = self.store.load();
        let believed = believed(session, ctx, &snapshot);
        let route = self.choose(session, ctx, &snapshot, &seen)?;
        ctx.exchange.route = Some(route.name.clone());
        ctx.admitted = self.load.enter(route.overload(), route.priority);
        if ctx.admitted.is_none() {
            // The pages and numbers of its route, but none of its filters: what they would do is what there is no room for.
            ctx.run.give_up();
            ctx.route = Some(route);
            session.set_keepalive(None);
            return Err(Error::new(503, Party::Us, OVERLOADED));
        }
        if let Some(limit) = route.timeout {
            ctx.connection.clock.limit_exchange(limit, ctx.exchange.started);
        }
        let head = session.req_header_mut();
        strip_claims(head, &seen);
        let who = WhoAsks::new(head, ctx.connection.client.ip(), ctx.exchange.scheme, believed.as_ref())?;
        if route.chain.sees_request() {
            who.put_in(head)?;
        } else {
            // Nobody looks at them here: what is put into the copy for the endpoint need not be copied.
            ctx.who_asks = Some(who);
        }
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

    /// The route of a request, which from now on is what was matched.
    fn choose(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        snapshot: &Arc<Snapshot>,
        seen: &Seen,
    ) -> std::result::Result<Matched, Error> {
        let underscores = ctx.connection.index.map_or_else(Underscores::default, |index| snapshot.listener(index).underscores);
        let settled = bounded(session, &ctx.connection).and_then(|()| settle(session, &seen.unsettled, underscores));
        let unmerged = match settled.and_then(|()| self.admit(session, seen, snapshot.keeps_slashes())) {
            Ok(Admitted { target, unmerged }) => {
                ctx.exchange.target = target;
                unmerged
            }
            Err(error) => {
                ctx.exchange.target = as_sent(session);
                // Who sends what can't be trusted gets no second request on this connection.
                session.set_keepalive(None);
                return Err(error);
            }
        };
        let target = &ctx.exchange.target;
        let question = Question {
            host: target.host(),
            path: target.path(),
            unmerged: unmerged.as_deref(),
            method: target.method(),
            query: target.query(),
            client: ctx.exchange.client.ip(),
            listener: ctx.connection.index,
            headers: &session.req_header().headers,
        };
        let route = snapshot.route(&question).ok_or_else(|| Error::new(404, Party::Client, "no_route"))?;
        if let Some(path) = unmerged.filter(|_| route.keeps_slashes()) {
            let target = Target::new(target.method().clone(), target.host(), &path, target.query());
            send_as(session, &path, target.query())?;
            ctx.exchange.target = target;
        }
        Ok(route)
    }

    /// Reads a request as routing and the upstream will: in normal form. What has none is refused. `keeps_slashes`: a route may want
    /// the path with `//` kept.
    fn admit(&self, session: &mut Session, seen: &Seen, keeps_slashes: bool) -> std::result::Result<Admitted, Error> {
        let bad = |reason| Error::new(400, Party::Client, reason);
        let head = session.req_header();
        if seen.via && self.via.is_in(&head.headers) {
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
            send_as(session, target.path(), target.query())?;
        }
        Ok(Admitted { target, unmerged })
    }
}

/// A request in normal form.
struct Admitted {
    target: Target,
    /// The path with `//` kept, if a route may want it and it is another.
    unmerged: Option<String>,
}

/// What was matched is what is sent on, whatever form the client chose.
fn send_as(session: &mut Session, path: &str, query: Option<&str>) -> std::result::Result<(), Error> {
    let bad = |error: InvalidField| Error::new(400, Party::Client, "bad_target").with_message(error.to_string());
    Ok(set_target(session.req_header_mut(), parse_target(path, query).map_err(bad)?)?)
}

/// Whether a request's target, which has been parsed once, is this normal path and this query and holds nothing else.
fn is_as_sent(raw: &[u8], path: &str, query: Option<&str>) -> bool {
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
fn as_sent(session: &Session) -> Target {
    let head = session.req_header();
    let target = String::from_utf8_lossy(head.raw_path());
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    Target::new(head.method.clone(), &authority(head), path, query)
}

/// Which fields that Ravelin must see to are in a request.
#[derive(Default)]
struct Seen {
    via: bool,
    connection: bool,
    forged: bool,
    unsettled: Unsettled,
}

/// Keeps what the record of the request shows of its head, before filters change it. One walk over the few fields that there are is
/// cheaper than asking for each that may be there.
fn look_over(session: &Session, ctx: &mut Ctx) -> Seen {
    let head = session.req_header();
    ctx.version = head.version;
    let mut seen = Seen::default();
    for (name, value) in &head.headers {
        if *name == USER_AGENT {
            // Shared with the head's memory, not copied.
            ctx.user_agent.get_or_insert_with(|| value.clone());
        } else if *name == REFERER {
            ctx.referer.get_or_insert_with(|| value.clone());
        } else {
            seen.unsettled.note(name);
            seen.via |= *name == VIA;
            seen.connection |= *name == CONNECTION;
            seen.forged |= is_forged(name);
        }
    }
    seen
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

/// Takes away what a client must not say: fields of its own connection, and those that are forged.
fn strip_claims(head: &mut RequestHeader, seen: &Seen) {
    if seen.connection {
        strip_nominated(head);
    }
    if seen.forged {
        let forged: Vec<HeaderName> = head.headers.keys().filter(|name| is_forged(name)).cloned().collect();
        for name in forged {
            head.remove_header(&name);
        }
    }
}

/// Whether a service may take a field for our word on who asks, though we don't put it in place: `Forwarded`, and what is one of
/// ours but for its `_`, which many read as `-`.
fn is_forged(name: &HeaderName) -> bool {
    const OURS: [&str; 3] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    let text = name.as_str();
    let alike = |ours: &str| {
        text.len() == ours.len() && text.bytes().zip(ours.bytes()).all(|(byte, own)| byte == own || (byte == b'_' && own == b'-'))
    };
    *name == FORWARDED || (OURS.into_iter().any(alike) && text.contains('_'))
}

/// Takes away what `Connection` nominates (RFC 9110 §7.6.1), before Ravelin and its filters set fields of their own: a client
/// could have those taken away otherwise. What frames the message or names its host is never a matter of one connection.
fn strip_nominated(head: &mut RequestHeader) {
    const KEPT: [&str; 6] = ["close", "content-length", "host", "keep-alive", "transfer-encoding", "upgrade"];
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
    let mut to = render(&redirect.to, ctx);
    if to.starts_with("//") && !redirect.to.to_string().starts_with("//") {
        // The path of a request, where slashes are kept: without this its first segment would be the host (RFC 3986 §4.2).
        to.insert_str(0, "/.");
    }
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
