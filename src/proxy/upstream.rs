//! Toward the upstream: which endpoint, what it is sent, and whether a failure is tried elsewhere.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{Method, Version};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_core::{Error as PingoraError, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::filter::{Error, Exchange, InvalidField, Party};
use crate::observe::{Connect, Timing};
use crate::proxy::failure::missed;
use crate::proxy::followed::{self, Try};
use crate::proxy::head::{UpstreamRequest, is_hop_by_hop, set_host, strip_hop_by_hop};
use crate::proxy::outcome::{broke, connecting};
use crate::proxy::reply::{QUEUE_FULL, QUEUE_TIMEOUT};
use crate::proxy::response::lacks_descriptors;
use crate::proxy::retry::{self, Circumstances};
use crate::proxy::settle::number;
use crate::proxy::via::Via;
use crate::proxy::who::WhoAsks;
use crate::proxy::{Ctx, Expired, Proxy, Result, affinity, hedge, mirror};
use crate::upstream::{Attempt, Endpoint, Parties, Refusal, Spoken, Upstream};

/// Picks an endpoint for this try, once it is its time.
pub(super) async fn select(session: &mut Session, ctx: &mut Ctx, proxy: &Proxy) -> Result<Box<HttpPeer>> {
    ctx.connection.clock.clear_step();
    if let Some(wait) = ctx.tries.wait() {
        tokio::time::sleep(wait).await;
    }
    let Some(upstream) = &ctx.exchange.upstream else {
        return Err(ended(ctx, Error::internal("no upstream was chosen")));
    };
    spare_all_but_the_last(upstream, &mut ctx.tried);
    let upstream = upstream.clone();
    let (wish, stay) = affinity::wish(&upstream, &ctx.exchange.target, &session.req_header().headers, ctx.exchange.client.ip());
    ctx.stay = stay;
    // The first try begins where routing ended, and that time has just been read.
    let began = ctx.step.take_if(|_| ctx.exchange.tries == 0).unwrap_or_else(Instant::now);
    let attempt = match upstream.engage(&ctx.tried, wish, began).await {
        Ok(attempt) => attempt,
        Err(refusal) => return Err(ended(ctx, refused(upstream.name(), refusal))),
    };
    let endpoint = attempt.endpoint().clone();
    endpoint.meter().selected();
    ctx.exchange.tries += 1;
    if ctx.exchange.tries == 1 {
        upstream.meter().began();
        ctx.first_began = upstream.retries().hedges(ctx.exchange.target.method()).then(|| attempt.began());
    } else {
        // What was sent of the request is sent anew.
        (ctx.received, ctx.held, ctx.asked, ctx.asked_twice) = (0, None, false, false);
        mirror::restart(&mut ctx.copy);
    }
    ctx.try_began = Some(attempt.began());
    ctx.step = Some(attempt.began());
    ctx.attempt = Some(attempt);
    ctx.exchange.endpoint = Some(endpoint.clone());
    ctx.timing = Timing { routed: ctx.timing.routed, ..Timing::default() };
    let upgrade = session.is_upgrade_req();
    ctx.ahead = hedge::applies(session, ctx);
    ctx.streamed = false;
    followed::begin(Try {
        number: (ctx.exchange.id.bits(), ctx.exchange.tries),
        to_head: session.req_header().method == Method::HEAD,
        upgrade,
    });
    let mut peer = tuned(session, ctx, &endpoint);
    if ctx.ahead {
        let ahead = hedge::ask(session, ctx, proxy, peer.clone()).await?;
        proxy.dialer.hand_over(&mut peer, ahead);
    } else {
        let spoken = proxy.dialer.direct(&mut peer, &endpoint, parties(session, ctx), upgrade).await;
        ctx.streamed = spoken == Spoken::Http2;
        if ctx.streamed {
            // The stream keeps its own time (`session`).
            peer.options.read_timeout = None;
            peer.options.write_timeout = endpoint.peer().options.write_timeout;
        }
    }
    Ok(peer)
}

/// Whom a connection is for.
pub(super) fn parties(session: &Session, ctx: &Ctx) -> Parties {
    let listener = session.as_downstream().server_addr().and_then(|address| address.as_inet().copied());
    Parties { client: ctx.exchange.client.address, listener }
}

/// What Pingora connects to, with the limits that hold for this request.
pub(super) fn tuned(session: &Session, ctx: &Ctx, endpoint: &Endpoint) -> Box<HttpPeer> {
    let mut peer = Box::new(endpoint.peer().clone());
    let try_timeout = ctx.exchange.upstream.as_ref().and_then(|upstream| upstream.retries().try_timeout());
    let http2 = session.as_downstream().is_http2();
    if http2 {
        // An endpoint that stops taking a body keeps Pingora from reading what it says.
        peer.options.read_timeout = endpoint.read_timeout().into_iter().chain(ctx.connection.clock.left()).min();
    } else {
        // The clock keeps the time, and the connection itself while the endpoint takes nothing (`watch`).
        peer.options.write_timeout = None;
    }
    if let Some(limit) = try_timeout {
        let options = &mut peer.options;
        options.connection_timeout = options.connection_timeout.into_iter().chain([limit]).min();
        options.total_connection_timeout = options.total_connection_timeout.into_iter().chain([limit]).min();
    }
    if !session.req_header().headers.keys().any(is_hop_by_hop) {
        // Pingora looks for each of these fields, in two maps. One walk has found that there is none.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    }
    peer
}

/// Where all have failed a request once, any but the last may be asked again.
pub(super) fn spare_all_but_the_last(upstream: &Upstream, tried: &mut Vec<SocketAddr>) {
    if tried.len() > 1 && !upstream.has_other(tried) {
        let last = tried.pop();
        tried.clear();
        tried.extend(last);
    }
}

/// The upstream has no endpoint for this request.
pub(super) fn refused(upstream: &str, refusal: Refusal) -> Error {
    let (reason, what) = match refusal {
        Refusal::NoneHealthy => ("no_healthy_endpoint", "has no healthy endpoint"),
        Refusal::QueueFull => (QUEUE_FULL, "has as many requests as it may have, and as many wait as may"),
        Refusal::QueueTimeout => (QUEUE_TIMEOUT, "had no room for this request in time"),
    };
    Error::new(503, Party::Upstream, reason).with_message(format!("upstream `{upstream}` {what}"))
}

/// There is a connection for this try.
pub(super) fn connected(session: &mut Session, reused: bool, ctx: &mut Ctx) {
    if ctx.ahead && ctx.asked {
        // It was, and has been used.
        return;
    }
    if let Some(pace) = &mut ctx.pace
        && !session.as_downstream_mut().is_body_done()
    {
        let now = Instant::now();
        pace.waits(|| now);
        ctx.connection.clock.await_request(pace.timeout(), now);
    }
    if reused {
        // It took no time to speak of, and none is shown: the clock need not be read.
        ctx.timing.connect = Some(Connect::Reused);
        return;
    }
    let now = Instant::now();
    let took = ctx.step.replace(now).map_or(Duration::ZERO, |began| now.duration_since(began));
    ctx.timing.connect = Some(Connect::Opened(took));
}

/// A connection could not be opened: nothing was sent, so another endpoint may be asked whatever the method.
pub(super) fn connect_failed(
    session: &Session,
    ctx: &mut Ctx,
    mut error: Box<PingoraError>,
    max_tries: u32,
) -> Box<PingoraError> {
    if lacks_descriptors(&error) {
        error.set_retry(false);
        return error;
    }
    if let Some(endpoint) = &ctx.exchange.endpoint {
        endpoint.meter().connect_failed();
    }
    let outcome = connecting(&error);
    if let Some(mut attempt) = ctx.attempt.take() {
        attempt.ended(outcome, Instant::now());
    }
    let over = ctx.connection.clock.expired().is_some();
    let retry = !over && retry::again(session, ctx, outcome, Circumstances::default(), max_tries);
    error.set_retry(retry);
    error
}

/// An exchange broke, or its answer was given up for another try.
pub(super) fn exchange_failed(
    session: &Session,
    mut error: Box<PingoraError>,
    ctx: &mut Ctx,
    reused: bool,
    max_tries: u32,
) -> Box<PingoraError> {
    let retry = ctx.tries.gave_up() || {
        broke(ctx, &error);
        let settled = ctx.exchange.failure.is_some() || ctx.replacement.is_some();
        // A deadline that passed is the end of it, unless it was for this try alone.
        let over = ctx
            .connection
            .clock
            .expired()
            .is_some_and(|expired| !matches!(expired, Expired::Try | Expired::Response | Expired::Write));
        let outcome = ctx.attempt.as_ref().and_then(Attempt::outcome).filter(|_| !settled && !over);
        let circumstances = Circumstances { reused, ..Circumstances::default() };
        outcome.is_some_and(|outcome| retry::again(session, ctx, outcome, circumstances, max_tries))
    };
    if retry {
        // It counts at the endpoint until it is dropped, and the next one may have to wait.
        ctx.attempt = None;
    }
    error.set_retry(retry);
    error
}

/// Makes the head that this try sends.
pub(super) async fn prepare_request(session: &mut Session, head: &mut RequestHeader, ctx: &mut Ctx, proxy: &Proxy) -> Result<()> {
    mirror::begin(session, ctx, proxy);
    if ctx.ahead {
        // It has been sent.
        return Ok(());
    }
    if ctx.streamed {
        begin_stream(head);
    }
    prepare(session, head, ctx, proxy).await.map_err(|error| ended(ctx, error))?;
    if head.version == Version::HTTP_2 && session.as_downstream_mut().is_body_empty() {
        // Over HTTP/2 Pingora tells nobody of the end of a body that there is not: the head is all, and it goes out now.
        ctx.asked = true;
        await_response(ctx, false);
    }
    Ok(())
}

/// Makes a client's head one for a stream of HTTP/2: nothing in it is a matter of a connection. One that came over a stream has nothing such.
fn begin_stream(head: &mut RequestHeader) {
    if head.version != Version::HTTP_2 {
        strip_hop_by_hop(head);
        // Of an upgrade too, which HTTP/2 does not know.
        head.remove_header(&CONNECTION);
        head.remove_header(&UPGRADE);
        head.set_version(Version::HTTP_2);
    }
}

pub(super) async fn prepare(
    session: &Session,
    head: &mut RequestHeader,
    ctx: &mut Ctx,
    proxy: &Proxy,
) -> std::result::Result<(), Error> {
    address(head, session.req_header().version, &proxy.via, ctx.who_asks.as_ref(), &ctx.exchange)?;
    match &ctx.route {
        Some(route) => route.chain.upstream_request(&mut ctx.run, &mut UpstreamRequest(head), &mut ctx.exchange).await,
        None => Ok(()),
    }
}

/// What of a try's head is the proxy's: `Via`, who asks, and `Host` as the upstream wants it. `received`: what the client speaks.
pub(super) fn address(
    head: &mut RequestHeader,
    received: Version,
    via: &Via,
    who: Option<&WhoAsks>,
    exchange: &Exchange,
) -> std::result::Result<(), Error> {
    let via = via.extended(&head.headers, received);
    if let Some(who) = who {
        who.put_in(head)?;
    }
    head.insert_header("via", via).map_err(|_| InvalidField::Value("via".to_owned()))?;
    if let (Some(upstream), Some(endpoint)) = (&exchange.upstream, &exchange.endpoint)
        && let Some(host) = upstream.host_for(endpoint)
    {
        set_host(head, host)?;
    } else if let Some(endpoint) = &exchange.endpoint
        && names_no_host(head)
    {
        // Only HTTP/1.0 has such requests. What goes on is HTTP/1.1, which must name one (RFC 9112 §3.2): the endpoint's own.
        set_host(head, endpoint.host())?;
    }
    Ok(())
}

fn names_no_host(head: &RequestHeader) -> bool {
    head.uri.authority().is_none() && head.headers.get(http::header::HOST).is_none_or(http::HeaderValue::is_empty)
}

/// In which others have their turn where an exchange would never rest.
const TURN: Duration = Duration::from_millis(5);

/// A piece of the request's body goes out.
pub(super) async fn request_body(
    session: &mut Session,
    body: &mut Option<Bytes>,
    end: bool,
    ctx: &mut Ctx,
    proxy: &Proxy,
) -> Result<()> {
    // Where trailers end a body, Pingora tells an endpoint on HTTP/2 of no end, but says `None` on and on, without a pause.
    if !end && ctx.asked && body.is_none() && !ctx.tunnel {
        if std::mem::replace(&mut ctx.asked_twice, true) {
            tokio::time::sleep(TURN).await;
        }
        return Ok(());
    }
    let end = end || body.is_none();
    if ctx.tunnel {
        ctx.connection.clock.await_tunnel(ctx.connection.tunnel_idle, Instant::now());
    } else if end {
        // Until here it was the client's turn: the endpoint can't answer before it has the whole request.
        await_response(ctx, body.as_ref().is_some_and(|body| !body.is_empty()));
    }
    ctx.asked |= end;
    let length = body.as_ref().map_or(0, Bytes::len);
    ctx.received += length as u64;
    if !ctx.tunnel {
        bounded(length, end, ctx).map_err(|error| ended(ctx, error))?;
        hold_last(session.req_header(), body, end, ctx);
    }
    if let Some(route) = ctx.route.as_ref().filter(|route| route.chain.sees_request_body()) {
        let outcome = route.chain.request_body(&mut ctx.run, body, end, &mut ctx.exchange).await;
        outcome.map_err(|error| ended(ctx, error))?;
    }
    if ctx.copy.is_some() {
        mirror::piece(body.as_ref(), end, ctx, proxy);
    }
    if end && body.as_ref().is_some_and(Bytes::is_empty) {
        // Pingora would write it as a chunk of no bytes, which ends the body, and then end the body: the second end would stand
        // before the next request on the endpoint's connection.
        *body = None;
    }
    Ok(())
}

/// Over HTTP/2 the last of a body that has a length waits for the end of its stream. More may come instead, and then it was no such body (RFC 9113
/// §8.1.1): an endpoint must not have taken it for a whole one.
fn hold_last(head: &RequestHeader, body: &mut Option<Bytes>, end: bool, ctx: &mut Ctx) {
    if end {
        if let Some(held) = ctx.held.take() {
            *body = Some(held);
        }
    } else if ctx.connection.stream.is_some()
        && ctx.held.is_none()
        && head.headers.get(CONTENT_LENGTH).and_then(number).is_some_and(|length| ctx.received >= length)
    {
        ctx.held = body.replace(Bytes::new());
    }
}

/// Whether a body is as large and as fast as it must be. The time of a body over HTTP/1 is kept by the connection.
fn bounded(length: usize, end: bool, ctx: &mut Ctx) -> std::result::Result<(), Error> {
    if let Some(limit) = ctx.connection.body_size.filter(|limit| ctx.received > *limit) {
        let message = format!("the body is larger than {limit} bytes");
        return Err(Error::new(413, Party::Client, "body_too_large").with_message(message));
    }
    if let Some(pace) = &mut ctx.pace
        && !end
        && (!ctx.responding || ctx.answered)
    {
        let now = Instant::now();
        pace.came(length, || now);
        if let Some(expired) = pace.look(now) {
            return Err(missed(expired));
        }
        pace.waits(|| now);
        ctx.connection.clock.await_request(pace.timeout(), now);
    }
    Ok(())
}

/// A request without a body ends where it is sent: that is the time of the step, unless filters took theirs since.
pub(super) fn await_response(ctx: &Ctx, body: bool) {
    if let Some(upstream) = &ctx.exchange.upstream
        && !ctx.responding
    {
        let filtered = ctx.route.as_ref().is_some_and(|route| route.chain.sees_upstream_request());
        let at_once = !body && ctx.received == 0 && !filtered;
        let ended = ctx.step.filter(|_| at_once).unwrap_or_else(Instant::now);
        let limit = upstream.deadlines().response;
        // The time that it took to connect is the try's, but not that in which the client sent its body.
        let spent = if ctx.received == 0 {
            ctx.try_began.map_or(Duration::ZERO, |began| ended.duration_since(began))
        } else {
            Duration::ZERO
        };
        match upstream.retries().try_timeout().map(|of_try| of_try.saturating_sub(spent)) {
            Some(of_try) if limit.is_none_or(|limit| of_try < limit) => ctx.connection.clock.await_try(of_try, ended),
            _ => ctx.connection.clock.await_response(limit, ended),
        }
    }
}

/// Ends the exchange: keeps the reason, and tells Pingora to stop.
pub(super) fn ended(ctx: &mut Ctx, error: Error) -> Box<PingoraError> {
    let code = error.code();
    ctx.fail(error);
    PingoraError::new_in(ErrorType::HTTPStatus(code))
}
