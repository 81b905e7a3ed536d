//! From an endpoint's response to the client's: hop-by-hop fields off, filters walked back, deadlines moved on.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora_core::{Error as PingoraError, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::filter::{Error, Party};
use crate::proxy::connect::NO_HTTP2;
use crate::proxy::head::{TrailerFields, UpstreamResponse, connection_options};
use crate::proxy::judge::{INFORMATIONAL_MAX, Refused, judge, strip_framing};
use crate::proxy::outcome::{answered, invalid};
use crate::proxy::upstream::ended;
use crate::proxy::{Ctx, Proxy, Result, affinity, followed};

/// Fields between two hops (RFC 9110 §7.6.1), apart from `Connection`, which is seen to by itself, and `Transfer-Encoding`, by which
/// Pingora frames the body anew.
const HOP_BY_HOP: [&str; 6] = ["http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];

impl Proxy {
    pub(super) async fn handle_response(&self, session: &mut Session, head: &mut ResponseHeader, ctx: &mut Ctx) -> Result<()> {
        if let Err(unsound) = judge(head) {
            return Err(refused(ctx, unsound));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !session.as_downstream().is_upgrade_req() {
                return Err(refused(ctx, Refused::Switches));
            }
            open_tunnel(session, ctx);
            answered(ctx, 101, Instant::now());
        } else {
            strip_hop_by_hop(head, !head.status.is_informational() && !session.as_downstream().is_http2());
            if head.status.is_informational() {
                strip_framing(head);
                ctx.informational = ctx.informational.saturating_add(1);
                if ctx.informational > INFORMATIONAL_MAX {
                    return Err(refused(ctx, Refused::InformationalFlood));
                }
                return Ok(());
            }
            ctx.responding = true;
            if is_empty(session, head) {
                // No end of a body will be told of.
                ctx.answered = true;
            } else {
                ctx.connection.clock.respond();
            }
            let now = Instant::now();
            answered(ctx, head.status.as_u16(), now);
            ctx.timing.response = ctx.step.map(|connected| now.duration_since(connected));
            if let (Some(route), Some(took)) = (&ctx.route, ctx.timing.response) {
                self.load.answered(route.overload(), took, now);
            }
            body_arrived(ctx, now);
        }
        let via = self.via.extended(&head.headers, head.version);
        head.insert_header("via", via)?;
        ctx.exchange.status = Some(head.status.as_u16());
        if let Some(route) = &ctx.route {
            match route.chain.response(&mut ctx.run, &mut UpstreamResponse(head), &mut ctx.exchange).await {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    ctx.replacement = Some(reply);
                    ctx.own_answer = Some("filter");
                    // The answer is sent on the way out of Pingora's exchange, which ends here.
                    return Err(PingoraError::new_in(ErrorType::Custom("replaced by a filter")));
                }
                Err(error) => {
                    ctx.run.give_up();
                    return Err(ended(ctx, error));
                }
            }
        }
        if let Some(cookie) = &ctx.stick {
            head.append_header(SET_COOKIE, cookie.clone())?;
        }
        if let Some(cookie) = affinity::cookie(&ctx.exchange, ctx.stay) {
            head.append_header(SET_COOKIE, cookie)?;
        }
        if ctx.answered {
            expect_nothing(ctx, Instant::now());
        }
        frame(session, head, ctx.route.as_ref().is_some_and(|route| route.chain.sees_response()))
    }
}

/// The endpoint's response can't be relied on.
fn refused(ctx: &mut Ctx, refused: Refused) -> Box<PingoraError> {
    invalid(ctx);
    ended(ctx, refused.into())
}

/// Whether a response is over with its head.
fn is_empty(session: &Session, head: &ResponseHeader) -> bool {
    session.req_header().method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
}

/// A piece of the body came: the next one is due from now.
pub(super) fn body_arrived(ctx: &Ctx, now: Instant) {
    if ctx.tunnel {
        return ctx.connection.clock.await_tunnel(ctx.connection.tunnel_idle, now);
    }
    if !ctx.responding {
        return;
    }
    if let Some(upstream) = &ctx.exchange.upstream {
        ctx.connection.clock.await_body(upstream.deadlines().read, now);
    }
}

pub(super) fn body(body: &mut Option<Bytes>, end: bool, ctx: &mut Ctx) -> Result<()> {
    if let Some(route) = ctx.route.as_ref().filter(|route| route.chain.sees_response_body())
        && let Err(error) = route.chain.response_body(&mut ctx.run, body, end, &mut ctx.exchange)
    {
        // Should there be anything left to say, no filter sees it.
        ctx.run.give_up();
        return Err(ended(ctx, error));
    }
    ctx.sent += body.as_ref().map_or(0, Bytes::len) as u64;
    if end {
        ctx.answered = true;
        ctx.connection.clock.clear_step();
        ctx.connection.clock.responded();
        if let Some(pace) = ctx.pace.filter(|_| !ctx.asked) {
            ctx.connection.clock.await_request(pace.timeout(), Instant::now());
        }
        expect_nothing(ctx, Instant::now());
    }
    Ok(())
}

/// The answer is whole. Who was to send a body only if it was asked for has its word, and may never send one: the exchange, and its place at
/// the endpoint, are not kept for that. A stream gives up nothing but itself, so it may take its time.
fn expect_nothing(ctx: &Ctx, now: Instant) {
    if ctx.expects && !ctx.asked && ctx.received == 0 && ctx.connection.stream.is_none() {
        ctx.connection.clock.await_nothing(now);
    }
}

pub(super) fn trailers(trailers: &mut http::HeaderMap, ctx: &mut Ctx) -> Result<()> {
    if let Some(route) = &ctx.route
        && let Err(error) = route.chain.response_trailers(&mut ctx.run, &mut TrailerFields(trailers), &mut ctx.exchange)
    {
        ctx.run.give_up();
        return Err(ended(ctx, error));
    }
    Ok(())
}

fn open_tunnel(session: &mut Session, ctx: &mut Ctx) {
    ctx.tunnel = true;
    // It may last for hours, and costs what a connection costs.
    ctx.admitted = None;
    ctx.connection.clock.respond();
    ctx.connection.clock.unlimit_exchange();
    ctx.connection.clock.await_tunnel(ctx.connection.tunnel_idle, Instant::now());
    // Pingora's read timeout for requests would end a quiet tunnel after a minute: the clock keeps its time, both ways.
    session.as_downstream_mut().set_read_timeout(None);
}

/// `replaced`: Pingora puts a `Connection` of ours in the place of the endpoint's, which is cheaper than to take that away first.
pub(super) fn strip_hop_by_hop(head: &mut ResponseHeader, replaced: bool) {
    // One walk over the few fields that there are is cheaper than asking for each that must not be there.
    let (mut connection, mut others) = (false, false);
    for name in head.headers.keys() {
        if *name == CONNECTION {
            connection = true;
        } else {
            others |= HOP_BY_HOP.contains(&name.as_str());
        }
    }
    if connection {
        strip_nominated(head);
        if !replaced {
            head.remove_header(&CONNECTION);
        }
    }
    if others {
        for name in HOP_BY_HOP {
            head.remove_header(name);
        }
    }
}

/// Takes away what `Connection` nominates. The framing is never a matter of one connection.
fn strip_nominated(head: &mut ResponseHeader) {
    const KEPT: [&str; 8] =
        ["content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
    // What nearly all say, who say anything.
    let usual = |value: &HeaderValue| matches!(value.as_bytes(), b"keep-alive" | b"close");
    if head.headers.get_all(CONNECTION).iter().all(usual) {
        return;
    }
    let kept = |option: &str| KEPT.iter().any(|name| name.eq_ignore_ascii_case(option));
    let nominated = connection_options(&head.headers).filter(|option| !kept(option));
    for name in nominated.map(str::to_owned).collect::<Vec<_>>() {
        head.remove_header(name.as_str());
    }
}

/// Says how the body ends in a way that this client understands, after filters had their say, if there were any.
fn frame(session: &mut Session, head: &mut ResponseHeader, filtered: bool) -> Result<()> {
    if session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    let request = session.req_header();
    let bodiless = request.method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
    // The version is this hop's, whatever the endpoint speaks (RFC 9110 §2.5).
    head.set_version(Version::HTTP_11);
    strip_framing(head);
    match request.version {
        Version::HTTP_10 | Version::HTTP_09 if !bodiless && !head.headers.contains_key(CONTENT_LENGTH) => {
            // Chunks are unknown there: the body ends with the connection.
            head.remove_header(&TRANSFER_ENCODING);
            session.set_keepalive(None);
        }
        Version::HTTP_11
            if !bodiless && !head.headers.contains_key(CONTENT_LENGTH) && !head.headers.contains_key(TRANSFER_ENCODING) =>
        {
            head.insert_header(TRANSFER_ENCODING, "chunked")?;
        }
        _ => {}
    }
    if filtered && head.status != StatusCode::SWITCHING_PROTOCOLS {
        head.remove_header(&UPGRADE);
    }
    Ok(())
}

/// What Pingora says of an exchange that failed, in Ravelin's words.
pub(super) fn diagnose(error: &PingoraError) -> Error {
    use pingora_core::ErrorSource;
    use pingora_core::ErrorType::{
        ConnectError, ConnectNoRoute, ConnectProxyFailure, ConnectRefused, ConnectTimedout, ConnectionClosed, H1Error, H2Error,
        InvalidH2, InvalidHTTPHeader, ReadError, ReadTimedout, SocketError, TLSHandshakeFailure, TLSHandshakeTimedout,
        WriteError, WriteTimedout,
    };
    if lacks_descriptors(error) {
        return Error::new(503, Party::Operator, "no_descriptors").with_message(error.to_string());
    }
    if let Some(refused) = followed::refusal(error) {
        return refused.into();
    }
    let upstream = |status, reason| Error::new(status, Party::Upstream, reason);
    let failure = match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed | H2Error) => {
            Error::new(400, Party::Client, "client_gone")
        }
        (ErrorSource::Downstream, ReadTimedout) => Error::new(408, Party::Client, "body_timeout"),
        (ErrorSource::Downstream, WriteTimedout) => Error::new(408, Party::Client, "client_stalls"),
        (ErrorSource::Downstream, _) => Error::new(400, Party::Client, "bad_request"),
        (ErrorSource::Upstream, kind) if *kind == NO_HTTP2 => upstream(502, "no_http2"),
        (ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => upstream(504, "connect_timeout"),
        (ErrorSource::Upstream, ConnectRefused) => upstream(502, "connect_refused"),
        (ErrorSource::Upstream, ConnectError | ConnectNoRoute | ConnectProxyFailure | SocketError | TLSHandshakeFailure) => {
            upstream(502, "connect_failed")
        }
        (ErrorSource::Upstream, ReadTimedout) => upstream(504, "response_timeout"),
        (ErrorSource::Upstream, WriteTimedout) => upstream(504, "write_timeout"),
        (ErrorSource::Upstream, ConnectionClosed | ReadError | WriteError) => upstream(502, "connection_broken"),
        (ErrorSource::Upstream, InvalidHTTPHeader | H1Error | H2Error | InvalidH2) => upstream(502, "invalid_response"),
        (ErrorSource::Upstream, _) => upstream(502, "upstream_failed"),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Error::internal(""),
    };
    failure.with_message(error.to_string())
}

/// Whether the process, or the system, has no descriptor left: nobody else is to blame, and another endpoint is no way out.
pub(super) fn lacks_descriptors(error: &PingoraError) -> bool {
    let error = error.root_cause().downcast_ref::<std::io::Error>().and_then(rustix::io::Errno::from_io_error);
    matches!(error, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
