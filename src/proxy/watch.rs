//! Connections to endpoints on the general way, that keep an endpoint's time while it takes nothing of a request.
//!
//! While Pingora writes it reads neither side: so nobody would look at the clock of the exchange, which is looked at where the client is
//! read (`clock`). A read timeout of Pingora's would be no help, since it runs while the client is the one who pauses. So the stream
//! itself knows how long a write may wait, and stops the clock's step meanwhile. When that time is over, an answer that has come already is still
//! taken; without one the exchange fails.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pingora_core::protocols::{Stream, UniqueID};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::proxy::clock::{Expired, Paused};
use crate::proxy::ctx::with_clock;
use crate::proxy::wrapping::passes_on;

/// A limit where a write has none, once writing has failed: an endpoint that takes nothing more must answer some time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Watched {
    io: Stream,
    /// How long a write may wait.
    limit: Option<Duration>,
    /// Since when the endpoint takes nothing, and what the clock was at.
    stalled: Option<Paused>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Nothing more is written.
    broken: bool,
}

impl Watched {
    pub(super) fn new(io: Stream, limit: Option<Duration>) -> Self {
        Self { io, limit, stalled: None, timer: None, broken: false }
    }

    /// What becomes of a write.
    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            Poll::Pending => {
                if self.stalled.is_none() {
                    // Nobody asks for a limit whose exchange is not ours to end.
                    let Some(paused) = with_clock(|clock| clock.pause_step()) else { return Poll::Pending };
                    self.stalled = Some(paused);
                    self.begin(self.limit);
                }
                if self.poll_over(cx).is_pending() {
                    return Poll::Pending;
                }
                self.broken = true;
                self.begin(None);
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(written) => {
                self.broken |= written.is_err();
                if !self.broken
                    && let Some(paused) = self.stalled.take()
                {
                    self.timer = None;
                    with_clock(|clock| clock.resume_step(paused, Instant::now().into_std()));
                }
                Poll::Ready(written)
            }
        }
    }

    /// Sets the timer: to this time from now on, or to the end of the exchange where that is sooner.
    fn begin(&mut self, limit: Option<Duration>) {
        let exchange = with_clock(|clock| clock.due()).flatten().map(Instant::from);
        let limit = limit.map(|limit| Instant::now() + limit);
        self.timer = limit.into_iter().chain(exchange).min().map(|at| Box::pin(sleep_until(at)));
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Nothing has come, and nothing more will be written.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stalled.take().is_some() {
            // Its time was over with that of the write.
            with_clock(|clock| clock.look().is_ok().then(|| clock.client_failed(Expired::Write)));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if self.timer.is_none() {
            self.begin(Some(self.limit.unwrap_or(PATIENCE)));
        }
        self.poll_over(cx).map(|()| {
            with_clock(|clock| clock.look().is_ok().then(|| clock.client_failed(Expired::Write)));
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut *this.io).poll_read(cx, buffer) {
            Poll::Pending if this.broken => this.poll_end(cx),
            read => read,
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *this.io).poll_write(cx, bytes);
        this.watch(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut *this.io).poll_write_vectored(cx, bytes);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut *this.io).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}

passes_on!(Watched);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("id", &self.id()).finish_non_exhaustive()
    }
}
