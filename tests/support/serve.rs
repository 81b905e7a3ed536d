//! The tasks of a scripted origin.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdTcpListener};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::origin::{Action, Answer, Shared, Trigger};
use super::wire::{BodyReader, Head};

/// A listening socket of either kind.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub(super) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        UnixListener::bind(path).map(Self::Unix)
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Acceptor {
    /// Stops listening at once. Closing alone would not: a child process that another test has just forked holds
    /// the socket too, until it has become another program.
    fn drop(&mut self) {
        if let Self::Tcp(listener) = self {
            let _ = socket2::SockRef::from(&*listener).shutdown(Shutdown::Both);
        }
    }
}

/// Accepts until it is aborted; its connections end with it.
pub(super) async fn accept(state: Arc<Shared>, acceptor: Acceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = acceptor.accept() => {
                if let Ok(socket) = accepted {
                    connections.spawn(connection(state.clone(), socket));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(state: Arc<Shared>, socket: Socket) {
    let number = state.connected();
    let open = Open(&state);
    let mut session = Session { state: &state, socket, buffer: Vec::new() };
    // The socket's errors are the proxy's doing; what came before them is in the record.
    let _ = session.run(number).await;
    state.stray(number, &session.buffer);
    drop(session);
    drop(open);
}

/// Counts the connection off even when its task is aborted.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

struct Session<'a> {
    state: &'a Shared,
    socket: Socket,
    buffer: Vec<u8>,
}

/// Whether a connection goes on after an answer.
#[derive(PartialEq, Eq)]
enum Then {
    NextRequest,
    End,
}

impl Session<'_> {
    async fn run(&mut self, number: usize) -> io::Result<()> {
        let greeting = self.state.greeting();
        if let Some(greeting) = &greeting
            && self.perform(greeting, b"GET").await? == Then::End
        {
            return Ok(());
        }
        for answered in usize::from(greeting.is_some()).. {
            let Some(head) = self.head().await? else { break };
            let (method, mut body) = (head.method().to_vec(), BodyReader::new(head.request_framing()));
            let answer = self.state.answer(head.target(), answered);
            let entry = self.state.began(number, head);
            if answer.trigger == Trigger::Head && self.perform(&answer, &method).await? == Then::End {
                return Ok(());
            }
            loop {
                let used = body.feed(&self.buffer);
                let raw: Vec<u8> = self.buffer.drain(..used).collect();
                self.state.update(entry, |request| {
                    request.raw.extend_from_slice(&raw);
                    request.body.clone_from(&body.body);
                    request.trailers.clone_from(&body.trailers);
                    request.complete = body.complete();
                });
                if body.ended() {
                    break;
                }
                if self.fill().await? == 0 {
                    return Ok(());
                }
            }
            if answer.trigger != Trigger::Head && self.perform(&answer, &method).await? == Then::End {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = Head::end(&self.buffer) {
                return Ok(Some(Head::parse(&self.buffer.drain(..end).collect::<Vec<u8>>())));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = vec![0; 16 * 1024];
        let read = self.socket.read(&mut chunk).await?;
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    async fn perform(&mut self, answer: &Answer, method: &[u8]) -> io::Result<Then> {
        for action in &answer.actions {
            match action {
                Action::Message { head, body } => {
                    let mut bytes = head.clone();
                    if method != b"HEAD" {
                        bytes.extend_from_slice(body);
                    }
                    self.send(&bytes).await?;
                }
                Action::Send(bytes) => self.send(bytes).await?,
                Action::Wait(event) => self.state.events.wait(event).await,
                Action::Sleep(time) => tokio::time::sleep(*time).await,
                Action::Close => {
                    self.socket.shutdown().await?;
                    self.drain().await?;
                    return Ok(Then::End);
                }
                Action::Reset => {
                    self.socket.reset();
                    return Ok(Then::End);
                }
                Action::Stall => {
                    self.drain().await?;
                    return Ok(Then::End);
                }
                Action::Echo => {
                    self.echo().await?;
                    return Ok(Then::End);
                }
            }
        }
        Ok(Then::NextRequest)
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// Reads until the peer is gone.
    async fn drain(&mut self) -> io::Result<()> {
        while self.fill().await? > 0 {}
        Ok(())
    }

    async fn echo(&mut self) -> io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.buffer);
            self.send(&bytes).await?;
            if self.fill().await? == 0 {
                return Ok(());
            }
        }
    }
}

/// A connection of either kind.
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Makes the coming close an RST.
    fn reset(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
