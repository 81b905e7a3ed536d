//! `mirror`: a copy of a request goes to another upstream, and what that answers is dropped.
//!
//! The request itself never waits for its copy, nor fails by it. A copy is made of what the first try sends: its head when that is
//! made, its body as it passes. Once it is whole it goes its own way, in a task of its own, of which there are so many at most
//! (`runtime::Mirror`). What can't be copied is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::{Error as PingoraError, ErrorType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::filter::Error;
use crate::observe::Mirrored;
use crate::proxy::connect::{self, Dialer};
use crate::proxy::followed::{self, Try};
use crate::proxy::head::{authority, set_host, strip_hop_by_hop};
use crate::proxy::outcome::{connecting, of_error};
use crate::proxy::response::lacks_descriptors;
use crate::proxy::session::{Carrier, Own};
use crate::proxy::upstream::parties;
use crate::proxy::{Ctx, Proxy, Result, affinity};
use crate::runtime::{Matched, Place};
use crate::upstream::{Attempt, Endpoint, Outcome, Parties, Upstream, Wish};

/// Bytes of a body at most: of a request with a larger one there is no copy.
const BODY_MAX: usize = 64 * 1024;
/// Bytes of an answer that are read, so that the connection can be used again.
const ANSWER_MAX: usize = 1024 * 1024;
/// However long its steps may take: no copy lives longer, waiting included.
const LIFE: Duration = Duration::from_secs(60);
/// Marks a copy.
const MARK: &str = "x-ravelin-mirror";

/// What opens the connections of copies, and keeps them: they have nothing to do with those of requests.
#[derive(Clone)]
pub(super) struct Mirrors {
    dialer: Dialer,
    connector: Arc<Connector<Dialer>>,
}

impl Mirrors {
    pub(super) fn new(settings: &ServerConf) -> Self {
        let dialer = Dialer::new(settings);
        let connector = Connector::new_custom(Some(ConnectorOptions::from_server_conf(settings)), dialer.clone());
        Self { dialer, connector: Arc::new(connector) }
    }
}

/// A copy that is being made.
pub(super) struct Copy {
    head: Box<RequestHeader>,
    body: Vec<Bytes>,
    length: usize,
    /// What decides on its endpoint, where the mirror's upstream asks for it.
    key: Option<u64>,
    /// Whose request it is, where its endpoint is told.
    parties: Parties,
    place: Place,
}

/// Begins the copy of a request, if there is to be one.
pub(super) fn begin(session: &Session, ctx: &mut Ctx, proxy: &Proxy) {
    let Some(route) = ctx.route.clone() else { return };
    let Some(mirror) = &route.mirror else { return };
    // Whichever try is the first to find a connection.
    if std::mem::replace(&mut ctx.mirrored, true) || !mirror.draws(fastrand::u64(..)) {
        return;
    }
    if session.as_downstream().is_upgrade_req() {
        return route.meter.mirrored(Mirrored::Skipped);
    }
    let Some(place) = mirror.queue() else { return route.meter.mirrored(Mirrored::Dropped) };
    let head = session.req_header();
    let key = affinity::key(&mirror.upstream, &ctx.exchange.target, &head.headers, ctx.exchange.client.ip());
    let parties = parties(session, ctx);
    match head_of(head, ctx, proxy) {
        Ok(head) => ctx.copy = Some(Copy { head: Box::new(head), body: Vec::new(), length: 0, key, parties, place }),
        Err(_) => route.meter.mirrored(Mirrored::Skipped),
    }
}

/// As the client sent it and filters left it.
fn head_of(head: &RequestHeader, ctx: &Ctx, proxy: &Proxy) -> std::result::Result<RequestHeader, Error> {
    let mut copy = head.clone();
    strip_hop_by_hop(&mut copy);
    copy.remove_header(&EXPECT);
    copy.set_version(http::Version::HTTP_11);
    if let Some(who) = &ctx.who_asks {
        who.put_in(&mut copy)?;
    }
    let via = proxy.via.extended(&copy.headers, head.version);
    let invalid = |_| Error::internal("");
    copy.insert_header("via", via).map_err(invalid)?;
    copy.insert_header(MARK, "1").map_err(invalid)?;
    let host = authority(head).into_owned();
    if !host.is_empty() {
        set_host(&mut copy, &host)?;
    }
    Ok(copy)
}

/// A piece of the request goes out.
pub(super) fn piece(body: Option<&Bytes>, end: bool, ctx: &mut Ctx, proxy: &Proxy) {
    let Some(copy) = &mut ctx.copy else { return };
    if let Some(body) = body.filter(|body| !body.is_empty()) {
        copy.length += body.len();
        copy.body.push(body.clone());
    }
    let Some(route) = &ctx.route else { return };
    if copy.length > BODY_MAX {
        ctx.copy = None;
        route.meter.mirrored(Mirrored::Skipped);
    } else if end && let Some(copy) = ctx.copy.take() {
        tokio::spawn(go(copy, route.clone(), proxy.mirrors.clone()));
    }
}

/// The request is sent anew, and its body passes once more.
pub(super) fn restart(copy: &mut Option<Copy>) {
    if let Some(copy) = copy {
        copy.body.clear();
        copy.length = 0;
    }
}

/// What becomes of a copy.
async fn go(copy: Copy, route: Matched, mirrors: Mirrors) {
    let Some(mirror) = &route.mirror else { return };
    let sent = tokio::time::timeout(LIFE, async {
        let _turn = copy.place.turn().await;
        // It counts at its endpoint as any other request does: what is under way, limits, failures.
        match mirror.upstream.try_engage(&[], Wish { key: copy.key, at: None }, Instant::now()) {
            Ok(Some(attempt)) => asked(&copy, &mirror.upstream, attempt, &mirrors).await,
            Ok(None) => Mirrored::Dropped,
            Err(_) => Mirrored::Skipped,
        }
    });
    route.meter.mirrored(sent.await.unwrap_or(Mirrored::Failed));
}

async fn asked(copy: &Copy, upstream: &Upstream, mut attempt: Attempt, mirrors: &Mirrors) -> Mirrored {
    let endpoint = attempt.endpoint().clone();
    endpoint.meter().selected();
    let sent = followed::scope(connect::scope(send(copy, upstream, &endpoint, &mut attempt, mirrors))).await;
    let Err((error, outcome)) = sent else { return Mirrored::Sent };
    log::debug!("a copy failed endpoint={endpoint} error={error}");
    if let Some(outcome) = outcome {
        attempt.ended(outcome, Instant::now());
    }
    Mirrored::Failed
}

/// Why a copy failed, and what that says of its endpoint.
type Broken = (Box<PingoraError>, Option<Outcome>);

async fn send(
    copy: &Copy,
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    attempt: &mut Attempt,
    mirrors: &Mirrors,
) -> std::result::Result<(), Broken> {
    let ours = |error| (error, None);
    let theirs = |error: Box<PingoraError>| {
        let error = error.into_up();
        let outcome = of_error(&error);
        (error, outcome)
    };
    let mut head = copy.head.clone();
    let named = !authority(&head).is_empty();
    if let Some(host) = upstream.host_for(endpoint).or_else(|| (!named).then(|| endpoint.host())) {
        set_host(&mut head, host).map_err(|error| ours(PingoraError::because(ErrorType::InternalError, "", error)))?;
    }
    head.remove_header(&TRANSFER_ENCODING);
    if copy.length > 0 || head.headers.contains_key(CONTENT_LENGTH) {
        head.insert_header(CONTENT_LENGTH, copy.length).map_err(ours)?;
    }
    let mut peer = Box::new(endpoint.peer().clone());
    mirrors.dialer.direct(&mut peer, endpoint, copy.parties, false).await;
    followed::begin(Try { number: (fastrand::u128(..), 0), to_head: head.method == Method::HEAD, upgrade: false });
    let carrier = mirrors.connector.get_http_session(&*peer).await.and_then(|(session, _)| Carrier::of(session));
    let mut carrier = carrier.map_err(|error| {
        if lacks_descriptors(&error) {
            return ours(error);
        }
        endpoint.meter().connect_failed();
        let outcome = connecting(&error);
        (error, Some(outcome))
    })?;
    // There is one limit for head and body.
    carrier.set_timeouts(endpoint.read_timeout(), endpoint.peer().options.write_timeout);
    carrier.wait_for(endpoint.read_timeout());
    let whole = match exchange(copy, head, &mut carrier, attempt).await {
        Ok(whole) => whole,
        Err(error) => {
            carrier.give_up();
            return Err(theirs(error));
        }
    };
    if whole {
        let idle = peer.options.idle_timeout;
        let own = Own::ahead(carrier, peer.clone(), mirrors.connector.clone());
        mirrors.connector.release_http_session(HttpSession::Custom(own), &*peer, idle).await;
    }
    Ok(())
}

/// Asks, and reads the answer. Says whether it was read to its end.
async fn exchange(copy: &Copy, head: Box<RequestHeader>, carrier: &mut Carrier, attempt: &mut Attempt) -> Result<bool> {
    let body = match copy.body.as_slice() {
        [] => None,
        [piece] => Some(piece.clone()),
        pieces => Some(pieces.concat().into()),
    };
    carrier.ask(head, body.as_ref()).await?;
    while (100..200).contains(&carrier.status()) {
        carrier.read_head().await?;
    }
    attempt.ended(Outcome::Answered(carrier.status()), Instant::now());
    let mut read = 0;
    while let Some(piece) = carrier.read_body().await? {
        read += piece.len();
        if read > ANSWER_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Counts a copy whose request ended before it was whole.
pub(super) fn give_up(ctx: &mut Ctx) {
    if let (Some(_), Some(route)) = (ctx.copy.take(), &ctx.route) {
        route.meter.mirrored(Mirrored::Skipped);
    }
}
