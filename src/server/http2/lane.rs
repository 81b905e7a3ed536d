//! A stream in the express lane: heads and data go to its framing, and its deadlines are its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::SendStream;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::config::ListenerLimits;
use crate::proxy::{Clock, Downstream, Pace, Uptake};
use crate::server::alarm::Alarm;
use crate::server::drain::Drain;
use crate::server::http2::length;

/// The most that waits for a client's window at once.
const PIECE: usize = 64 * 1024;

/// A stream, as an exchange uses it.
pub(super) struct StreamClient<'a> {
    session: HttpSession,
    /// Once the head of the answer is out.
    writer: Option<SendStream<Bytes>>,
    /// The answer is whole.
    ended: bool,
    /// Come, but not yet taken.
    rest: Bytes,
    /// Bytes that the body lacks, where it has a length.
    missing: Option<u64>,
    /// Its last ones, until the stream has ended: more may come instead, and then it was no such body (RFC 9113 §8.1.1).
    held: Bytes,
    /// No more comes.
    over: bool,
    clock: Arc<Clock>,
    alarm: Alarm,
    /// How the client takes what is sent.
    uptake: Uptake,
    /// How it sends its body.
    pace: Pace,
    /// Bytes that its window had room for.
    written: u64,
    drain: &'a Drain,
}

impl<'a> StreamClient<'a> {
    pub(super) fn new(session: HttpSession, clock: Arc<Clock>, limits: &ListenerLimits, pace: Pace, drain: &'a Drain) -> Self {
        let mut uptake = Uptake::default();
        uptake.limit(limits);
        let over = session.is_body_empty();
        Self {
            writer: None,
            ended: false,
            rest: Bytes::new(),
            missing: if over { None } else { length(session.req_header()) },
            held: Bytes::new(),
            over,
            session,
            clock,
            alarm: Alarm::default(),
            uptake,
            pace,
            written: 0,
            drain,
        }
    }

    /// The exchange is over. An answer that is not whole is broken off, as the client must see: where it has begun, by giving it up, behind
    /// what has been said of it, which a reset at once would take away again.
    pub(super) fn close(mut self) {
        if self.writer.is_none() && !self.ended {
            self.session.shutdown();
        }
    }

    /// The client's window is shut: only its own time and that of the whole exchange run.
    fn stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.clock.client_stalls(true);
        let written = self.written;
        self.uptake.waits(|| Instant::now().into_std(), || written);
        self.poll_deadline(cx).map(Err)
    }

    fn flowing(&mut self, written: usize) {
        self.written += written as u64;
        if self.uptake.flows(|| Instant::now().into_std()) {
            self.clock.client_stalls(false);
        }
    }
}

impl AsyncRead for StreamClient<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() && !this.over {
            match this.session.poll_read_body_bytes(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    this.pace.came(data.len(), || Instant::now().into_std());
                    this.missing = this.missing.map(|missing| missing.saturating_sub(data.len() as u64));
                    let place = if this.missing == Some(0) { &mut this.held } else { &mut this.rest };
                    if !data.is_empty() {
                        *place = data;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => {
                    this.over = true;
                    this.rest = std::mem::take(&mut this.held);
                }
                Poll::Pending => {
                    if !this.clock.is_responding() {
                        this.pace.waits(|| Instant::now().into_std());
                    }
                    return this.poll_deadline(cx).map(Err);
                }
            }
        }
        let taken = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest[..taken]);
        this.rest.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl Downstream for StreamClient<'_> {
    const FRAMES: bool = true;

    fn send_head(&mut self, head: ResponseHeader, end: bool) -> io::Result<()> {
        self.session.write_response_header(Box::new(head), end).map_err(io::Error::other)?;
        self.writer = self.session.take_response_body_writer();
        self.ended = end;
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8], last: bool) -> Poll<io::Result<usize>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        writer.reserve_capacity(bytes.len().min(PIECE));
        let room = match writer.capacity() {
            0 => match writer.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Poll::Pending => return self.stalled(cx),
            },
            room => room,
        };
        let sent = room.min(bytes.len());
        let end = last && sent == bytes.len();
        writer.send_data(Bytes::copy_from_slice(&bytes[..sent]), end).map_err(io::Error::other)?;
        self.ended |= end;
        self.flowing(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_sent(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is the connection that writes, and what it keeps for that is no more than the client's window.
        Poll::Ready(Ok(()))
    }

    fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let (false, Some(writer)) = (self.ended, &mut self.writer) {
            writer.send_data(Bytes::new(), true).map_err(io::Error::other)?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match &mut self.writer {
            Some(writer) => writer.poll_reset(cx).is_ready(),
            None => Pin::new(&mut self.session.idle()).poll(cx).is_ready(),
        };
        if reset { Poll::Ready(io::ErrorKind::ConnectionReset.into()) } else { self.poll_deadline(cx) }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.clock.expired().is_some() {
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
        loop {
            let stall = self.uptake.due().map(Instant::from);
            let exchange = self.clock.due().map(Instant::from);
            let slow = if self.clock.is_responding() { None } else { self.pace.due().map(Instant::from) };
            let Some(at) = stall.into_iter().chain(exchange).chain(slow).min() else { return Poll::Pending };
            ready!(self.alarm.poll_until(at, cx));
            let (now, written) = (Instant::now().into_std(), self.written);
            let late = stall.and_then(|_| self.uptake.look(now, || written));
            if let Some(expired) = late.or_else(|| slow.and_then(|_| self.pace.look(now))) {
                self.clock.client_failed(expired);
            } else {
                // What has passed is kept there.
                let _ = self.clock.look();
            }
            if self.clock.expired().is_some() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn facing(&self) -> Option<SocketAddr> {
        self.session.server_addr()?.as_inet().copied()
    }

    fn is_stopping(&self) -> bool {
        self.drain.is_stopping()
    }
}
