//! How a try ended, in the words of [`Outcome`]: the only place where Pingora's errors and deadlines that passed become one.

use std::time::Instant;

use pingora_core::{Error as PingoraError, ErrorSource, ErrorType};

use crate::proxy::{Ctx, Expired, followed};
use crate::upstream::Outcome;

/// A connection could not be opened, for this reason.
pub(super) fn connecting(error: &PingoraError) -> Outcome {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Outcome::ConnectTimeout,
        ErrorType::ConnectRefused | ErrorType::ConnectNoRoute => Outcome::Refused,
        _ => Outcome::ConnectError,
    }
}

/// The head of the final response has come.
pub(super) fn answered(ctx: &mut Ctx, status: u16, now: Instant) {
    ended(ctx, Outcome::Answered(status), now);
}

/// What came is refused.
pub(super) fn invalid(ctx: &mut Ctx) {
    ended(ctx, Outcome::Invalid, Instant::now());
}

/// The exchange broke once there was a connection: whether the endpoint is to blame depends on the error, and on whose turn it was.
pub(super) fn broke(ctx: &mut Ctx, error: &PingoraError) {
    if ctx.connection.clock.expired().is_some() {
        return expired(ctx);
    }
    if let Some(outcome) = of_error(error) {
        ended(ctx, outcome, Instant::now());
    }
}

/// What an error says of the endpoint. `None`: it is not to blame.
pub(super) fn of_error(error: &PingoraError) -> Option<Outcome> {
    let by_endpoint = *error.esource() == ErrorSource::Upstream;
    by_endpoint.then(|| match error.etype() {
        // As if there had been no connection: whatever the method, nothing has been done.
        _ if was_not_processed(error) => Outcome::ConnectError,
        _ if followed::refusal(error).is_some() => Outcome::Invalid,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Outcome::Timeout,
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => Outcome::Reset,
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Outcome::ConnectTimeout,
        ErrorType::ConnectRefused | ErrorType::ConnectNoRoute => Outcome::Refused,
        ErrorType::ConnectError | ErrorType::TLSHandshakeFailure | ErrorType::SocketError => Outcome::ConnectError,
        _ => Outcome::Invalid,
    })
}

/// The exchange ends where it stands: should a deadline have passed that was the endpoint's to keep, it did not.
pub(super) fn expired(ctx: &mut Ctx) {
    let late = match ctx.connection.clock.expired() {
        Some(Expired::Response | Expired::Try | Expired::Read | Expired::Write) => true,
        // The time of the whole was over: while it was for the endpoint to begin its answer, it took too long.
        Some(Expired::Exchange) => ctx.asked && !ctx.responding,
        _ => false,
    };
    if late {
        ended(ctx, Outcome::Timeout, Instant::now());
    }
}

/// The time of the first endpoint is up: what it took is known, or that it takes longer.
pub(super) fn first_took(ctx: &mut Ctx, now: Instant) {
    if let (Some(began), Some(upstream)) = (ctx.first_began.take(), &ctx.exchange.upstream) {
        upstream.retries().took(now.saturating_duration_since(began), now);
    }
}

/// Whether an endpoint says of a stream of HTTP/2 that it has done nothing with it: it was refused (RFC 9113 §8.7), or came after the
/// last one that the connection takes (§6.8).
fn was_not_processed(error: &PingoraError) -> bool {
    let Some(cause) = error.root_cause().downcast_ref::<h2::Error>() else { return false };
    let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
    let late = cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
    cause.is_remote() && (refused || late)
}

pub(super) fn ended(ctx: &mut Ctx, outcome: Outcome, now: Instant) {
    if outcome.is_answer() {
        first_took(ctx, now);
    }
    if let Some(attempt) = &mut ctx.attempt {
        attempt.ended(outcome, now);
    }
}
