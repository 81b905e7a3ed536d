//! What went wrong, once: kept as the reason, and made an answer for the client.

use std::time::SystemTime;

use bytes::Bytes;
use pingora_core::Error as PingoraError;
use pingora_proxy::{FailToProxy, Session};

use crate::filter::{Body, Error, Exchange, Fields, Party, Reply, RequestId, ResponseHead};
use crate::observe::Observers;
use crate::proxy::log::{self, Refused};
use crate::proxy::reply::{error_body, error_page, say_when};
use crate::proxy::response::diagnose;
use crate::proxy::{Ctx, Expired, Proxy};
use crate::runtime::ErrorPages;

impl Proxy {
    /// Pingora gave up on an exchange: answer if that is still possible. The connection closes in any case.
    pub(super) async fn handle_failure(&self, session: &mut Session, error: &PingoraError, ctx: &mut Ctx) -> FailToProxy {
        session.set_keepalive(None);
        if let Some(reply) = ctx.replacement.take() {
            // Whether it went out or not, this connection ends here.
            let _ = self.send(session, ctx, reply).await;
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        if ctx.connection.clock.expired() == Some(Expired::Unasked) {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let exchange_over = ctx.connection.clock.left().is_some_and(|left| left.is_zero()).then_some(Expired::Exchange);
        if let Some(expired) = ctx.connection.clock.expired().or(exchange_over) {
            ctx.fail(missed(expired));
        }
        ctx.fail(diagnose(error));
        let (code, party, reason) = ctx
            .exchange
            .failure
            .as_ref()
            .map_or((500, Party::Us, ""), |failure| (failure.code(), failure.party(), failure.reason()));
        // Once a head is out there is nothing left to say but to break off; a client that is gone hears nothing.
        let gone =
            party == Party::Client && matches!(reason, "client_gone" | "client_stalls" | "client_too_slow" | "http2_flood");
        if final_head_is_out(session) || gone {
            ctx.connection.clock.cut();
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let mut reply = self.error_reply(session, ctx, code);
        say_when(&mut reply, reason);
        let _ = self.answer(session, ctx, reply).await;
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }
}

/// Whether the client has the head of an answer. An informational one is none: what fails after it can still be said.
pub(super) fn final_head_is_out(session: &Session) -> bool {
    session
        .response_written()
        .is_some_and(|head| !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS)
}

pub(super) fn missed(expired: Expired) -> Error {
    match expired {
        Expired::Response => Error::new(504, Party::Upstream, "response_timeout"),
        Expired::Try => Error::new(504, Party::Upstream, "try_timeout"),
        Expired::Write => Error::new(504, Party::Upstream, "write_timeout"),
        Expired::Read => Error::new(504, Party::Upstream, "read_timeout"),
        Expired::Exchange => Error::new(504, Party::Upstream, "route_timeout"),
        // The answer was given.
        Expired::Unasked => Error::new(400, Party::Client, "client_gone"),
        Expired::Tunnel => Error::new(408, Party::Client, "tunnel_idle"),
        Expired::Client => Error::new(408, Party::Client, "client_stalls"),
        Expired::ClientRate => Error::new(408, Party::Client, "client_too_slow"),
        Expired::Body => Error::new(408, Party::Client, "body_timeout"),
        Expired::BodyRate => Error::new(408, Party::Client, "body_too_slow"),
        Expired::Head => Error::new(408, Party::Client, "head_timeout"),
        Expired::Flood => Error::new(400, Party::Client, "http2_flood"),
        Expired::Broken => Error::new(400, Party::Client, "bad_chunk"),
    }
}

/// The reason of a refusal since the client speaks HTTP to a port that speaks TLS.
pub(crate) const PLAINTEXT: &str = "plaintext_on_tls";

fn speaks_tls(id: &str) -> Reply {
    Reply::text(400, format!("400 Bad Request\nthis port speaks TLS: ask for it by https://\nrequest id: {id}\n"))
}

/// The bytes of an answer to a request that never got as far as a session, which is recorded here. The connection closes.
pub(crate) fn refusal(refused: &Refused<'_>, pages: &ErrorPages, observers: &Observers) -> Bytes {
    let (id, status) = (RequestId::mint(), refused.status);
    let mut exchange = Exchange::new(id, refused.client, refused.scheme);
    exchange.target = refused.target();
    let own = |id: &str| if refused.reason == PLAINTEXT { speaks_tls(id) } else { error_body(status, id, false) };
    let reply = error_page(pages, status, &exchange).unwrap_or_else(|| own(&id.to_string()));
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let Body::Whole(body) = reply.body else { return Bytes::new() };
    let silent = exchange.target.method() == http::Method::HEAD;
    log::refused(refused, id, Some(if silent { 0 } else { body.len() }), observers);
    let (date, length) = (httpdate::fmt_http_date(SystemTime::now()), body.len());
    let mut head = format!("HTTP/1.1 {status} {phrase}\r\ndate: {date}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    reply.head.each(&mut |name, value| {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(&String::from_utf8_lossy(value));
        head.push_str("\r\n");
    });
    debug_assert_eq!(reply.head.status(), status);
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if !silent {
        bytes.extend_from_slice(&body);
    }
    bytes.into()
}
