//! A second endpoint beside one that is slow (`retry.hedge`), on the general way. (The express lane has its own, over bytes.)
//!
//! Pingora asks one endpoint at a time. So requests of an upstream that hedges are sent ahead, where an endpoint would be picked, to one
//! and, when it takes long, to another beside it; and whoever answered first is handed to Pingora as a session of ours whose request has been
//! written and whose head has been read. From there on it is an answer like any other. Its connection goes back to a pool of these
//! requests alone; the other's is closed.
//!
//! A 5xx is no answer while the other may still give a better one; neither is a connection that breaks.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Version;
use http::header::{CONTENT_LENGTH, TE, TRANSFER_ENCODING};
use pingora_core::Error as PingoraError;
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::filter::Error;
use crate::observe::Connect;
use crate::proxy::connect::{self, Dialer};
use crate::proxy::head::{authority, set_host, strip_hop_by_hop};
use crate::proxy::outcome::{ended, of_error};
use crate::proxy::response::lacks_descriptors;
use crate::proxy::retry::{self, hedge_takes_over};
use crate::proxy::session::{Carrier, Own};
use crate::proxy::upstream::{
    await_response, connect_failed, connected, ended as over, exchange_failed, parties, prepare, tuned,
};
use crate::proxy::{Ctx, Expired, Proxy, Result, affinity};
use crate::upstream::{Attempt, Endpoint, Outcome, Parties};

/// What opens the connections of these requests, and keeps them.
pub(super) type Hedges = Arc<Connector<Dialer>>;

/// Whether a request is sent ahead: it may go to two endpoints, and all of it is here.
pub(super) fn applies(session: &mut Session, ctx: &Ctx) -> bool {
    if ctx.first_began.is_none() || session.is_upgrade_req() || session.as_ref().retry_buffer_truncated() {
        return false;
    }
    if session.as_downstream_mut().is_body_empty() {
        return true;
    }
    // A filter has read it, and no filter is to see it as it passes.
    let seen = ctx.route.as_ref().is_some_and(|route| route.chain.sees_request_body());
    !seen && session.as_downstream_mut().is_body_done() && session.as_downstream().get_retry_buffer().is_some()
}

/// What is sent to an endpoint, and over what.
struct Question {
    endpoint: Arc<Endpoint>,
    peer: Box<HttpPeer>,
    parties: Parties,
    head: Box<RequestHeader>,
    body: Option<Bytes>,
}

/// A connection, how it was come by, and since when it is there.
struct Reached {
    carrier: Carrier,
    connect: Connect,
    since: Instant,
}

type Asking = BoxFuture<'static, (Result<Reached>, Box<HttpPeer>)>;

/// Why a second endpoint is of no use.
enum Broken {
    ByEndpoint(Outcome),
    Otherwise,
}

/// Asks the endpoint that was picked, and another one should it be slow.
pub(super) async fn ask(session: &mut Session, ctx: &mut Ctx, proxy: &Proxy, mut peer: Box<HttpPeer>) -> Result<Own> {
    let Some(endpoint) = ctx.exchange.endpoint.clone() else { return Err(over(ctx, Error::internal("no endpoint was chosen"))) };
    let parties = parties(session, ctx);
    let reached = match reach(&proxy.hedges, &proxy.dialer, &endpoint, &mut peer, parties).await {
        Ok(reached) => reached,
        Err(mut error) => {
            error.as_up();
            return Err(connect_failed(session, ctx, error, proxy.max_tries));
        }
    };
    let reused = matches!(reached.connect, Connect::Reused);
    connected(session, reused, ctx);
    let head = head_for(session, ctx, proxy).await.map_err(|error| over(ctx, error))?;
    let body = session.as_downstream().get_retry_buffer().filter(|body| !body.is_empty());
    ctx.asked = true;
    await_response(ctx, body.is_some());
    let question = Question { endpoint, peer, parties, head, body: body.clone() };
    let mut first: Asking = put(question, Ok(reached)).boxed();
    let early = loop {
        let after = retry::hedge_after(ctx, true, Instant::now());
        let slow = async {
            match after {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answered = &mut first => break Some(answered),
            read = session.as_downstream_mut().read_body_or_idle(true) => {
                if let Err(error) = read {
                    return Err(exchange_failed(session, error.into_down(), ctx, reused, proxy.max_tries));
                }
            }
            () = slow => break None,
        }
    };
    if let Some((answered, peer)) = early {
        return match answered {
            Ok(Reached { carrier, .. }) => Ok(Own::ahead(carrier, peer, proxy.hedges.clone())),
            Err(error) => Err(exchange_failed(session, error.into_up(), ctx, reused, proxy.max_tries)),
        };
    }
    let second = second(session, ctx, proxy, body).await.map_err(|error| over(ctx, error))?;
    race(session, ctx, proxy, (first, reused), second).await
}

/// Begins to ask another endpoint, if one may be asked.
async fn second(
    session: &mut Session,
    ctx: &mut Ctx,
    proxy: &Proxy,
    body: Option<Bytes>,
) -> std::result::Result<Option<(Attempt, Asking)>, Error> {
    let Some(upstream) = ctx.exchange.upstream.clone() else { return Ok(None) };
    let (wish, _) = affinity::wish(&upstream, &ctx.exchange.target, &session.req_header().headers, ctx.exchange.client.ip());
    let Some(attempt) = retry::hedge(ctx, wish, proxy.max_tries) else { return Ok(None) };
    let endpoint = attempt.endpoint().clone();
    let first = ctx.exchange.endpoint.replace(endpoint.clone());
    let head = head_for(session, ctx, proxy).await;
    ctx.exchange.endpoint = first;
    let (peer, parties) = (tuned(session, ctx, &endpoint), parties(session, ctx));
    // The endpoints' time begins anew, for both.
    ctx.try_began = Some(Instant::now());
    await_response(ctx, true);
    let mut question = Question { endpoint, peer, parties, head: head?, body };
    let (connector, dialer) = (proxy.hedges.clone(), proxy.dialer.clone());
    let asking = async move {
        let reached = reach(&connector, &dialer, &question.endpoint, &mut question.peer, question.parties).await;
        put(question, reached.map_err(PingoraError::into_up)).await
    };
    Ok(Some((attempt, asking.boxed())))
}

/// Waits for the first answer of two.
async fn race(
    session: &mut Session,
    ctx: &mut Ctx,
    proxy: &Proxy,
    (mut first, reused): (Asking, bool),
    second: Option<(Attempt, Asking)>,
) -> Result<Own> {
    let (mut attempt, mut asking) = second.map_or((None, None), |(attempt, asking)| (Some(attempt), Some(asking)));
    let mut failed = false;
    let ahead = |carrier, peer| Own::ahead(carrier, peer, proxy.hedges.clone());
    loop {
        let other = async {
            match &mut asking {
                Some(asking) => asking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            (answered, peer) = &mut first, if !failed => {
                match answered {
                    Ok(Reached { carrier, .. }) if attempt.is_none() || speaks_for_it(&carrier) => return Ok(ahead(carrier, peer)),
                    Ok(Reached { carrier, .. }) => ended(ctx, Outcome::Answered(carrier.status()), Instant::now()),
                    Err(error) if attempt.is_none() => {
                        return Err(exchange_failed(session, error.into_up(), ctx, reused, proxy.max_tries));
                    }
                    Err(error) => {
                        if let Some(outcome) = of_error(&error.into_up()) {
                            ended(ctx, outcome, Instant::now());
                        }
                    }
                }
                failed = true;
            }
            (answered, peer) = other => {
                asking = None;
                match answered {
                    Ok(reached) if failed || speaks_for_it(&reached.carrier) => {
                        if let Some(upstream) = &ctx.exchange.upstream {
                            upstream.meter().hedge_won();
                        }
                        ctx.exchange.notes.push("hedged: the second endpoint answered first".into());
                        if let Some(attempt) = attempt.take() {
                            hedge_takes_over(ctx, attempt, failed);
                        }
                        ctx.timing.connect = Some(reached.connect);
                        ctx.step = Some(reached.since);
                        return Ok(ahead(reached.carrier, peer));
                    }
                    answered => {
                        let broken = match answered {
                            Ok(reached) => Broken::ByEndpoint(Outcome::Answered(reached.carrier.status())),
                            Err(error) if lacks_descriptors(&error) => Broken::Otherwise,
                            Err(error) if failed => {
                                // It was the last.
                                if let Some(attempt) = attempt.take() {
                                    hedge_takes_over(ctx, attempt, true);
                                }
                                return Err(exchange_failed(session, error.into_up(), ctx, false, proxy.max_tries));
                            }
                            Err(error) => of_error(&error.into_up()).map_or(Broken::Otherwise, Broken::ByEndpoint),
                        };
                        if let Some(mut attempt) = attempt.take() {
                            if let Broken::ByEndpoint(outcome) = broken {
                                attempt.ended(outcome, Instant::now());
                            }
                            ctx.tried.push(attempt.endpoint().address().clone());
                        }
                        if failed {
                            return Err(over(ctx, Error::internal("no connection could be opened")));
                        }
                    }
                }
            }
            read = session.as_downstream_mut().read_body_or_idle(true) => {
                let Err(error) = read else { continue };
                let late = matches!(ctx.connection.clock.expired(), Some(Expired::Response | Expired::Try));
                if let Some(mut attempt) = attempt.take() {
                    if late {
                        // It was the time of both.
                        attempt.ended(Outcome::Timeout, Instant::now());
                        ctx.tried.push(attempt.endpoint().address().clone());
                    }
                    if failed {
                        hedge_takes_over(ctx, attempt, true);
                    }
                }
                return Err(exchange_failed(session, error.into_down(), ctx, false, proxy.max_tries));
            }
        }
    }
}

/// Whether an answer may be the one.
fn speaks_for_it(carrier: &Carrier) -> bool {
    carrier.status() < 500
}

/// A connection that waits, or a new one.
async fn reach(
    connector: &Connector<Dialer>,
    dialer: &Dialer,
    endpoint: &Arc<Endpoint>,
    peer: &mut HttpPeer,
    parties: Parties,
) -> Result<Reached> {
    // Of its own: two may be opened at once for one request.
    connect::scope(async {
        let began = Instant::now();
        dialer.direct(peer, endpoint, parties, false).await;
        let (session, reused) = connector.get_http_session(&*peer).await?;
        let carrier = Carrier::of(session)?;
        let since = Instant::now();
        let connect = if reused { Connect::Reused } else { Connect::Opened(since.duration_since(began)) };
        Ok(Reached { carrier, connect, since })
    })
    .await
}

/// Sends the request, and waits for the first head of an answer.
async fn put(question: Question, reached: Result<Reached>) -> (Result<Reached>, Box<HttpPeer>) {
    let Question { endpoint, peer, head, body, .. } = question;
    let answered = async {
        let mut reached = reached?;
        let write = match reached.carrier {
            Carrier::Http1(_) => peer.options.write_timeout,
            Carrier::Http2(_) => endpoint.peer().options.write_timeout,
        };
        reached.carrier.set_timeouts(peer.options.read_timeout, write);
        reached.carrier.ask(head, body.as_ref()).await?;
        Ok(reached)
    };
    (answered.await, peer)
}

/// The head that this try sends, over HTTP/1.1 or, once it has been addressed so, HTTP/2.
async fn head_for(session: &mut Session, ctx: &mut Ctx, proxy: &Proxy) -> std::result::Result<Box<RequestHeader>, Error> {
    let mut head = session.req_header().clone();
    let host = authority(&head).into_owned();
    // Of a stream it is `trailers` or nothing, which gRPC asks for.
    let te = head.headers.get(TE).filter(|_| head.version == Version::HTTP_2).cloned();
    strip_hop_by_hop(&mut head);
    head.remove_header(&TRANSFER_ENCODING);
    if let Some(te) = te {
        head.insert_header(TE, te).map_err(|error| Error::internal("").with_message(error.to_string()))?;
    }
    head.set_version(Version::HTTP_11);
    if !host.is_empty() {
        set_host(&mut head, &host)?;
    }
    prepare(session, &mut head, ctx, proxy).await?;
    // How the body ends is not for filters to say.
    match session.as_downstream().get_retry_buffer().filter(|body| !body.is_empty()) {
        Some(body) => {
            head.insert_header(CONTENT_LENGTH, body.len()).map_err(|error| Error::internal("").with_message(error.to_string()))?
        }
        None if head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") => _ = head.remove_header(&CONTENT_LENGTH),
        None => {}
    }
    head.remove_header(&TRANSFER_ENCODING);
    Ok(Box::new(head))
}
