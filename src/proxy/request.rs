//! From a request's head to a decision: admitted and routed, answered by a filter or by the route itself, or refused.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use pingora_proxy::Session;

use crate::filter::{Error, Exchange, Party, Reply};
use crate::proxy::acme::{CHALLENGE, challenge};
use crate::proxy::bounds::{bounded, limit_body};
use crate::proxy::enter::{Admitted, Arrival, Entrance, admit, as_sent};
use crate::proxy::failure::missed;
use crate::proxy::head::ClientRequest;
use crate::proxy::https::{REDIRECT, agrees_with_session, redirect_to_https};
use crate::proxy::reply::OVERLOADED;
use crate::proxy::settle::settle;
use crate::proxy::split::choose;
use crate::proxy::trace::Tracer;
use crate::proxy::{Ctx, Proxy, Result};
use crate::runtime::{Action, Redirect, Respond, Snapshot};
use crate::types::Template;

/// How many routes whose host or path does not match a live trace tells of.
const FAR: usize = 50;

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
        limit_body(session, ctx);
        let snapshot = self.store.load();
        let entrance = Entrance { listener: ctx.connection.index, peer: ctx.connection.client.ip() };
        let mut arrival = Arrival::new(session.req_header(), &mut ctx.exchange, entrance, &snapshot);
        ctx.version = session.req_header().version;
        ctx.user_agent = arrival.seen.user_agent.take();
        ctx.referer = arrival.seen.referer.take();
        if let Some(token) = arrival.take_token(session.req_header_mut())
            && snapshot.explains_to(token.as_bytes())
        {
            return self.explain(session, ctx, &snapshot).await.map(Some);
        }
        let settled = bounded(session.req_header(), &ctx.connection)
            .and_then(|()| settle(session, &arrival.seen.unsettled, arrival.underscores(&snapshot)));
        let admitted = settled.and_then(|()| admit(session.req_header_mut(), &arrival.seen, &self.via, snapshot.keeps_slashes()));
        let unmerged = match admitted {
            Ok(Admitted { target, unmerged }) => {
                ctx.exchange.target = target;
                unmerged
            }
            Err(error) => {
                ctx.exchange.target = as_sent(session.req_header());
                // Who sends what can't be trusted gets no second request on this connection.
                session.set_keepalive(None);
                return Err(error);
            }
        };
        if let Some(reply) = challenge(&ctx.exchange, entrance, &snapshot) {
            ctx.own_answer = Some(CHALLENGE);
            return Ok(Some(reply));
        }
        agrees_with_session(&ctx.exchange, entrance, &snapshot)?;
        if let Some(reply) = redirect_to_https(session.req_header(), &ctx.exchange, entrance, &snapshot)? {
            ctx.own_answer = Some(REDIRECT);
            return Ok(Some(reply));
        }
        let route = arrival.route(session.req_header_mut(), &mut ctx.exchange, unmerged, &snapshot)?;
        ctx.admitted = self.load.enter(route.overload(), route.priority);
        if ctx.admitted.is_none() {
            // The pages and numbers of its route, but none of its filters: what they would do is what there is no room for.
            ctx.run.give_up();
            ctx.route = Some(route);
            session.set_keepalive(None);
            return Err(Error::new(503, Party::Us, OVERLOADED));
        }
        let head = session.req_header_mut();
        if let Some(limit) = route.timeout {
            ctx.connection.clock.limit_exchange(limit, ctx.exchange.started);
        }
        let who = arrival.claims(head, &ctx.exchange, &snapshot)?;
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
        let act = act(&route.action, &session.req_header().headers, &mut ctx.exchange, |bound| fastrand::u64(..bound.max(1)))?;
        Ok(match act {
            Act::Forward(stick) => {
                ctx.stick = stick;
                None
            }
            Act::Answer(word, reply) => {
                ctx.own_answer = Some(word);
                Some(reply)
            }
        })
    }
}

impl Proxy {
    /// The trace of a request that may ask for it, which goes no further.
    async fn explain(&self, session: &Session, ctx: &mut Ctx, snapshot: &Arc<Snapshot>) -> std::result::Result<Reply, Error> {
        let entrance = Entrance { listener: ctx.connection.index, peer: ctx.connection.client.ip() };
        // Of its own: nothing that a rehearsal does may be taken for what this request did.
        let mut exchange = Exchange::new(ctx.exchange.id, ctx.connection.client, ctx.connection.scheme);
        exchange.tls.clone_from(&ctx.connection.tls);
        let tracer = Tracer { snapshot, via: &self.via, places: &|_| None, far: FAR, live: true };
        let trace = tracer.trace(session.req_header().clone(), &Bytes::new(), &mut exchange, entrance, Ok(())).await;
        ctx.exchange.target = exchange.target;
        ctx.own_answer = Some("explain");
        let json = serde_json::to_vec(&trace).map_err(|error| Error::internal("").with_message(error.to_string()))?;
        Ok(Reply::json(200, json).with_header("cache-control", "no-store")?)
    }
}

/// What a route does.
pub(super) enum Act {
    /// Forward to the upstream that is noted; the cookie keeps the client on its side of a split.
    Forward(Option<HeaderValue>),
    /// Answer; the word says what answers.
    Answer(&'static str, Reply),
}

/// Does what a route says with a request that its filters let pass.
pub(super) fn act(
    action: &Action,
    headers: &HeaderMap,
    exchange: &mut Exchange,
    random: impl FnOnce(u64) -> u64,
) -> std::result::Result<Act, Error> {
    Ok(match action {
        Action::Upstream(upstream) => {
            exchange.upstream = Some(upstream.clone());
            Act::Forward(None)
        }
        Action::Split(split) => {
            let chosen = choose(split, headers, exchange.scheme, random);
            let (side, stick) = chosen.ok_or_else(|| Error::internal("the split has no side"))?;
            exchange.upstream = Some(side.upstream.clone());
            Act::Forward(stick)
        }
        Action::Redirect(redirect) => Act::Answer("redirect", redirection(redirect, exchange)?),
        Action::Respond(respond) => Act::Answer("respond", response(respond, exchange)?),
    })
}

fn redirection(redirect: &Redirect, exchange: &Exchange) -> std::result::Result<Reply, Error> {
    let mut to = render(&redirect.to, exchange);
    if to.starts_with("//") && !redirect.to.to_string().starts_with("//") {
        // The path of a request, where slashes are kept: without this its first segment would be the host (RFC 3986 §4.2).
        to.insert_str(0, "/.");
    }
    Ok(Reply::new(redirect.status).with_header("location", &to)?)
}

fn response(respond: &Respond, exchange: &Exchange) -> std::result::Result<Reply, Error> {
    let mut reply = Reply::new(respond.status);
    for (name, value) in &respond.headers {
        reply = reply.with_header(name.as_str(), &render(value, exchange))?;
    }
    if let Some(body) = &respond.body {
        if !respond.headers.iter().any(|(name, _)| name.as_str() == "content-type") {
            reply = reply.with_header("content-type", "text/plain; charset=utf-8")?;
        }
        reply = reply.with_body(render(body, exchange));
    }
    Ok(reply)
}

fn render(template: &Template, exchange: &Exchange) -> String {
    let mut text = String::new();
    template.render(exchange, &mut text);
    text
}
