//! A client's connection as Pingora sees it during one request: the bytes of that request and no more.
//!
//! What a client sends ahead of its turn stays here for the next request. While Pingora waits for an endpoint it polls this
//! stream for a client that leaves; so the deadlines of the exchange are kept here too: when one passes, the read fails.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::l4::ext::get_tcp_info;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::ListenerLimits;
use crate::proxy::{Clock, Downstream, Expired, Line, Pace, Uptake};
use crate::server::alarm::Alarm;
use crate::server::drain::Drain;
use crate::server::frames::{Frames, last_straw};
use crate::server::head::Body;
use crate::server::refusals::Refusals;
use crate::server::socket::{Leftover, Rewound, Socket};
use crate::upstream::Wire;

/// Small writes are joined up to this size: a head and a small body leave together.
const JOIN: usize = 8 * 1024;
/// Room for the first of them.
const FIRST: usize = 2 * 1024;
/// How much is read at once while waiting for a head, or from a client that speaks out of turn.
const READ: usize = 4 * 1024;

/// What a frame may carry, unless a server says otherwise (RFC 9113 §4.2).
const MAX_FRAME: usize = 16 * 1024;

/// A client's connection.
pub(super) struct Conn {
    io: Socket,
    /// Where it goes if it closes with bytes unread.
    leftover: Leftover,
    /// Read, but not yet part of the current request.
    ahead: BytesMut,
    /// How much of what comes belongs to the current request.
    body: Body,
    /// The client will send no more.
    ended: bool,
    /// Written by Pingora, not yet by us.
    out: BytesMut,
    clock: Arc<Clock>,
    alarm: Alarm,
    /// The frames that come, over HTTP/2.
    frames: Option<Box<Frames>>,
    /// What is refused there.
    refusals: Option<Box<Refusals>>,
    /// How the client takes what is written.
    uptake: Uptake,
    /// Bytes that went to it, as far as the system.
    written: u64,
    /// How the current body comes.
    pace: Pace,
    /// What was written is on its way through TLS, and the client takes nothing.
    draining: bool,
    /// How long the head of a stream may take to come.
    head_timeout: Option<Duration>,
    /// The client sent too many frames: the last that Pingora reads are ours.
    calmed: bool,
}

impl Conn {
    pub(super) fn new(io: Wire, clock: Arc<Clock>) -> Self {
        let body = Body::Length(0);
        Self {
            io: Socket::new(io),
            leftover: Leftover::default(),
            ahead: BytesMut::new(),
            body,
            ended: false,
            out: BytesMut::new(),
            clock,
            alarm: Alarm::default(),
            frames: None,
            refusals: None,
            uptake: Uptake::default(),
            written: 0,
            pace: Pace::default(),
            draining: false,
            head_timeout: None,
            calmed: false,
        }
    }

    /// Gives the socket to a TLS handshake, with what has been read ahead.
    pub(super) fn rewind(&mut self) -> Option<Rewound> {
        let ahead = mem::take(&mut self.ahead);
        self.alarm = Alarm::default();
        self.io.rewind(ahead)
    }

    /// Takes what the handshake has made of it.
    pub(super) fn secure(&mut self, io: Socket) {
        self.io = io;
    }

    /// The limits of its listener, which a reload changes.
    pub(super) fn limit(&mut self, limits: &ListenerLimits) {
        self.uptake.limit(limits);
        self.head_timeout = limits.header_timeout;
        self.pace = Pace::new(limits);
    }

    /// What has been read ahead.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    /// Begins a request: takes its head of this length, and lets its body through.
    pub(super) fn begin(&mut self, head: usize, body: Body) -> BytesMut {
        self.start(body);
        if self.ahead.len() == head {
            // Nothing came ahead: the buffer goes with the head, and an idle connection holds none.
            return mem::take(&mut self.ahead);
        }
        self.ahead.split_to(head)
    }

    fn start(&mut self, body: Body) {
        self.body = body;
        self.pace.restart();
        self.clock.reset();
    }

    /// Drops what has been read and is no part of any request.
    pub(super) fn skip(&mut self, length: usize) {
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Lets everything through, as HTTP/2.
    pub(super) fn into_http2(mut self, refusals: Refusals) -> Self {
        self.frames = Some(Box::new(Frames::new()));
        self.refusals = Some(Box::new(refusals));
        self.body = Body::Open;
        self.alarm = Alarm::default();
        self
    }

    /// Reads more ahead. `Ok(false)`: the client has ended.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        // On the stack, so that a connection that waits holds no memory for it.
        let mut space = [MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.ahead.extend_from_slice(buffer.filled());
        self.ended = buffer.filled().is_empty();
        Poll::Ready(Ok(!self.ended))
    }

    /// Waits until `at`; says whether it has come.
    pub(super) fn poll_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.poll_until(at, cx)
    }

    /// Fails once a deadline has passed; otherwise the task is woken when one does.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Of the streams that share a connection each keeps its own time.
        if self.frames.is_none() && self.clock.expired().is_some() {
            return Poll::Ready(io::ErrorKind::TimedOut.into());
        }
        loop {
            let stall = self.uptake.due().map(Instant::from);
            let owed = self.frames.as_ref().and_then(|frames| frames.owes_since());
            let head = owed.zip(self.head_timeout).map(|(since, limit)| since + limit);
            let exchange = if self.frames.is_some() { head } else { self.clock.due() }.map(Instant::from);
            let slow = if self.clock.is_responding() { None } else { self.pace.due() };
            let Some(at) = stall.into_iter().chain(exchange).chain(slow.map(Instant::from)).min() else { return Poll::Pending };
            // The timer knows whether there is time left: the clock is read when it says that there is none.
            ready!(self.poll_until(at, cx));
            if stall.is_some()
                && let Some(expired) = self.uptake.look(Instant::now().into_std(), || taken(&self.io, self.written))
            {
                self.clock.client_failed(expired);
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            if slow.is_some()
                && let Some(expired) = self.pace.look(Instant::now().into_std())
            {
                self.clock.client_failed(expired);
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            if head.is_some_and(|at| at <= Instant::now().into_std()) {
                self.clock.client_failed(Expired::Head);
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            if self.frames.is_none() && self.clock.look().is_err() {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Whether it is the client's turn: its body is not whole, and no response has begun.
    fn awaits_body(&self) -> bool {
        self.is_unread() && !self.clock.is_responding()
    }

    /// Whether a part of the current request's body has not been read.
    fn is_unread(&self) -> bool {
        match &self.body {
            Body::Length(left) => *left > 0,
            Body::Chunked(chunks) => !chunks.is_done(),
            Body::Open => false,
        }
    }

    /// Reads what belongs to the current request.
    fn poll_body(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match &mut self.body {
            // Nothing more of this request: all that can be learned is that the client has left.
            Body::Length(0) => return self.poll_left(cx),
            Body::Length(left) => {
                let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.remaining());
                if !self.ahead.is_empty() {
                    let read = limit.min(self.ahead.len());
                    buffer.put_slice(&self.ahead[..read]);
                    self.ahead.advance(read);
                } else if limit == buffer.remaining() {
                    ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
                } else {
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(limit));
                    ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
                    let read = part.filled().len();
                    buffer.advance(read);
                }
                *left -= (buffer.filled().len() - before) as u64;
            }
            Body::Chunked(chunks) if chunks.is_done() => return self.poll_left(cx),
            Body::Chunked(chunks) => {
                if self.ahead.is_empty() {
                    ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
                    let read = &buffer.filled()[before..];
                    let taken = chunks.take(read);
                    // What came with the end of the body is the next request's.
                    self.ahead.extend_from_slice(&read[taken..]);
                    buffer.set_filled(before + taken);
                } else {
                    let here = buffer.remaining().min(self.ahead.len());
                    let taken = chunks.take(&self.ahead[..here]);
                    buffer.put_slice(&self.ahead[..taken]);
                    self.ahead.advance(taken);
                }
                if chunks.is_broken() {
                    // Where this request ends nobody can tell: neither side's connection carries another.
                    buffer.set_filled(before);
                    self.clock.client_failed(Expired::Broken);
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
            Body::Open if self.ahead.is_empty() => {
                if !self.calmed {
                    ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
                    self.meter(buffer, before);
                }
            }
            Body::Open => {
                let read = buffer.remaining().min(self.ahead.len());
                buffer.put_slice(&self.ahead[..read]);
                self.ahead.advance(read);
                if !self.calmed {
                    self.meter(buffer, before);
                }
            }
        }
        self.ended |= buffer.filled().len() == before;
        Poll::Ready(Ok(()))
    }

    /// Counts the frames in what has been read since `before`. After one too many, nothing of the client's is read any more.
    fn meter(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Some(frames) = &mut self.frames else { return };
        let Some(taken) = frames.take(&buffer.filled()[before..], || Instant::now().into_std()) else { return };
        // The frame goes through with a payload that means nothing: what follows must find whole frames. A longer one than may be
        // is refused for that.
        let rest = frames.rest().min(MAX_FRAME);
        buffer.set_filled(before + taken);
        self.calmed = true;
        self.clock.client_failed(Expired::Flood);
        self.ahead = BytesMut::zeroed(rest);
        if let Some(last) = self.ahead.last_mut() {
            // A window is not updated by zero.
            *last = 1;
        }
        self.ahead.extend_from_slice(&last_straw());
    }

    /// Ends when the client does. What it sends ahead is kept, up to one read: then it must wait its turn.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_ahead(cx)) {
            Ok(true) => Poll::Pending,
            Ok(false) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Writes out what has been joined.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.flowing(written);
                    self.out.advance(written);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.stalled(cx),
            }
        }
        self.out = BytesMut::new();
        match self.io.poll_drain(cx) {
            Poll::Pending => {
                self.draining = true;
                self.stalled(cx)
            }
            drained => {
                if mem::take(&mut self.draining) {
                    self.flowing(0);
                }
                drained
            }
        }
    }

    /// The client takes nothing: only its own time and that of the whole exchange run.
    fn stalled<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.clock.client_stalls(true);
        self.uptake.waits(|| Instant::now().into_std(), || taken(&self.io, self.written));
        self.poll_deadline(cx).map(Err)
    }

    /// The client takes what is sent.
    fn flowing(&mut self, written: usize) {
        self.written += written as u64;
        if let Some(frames) = &mut self.frames {
            frames.sent(written);
        }
        if self.uptake.flows(|| Instant::now().into_std()) {
            self.clock.client_stalls(false);
        }
    }

    /// Writes now, without joining: who calls this has joined what belongs together.
    fn poll_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        match Pin::new(&mut self.io).poll_write(cx, bytes) {
            Poll::Pending => self.stalled(cx),
            outcome => {
                if let Poll::Ready(Ok(written)) = outcome {
                    self.flowing(written);
                }
                outcome
            }
        }
    }

    /// Where the socket goes if it closes with bytes of the client unread.
    pub(super) fn leftover(&self) -> Leftover {
        self.leftover.clone()
    }

    /// Whether the client has sent, or is about to send, what nobody will read.
    fn has_unread(&self) -> bool {
        !self.ended && self.frames.is_none() && (self.is_unread() || !self.ahead.is_empty())
    }

    /// Closes after an exchange in the express lane.
    pub(super) async fn end(mut self) {
        if !self.clock.is_cut() {
            Shutdown::shutdown(&mut self).await;
        }
    }

    /// Writes bytes of our own and closes.
    pub(super) async fn say_last(&mut self, bytes: Bytes) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        self.write_all(&bytes).await?;
        self.flush().await?;
        AsyncWriteExt::shutdown(self).await
    }
}

/// How much of what was `written` the client has taken: its system has acknowledged it. Over a unix socket both are one.
fn taken(io: &Socket, written: u64) -> u64 {
    let Some(wire) = io.wire() else { return written };
    get_tcp_info(wire.descriptor()).map_or(written, |info| info.tcpi_bytes_acked)
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match this.poll_body(cx, buffer) {
            Poll::Pending => {
                if this.awaits_body() {
                    this.pace.waits(|| Instant::now().into_std());
                }
                // Pingora waits for the endpoint: what it has written until now must not wait with it.
                if let Poll::Ready(Err(error)) = this.poll_out(cx) {
                    return Poll::Ready(Err(error));
                }
                this.poll_deadline(cx).map(Err)
            }
            outcome => {
                this.pace.came(buffer.filled().len() - before, || Instant::now().into_std());
                outcome
            }
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = if this.out.len() + bytes.len() <= JOIN {
            if this.out.is_empty() {
                // Most answers are a head and a small body: they find room at once.
                this.out.reserve(bytes.len().max(FIRST));
            }
            this.out.extend_from_slice(bytes);
            bytes.len()
        } else {
            ready!(this.poll_through(cx, bytes))?
        };
        if let (Some(refusals), Some(frames)) = (&mut this.refusals, &this.frames) {
            refusals.look(&bytes[..taken], frames.opened(), this.calmed);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// A client's connection in the express lane.
pub(super) struct Rail<'a> {
    pub(super) conn: &'a mut Conn,
    pub(super) body: Body,
    pub(super) drain: &'a Drain,
}

impl AsyncRead for Rail<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().conn).poll_read(cx, buffer)
    }
}

impl Line for Rail<'_> {
    fn head(&self, length: usize) -> &[u8] {
        &self.conn.ahead[..length]
    }

    fn begin(&mut self, head: usize) {
        self.conn.skip(head);
        self.conn.start(self.body);
    }
}

impl Downstream for Rail<'_> {
    const FRAMES: bool = false;

    fn send_head(&mut self, _head: ResponseHeader, _end: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8], _last: bool) -> Poll<io::Result<usize>> {
        self.conn.poll_through(cx, bytes)
    }

    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.conn).poll_flush(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut byte = [0];
        let ended = ready!(Pin::new(&mut *self.conn).poll_read(cx, &mut ReadBuf::new(&mut byte)));
        Poll::Ready(ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.conn.poll_deadline(cx)
    }

    fn facing(&self) -> Option<SocketAddr> {
        self.conn.io.wire()?.facing()
    }

    fn is_stopping(&self) -> bool {
        self.drain.is_stopping()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.has_unread() && !self.clock.is_cut() {
            self.io.leave(&self.leftover);
        }
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        if let Err(error) = tokio::io::AsyncWriteExt::shutdown(self).await {
            log::debug!("closing a connection failed error={error}");
        }
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.io.wire().map_or(-1, Wire::descriptor)
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        if self.frames.is_some() { Some(ALPN::H2) } else { None }
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
    fn get_read_pending_time(&self) -> Duration {
        Duration::ZERO
    }
    fn get_write_pending_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        // Endpoints may be told where the client asked (`proxy_protocol`): the system is asked for that when it is wanted.
        Some(Arc::new(SocketDigest::from_raw_fd(self.io.wire()?.descriptor())))
    }
}

// The connection loop has looked at the first bytes already.
impl Peek for Conn {}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id())
            .field("body", &self.body)
            .field("http2", &self.frames.is_some())
            .finish_non_exhaustive()
    }
}
