//! What went wrong, once: an answer for the client, and one line of log that names the party at fault.

use bytes::Bytes;
use pingora_core::Error as PingoraError;
use pingora_proxy::{FailToProxy, Session};

use crate::filter::{Body, Error, Fields, Party, RequestId, ResponseHead};
use crate::proxy::reply::{error_body, error_reply};
use crate::proxy::response::diagnose;
use crate::proxy::{Ctx, Expired, Proxy};

impl Proxy {
    /// Pingora gave up on an exchange: answer if that is still possible. The connection closes in any case.
    pub(super) async fn handle_failure(&self, session: &mut Session, error: &PingoraError, ctx: &mut Ctx) -> FailToProxy {
        session.set_keepalive(None);
        if let Some(reply) = ctx.replacement.take() {
            // Whether it went out or not, this connection ends here.
            let _ = self.send(session, ctx, reply).await;
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
        let gone = party == Party::Client && matches!(reason, "client_gone" | "client_stalls");
        if session.response_written().is_some() || gone {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let reply = error_reply(session, &ctx.exchange, code);
        let _ = self.answer(session, ctx, reply).await;
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }
}

fn missed(expired: Expired) -> Error {
    match expired {
        Expired::Response => Error::new(504, Party::Upstream, "response_timeout"),
        Expired::Read => Error::new(504, Party::Upstream, "read_timeout"),
        Expired::Exchange => Error::new(504, Party::Upstream, "route_timeout"),
        Expired::Tunnel => Error::new(408, Party::Client, "tunnel_idle"),
        Expired::Client => Error::new(408, Party::Client, "client_stalls"),
    }
}

/// The request is over.
pub(super) fn finish(session: &Session, ctx: &mut Ctx) {
    // What was written is the truth, whatever was meant; an informational head is no answer.
    let written = session.response_written().map(|head| head.status.as_u16()).filter(|status| *status == 101 || *status >= 200);
    ctx.exchange.status = written;
    close(ctx);
}

/// An exchange that was dropped where it stood: its time was up on a connection that others share, or the process stopped.
impl Drop for Ctx {
    fn drop(&mut self) {
        if !self.finished {
            let cut = || Error::new(503, Party::Us, "cut_off").with_message("the exchange was dropped");
            let failure = self.connection.clock.expired().map_or_else(cut, missed);
            self.fail(failure);
            close(self);
        }
    }
}

fn close(ctx: &mut Ctx) {
    ctx.finished = true;
    ctx.connection.clock.clear_step();
    if let Some(failure) = &ctx.exchange.failure {
        report(ctx, failure);
    }
    if let Some(route) = &ctx.route {
        route.chain.log(&mut ctx.run, &ctx.exchange);
    }
}

fn report(ctx: &Ctx, failure: &Error) {
    let level = match failure.party() {
        Party::Client => log::Level::Info,
        Party::Upstream | Party::Operator => log::Level::Warn,
        Party::Us => log::Level::Error,
    };
    let exchange = &ctx.exchange;
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    log::log!(
        level,
        "request failed party={} reason={} status={} id={} client={} listener={} method={} host={:?} path={:?} route={} upstream={} endpoint={} tries={} filter={} detail={:?}",
        failure.party().as_str(),
        failure.reason(),
        text(exchange.status.map(|status| status.to_string())),
        exchange.id,
        text(exchange.client.ip().map(|ip| ip.to_string())),
        ctx.connection.listener,
        exchange.target.method(),
        exchange.target.host(),
        exchange.target.path(),
        exchange.route.as_deref().unwrap_or("-"),
        exchange.upstream.as_ref().map_or("-", |upstream| upstream.name()),
        text(exchange.endpoint.as_ref().map(|endpoint| endpoint.address().to_string())),
        exchange.tries,
        failure.filter().unwrap_or("-"),
        failure.message(),
    );
}

/// The bytes of an answer to a request that never got as far as a session, and the log line for it. The connection closes.
pub(crate) fn refusal(status: u16, reason: &'static str, listener: &str, client: Option<std::net::SocketAddr>) -> Bytes {
    let id = RequestId::mint().to_string();
    let client = client.map_or_else(|| "-".to_owned(), |client| client.ip().to_canonical().to_string());
    log::info!("request refused party=client reason={reason} status={status} id={id} client={client} listener={listener}");
    let reply = error_body(status, &id, false);
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let Body::Whole(body) = reply.body else { return Bytes::new() };
    let mut head = format!("HTTP/1.1 {status} {phrase}\r\ncontent-length: {}\r\nconnection: close\r\n", body.len());
    reply.head.each(&mut |name, value| {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(&String::from_utf8_lossy(value));
        head.push_str("\r\n");
    });
    debug_assert_eq!(reply.head.status(), status);
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&body);
    bytes.into()
}
