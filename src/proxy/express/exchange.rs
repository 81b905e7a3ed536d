//! One exchange in the lane: decided, asked, answered and recorded, over bytes.

mod address;
mod answer;
mod ask;
mod asking;
mod hedge;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};

use super::classify::{Admitted, Seen};
use super::head::Head;
use super::response::Response;
use super::spare;
use super::table::options;
use super::wire::{Outgoing, poll_read_with};
use super::{self as lane, Downstream, Express, Framing};
use crate::filter::{Error, Party, Reply};
use crate::observe::{Connect, Timing};
use crate::proxy::bounds::REST_TIMEOUT;
use crate::proxy::ctx::{Connection, Ctx};
use crate::proxy::failure::missed;
use crate::proxy::forwarded::Believed;
use crate::proxy::judge::Refused;
use crate::proxy::log::close;
use crate::proxy::outcome::{connecting, ended, expired};
use crate::proxy::reply::OVERLOADED;
use crate::proxy::request::{Act, act};
use crate::proxy::response::{diagnose, lacks_descriptors};
use crate::proxy::retry::{Circumstances, once_more};
use crate::proxy::upstream::{await_response, refused, spare_all_but_the_last};
use crate::proxy::{Expired, affinity};
use crate::runtime::Action;
use crate::upstream::{Attempt, Endpoint, Outcome, Parties, Wire, Wish};
use address::{address, claim, strip_claims};
use answer::Answered;
use ask::Ask;
use asking::Asking;

/// So often a body is read before others on the thread have their turn.
const TURN: usize = 16;
/// As much of a body is kept to be sent once more.
const REPLAY: usize = 64 * 1024;

/// An exchange.
pub(super) struct Passage<'a, D> {
    pub(super) express: &'a Express,
    pub(super) client: &'a mut D,
    pub(super) ctx: Ctx,
    pub(super) head: Head,
    seen: Seen,
    believed: Option<Believed>,
    pub(super) ask: Ask,
    /// What of it decides on its endpoint, once that has been asked.
    wish: Option<Wish>,
    /// It holds what endpoints are told.
    addressed: bool,
    /// To the client.
    pub(super) out: Outgoing,
    /// Read from the endpoint, and not yet a head.
    come: Vec<u8>,
    /// The client closes after this exchange.
    pub(super) closes: bool,
    /// The status of the head that the client has.
    pub(super) written: Option<u16>,
    /// It has an informational one.
    informed: bool,
}

/// What broke an exchange.
struct Broken {
    error: Error,
    /// `None`: it is over, whoever did it.
    how: Option<How>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    ByEndpoint(Outcome),
    /// The client left, or a deadline passed.
    ByClient,
    /// What was answered is given up for another try.
    GivenUp,
}

impl<'a, D: Downstream> Passage<'a, D> {
    pub(super) fn new(express: &'a Express, client: &'a mut D, connection: Arc<Connection>, admitted: Admitted) -> Self {
        let Admitted { version, framing, exchange, route, head, seen, believed, user_agent, referer } = admitted;
        let closes = seen.connection && options(&head.fields).any(|option| option.eq_ignore_ascii_case(b"close"));
        let mut ctx = Ctx::of(connection, exchange);
        ctx.user_agent = user_agent;
        ctx.referer = referer;
        ctx.version = version;
        ctx.route = Some(route);
        Self {
            express,
            client,
            ctx,
            head,
            seen,
            believed,
            ask: Ask::new(framing),
            wish: None,
            addressed: false,
            out: Outgoing::default(),
            come: Vec::new(),
            closes,
            written: None,
            informed: false,
        }
    }

    pub(super) async fn run(&mut self) -> lane::Outcome {
        if self.ctx.connection.last {
            self.closes = true;
        }
        let decision = self.decide().await;
        let now = Instant::now();
        self.ctx.timing.routed = Some(now.duration_since(self.ctx.exchange.started));
        self.ctx.step = Some(now);
        let outcome = match decision {
            Ok(None) => match self.forward().await {
                Ok(()) => Ok(()),
                // What is rare has memory of its own.
                Err(error) => return Box::pin(self.fail(error)).await,
            },
            Ok(Some(reply)) => Box::pin(self.answer(reply)).await,
            Err(error) => {
                let error = self.ctx.connection.clock.expired().map_or(error, missed);
                Box::pin(self.answer_error(error)).await
            }
        };
        let keeps = outcome.is_ok() && !self.closes && (self.is_over() || Box::pin(self.is_heard_out()).await);
        self.finish();
        if keeps { lane::Outcome::Keep } else { lane::Outcome::Close }
    }

    /// Whether the whole request was read.
    fn is_over(&self) -> bool {
        self.ask.left.is_none() && !self.ask.refused
    }

    /// Likewise, or it is now.
    async fn is_heard_out(&mut self) -> bool {
        if self.ask.left.is_none() {
            return self.is_over();
        }
        let rest = poll_fn(|cx| {
            while self.ask.left.is_some() {
                self.ask.out = Outgoing::default();
                std::task::ready!(self.poll_body(cx))?;
            }
            Poll::Ready(Ok::<(), Broken>(()))
        });
        matches!(tokio::time::timeout(REST_TIMEOUT, rest).await, Ok(Ok(())))
    }

    fn finish(&mut self) {
        self.ctx.exchange.status = self.written;
        close(&mut self.ctx);
    }

    /// `Ok(None)`: it goes to an upstream.
    async fn decide(&mut self) -> Result<Option<Reply>, Error> {
        // Borrowed, so that threads don't meet at the snapshot's counter once more.
        let Self { express, client, ctx, head, ask, seen, believed, closes, .. } = self;
        let Ctx { connection, route, run, exchange, admitted, received, own_answer, stick, .. } = &mut *ctx;
        let Some(route) = route.as_ref() else { return Err(Error::internal("no route")) };
        *admitted = express.common.load.enter(route.overload(), route.priority);
        if admitted.is_none() {
            run.give_up();
            *closes = true;
            return Err(Error::new(503, Party::Us, OVERLOADED));
        }
        if let Some(limit) = route.timeout {
            connection.clock.limit_exchange(limit, exchange.started);
        }
        strip_claims(head, seen, route.claims());
        if route.chain.sees_request() {
            claim(head, seen, believed.as_ref(), connection.client.ip(), exchange.scheme);
            let mut asking = Asking { head, client: &mut **client, ask, received };
            let reply = route.chain.request(run, &mut asking, exchange).await?;
            if reply.is_some() || exchange.upstream.is_some() {
                *own_answer = reply.as_ref().map(|_| "filter");
                return Ok(reply);
            }
        } else {
            route.chain.enter(run);
        }
        // Only a split looks at fields, for a cookie.
        let fields = if matches!(route.action, Action::Split(_)) { head.fields.map() } else { HeaderMap::new() };
        Ok(match act(&route.action, &fields, exchange, |bound| fastrand::u64(..bound.max(1)))? {
            Act::Forward(cookie) => {
                *stick = cookie;
                None
            }
            Act::Answer(word, reply) => {
                *own_answer = Some(word);
                Some(reply)
            }
        })
    }

    /// Asks endpoints until one answers.
    async fn forward(&mut self) -> Result<(), Error> {
        loop {
            if let Some(wait) = self.ctx.tries.wait() {
                tokio::time::sleep(wait).await;
            }
            let endpoint = self.select().await?;
            let parties = self.parties(&endpoint);
            let began = self.ctx.step.unwrap_or(self.ctx.exchange.started);
            let (mut up, mut reused) = match endpoint.take_idle(parties.as_ref(), began) {
                Some(up) => (up, true),
                None => match Box::pin(self.connect(&endpoint, parties)).await {
                    Ok(up) => (up, false),
                    Err(mut error) => {
                        error.as_up();
                        if self.connect_failed(&endpoint, &error) {
                            continue;
                        }
                        return Err(diagnose(&error));
                    }
                },
            };
            self.connected(reused);
            self.prepare(&endpoint).await?;
            match self.exchange(&mut up, &mut reused).await {
                Ok((Answered::Passed, reusable)) => {
                    if reusable && let Some(endpoint) = &self.ctx.exchange.endpoint {
                        endpoint.keep_idle(up, parties.as_ref(), self.ctx.step.unwrap_or(began), &self.express.room);
                    }
                    return Ok(());
                }
                Ok((Answered::Replaced(reply), _)) => {
                    self.closes = true;
                    return Box::pin(self.send(reply)).await;
                }
                Err(broken) => {
                    if !self.exchange_failed(&broken, reused) {
                        return Err(broken.error);
                    }
                    // It counts at the endpoint until it is dropped, and the next one may have to wait.
                    self.ctx.attempt = None;
                }
            }
        }
    }

    /// Opens a connection.
    async fn connect(&self, endpoint: &Endpoint, parties: Option<Parties>) -> pingora_core::Result<Wire> {
        let of_try = self.ctx.exchange.upstream.as_ref().and_then(|upstream| upstream.retries().try_timeout());
        open(self.express, endpoint, parties, of_try).await
    }

    /// Whom the endpoint is told that a connection is for, where it is told.
    fn parties(&self, endpoint: &Endpoint) -> Option<Parties> {
        endpoint.link().proxy?;
        Some(Parties { client: self.ctx.exchange.client.address, listener: self.client.facing() })
    }

    /// Picks an endpoint for this try, once one has room.
    async fn select(&mut self) -> Result<Arc<Endpoint>, Error> {
        let ctx = &mut self.ctx;
        ctx.connection.clock.clear_step();
        let Some(upstream) = &ctx.exchange.upstream else { return Err(Error::internal("no upstream was chosen")) };
        spare_all_but_the_last(upstream, &mut ctx.tried);
        // Known from the first try on: what is added to the head for endpoints has no part in it.
        let wish = match self.wish {
            Some(wish) => wish,
            None if upstream.hash_key().is_none() && upstream.seal().is_none() => Wish::default(),
            None => {
                let (wish, stay) =
                    affinity::wish(upstream, &ctx.exchange.target, &self.head.fields.map(), ctx.exchange.client.ip());
                ctx.stay = stay;
                *self.wish.insert(wish)
            }
        };
        let began = ctx.step.take_if(|_| ctx.exchange.tries == 0).unwrap_or_else(Instant::now);
        let attempt = match upstream.try_engage(&ctx.tried, wish, began) {
            Ok(Some(attempt)) => Ok(attempt),
            Ok(None) => Box::pin(upstream.wait(&ctx.tried)).await,
            Err(refusal) => Err(refusal),
        };
        let attempt = attempt.map_err(|refusal| refused(upstream.name(), refusal))?;
        // A time in line is none of the try's.
        let began = attempt.began();
        let endpoint = attempt.endpoint().clone();
        endpoint.meter().selected();
        ctx.exchange.tries += 1;
        if ctx.exchange.tries == 1 {
            upstream.meter().began();
            ctx.first_began = upstream.retries().hedges(ctx.exchange.target.method()).then_some(began);
        }
        ctx.step = Some(began);
        ctx.try_began = Some(began);
        ctx.attempt = Some(attempt);
        ctx.exchange.endpoint = Some(endpoint.clone());
        ctx.timing = Timing { routed: ctx.timing.routed, ..Timing::default() };
        Ok(endpoint)
    }

    /// A connection could not be opened: nothing was sent, so another endpoint may be asked whatever the method.
    fn connect_failed(&mut self, endpoint: &Endpoint, error: &pingora_core::Error) -> bool {
        if lacks_descriptors(error) {
            return false;
        }
        endpoint.meter().connect_failed();
        let outcome = connecting(error);
        if let Some(mut attempt) = self.ctx.attempt.take() {
            attempt.ended(outcome, Instant::now());
        }
        self.ctx.connection.clock.expired().is_none() && self.once_more(outcome, Circumstances::default())
    }

    /// An exchange broke, or its answer was given up for another try. Whether there is one.
    fn exchange_failed(&mut self, broken: &Broken, reused: bool) -> bool {
        let Some(how) = broken.how else { return false };
        if how == How::GivenUp {
            return true;
        }
        if self.ctx.connection.clock.expired().is_some() {
            expired(&mut self.ctx);
        } else if let How::ByEndpoint(outcome) = how {
            ended(&mut self.ctx, outcome, Instant::now());
        }
        let settled = self.ctx.exchange.failure.is_some();
        // A deadline that passed is the end of it, unless it was for this try alone.
        let of_try = |expired| matches!(expired, Expired::Try | Expired::Response | Expired::Write);
        let over = self.ctx.connection.clock.expired().is_some_and(|expired| !of_try(expired));
        let outcome = self.ctx.attempt.as_ref().and_then(Attempt::outcome).filter(|_| !settled && !over);
        outcome.is_some_and(|outcome| self.once_more(outcome, Circumstances { reused, ..Circumstances::default() }))
    }

    fn once_more(&mut self, outcome: Outcome, known: Circumstances) -> bool {
        let shown = self.written.is_some() || self.informed;
        let known = Circumstances { shown, truncated: !self.ask.can_replay(), ..known };
        let method = self.ctx.exchange.target.method().clone();
        once_more(&method, &mut self.ctx, outcome, known, self.express.common.max_tries)
    }

    fn connected(&mut self, reused: bool) {
        if reused {
            self.ctx.timing.connect = Some(Connect::Reused);
            return;
        }
        let now = Instant::now();
        let took = self.ctx.step.replace(now).map_or(Duration::ZERO, |began| now.duration_since(began));
        self.ctx.timing.connect = Some(Connect::Opened(took));
    }

    /// Makes the head that this try sends, and what of the body is there again.
    async fn prepare(&mut self, endpoint: &Arc<Endpoint>) -> Result<(), Error> {
        let Self { express, ctx, head, ask, seen, believed, addressed, .. } = self;
        address(express, ctx, head, ask, (seen, believed.as_ref(), addressed), endpoint).await?;
        if ask.left.is_none() {
            self.ctx.asked = true;
            await_response(&self.ctx, self.ask.framing != Framing::Empty);
        }
        Ok(())
    }

    /// Asks one endpoint and passes its answer on. Says whether its connection can be used again.
    async fn exchange(&mut self, up: &mut Wire, reused: &mut bool) -> Result<(Answered, bool), Broken> {
        spare::give_text(std::mem::take(&mut self.come));
        let mut response = if self.ctx.first_began.is_some() {
            Box::pin(self.first_head(up, reused)).await?
        } else {
            poll_fn(|cx| self.poll_head(up, cx)).await?
        };
        while response.is_informational() {
            self.inform(response).await?;
            response = poll_fn(|cx| self.poll_head(up, cx)).await?;
        }
        let to_head = *self.ctx.exchange.target.method() == Method::HEAD;
        let (ends, reusable) = response.framing(to_head).map_err(Broken::refused)?;
        self.by_status(&response)?;
        if let Some(reply) = self.walk_back(&mut response, ends).await? {
            return Ok((Answered::Replaced(reply), false));
        }
        let mut body = self.begin_answer(&mut response, ends)?;
        drop(response);
        poll_fn(|cx| self.poll_answer(up, &mut body, cx)).await?;
        self.ctx.answered = true;
        self.ctx.connection.clock.clear_step();
        self.ctx.connection.clock.responded();
        if self.ask.left.is_some() || !self.ask.out.is_empty() {
            poll_fn(|cx| self.poll_rest(up, cx)).await?;
        }
        Ok((Answered::Passed, reusable && !body.overrun && self.ask.failed.is_none()))
    }

    /// Waits for a head, while the request goes out.
    fn poll_head(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        if !self.come.is_empty()
            && let Some(response) = Response::read(&mut self.come).map_err(Broken::refused)?
        {
            return Poll::Ready(Ok(response));
        }
        self.go_on(up, cx)?;
        loop {
            let come = &mut self.come;
            let read = poll_read_with(&mut *up, cx, |bytes, _| {
                if come.is_empty() {
                    // With room for what is put in place.
                    *come = spare::text(bytes.len() + 512);
                }
                come.extend_from_slice(bytes);
                bytes.len()
            });
            match read {
                Poll::Ready(Ok(1..)) => {
                    if let Some(response) = Response::read(&mut self.come).map_err(Broken::refused)? {
                        return Poll::Ready(Ok(response));
                    }
                }
                Poll::Ready(ended) => {
                    let error = self.ask.failed.take().or(ended.err()).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Err(Broken::by_endpoint(&error)));
                }
                Poll::Pending => return self.poll_left(cx).map(Err),
            }
        }
    }

    /// Ends when the client does, or a deadline passes.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.ask.left.is_some() {
            // Its body is waited for, which shows it too.
            return self.client.poll_deadline(cx).map(|error| self.by_client(&error));
        }
        self.client.poll_gone(cx).map(|error| self.by_client(&error))
    }

    /// Waits until the client has all that is on its way. `last`: that is the whole answer.
    pub(super) fn poll_out_all(&mut self, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        let Self { client, out, .. } = self;
        std::task::ready!(out.poll_leave(cx, |cx, bytes| client.poll_send(cx, bytes, last)))?;
        if last { client.poll_end(cx) } else { client.poll_sent(cx) }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.poll_out_all(false, cx).map_err(|error| self.by_client(&error))
    }

    fn poll_out_part(&mut self, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Self { client, out, .. } = self;
        out.poll_leave(cx, |cx, bytes| client.poll_send(cx, bytes, last)).map_err(|error| self.by_client(&error))
    }

    /// What ended the client's side: a deadline, if one has passed.
    fn by_client(&self, error: &io::Error) -> Broken {
        let gone = || Error::new(400, Party::Client, "client_gone").with_message(error.to_string());
        let error = self.ctx.connection.clock.expired().map_or_else(gone, missed);
        Broken { error, how: Some(How::ByClient) }
    }
}

/// Opens a connection, within the time that a try has.
async fn open(
    express: &Express,
    endpoint: &Endpoint,
    parties: Option<Parties>,
    of_try: Option<Duration>,
) -> pingora_core::Result<Wire> {
    let limit = endpoint.peer().options.total_connection_timeout.into_iter().chain(of_try).min();
    if let Some(connector) = express.connector.as_ref().filter(|_| endpoint.link().is_plain()) {
        let mut peer = endpoint.peer().clone();
        (peer.options.connection_timeout, peer.options.total_connection_timeout) = (limit, limit);
        return connector.new_stream(&peer).await.map(Wire::Other);
    }
    express.common.dialer.http1(endpoint, parties, limit).await
}

impl Broken {
    fn by_endpoint(error: &io::Error) -> Self {
        let error = Error::new(502, Party::Upstream, "connection_broken").with_message(error.to_string());
        Self { error, how: Some(How::ByEndpoint(Outcome::Reset)) }
    }

    fn refused(refused: Refused) -> Self {
        Self { error: refused.into(), how: Some(How::ByEndpoint(Outcome::Invalid)) }
    }

    fn is_by_endpoint(&self) -> bool {
        matches!(self.how, Some(How::ByEndpoint(_)))
    }
}
