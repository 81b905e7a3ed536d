//! Answers of Ravelin's own, in the lane.

use std::future::poll_fn;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;

use super::Downstream;
use super::Outcome;
use super::date;
use super::exchange::Passage;
use super::response::{phrase, write_status};
use super::translate;
use super::wire::{LAST_CHUNK, write_chunk};
use crate::filter::{Body, Error, Fields, Party, Reply, ReplyHead, ResponseHead};
use crate::proxy::Expired;
use crate::proxy::failure::missed;
use crate::proxy::log::close;
use crate::proxy::reply::{own_error, say_when};

impl<D: Downstream> Passage<'_, D> {
    /// The exchange failed: answers if that is still possible. The connection closes in any case.
    pub(super) async fn fail(&mut self, error: Error) -> Outcome {
        self.closes = true;
        let clock = &self.ctx.connection.clock;
        let exchange_over = clock.left().is_some_and(|left| left.is_zero()).then_some(Expired::Exchange);
        if let Some(expired) = clock.expired().or(exchange_over) {
            self.ctx.fail(missed(expired));
        }
        self.ctx.fail(error);
        let (code, party, reason) = self
            .ctx
            .exchange
            .failure
            .as_ref()
            .map_or((500, Party::Us, ""), |failure| (failure.code(), failure.party(), failure.reason()));
        let gone = party == Party::Client && matches!(reason, "client_gone" | "client_stalls" | "client_too_slow");
        if self.written.is_some() || gone {
            self.ctx.connection.clock.cut();
        } else {
            let mut reply = self.error_reply(code);
            say_when(&mut reply, reason);
            // Whether it went out or not, this connection ends here.
            let _ = self.answer(reply).await;
        }
        self.ctx.exchange.status = self.written;
        close(&mut self.ctx);
        Outcome::Close
    }

    /// Answers with an error.
    pub(super) async fn answer_error(&mut self, error: Error) -> Result<(), Error> {
        let mut reply = self.error_reply(error.code());
        // What is too large is not read to its end, however short.
        self.closes |= error.code() == 413;
        say_when(&mut reply, error.reason());
        self.ctx.fail(error);
        self.answer(reply).await
    }

    /// Walks a reply back through the filters that the request passed, and sends it.
    pub(super) async fn answer(&mut self, mut reply: Reply) -> Result<(), Error> {
        if let Some(route) = self.ctx.route.clone() {
            match route.chain.response(&mut self.ctx.run, &mut reply.head, &mut self.ctx.exchange).await {
                Ok(None) => {}
                Ok(Some(other)) => {
                    self.ctx.own_answer = Some("filter");
                    reply = other;
                }
                Err(error) => {
                    // A filter failed on the way back: no other sees what is left to say.
                    self.ctx.run.give_up();
                    reply = self.error_reply(500);
                    self.ctx.fail(error);
                }
            }
        }
        self.send(reply).await
    }

    /// Sends a reply as it is.
    pub(super) async fn send(&mut self, mut reply: Reply) -> Result<(), Error> {
        self.ctx.exchange.status = Some(reply.head.status());
        self.ctx.connection.clock.respond();
        // A client that has not been heard out is not heard again.
        self.closes |= self.client.is_stopping() || self.ask.ends_connection();
        if let Some(cookie) = &self.ctx.stick {
            // Made of names that fit: it can't fail.
            let _ = reply.head.add("set-cookie", cookie.as_bytes());
        }
        let written = self.write(reply).await;
        self.ctx.answered = true;
        if let Err(error) = written {
            self.closes = true;
            self.ctx.connection.clock.cut();
            self.ctx.fail(error);
            return Err(Error::new(400, Party::Client, "client_gone"));
        }
        Ok(())
    }

    async fn write(&mut self, mut reply: Reply) -> Result<(), Error> {
        let status = reply.head.status();
        let bodiless = matches!(status, 204 | 304);
        let silent = bodiless || *self.ctx.exchange.target.method() == Method::HEAD;
        for name in ["connection", "transfer-encoding", "date"] {
            reply.head.remove(name);
        }
        let mut body = reply.body;
        match &body {
            Body::Whole(bytes) if !bodiless => {
                // A number: it can't fail.
                let _ = reply.head.set("content-length", bytes.len().to_string().as_bytes());
            }
            Body::Whole(_) => {}
            Body::Stream(_) => _ = reply.head.remove("content-length"),
        }
        let chunked = matches!(body, Body::Stream(_)) && !silent && !D::FRAMES;
        if D::FRAMES {
            let empty = silent || matches!(&body, Body::Whole(bytes) if bytes.is_empty());
            self.hand_over(&reply.head, empty)?;
        } else {
            self.write_head(&reply.head, chunked);
        }
        self.written = Some(status);
        match &mut body {
            _ if silent => {}
            Body::Whole(bytes) => {
                self.out.more().extend_from_slice(bytes);
                self.ctx.sent += bytes.len() as u64;
            }
            Body::Stream(stream) => {
                self.leave(false).await?;
                while let Some(piece) = stream.next().await {
                    let piece: Bytes = piece?;
                    if chunked {
                        write_chunk(&piece, self.out.more());
                    } else {
                        self.out.more().extend_from_slice(&piece);
                    }
                    self.ctx.sent += piece.len() as u64;
                    self.leave(false).await?;
                }
                if chunked {
                    self.out.more().extend_from_slice(LAST_CHUNK);
                }
            }
        }
        self.leave(true).await
    }

    fn write_head(&mut self, head: &ReplyHead, chunked: bool) {
        let out = self.out.more();
        write_status(head.status(), out);
        out.extend_from_slice(phrase(head.status()).as_bytes());
        out.extend_from_slice(b"\r\n");
        for (name, value) in head.fields().iter() {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        date::with(Instant::now(), |line| out.extend_from_slice(line.text));
        out.extend_from_slice(if self.closes { b"Connection: close\r\n\r\n" } else { b"Connection: keep-alive\r\n\r\n" });
    }

    fn hand_over(&mut self, head: &ReplyHead, empty: bool) -> Result<(), Error> {
        let gone = |error: std::io::Error| Error::new(400, Party::Client, "client_gone").with_message(error.to_string());
        let head = translate::reply(head).map_err(Error::internal)?;
        self.client.send_head(head, empty).map_err(gone)
    }

    /// Waits until the client has what is on its way. `last`: that is the whole answer.
    async fn leave(&mut self, last: bool) -> Result<(), Error> {
        let left = poll_fn(|cx| self.poll_out_all(last, cx)).await;
        left.map_err(|error| {
            let gone = || Error::new(400, Party::Client, "client_gone").with_message(error.to_string());
            self.ctx.connection.clock.expired().map_or_else(gone, missed)
        })
    }

    fn error_reply(&self, status: u16) -> Reply {
        let fields = self.head.fields.map();
        match &self.ctx.route {
            Some(route) => own_error(route.errors(), status, &self.ctx.exchange, &fields),
            None => own_error(self.express.common.store.load().errors(), status, &self.ctx.exchange, &fields),
        }
    }
}
