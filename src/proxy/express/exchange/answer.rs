//! An endpoint's answer on its way to the client.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Version};

use super::super::date;
use super::super::response::{Ends, Response};
use super::super::table::Line;
use super::super::wire::{LAST_CHUNK, poll_read_with, write_chunk};
use super::super::{Downstream, translate};
use super::{Broken, How, Passage, TURN};
use crate::filter::{Error, Reply};
use crate::proxy::affinity;
use crate::proxy::chunks::Chunks;
use crate::proxy::ctx::Ctx;
use crate::proxy::judge::{INFORMATIONAL_MAX, Refused};
use crate::proxy::outcome::ended;
use crate::proxy::response::body_arrived;
use crate::proxy::retry::Circumstances;
use crate::upstream::{Outcome, Wire};

/// How a response went.
pub(super) enum Answered {
    Passed,
    /// A filter answers in its place.
    Replaced(Reply),
}

/// A response's body on its way to the client.
pub(super) struct Body {
    ends: Ends,
    chunks: Chunks,
    /// The client gets it in chunks.
    chunked: bool,
    /// Nothing goes to the client.
    silent: bool,
    done: bool,
    /// More came than was said.
    pub(super) overrun: bool,
}

impl<D: Downstream> Passage<'_, D> {
    /// An answer that may not be the last word: if the request can be tried again, it ends here.
    pub(super) fn by_status(&mut self, response: &Response) -> Result<(), Broken> {
        let outcome = Outcome::Answered(response.status);
        if !self.ctx.exchange.upstream.as_ref().is_some_and(|upstream| upstream.retries().minds(outcome)) {
            return Ok(());
        }
        let retry_after = response.fields.all(b"retry-after").any(|value| value != b"0");
        if !self.once_more(outcome, Circumstances { retry_after, ..Circumstances::default() }) {
            return Ok(());
        }
        ended(&mut self.ctx, outcome, Instant::now());
        Err(Broken { error: Error::internal("the answer was given up"), how: Some(How::GivenUp) })
    }

    /// Walks a response's head back through the filters. `Some`: one of them answers in its place.
    pub(super) async fn walk_back(&mut self, response: &mut Response, ends: Ends) -> Result<Option<Reply>, Broken> {
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
    pub(super) fn begin_answer(&mut self, response: &mut Response, ends: Ends) -> Result<Body, Broken> {
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
    pub(super) async fn inform(&mut self, mut response: Response) -> Result<(), Broken> {
        if response.status == 101 {
            return Err(Broken::refused(Refused::Switches));
        }
        response.strip_hop_by_hop();
        response.strip_framing();
        self.ctx.informational = self.ctx.informational.saturating_add(1);
        if self.ctx.informational > INFORMATIONAL_MAX {
            return Err(Broken::refused(Refused::InformationalFlood));
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

    /// Passes the body on.
    pub(super) fn poll_answer(&mut self, up: &mut Wire, body: &mut Body, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
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
                return Err(Broken::refused(Refused::Chunk));
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
