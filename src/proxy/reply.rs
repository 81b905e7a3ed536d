//! Answers that Ravelin makes itself: they walk back through the filters like any other, then go out.

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::filter::{Body, Error, Exchange, Fields, Party, Reply, ResponseHead};
use crate::proxy::{Ctx, Proxy, Result, grpc};
use crate::runtime::ErrorPages;

/// The reason of a refusal since the process has too much to do.
pub(super) const OVERLOADED: &str = "overloaded";
/// The reasons of a refusal since no endpoint has room.
pub(super) const QUEUE_FULL: &str = "queue_full";
pub(super) const QUEUE_TIMEOUT: &str = "queue_timeout";
/// How long what is left of a call may take once it has been answered.
const REST: std::time::Duration = std::time::Duration::from_secs(1);
/// In seconds: what is in flight is over by then, or the limit was too high.
pub(super) const RETRY_AFTER: &[u8] = b"1";

impl Proxy {
    /// Walks a reply back through the filters that the request passed, and sends it.
    ///
    /// # Errors
    /// It did not go out whole: the connection must be broken off.
    pub(super) async fn answer(&self, session: &mut Session, ctx: &mut Ctx, mut reply: Reply) -> Result<()> {
        if let Some(route) = &ctx.route {
            match route.chain.response(&mut ctx.run, &mut reply.head, &mut ctx.exchange).await {
                Ok(None) => {}
                Ok(Some(other)) => {
                    ctx.own_answer = Some("filter");
                    reply = other;
                }
                Err(error) => {
                    // A filter failed on the way back: no other sees what is left to say.
                    ctx.run.give_up();
                    reply = self.error_reply(session, ctx, 500);
                    ctx.fail(error);
                }
            }
        }
        self.send(session, ctx, reply).await
    }

    /// Answers with an error.
    ///
    /// # Errors
    /// As [`Proxy::answer`].
    pub(super) async fn answer_error(&self, session: &mut Session, ctx: &mut Ctx, error: Error) -> Result<()> {
        let mut reply = self.error_reply(session, ctx, error.code());
        if error.code() == 413 {
            // What is too large is not read to its end, however short (`bounds`).
            session.set_keepalive(None);
        }
        say_when(&mut reply, error.reason());
        ctx.fail(error);
        self.answer(session, ctx, reply).await
    }

    /// Sends a reply as it is.
    ///
    /// # Errors
    /// As [`Proxy::answer`].
    pub(super) async fn send(&self, session: &mut Session, ctx: &mut Ctx, mut reply: Reply) -> Result<()> {
        ctx.exchange.status = Some(reply.head.status());
        ctx.connection.clock.respond();
        // After an answer to a request whose body has not been read Pingora closes by itself, unless the body is a short one (`bounds`).
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        if let Some(cookie) = &ctx.stick {
            // Made of names that fit: it can't fail.
            let _ = reply.head.add("set-cookie", cookie.as_bytes());
        }
        let written = write(session, ctx, reply).await;
        if let Err(error) = &written {
            session.set_keepalive(None);
            ctx.fail(Error::new(400, Party::Client, "client_gone").with_message(error.to_string()));
        }
        if written.is_ok() && session.as_downstream().is_http2() && grpc::is_call(&session.req_header().headers) {
            // A stream that is dropped before it has ended on both sides is reset, and clients of gRPC take that for the answer.
            let _ = tokio::time::timeout(REST, session.as_downstream_mut().drain_request_body()).await;
        }
        written
    }

    /// An error with the body that the configuration gives it; else the status in words and the request's id, as JSON where the
    /// client takes it.
    pub(super) fn error_reply(&self, session: &Session, ctx: &Ctx, status: u16) -> Reply {
        let headers = &session.req_header().headers;
        match &ctx.route {
            Some(route) => own_error(route.errors(), status, &ctx.exchange, headers),
            None => own_error(self.store.load().errors(), status, &ctx.exchange, headers),
        }
    }
}

/// Says when to come again, where that is all that is asked of the client.
pub(super) fn say_when(reply: &mut Reply, reason: &str) {
    if matches!(reason, OVERLOADED | QUEUE_FULL | QUEUE_TIMEOUT) {
        // A constant: it can't fail.
        let _ = reply.head.set("retry-after", RETRY_AFTER);
    }
}

/// An error as a client with these header fields gets it.
pub(super) fn own_error(pages: &ErrorPages, status: u16, exchange: &Exchange, headers: &HeaderMap) -> Reply {
    if grpc::is_call(headers) {
        return grpc::ended(status, &exchange.id.to_string());
    }
    error_page(pages, status, exchange).unwrap_or_else(|| {
        let json = headers.get_all(ACCEPT).iter().any(|accept| accepts_json(accept.as_bytes()));
        error_body(status, &exchange.id.to_string(), json)
    })
}

pub(super) fn error_page(pages: &ErrorPages, status: u16, exchange: &Exchange) -> Option<Reply> {
    pages.find(status).and_then(|page| page.reply(status, exchange).ok())
}

pub(super) fn error_body(status: u16, id: &str, json: bool) -> Reply {
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    if json {
        Reply::json(status, format!("{{\"status\":{status},\"error\":\"{phrase}\",\"request_id\":\"{id}\"}}\n"))
    } else {
        Reply::text(status, format!("{status} {phrase}\nrequest id: {id}\n"))
    }
}

fn accepts_json(accept: &[u8]) -> bool {
    let Ok(accept) = std::str::from_utf8(accept) else { return false };
    accept.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let media = parts.next().unwrap_or("").to_ascii_lowercase();
        let refused = parts.any(|parameter| {
            let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
            weight.and_then(|weight| weight.parse::<f32>().ok()).is_some_and(|weight| weight <= 0.0)
        });
        (media == "application/json" || media.ends_with("+json")) && !refused
    })
}

async fn write(session: &mut Session, ctx: &mut Ctx, reply: Reply) -> Result<()> {
    let status = reply.head.status();
    let mut head = ResponseHeader::build(status, Some(reply.head.fields().len() + 2))?;
    for (name, value) in reply.head.fields().iter() {
        head.append_header(name.clone(), value.clone())?;
    }
    let bodiless = matches!(status, 204 | 304);
    let silent = bodiless || session.req_header().method == http::Method::HEAD;
    let body = match reply.body {
        Body::Stream(body) if !silent => body,
        Body::Stream(_) => {
            return write_head(session, head, true).await;
        }
        Body::Whole(bytes) => {
            let bytes = filtered(ctx, Some(bytes), true)?.unwrap_or_default();
            if !bodiless {
                head.insert_header(http::header::CONTENT_LENGTH, bytes.len())?;
            }
            let end = silent || bytes.is_empty();
            write_head(session, head, end).await?;
            if !end {
                session.write_response_body(Some(bytes), true).await?;
            }
            return Ok(());
        }
    };
    write_stream(session, ctx, head, body).await
}

/// Over HTTP/2 Pingora leaves the stream open after any head: one that nothing follows would be reset when it is dropped.
async fn write_head(session: &mut Session, head: ResponseHeader, end: bool) -> Result<()> {
    if let (true, ServerSession::H2(stream)) = (end, session.as_downstream_mut()) {
        return stream.write_response_header(Box::new(head), true);
    }
    session.write_response_header(Box::new(head), end).await
}

async fn write_stream(
    session: &mut Session,
    ctx: &mut Ctx,
    mut head: ResponseHeader,
    mut body: std::pin::Pin<Box<dyn futures_util::Stream<Item = std::result::Result<Bytes, Error>> + Send + Sync>>,
) -> Result<()> {
    head.remove_header(&http::header::CONTENT_LENGTH);
    match session.req_header().version {
        http::Version::HTTP_11 => head.insert_header(http::header::TRANSFER_ENCODING, "chunked")?,
        http::Version::HTTP_10 | http::Version::HTTP_09 => session.set_keepalive(None),
        _ => {}
    }
    session.write_response_header(Box::new(head), false).await?;
    while let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => {
                if let Some(piece) = filtered(ctx, Some(piece), false)?.filter(|piece| !piece.is_empty()) {
                    session.write_response_body(Some(piece), false).await?;
                }
            }
            Err(error) => return Err(crate::proxy::upstream::ended(ctx, error)),
        }
    }
    let last = filtered(ctx, None, true)?;
    session.write_response_body(Some(last.unwrap_or_default()), true).await
}

/// A piece of the body after the filters have seen it.
fn filtered(ctx: &mut Ctx, mut piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>> {
    crate::proxy::response::body(&mut piece, end, ctx)?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_to_those_who_take_it() {
        for (accept, json) in [
            ("application/json", true),
            ("text/html, application/json;q=0.5", true),
            ("application/problem+json", true),
            ("application/json;q=0", false),
            ("*/*", false),
            ("text/html", false),
            ("", false),
        ] {
            assert_eq!(accepts_json(accept.as_bytes()), json, "{accept}");
        }
    }
}
