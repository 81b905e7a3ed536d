//! One exchange in the lane: decided, asked, answered and recorded, over bytes.

mod hedge;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Version};
use tokio::io::AsyncWrite;

use super::classify::{Admitted, Seen};
use super::date;
use super::head::Head;
use super::response::{Ends, Response};
use super::spare;
use super::table::{Line, options};
use super::wire::{LAST_CHUNK, Outgoing, poll_read_with, write_chunk};
use super::{self as lane, Downstream, Express, Framing, translate};
use crate::config::ForwardedHeader;
use crate::filter::{Error, Field, Fields, InvalidField, Party, Reply, RequestHead, Scheme};
use crate::observe::{Connect, Timing};
use crate::proxy::bounds::{REST_TIMEOUT, WORTH_READING};
use crate::proxy::chunks::Chunks;
use crate::proxy::ctx::{Connection, Ctx};
use crate::proxy::enter::{is_forged, is_kept};
use crate::proxy::failure::missed;
use crate::proxy::forwarded::Believed;
use crate::proxy::head::is_hop_by_hop_name;
use crate::proxy::judge::INFORMATIONAL_MAX;
use crate::proxy::log::close;
use crate::proxy::outcome::{connecting, ended, expired};
use crate::proxy::reply::OVERLOADED;
use crate::proxy::request::{Act, act};
use crate::proxy::response::{body_arrived, diagnose, lacks_descriptors};
use crate::proxy::retry::{Circumstances, once_more};
use crate::proxy::upstream::{await_response, is_refused, refused, spare_all_but_the_last};
use crate::proxy::who::{FOR, HOST_FIELD, PROTO, write_address};
use crate::proxy::{Expired, affinity};
use crate::runtime::Action;
use crate::upstream::{Attempt, Endpoint, Outcome, Parties, Wire, Wish};

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

/// The request on its way to an endpoint.
pub(super) struct Ask {
    framing: Framing,
    /// What is left of the body; `None`: it has come whole.
    left: Option<Left>,
    out: Outgoing,
    /// Written, perhaps into a buffer.
    unflushed: bool,
    /// The endpoint takes nothing, and its time runs.
    stalls: bool,
    /// It takes no more, for this reason.
    failed: Option<io::Error>,
    /// What has come of the body so far, while it can be sent once more.
    replay: Option<Vec<u8>>,
    /// It was too large for who asked for it.
    refused: bool,
    /// What an answer does not need of it is read, and the connection kept.
    short: bool,
}

enum Left {
    Length(u64),
    Chunks(Chunks),
    /// Until the stream ends.
    Stream,
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

/// How a response went.
enum Answered {
    Passed,
    /// A filter answers in its place.
    Replaced(Reply),
}

/// A response's body on its way to the client.
struct Body {
    ends: Ends,
    chunks: Chunks,
    /// The client gets it in chunks.
    chunked: bool,
    /// Nothing goes to the client.
    silent: bool,
    done: bool,
    /// More came than was said.
    overrun: bool,
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
            Ok(None) => Box::pin(upstream.wait()).await,
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
        self.ctx.connection.clock.expired().is_none()
            && self.once_more(outcome, Circumstances { refused: is_refused(error), ..Circumstances::default() })
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

    /// An answer that may not be the last word: if the request can be tried again, it ends here.
    fn by_status(&mut self, response: &Response) -> Result<(), Broken> {
        let minds = self.ctx.exchange.upstream.as_ref().is_some_and(|upstream| upstream.retries().minds(response.status));
        if !minds {
            return Ok(());
        }
        let outcome = Outcome::Answered(response.status);
        let retry_after = response.fields.all(b"retry-after").any(|value| value != b"0");
        if !self.once_more(outcome, Circumstances { retry_after, ..Circumstances::default() }) {
            return Ok(());
        }
        ended(&mut self.ctx, outcome, Instant::now());
        Err(Broken { error: Error::internal("the answer was given up"), how: Some(How::GivenUp) })
    }

    /// Walks a response's head back through the filters. `Some`: one of them answers in its place.
    async fn walk_back(&mut self, response: &mut Response, ends: Ends) -> Result<Option<Reply>, Broken> {
        response.strip_hop_by_hop();
        let ctx = &mut self.ctx;
        ctx.responding = true;
        if ends == Ends::AtOnce {
            ctx.answered = true;
        } else {
            ctx.connection.clock.respond();
        }
        let now = Instant::now();
        ended(ctx, Outcome::Answered(response.status), now);
        ctx.timing.response = ctx.step.map(|connected| now.duration_since(connected));
        body_arrived(ctx, now);
        ctx.step = Some(now);
        let Ctx { route, run, exchange, timing, own_answer, .. } = &mut *ctx;
        let Some(route) = route.as_ref() else { return Ok(None) };
        if let Some(took) = timing.response {
            self.express.common.load.answered(route.overload(), took, now);
        }
        let via = &self.express.common.via;
        let version = if response.is_http10 { Version::HTTP_10 } else { Version::HTTP_11 };
        if response.has_via() {
            let extended = via.extended(&response.fields.map(), version);
            response.fields.replace(b"via", extended.as_bytes());
        } else {
            let (text, name) = via.line(version);
            response.fields.append_line(Line { text, name });
        }
        exchange.status = Some(response.status);
        if !route.chain.sees_response() {
            return Ok(None);
        }
        match route.chain.response(run, response, exchange).await {
            Ok(None) => Ok(None),
            Ok(Some(reply)) => {
                *own_answer = Some("filter");
                Ok(Some(reply))
            }
            Err(error) => {
                run.give_up();
                Err(Broken { error, how: None })
            }
        }
    }

    /// Frames a response for the client, and puts its head and what has come of its body on the way.
    fn begin_answer(&mut self, response: &mut Response, ends: Ends) -> Result<Body, Broken> {
        if let Some(cookie) = &self.ctx.stick {
            response.fields.append(b"set-cookie", cookie.as_bytes());
        }
        if let Some(cookie) = affinity::cookie(&self.ctx.exchange, self.ctx.stay) {
            response.fields.append(b"set-cookie", cookie.as_bytes());
        }
        self.closes |= self.client.is_stopping() || self.ask.ends_connection();
        response.strip_framing();
        let bodiless = *self.ctx.exchange.target.method() == Method::HEAD || matches!(response.status, 204 | 304);
        let chunked = !bodiless && self.frame(response, ends) && !D::FRAMES;
        let mut body = Body { ends, chunks: Chunks::of_response(), chunked, silent: bodiless, done: false, overrun: false };
        let mut out = std::mem::take(&mut self.out);
        let bytes = out.fresh();
        if !D::FRAMES {
            date::with(self.ctx.step.unwrap_or_else(Instant::now), |line| response.fields.replace_line(line));
            bytes.reserve(response.fields.text().len() + 128);
            response.write_to(bytes);
            bytes.extend_from_slice(if self.closes { b"Connection: close\r\n\r\n" } else { b"Connection: keep-alive\r\n\r\n" });
        }
        let first = body.take(response.body(), bytes, &mut self.ctx.sent);
        self.out = out;
        self.written = Some(response.status);
        first?;
        if D::FRAMES {
            let head = translate::response(response).map_err(Broken::refused)?;
            let end = bodiless || (body.done && self.out.is_empty());
            self.client.send_head(head, end).map_err(|error| self.by_client(&error))?;
        }
        Ok(body)
    }

    /// Says how the body ends, whatever filters have made of that; whether it goes in chunks.
    fn frame(&mut self, response: &mut Response, ends: Ends) -> bool {
        let (lengths, length) = response.length();
        let said = match ends {
            Ends::After(said) if lengths > 0 => said,
            Ends::AtOnce if lengths > 0 => 0,
            _ => {
                response.fields.take_away_name(b"content-length");
                response.fields.replace(b"Transfer-Encoding", b"chunked");
                return true;
            }
        };
        if lengths != 1 || length != Some(said) {
            response.fields.replace(b"content-length", said.to_string().as_bytes());
        }
        response.fields.take_away_name(b"transfer-encoding");
        false
    }

    /// Passes an informational response on.
    async fn inform(&mut self, mut response: Response) -> Result<(), Broken> {
        if response.status == 101 {
            let error = Error::new(502, Party::Upstream, "invalid_response");
            let error = error.with_message("the endpoint switches protocols, which nobody asked for");
            return Err(Broken { error, how: Some(How::ByEndpoint(Outcome::Invalid)) });
        }
        response.strip_hop_by_hop();
        response.strip_framing();
        self.ctx.informational = self.ctx.informational.saturating_add(1);
        if self.ctx.informational > INFORMATIONAL_MAX {
            return Err(Broken::refused("informational_flood"));
        }
        self.come = response.body().to_vec();
        if D::FRAMES {
            // Pingora's framing has no room for any.
            return Ok(());
        }
        let out = self.out.more();
        response.write_to(out);
        out.extend_from_slice(b"\r\n");
        self.informed = true;
        poll_fn(|cx| self.poll_out(cx)).await
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

    /// Passes the body on.
    fn poll_answer(&mut self, up: &mut Wire, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.go_on(up, cx)?;
        for _ in 0..TURN {
            if !self.out.is_empty() {
                std::task::ready!(self.poll_out_part(body.done, cx))?;
            }
            if body.done {
                return self.client.poll_end(cx).map_err(|error| self.by_client(&error));
            }
            let Self { client, out, ctx, .. } = self;
            let read = poll_read_with(&mut *up, cx, |bytes, cx| {
                if bytes.is_empty() {
                    return body.end(out.more()).map(|()| false);
                }
                if body.chunked || body.silent || body.ends == Ends::WithChunks {
                    return body.take(bytes, out.more(), &mut ctx.sent).map(|()| true);
                }
                let passed = body.count(bytes);
                ctx.sent += passed as u64;
                // Straight on, as far as the client takes it.
                let mut left = &bytes[..passed];
                while !left.is_empty() {
                    match client.poll_send(cx, left, body.done) {
                        Poll::Ready(Ok(sent @ 1..)) => left = &left[sent..],
                        // It will fail once more where that is seen to.
                        _ => break,
                    }
                }
                out.more().extend_from_slice(left);
                Ok(true)
            });
            match read {
                Poll::Ready(Ok(more)) => {
                    if more? && !body.done {
                        let now = Instant::now();
                        self.ctx.step = Some(now);
                        body_arrived(&self.ctx, now);
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::by_endpoint(&error))),
                Poll::Pending => {
                    if let Poll::Ready(Err(error)) = self.client.poll_sent(cx) {
                        return Poll::Ready(Err(self.by_client(&error)));
                    }
                    return self.poll_left(cx).map(Err);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The rest of a request that was answered before it had come whole.
    fn poll_rest(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.ask.failed.is_none() {
                match self.poll_ask(up, cx) {
                    Poll::Ready(Err(broken)) if broken.is_by_endpoint() => {}
                    other => return other,
                }
            }
            if self.ask.left.is_none() {
                return Poll::Ready(Ok(()));
            }
            self.ask.out = Outgoing::default();
            std::task::ready!(self.poll_body(cx))?;
        }
    }

    /// Sends on what there is of the request. That the endpoint takes no more is no failure yet: it may have answered.
    fn go_on(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.ask.failed.is_some() || (self.ask.left.is_none() && self.ask.out.is_empty() && !self.ask.unflushed) {
            return Ok(());
        }
        match self.poll_ask(up, cx) {
            Poll::Ready(Err(broken)) if !broken.is_by_endpoint() => Err(broken),
            _ => Ok(()),
        }
    }

    /// Waits until the whole request has left.
    fn poll_ask(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let ask = &mut self.ask;
            let mut left = Poll::Ready(Ok(()));
            if !ask.out.is_empty() {
                ask.unflushed = true;
                left = ask.out.poll_leave(cx, |cx, bytes| Pin::new(&mut *up).poll_write(cx, bytes));
            }
            if ask.unflushed && matches!(left, Poll::Ready(Ok(()))) {
                left = Pin::new(&mut *up).poll_flush(cx);
            }
            match left {
                Poll::Ready(Ok(())) => {
                    ask.unflushed = false;
                    if std::mem::take(&mut ask.stalls) {
                        self.ctx.connection.clock.clear_step();
                        if self.ask.left.is_none() {
                            await_response(&self.ctx, true);
                        }
                    }
                }
                Poll::Ready(Err(error)) => {
                    let broken = Broken::by_endpoint(&error);
                    ask.failed = Some(error);
                    ask.out = Outgoing::default();
                    ask.unflushed = false;
                    return Poll::Ready(Err(broken));
                }
                Poll::Pending => {
                    if !std::mem::replace(&mut ask.stalls, true)
                        && !self.ctx.responding
                        && let Some(upstream) = &self.ctx.exchange.upstream
                    {
                        self.ctx.connection.clock.await_write(upstream.deadlines().write, Instant::now());
                    }
                    return self.client.poll_deadline(cx).map(|error| Err(self.by_client(&error)));
                }
            }
            if self.ask.left.is_none() {
                return Poll::Ready(Ok(()));
            }
            std::task::ready!(self.poll_body(cx))?;
        }
    }

    /// Reads more of the request's body.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Self { client, ask, ctx, .. } = self;
        let read = poll_read_with(*client, cx, |bytes, _| {
            let length = ask.take(bytes);
            ctx.received += length as u64;
            (bytes.is_empty() && ask.left.is_some(), length)
        });
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.by_client(&error))),
            Poll::Ready(Ok((true, _))) => Poll::Ready(Err(self.by_client(&io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Ok((false, _))) => {
                if let Some(limit) = self.ctx.connection.body_size.filter(|limit| self.ctx.received > *limit) {
                    let message = format!("the body is larger than {limit} bytes");
                    let error = Error::new(413, Party::Client, "body_too_large").with_message(message);
                    return Poll::Ready(Err(Broken { error, how: None }));
                }
                if self.ask.left.is_none() {
                    self.ctx.asked = true;
                    await_response(&self.ctx, true);
                }
                Poll::Ready(Ok(()))
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

/// Takes away what a client must not say.
fn strip_claims(head: &mut Head, seen: &Seen, claims: &[Box<str>]) {
    if seen.connection {
        let nominated: Vec<Vec<u8>> = options(&head.fields).filter(|option| !is_kept(option)).map(<[u8]>::to_vec).collect();
        for name in nominated {
            head.fields.take_away_name(&name);
        }
        head.fields.take_away_name(b"connection");
    }
    if seen.forged {
        head.fields.take_away(|name| is_forged(name, claims));
    }
}

/// Puts our word on who asks in the place of all others.
fn claim(head: &mut Head, seen: &Seen, believed: Option<&Believed>, peer: Option<IpAddr>, scheme: Scheme) {
    let fields = &mut head.fields;
    if seen.claims {
        for name in [FOR, PROTO, HOST_FIELD] {
            fields.take_away_name(name.as_bytes());
        }
    }
    match believed.filter(|believed| !believed.hops.is_empty()) {
        Some(chain) => {
            let addresses = chain.x_forwarded_for(peer);
            if !addresses.is_empty() {
                fields.append(FOR.as_bytes(), addresses.as_bytes());
            }
        }
        None => {
            if let Some(peer) = peer {
                fields.append_with(FOR.as_bytes(), |text| write_address(peer, text));
            }
        }
    }
    if let Some(believed) = believed
        && believed.header == ForwardedHeader::Forwarded
    {
        let value = believed.forwarded(peer);
        if !value.is_empty() {
            fields.replace(b"forwarded", value.as_bytes());
        }
    }
    let text: &[u8] = match scheme {
        Scheme::Http => b"x-forwarded-proto: http\r\n",
        Scheme::Https => b"x-forwarded-proto: https\r\n",
    };
    fields.append_line(Line { text, name: PROTO.len() });
    if let Some(host) = fields.place(b"host").filter(|host| !host.is_empty()) {
        fields.append_copy(HOST_FIELD.as_bytes(), host);
    }
}

/// Makes the head that a try sends, and puts what is to be sent into `ask`.
async fn address(
    express: &Express,
    ctx: &mut Ctx,
    head: &mut Head,
    ask: &mut Ask,
    (seen, believed, addressed): (&Seen, Option<&Believed>, &mut bool),
    endpoint: &Endpoint,
) -> Result<(), Error> {
    let Ctx { connection, route, run, exchange, version, .. } = &mut *ctx;
    let Some(route) = route.as_ref() else { return Err(Error::internal("no route")) };
    // Filters of a try change what it alone sends. Without them all tries send the same, and nobody needs what it was before.
    let filtered = route.chain.sees_upstream_request();
    let mut copy;
    let head = if filtered {
        copy = head.clone_fields();
        &mut copy
    } else {
        head
    };
    if filtered || !std::mem::replace(addressed, true) {
        let asked = route.chain.sees_request();
        // Filters may have put some in place.
        if seen.hop_by_hop || asked {
            head.fields.take_away(is_hop_by_hop_name);
        }
        if !asked {
            claim(head, seen, believed, connection.client.ip(), exchange.scheme);
        }
        let via = &express.common.via;
        if (asked || seen.via) && head.fields.has(b"via") {
            let extended = via.extended(&head.fields.map(), *version);
            head.fields.replace(b"via", extended.as_bytes());
        } else {
            let (text, name) = via.line(*version);
            head.fields.append_line(Line { text, name });
        }
    }
    if let Some(upstream) = &exchange.upstream
        && let Some(host) = upstream.host_for(endpoint)
    {
        head.set_host(host)?;
    }
    if filtered {
        route.chain.upstream_request(run, head, exchange).await?;
    }
    ask.begin(head);
    Ok(())
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

/// A request, as the filters of its phase see it: its body is still to come.
struct Asking<'a, D> {
    head: &'a mut Head,
    client: &'a mut D,
    ask: &'a mut Ask,
    received: &'a mut u64,
}

impl<D: Downstream> Asking<'_, D> {
    /// Reads the whole body, and keeps it for endpoints.
    async fn whole_body(&mut self, max: usize) -> Result<Bytes, Error> {
        let max = max.min(REPLAY);
        let too_large = || Error::body_too_large(max);
        if let Some(Left::Length(left)) = self.ask.left
            && left > max as u64
        {
            self.ask.refused = true;
            return Err(too_large());
        }
        while self.ask.left.is_some() {
            let Self { client, ask, received, .. } = self;
            let read = poll_fn(|cx| {
                poll_read_with(&mut **client, cx, |bytes, _| {
                    let length = ask.take(bytes);
                    (bytes.is_empty() && ask.left.is_some(), length)
                })
            })
            .await;
            // It is sent from where it is kept.
            ask.out = Outgoing::default();
            match read {
                Ok((false, length)) => **received += length as u64,
                Ok((true, _)) => return Err(Error::new(400, Party::Client, "body_broken")),
                Err(error) => return Err(Error::new(400, Party::Client, "body_broken").with_message(error.to_string())),
            }
            if ask.replay.as_ref().is_none_or(|body| body.len() > max) {
                ask.refused = true;
                return Err(too_large());
            }
        }
        Ok(self.ask.replay.as_ref().map_or_else(Bytes::new, |body| Bytes::copy_from_slice(body)))
    }
}

impl<D: Send + Sync> Fields for Asking<'_, D> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.head.get(name)
    }
    fn each(&self, visit: &mut dyn FnMut(&str, &[u8])) {
        self.head.each(visit);
    }
    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.head.set(name, value)
    }
    fn add(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidField> {
        self.head.add(name, value)
    }
    fn remove(&mut self, name: &str) -> bool {
        self.head.remove(name)
    }
    fn set_field(&mut self, field: &Field) {
        self.head.set_field(field);
    }
    fn add_field(&mut self, field: &Field) {
        self.head.add_field(field);
    }
}

impl<D: Downstream> RequestHead for Asking<'_, D> {
    fn method(&self) -> &str {
        self.head.method()
    }
    fn path(&self) -> &str {
        self.head.path()
    }
    fn query(&self) -> Option<&str> {
        self.head.query()
    }
    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), InvalidField> {
        self.head.set_target(path, query)
    }
    fn set_host(&mut self, host: &str) -> Result<(), InvalidField> {
        self.head.set_host(host)
    }
    fn buffer_body(&mut self, max: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        Box::pin(self.whole_body(max))
    }
}

impl Broken {
    fn by_endpoint(error: &io::Error) -> Self {
        let error = Error::new(502, Party::Upstream, "connection_broken").with_message(error.to_string());
        Self { error, how: Some(How::ByEndpoint(Outcome::Reset)) }
    }

    fn refused(reason: &'static str) -> Self {
        Self { error: Error::new(502, Party::Upstream, reason), how: Some(How::ByEndpoint(Outcome::Invalid)) }
    }

    fn is_by_endpoint(&self) -> bool {
        matches!(self.how, Some(How::ByEndpoint(_)))
    }
}

impl Ask {
    fn new(framing: Framing) -> Self {
        let left = match framing {
            Framing::Empty => None,
            Framing::Length(length) => Some(Left::Length(length)),
            Framing::Chunked => Some(Left::Chunks(Chunks::new())),
            Framing::Stream => Some(Left::Stream),
        };
        // On it goes in chunks.
        let framing = if framing == Framing::Stream { Framing::Chunked } else { framing };
        let replay = left.is_some().then(Vec::new);
        let short = matches!(framing, Framing::Length(length) if length <= WORTH_READING);
        Self {
            framing,
            left,
            out: Outgoing::default(),
            unflushed: false,
            stalls: false,
            failed: None,
            replay,
            refused: false,
            short,
        }
    }

    /// Whether the connection ends with an answer that is given now.
    pub(super) fn ends_connection(&self) -> bool {
        self.refused || (self.left.is_some() && !self.short)
    }

    /// Whether all that came of the body can be sent again.
    fn can_replay(&self) -> bool {
        self.framing == Framing::Empty || self.replay.is_some()
    }

    /// The same for another endpoint, while this one is asked: all of it is at hand.
    fn again(&self) -> Self {
        Self { framing: self.framing, replay: self.replay.clone(), ..Self::new(Framing::Empty) }
    }

    /// Begins a try with this head.
    fn begin(&mut self, head: &Head) {
        self.failed = None;
        self.stalls = false;
        self.out = Outgoing::default();
        let out = self.out.fresh();
        out.reserve(head.fields.text().len() + 64);
        let length = head.fields.first(b"content-length").is_some();
        match self.framing {
            Framing::Empty if !length && !head.fields.has(b"transfer-encoding") => head.write_to(out),
            // How the body ends is not for filters to say.
            framing => {
                let mut head = head.clone_fields();
                let said = match framing {
                    Framing::Length(said) if length => Some(said),
                    Framing::Empty => Some(0),
                    _ => None,
                };
                head.fields.take_away_name(b"transfer-encoding");
                match said {
                    Some(0) if !length => {}
                    Some(said) => head.fields.replace(b"Content-Length", said.to_string().as_bytes()),
                    None => {
                        head.fields.take_away_name(b"content-length");
                        head.fields.append(b"Transfer-Encoding", b"chunked");
                    }
                }
                self.framing = match (framing, said) {
                    (Framing::Length(_), None) => Framing::Chunked,
                    (framing, _) => framing,
                };
                head.write_to(out);
            }
        }
        out.extend_from_slice(b"\r\n");
        if let Some(replay) = self.replay.as_ref().filter(|replay| !replay.is_empty()) {
            match self.framing {
                Framing::Chunked => write_chunk(replay, out),
                _ => out.extend_from_slice(replay),
            }
            if self.left.is_none() && self.framing == Framing::Chunked {
                out.extend_from_slice(LAST_CHUNK);
            }
        }
    }

    /// Takes bytes of the body, as they came; says how many are the body's own.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let chunked = self.framing == Framing::Chunked;
        let out = self.out.more();
        let length = match &mut self.left {
            None => 0,
            Some(Left::Length(left)) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                let data = &bytes[..taken];
                keep(&mut self.replay, data);
                if chunked {
                    write_chunk(data, out);
                } else {
                    out.extend_from_slice(data);
                }
                if *left == 0 {
                    self.left = None;
                }
                taken
            }
            Some(Left::Chunks(chunks)) => {
                let (mut length, replay) = (0, &mut self.replay);
                chunks.take_data(bytes, |data| {
                    length += data.len();
                    keep(replay, data);
                    write_chunk(data, out);
                });
                if chunks.is_done() {
                    self.left = None;
                }
                length
            }
            Some(Left::Stream) => {
                keep(&mut self.replay, bytes);
                write_chunk(bytes, out);
                if bytes.is_empty() {
                    self.left = None;
                }
                bytes.len()
            }
        };
        if self.left.is_none() && chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
        length
    }
}

fn keep(replay: &mut Option<Vec<u8>>, data: &[u8]) {
    if let Some(kept) = replay {
        if kept.len() + data.len() <= REPLAY {
            kept.extend_from_slice(data);
        } else {
            *replay = None;
        }
    }
}

impl Body {
    /// Takes what the endpoint sent, and puts it on its way.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>, sent: &mut u64) -> Result<(), Broken> {
        if self.ends == Ends::WithChunks && !self.silent {
            let Self { chunks, chunked, .. } = self;
            let taken = chunks.take_data(bytes, |data| {
                *sent += data.len() as u64;
                if *chunked {
                    write_chunk(data, out);
                } else {
                    out.extend_from_slice(data);
                }
            });
            if chunks.is_broken() {
                return Err(Broken::refused("invalid_response"));
            }
            self.overrun |= taken < bytes.len();
            if chunks.is_done() {
                self.finish(out);
            }
            return Ok(());
        }
        let passed = self.count(bytes);
        if !self.silent {
            *sent += passed as u64;
            if self.chunked {
                write_chunk(&bytes[..passed], out);
            } else {
                out.extend_from_slice(&bytes[..passed]);
            }
        }
        if self.done && self.chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
        Ok(())
    }

    /// How many of these bytes are the body's, where that is a matter of counting.
    fn count(&mut self, bytes: &[u8]) -> usize {
        match &mut self.ends {
            Ends::AtOnce => {
                self.overrun |= !bytes.is_empty();
                self.done = true;
                0
            }
            Ends::After(left) => {
                let passed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= passed as u64;
                self.done = *left == 0;
                self.overrun |= passed < bytes.len();
                passed
            }
            Ends::WithChunks | Ends::WithConnection => bytes.len(),
        }
    }

    /// The endpoint has closed.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), Broken> {
        if self.ends != Ends::WithConnection {
            return Err(Broken::by_endpoint(&io::ErrorKind::UnexpectedEof.into()));
        }
        self.finish(out);
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.done = true;
        if self.chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
    }
}
