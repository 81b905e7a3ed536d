//! Whether a request is tried again: what is known of it goes to the upstream's policy, and what that says to Pingora.
//!
//! Pingora asks nobody whether a retry makes sense. Its loop never looks whether the client has been sent something, and its copy of a
//! body is of 64 KiB: beyond, there is none, and it would send what is left. Both are facts that the policy is told.

use std::time::{Duration, Instant};

use http::header::RETRY_AFTER;
use pingora_core::{Error as PingoraError, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::observe::HEDGE;
use crate::proxy::judge::judge;
use crate::proxy::outcome::{ended, first_took};
use crate::proxy::{Ctx, Result};
use crate::upstream::retry::{Again, Facts, Refusal, Retried, Verdict};
use crate::upstream::{Attempt, Outcome, Wish};

/// What a request has behind it, and what is next.
#[derive(Debug, Default)]
pub(super) struct Tries {
    retried: Retried,
    /// How long the next try waits.
    wait: Option<Duration>,
    /// The answer that came is given up for another try: Pingora is told so by an error.
    given_up: bool,
}

impl Tries {
    /// How long this try waits before it begins.
    pub(super) fn wait(&mut self) -> Option<Duration> {
        self.wait.take().filter(|wait| !wait.is_zero())
    }

    /// Whether the exchange broke since its answer was given up.
    pub(super) fn gave_up(&mut self) -> bool {
        std::mem::take(&mut self.given_up)
    }
}

/// What only this try knows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Circumstances {
    /// The connection had been waiting in the pool.
    pub(super) reused: bool,
    /// The answer says when to come back.
    pub(super) retry_after: bool,
    /// The client has been sent something.
    pub(super) shown: bool,
    /// A part of the body is no longer at hand.
    pub(super) truncated: bool,
}

/// An answer that may not be the last word: if the request can be tried again, it ends here. Otherwise it goes on to the client, or is refused
/// where that happens to all that can't be relied on.
pub(super) fn by_status(session: &Session, head: &ResponseHeader, ctx: &mut Ctx, max_tries: u32) -> Result<()> {
    let status = head.status.as_u16();
    let Some(upstream) = &ctx.exchange.upstream else { return Ok(()) };
    let minds = |outcome| upstream.retries().minds(outcome);
    // Looked at once more only where that may matter.
    if !minds(Outcome::Answered(status)) && !minds(Outcome::Invalid) {
        return Ok(());
    }
    let outcome = if judge(head).is_ok() { Outcome::Answered(status) } else { Outcome::Invalid };
    if !minds(outcome) {
        return Ok(());
    }
    let retry_after = head.headers.get_all(RETRY_AFTER).iter().any(|value| value != "0");
    let circumstances = Circumstances { retry_after, ..Circumstances::default() };
    if !again(session, ctx, outcome, circumstances, max_tries) {
        return Ok(());
    }
    ended(ctx, outcome, Instant::now());
    ctx.tries.given_up = true;
    Err(PingoraError::new_up(ErrorType::HTTPStatus(status)))
}

/// How long from now on the endpoint that is asked may take before another is asked beside it. `None`: none is. `whole`: the request has
/// come whole, and all of it is at hand.
pub(super) fn hedge_after(ctx: &Ctx, whole: bool, now: Instant) -> Option<Duration> {
    let upstream = ctx.exchange.upstream.as_ref()?;
    let began = ctx.first_began.filter(|_| whole && ctx.exchange.tries == 1 && !ctx.responding && !ctx.tunnel)?;
    let after = upstream.retries().hedge_after(now)?;
    Some(after.saturating_sub(now.saturating_duration_since(began)))
}

/// The endpoint that is asked is slow: a try at another one beside it, if there is one with room, and if the budget allows it.
pub(super) fn hedge(ctx: &mut Ctx, wish: Wish, max_tries: u32) -> Option<Attempt> {
    let upstream = ctx.exchange.upstream.clone()?;
    let first = ctx.exchange.endpoint.clone()?;
    ctx.tried.push(first.address().clone());
    let now = Instant::now();
    let another = ctx.exchange.tries < max_tries && upstream.has_other(&ctx.tried);
    let attempt = if another { upstream.try_engage(&ctx.tried, wish, now).ok().flatten() } else { None };
    ctx.tried.pop();
    let attempt = attempt?;
    if !upstream.retries().spend(upstream.meter().requests(), now) {
        upstream.meter().over_budget();
        return None;
    }
    attempt.endpoint().meter().selected();
    upstream.meter().retried(HEDGE);
    ctx.exchange.tries += 1;
    if ctx.connection.observers.may_say("asking_another") {
        log::info!(
            "asking another endpoint too reason=hedge endpoint={} slow={} id={}",
            attempt.endpoint().as_str(),
            first.as_str(),
            ctx.exchange.id,
        );
    }
    Some(attempt)
}

/// The second of two endpoints is the one from here on. `failed`: the first has, and is not asked again.
pub(super) fn hedge_takes_over(ctx: &mut Ctx, attempt: Attempt, failed: bool) {
    let now = Instant::now();
    first_took(ctx, now);
    if let Some(first) = ctx.exchange.endpoint.replace(attempt.endpoint().clone()).filter(|_| failed) {
        ctx.tried.push(first.address().clone());
    }
    // What is known of the first is that it has not answered by now.
    ctx.attempt = Some(attempt);
}

/// [`once_more`] for a session of Pingora's.
pub(super) fn again(session: &Session, ctx: &mut Ctx, outcome: Outcome, known: Circumstances, max_tries: u32) -> bool {
    let shown = session.response_written().is_some();
    let known = Circumstances { shown, truncated: session.as_ref().retry_buffer_truncated(), ..known };
    once_more(&session.req_header().method, ctx, outcome, known, max_tries)
}

/// Whether the request is tried again. If so, all is prepared for that.
pub(super) fn once_more(
    method: &http::Method,
    ctx: &mut Ctx,
    outcome: Outcome,
    Circumstances { reused, retry_after, shown, truncated }: Circumstances,
    max_tries: u32,
) -> bool {
    let Some(upstream) = ctx.exchange.upstream.clone() else { return false };
    if let Some(endpoint) = &ctx.exchange.endpoint {
        ctx.tried.push(endpoint.address().clone());
    }
    // A filter that has seen the body would see it twice.
    let seen = ctx.received > 0 && ctx.route.as_ref().is_some_and(|route| route.chain.sees_request_body());
    let facts = Facts {
        method,
        retried: ctx.tries.retried,
        replayable: !seen && !truncated,
        shown: ctx.responding || ctx.tunnel || shown,
        reused,
        another: upstream.has_other(&ctx.tried),
        listens: upstream.has_other_that_listens(&ctx.tried),
        allowed: ctx.exchange.tries < max_tries,
        retry_after,
        left: ctx.connection.clock.left(),
        requests: upstream.meter().requests(),
    };
    // A second endpoint is asked beside the first one only.
    ctx.first_began = None;
    match upstream.retries().judge(outcome, &facts, Instant::now(), || fastrand::u64(..)) {
        Verdict::Again(Again { reason, wait, retried }) => {
            ctx.tries.retried = retried;
            ctx.tries.wait = Some(wait);
            ctx.connection.clock.begin_again();
            upstream.meter().retried(reason.place());
            if ctx.connection.observers.may_say("trying_again") {
                log::info!(
                    "trying again reason={} endpoint={} id={} wait_ms={}",
                    reason.word(),
                    ctx.exchange.endpoint.as_ref().map_or("-", |endpoint| endpoint.as_str()),
                    ctx.exchange.id,
                    wait.as_millis(),
                );
            }
            true
        }
        Verdict::Enough(refusal) => {
            if let Some(refusal) = refusal {
                ctx.exchange.notes.push(refusal.note().into());
            }
            if refusal == Some(Refusal::Budget) {
                upstream.meter().over_budget();
            }
            false
        }
    }
}
