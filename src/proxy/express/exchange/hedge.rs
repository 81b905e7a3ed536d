//! A second endpoint beside one that is slow (`retry.hedge`): who answers first is the endpoint of this request, and the other's connection
//! is closed.
//!
//! A 5xx is no answer while the other may still give a better one; neither is a connection that breaks. What a try left behind is told as of
//! any other: a failure counts at its endpoint, and of who was merely slower nothing is said but that.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::super::response::Response;
use super::super::wire::{Outgoing, poll_read_with};
use super::super::{Downstream, Framing};
use super::{Ask, Broken, How, Passage, address, open};
use crate::filter::Error;
use crate::observe::Connect;
use crate::proxy::Expired;
use crate::proxy::outcome::{connecting, ended};
use crate::proxy::response::{diagnose, lacks_descriptors};
use crate::proxy::retry::{self, hedge_takes_over};
use crate::proxy::upstream::await_response;
use crate::upstream::{Attempt, Outcome, Wire, Wish};

/// The try beside the first.
struct Second<'a> {
    attempt: Attempt,
    /// `None`: it is open, or could not be opened.
    opening: Option<BoxFuture<'a, pingora_core::Result<Wire>>>,
    up: Option<Wire>,
    connect: Connect,
    began: Instant,
    /// Since when it is connected.
    since: Instant,
    out: Outgoing,
    unflushed: bool,
    come: Vec<u8>,
}

/// How it ends that two are asked.
enum End {
    First(Result<Response, Broken>),
    Second(Result<Response, Broken>),
    /// The second is of no use; the first may be yet.
    Alone,
}

impl<'a, D: Downstream> Passage<'a, D> {
    /// Waits for the first head that comes: from the endpoint that is asked, or another one where it takes long.
    pub(super) async fn first_head(&mut self, up: &mut Wire, reused: &mut bool) -> Result<Response, Broken> {
        if self.ctx.first_began.is_none() || self.ctx.exchange.tries != 1 {
            return poll_fn(|cx| self.poll_head(up, cx)).await;
        }
        let mut slow: Option<Pin<Box<tokio::time::Sleep>>> = None;
        let early = poll_fn(|cx| {
            if let Poll::Ready(head) = self.poll_head(up, cx) {
                return Poll::Ready(Some(head));
            }
            if slow.is_none() {
                let whole = self.ask.left.is_none() && self.ask.can_replay();
                let Some(after) = retry::hedge_after(&self.ctx, whole, Instant::now()) else { return Poll::Pending };
                slow = Some(Box::pin(tokio::time::sleep(after)));
            }
            match &mut slow {
                Some(slow) => slow.as_mut().poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        });
        if let Some(head) = early.await {
            return head;
        }
        match self.second().await {
            Ok(Some(second)) => self.race(up, reused, second).await,
            Ok(None) => poll_fn(|cx| self.poll_head(up, cx)).await,
            Err(error) => Err(Broken { error, how: None }),
        }
    }

    /// Begins to ask another endpoint.
    async fn second(&mut self) -> Result<Option<Second<'a>>, Error> {
        let Some(upstream) = self.ctx.exchange.upstream.clone() else { return Ok(None) };
        let wish = Wish { key: self.wish.and_then(|wish| wish.key), at: None };
        let Some(attempt) = retry::hedge(&mut self.ctx, wish, self.express.common.max_tries) else { return Ok(None) };
        let endpoint = attempt.endpoint().clone();
        let first = self.ctx.exchange.endpoint.replace(endpoint.clone());
        let mut beside = self.ask.again();
        let Self { express, ctx, head, seen, believed, addressed, .. } = self;
        let addressing = address(express, ctx, head, &mut beside, (seen, believed.as_ref(), addressed), &endpoint);
        let addressed = Box::pin(addressing).await;
        self.ctx.exchange.endpoint = first;
        addressed?;
        let now = Instant::now();
        let parties = self.parties(&endpoint);
        let up = endpoint.take_idle(parties.as_ref(), now);
        let express = self.express;
        let limit = upstream.retries().try_timeout();
        let opening =
            up.is_none().then(|| -> BoxFuture<'a, _> { Box::pin(async move { open(express, &endpoint, parties, limit).await }) });
        // The endpoints' time begins anew, for both.
        self.ctx.try_began = Some(now);
        await_response(&self.ctx, self.ask.framing != Framing::Empty);
        let Ask { out, .. } = beside;
        let connect = Connect::Reused;
        Ok(Some(Second { attempt, opening, up, connect, began: now, since: now, out, unflushed: false, come: Vec::new() }))
    }

    async fn race(&mut self, up: &mut Wire, reused: &mut bool, mut second: Second<'a>) -> Result<Response, Broken> {
        let mut failed = false;
        let end = poll_fn(|cx| {
            if !failed {
                match self.poll_head(up, cx) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(head)) if head.status < 500 => return Poll::Ready(End::First(Ok(head))),
                    Poll::Ready(Ok(head)) => {
                        failed = true;
                        ended(&mut self.ctx, Outcome::Answered(head.status), Instant::now());
                    }
                    Poll::Ready(Err(broken)) => {
                        let Some(How::ByEndpoint(outcome)) = broken.how else { return Poll::Ready(End::First(Err(broken))) };
                        failed = true;
                        ended(&mut self.ctx, outcome, Instant::now());
                    }
                }
            }
            match second.poll_head(cx) {
                Poll::Pending if failed => self.poll_left(cx).map(|broken| End::First(Err(broken))),
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(head)) if head.status < 500 || failed => Poll::Ready(End::Second(Ok(head))),
                Poll::Ready(Ok(head)) => {
                    second.attempt.ended(Outcome::Answered(head.status), Instant::now());
                    Poll::Ready(End::Alone)
                }
                Poll::Ready(Err(broken)) if failed => Poll::Ready(End::Second(Err(broken))),
                Poll::Ready(Err(broken)) => {
                    if let Some(How::ByEndpoint(outcome)) = broken.how {
                        second.attempt.ended(outcome, Instant::now());
                    }
                    Poll::Ready(End::Alone)
                }
            }
        });
        match end.await {
            End::First(head) => {
                let expired = self.ctx.connection.clock.expired();
                if head.is_err() && matches!(expired, Some(Expired::Response | Expired::Try)) {
                    // It was the time of both.
                    second.attempt.ended(Outcome::Timeout, Instant::now());
                    self.ctx.tried.push(second.attempt.endpoint().address().clone());
                }
                if failed {
                    // Who asked last is whom the deadline or the client's leaving concerns.
                    hedge_takes_over(&mut self.ctx, second.attempt, true);
                }
                head
            }
            End::Second(head) => {
                if head.is_ok()
                    && let Some(upstream) = &self.ctx.exchange.upstream
                {
                    upstream.meter().hedge_won();
                    self.ctx.exchange.notes.push("hedged: the second endpoint answered first".into());
                }
                hedge_takes_over(&mut self.ctx, second.attempt, failed);
                if let Some(stream) = second.up {
                    *up = stream;
                }
                *reused = matches!(second.connect, Connect::Reused);
                self.ctx.timing.connect = Some(second.connect);
                (self.ctx.try_began, self.ctx.step) = (Some(second.began), Some(second.since));
                super::super::spare::give_text(std::mem::replace(&mut self.come, second.come));
                (self.ask.out, self.ask.unflushed) = (second.out, second.unflushed);
                (self.ask.failed, self.ask.stalls) = (None, false);
                head
            }
            End::Alone => {
                self.ctx.tried.push(second.attempt.endpoint().address().clone());
                drop(second);
                poll_fn(|cx| self.poll_head(up, cx)).await
            }
        }
    }
}

impl Second<'_> {
    /// Connects, asks, and waits for a head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        if let Some(opening) = &mut self.opening {
            let opened = std::task::ready!(opening.as_mut().poll(cx));
            self.opening = None;
            self.since = Instant::now();
            match opened {
                Ok(up) => {
                    self.up = Some(up);
                    self.connect = Connect::Opened(self.since.duration_since(self.began));
                }
                Err(mut error) => {
                    error.as_up();
                    // A lack of descriptors says nothing of the endpoint.
                    let how = (!lacks_descriptors(&error)).then(|| {
                        self.attempt.endpoint().meter().connect_failed();
                        How::ByEndpoint(connecting(&error))
                    });
                    return Poll::Ready(Err(Broken { error: diagnose(&error), how }));
                }
            }
        }
        let Some(up) = &mut self.up else { return Poll::Pending };
        let mut left = Poll::Ready(Ok(()));
        if !self.out.is_empty() {
            self.unflushed = true;
            left = self.out.poll_leave(cx, |cx, bytes| tokio::io::AsyncWrite::poll_write(Pin::new(&mut *up), cx, bytes));
        }
        if self.unflushed && matches!(left, Poll::Ready(Ok(()))) {
            left = tokio::io::AsyncWrite::poll_flush(Pin::new(&mut *up), cx);
            self.unflushed = left.is_pending();
        }
        if let Poll::Ready(Err(error)) = left {
            return Poll::Ready(Err(Broken::by_endpoint(&error)));
        }
        loop {
            let come = &mut self.come;
            let read = std::task::ready!(poll_read_with(&mut *up, cx, |bytes, _| {
                come.extend_from_slice(bytes);
                bytes.len()
            }));
            match read {
                Ok(1..) => {
                    if let Some(response) = Response::read(&mut self.come).map_err(Broken::refused)? {
                        return Poll::Ready(Ok(response));
                    }
                }
                Ok(0) => return Poll::Ready(Err(Broken::by_endpoint(&std::io::ErrorKind::UnexpectedEof.into()))),
                Err(error) => return Poll::Ready(Err(Broken::by_endpoint(&error))),
            }
        }
    }
}
