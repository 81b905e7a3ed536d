//! The request on its way to an endpoint.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::super::head::Head;
use super::super::wire::{LAST_CHUNK, Outgoing, poll_read_with, write_chunk};
use super::super::{Downstream, Framing};
use super::{Broken, Passage, REPLAY};
use crate::filter::{Error, Party};
use crate::proxy::bounds::WORTH_READING;
use crate::proxy::chunks::Chunks;
use crate::proxy::upstream::await_response;
use crate::upstream::Wire;

/// The request on its way to an endpoint.
pub(in super::super) struct Ask {
    pub(super) framing: Framing,
    /// What is left of the body; `None`: it has come whole.
    pub(super) left: Option<Left>,
    pub(super) out: Outgoing,
    /// Written, perhaps into a buffer.
    pub(super) unflushed: bool,
    /// The endpoint takes nothing, and its time runs.
    pub(super) stalls: bool,
    /// It takes no more, for this reason.
    pub(super) failed: Option<io::Error>,
    /// What has come of the body so far, while it can be sent once more.
    pub(super) replay: Option<Vec<u8>>,
    /// It was too large for who asked for it.
    pub(super) refused: bool,
    /// What an answer does not need of it is read, and the connection kept.
    short: bool,
}

pub(super) enum Left {
    Length(u64),
    Chunks(Chunks),
    /// Until the stream ends.
    Stream,
}

impl<D: Downstream> Passage<'_, D> {
    /// The rest of a request that was answered before it had come whole.
    pub(super) fn poll_rest(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
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
    pub(super) fn go_on(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.ask.failed.is_some() || (self.ask.left.is_none() && self.ask.out.is_empty() && !self.ask.unflushed) {
            return Ok(());
        }
        match self.poll_ask(up, cx) {
            Poll::Ready(Err(broken)) if !broken.is_by_endpoint() => Err(broken),
            _ => Ok(()),
        }
    }

    /// Waits until the whole request has left.
    pub(super) fn poll_ask(&mut self, up: &mut Wire, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
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
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
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
}

impl Ask {
    pub(super) fn new(framing: Framing) -> Self {
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
    pub(in super::super) fn ends_connection(&self) -> bool {
        self.refused || (self.left.is_some() && !self.short)
    }

    /// Whether all that came of the body can be sent again.
    pub(super) fn can_replay(&self) -> bool {
        self.framing == Framing::Empty || self.replay.is_some()
    }

    /// The same for another endpoint, while this one is asked: all of it is at hand.
    pub(super) fn again(&self) -> Self {
        Self { framing: self.framing, replay: self.replay.clone(), ..Self::new(Framing::Empty) }
    }

    /// Begins a try with this head.
    pub(super) fn begin(&mut self, head: &Head) {
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
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
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
