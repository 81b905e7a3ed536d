//! A client's socket, which outlives the exchange that closes it: what the client still sends is read for a while, or its own side
//! would take the answer away with a reset (RFC 9112 §9.6).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pingora_core::protocols::l4::stream::Stream as L4Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How long a client may take to hear why it is closed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much it may still send.
const BYTES: u64 = 256 * 1024;

/// The socket of a connection, until it is given up.
pub(super) struct Socket(Option<Box<L4Stream>>);

/// Where a socket is left that closes with bytes unread.
#[derive(Clone, Default)]
pub(super) struct Leftover(Arc<Mutex<Option<Box<L4Stream>>>>);

impl Socket {
    pub(super) fn new(stream: L4Stream) -> Self {
        Self(Some(Box::new(stream)))
    }

    pub(super) fn stream(&self) -> Option<&L4Stream> {
        self.0.as_deref()
    }

    /// Leaves the socket to whoever waits for the end of the exchange.
    pub(super) fn leave(&mut self, leftover: &Leftover) {
        *leftover.0.lock().unwrap_or_else(PoisonError::into_inner) = self.0.take();
    }
}

impl Leftover {
    /// Closes the socket, if one was left, so that the client can hear what it was told.
    pub(super) async fn linger(&self) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut stream) = left else { return };
        // A client that does not listen is left.
        let _ = tokio::time::timeout(TIMEOUT, async {
            stream.flush().await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream.take(BYTES), &mut tokio::io::sink()).await
        })
        .await;
    }
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.as_mut().map_or_else(gone, |stream| Pin::new(&mut **stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().0.as_mut().map_or_else(gone, |stream| Pin::new(&mut **stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.as_mut().map_or_else(gone, |stream| Pin::new(&mut **stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.as_mut().map_or_else(gone, |stream| Pin::new(&mut **stream).poll_shutdown(cx))
    }
}
