//! A client's socket, which outlives the exchange that closes it: what the client still sends is read for a while, or its own side
//! would take the answer away with a reset (RFC 9112 §9.6). In the clear, or with TLS on it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::tls::SslDigest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::upstream::Wire;

/// How long a client may take to hear why it is closed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How much it may still send.
const BYTES: u64 = 256 * 1024;

/// The socket of a connection, until it is given up.
pub(super) struct Socket(Option<Io>);

/// What carries the bytes.
enum Io {
    Plain(Wire),
    Tls(Box<Secured>),
}

/// TLS, and what Pingora is told of it.
struct Secured {
    stream: TlsStream<Rewound>,
    digest: Arc<SslDigest>,
}

/// A socket of which some bytes were read already.
pub(super) struct Rewound {
    ahead: BytesMut,
    stream: Wire,
}

/// Where a socket is left that closes with bytes unread.
#[derive(Clone, Default)]
pub(super) struct Leftover(Arc<Mutex<Option<Io>>>);

impl Socket {
    pub(super) fn new(stream: Wire) -> Self {
        Self(Some(Io::Plain(stream)))
    }

    /// What a handshake has made of it.
    pub(super) fn secured(stream: TlsStream<Rewound>, digest: SslDigest) -> Self {
        Self(Some(Io::Tls(Box::new(Secured { stream, digest: Arc::new(digest) }))))
    }

    /// Gives the socket to a handshake, with what was read of it. It is gone until the handshake is over.
    pub(super) fn rewind(&mut self, ahead: BytesMut) -> Option<Rewound> {
        match self.0.take() {
            Some(Io::Plain(stream)) => Some(Rewound { ahead, stream }),
            other => {
                self.0 = other;
                None
            }
        }
    }

    pub(super) fn wire(&self) -> Option<&Wire> {
        match self.0.as_ref()? {
            Io::Plain(stream) => Some(stream),
            Io::Tls(secured) => Some(&secured.stream.get_ref().0.stream),
        }
    }

    pub(super) fn digest(&self) -> Option<Arc<SslDigest>> {
        match self.0.as_ref()? {
            Io::Plain(_) => None,
            Io::Tls(secured) => Some(secured.digest.clone()),
        }
    }

    /// Sends what was written and is on its way through TLS. There is nothing to do in the clear.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(Io::Tls(secured)) if secured.stream.get_ref().1.wants_write() => Pin::new(&mut secured.stream).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
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
        let Some(left) = left else { return };
        let mut stream = Socket(Some(left));
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
        match &mut self.get_mut().0 {
            Some(Io::Plain(stream)) => Pin::new(stream).poll_read(cx, buffer),
            Some(Io::Tls(secured)) => Pin::new(&mut secured.stream).poll_read(cx, buffer),
            None => gone(),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Some(Io::Plain(stream)) => Pin::new(stream).poll_write(cx, bytes),
            Some(Io::Tls(secured)) => Pin::new(&mut secured.stream).poll_write(cx, bytes),
            None => gone(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Some(Io::Plain(stream)) => Pin::new(stream).poll_flush(cx),
            Some(Io::Tls(secured)) => Pin::new(&mut secured.stream).poll_flush(cx),
            None => gone(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Some(Io::Plain(stream)) => Pin::new(stream).poll_shutdown(cx),
            Some(Io::Tls(secured)) => Pin::new(&mut secured.stream).poll_shutdown(cx),
            None => gone(),
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..length]);
        this.ahead.advance(length);
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
