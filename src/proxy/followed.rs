//! A connection to an endpoint on the general way, whose bytes are read along as they pass: below Pingora, which hides what an endpoint
//! said. It takes a length off beside chunks, and reads a bare line feed as the end of a line.
//!
//! Three more things are seen to here, since Pingora can't see to them. A stream of HTTP/2 has no connection of its own whose reads could
//! fail when a deadline of its exchange passes: so those of its endpoint's do. The answer to an upgrade is held back until Pingora has
//! ended the request: it would take an end that comes later for the tunnel's.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use pingora_core::Error as PingoraError;
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::proxy::chunks::Chunks;
use crate::proxy::ctx;
use crate::proxy::judge::{self, Ends, FIELDS_MAX, Refused};
use crate::proxy::wrapping::passes_on;

tokio::task_local! {
    /// The try that the current task is at.
    static TRY: Cell<Option<Try>>;
}

/// One request at one endpoint, as far as its connection must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Try {
    /// Which it is, of all.
    pub(super) number: (u128, u32),
    /// It asks for a head alone.
    pub(super) to_head: bool,
    /// It asks for a tunnel.
    pub(super) upgrade: bool,
}

/// Lets a request name its tries.
pub(super) async fn scope<F: Future>(request: F) -> F::Output {
    TRY.scope(Cell::new(None), request).await
}

/// What the current task writes from now on belongs to this try.
pub(super) fn begin(current: Try) {
    // Outside of a scope nobody asks.
    let _ = TRY.try_with(|cell| cell.set(Some(current)));
}

/// Why bytes of an endpoint's were not passed on, if that is what an error says.
pub(super) fn refusal(error: &PingoraError) -> Option<Refused> {
    let error = error.root_cause().downcast_ref::<io::Error>()?;
    error.get_ref()?.downcast_ref::<Unsound>().map(|unsound| unsound.0)
}

/// Bytes that nobody can rely on.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint's answer can't be relied on: {}", .0.why())]
pub(super) struct Unsound(pub(super) Refused);

/// A connection to an endpoint.
pub(super) struct Followed {
    io: Stream,
    current: Option<Try>,
    reading: Reading,
    /// How often what was written has been sent on, in this try.
    flushed: u8,
    /// Read, and held back until the request has ended; and who waits for it.
    held: Vec<u8>,
    waiting: Option<Waker>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Followed {
    pub(super) fn new(io: Stream) -> Self {
        Self { io, current: None, reading: Reading::default(), flushed: 0, held: Vec::new(), waiting: None, timer: None }
    }

    /// Sees whether what is written begins another request.
    fn look(&mut self) {
        let current = TRY.try_with(Cell::get).ok().flatten();
        if current.is_some() && current != self.current {
            self.current = current;
            self.flushed = 0;
            self.reading.begin(current.is_some_and(|current| current.to_head));
        }
    }

    /// Whether Pingora has ended the request: it sends its head on, and then its end.
    fn has_ended(&self) -> bool {
        self.flushed > 1
    }

    /// Fails once a deadline of the exchange has passed, where its client's connection can't.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(clock) = ctx::stream_clock() else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(clock.timer()));
        clock.poll_expiry(timer.as_mut(), cx).map(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn unsound<T>(refused: Refused) -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::other(Unsound(refused))))
}

impl AsyncRead for Followed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let State::Unsound(refused) = this.reading.state {
            return unsound(refused);
        }
        if this.held.is_empty() {
            match Pin::new(&mut this.io).poll_read(cx, buffer) {
                Poll::Pending => return this.poll_overdue(cx),
                read => ready!(read)?,
            }
            let bytes = &buffer.filled()[before..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match this.reading.take(bytes) {
                Ok(passing) => buffer.set_filled(before + passing),
                Err(refused) => {
                    buffer.set_filled(before);
                    return unsound(refused);
                }
            }
            let upgrade = this.current.is_some_and(|current| current.upgrade);
            if !upgrade || !this.reading.is_tunnel() || this.has_ended() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(&buffer.filled()[before..]);
            buffer.set_filled(before);
        }
        if !this.has_ended() {
            this.waiting = Some(cx.waker().clone());
            return this.poll_overdue(cx);
        }
        let length = this.held.len().min(buffer.remaining());
        buffer.put_slice(&this.held[..length]);
        this.held.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Followed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look();
        Pin::new(&mut this.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.look();
        Pin::new(&mut this.io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.flushed = this.flushed.saturating_add(1);
        if let Some(waiting) = this.waiting.take().filter(|_| this.flushed > 1) {
            waiting.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Where in an endpoint's answers the bytes are that have passed.
#[derive(Debug, Default)]
struct Reading {
    state: State,
    to_head: bool,
    /// What has come of a head that is not whole. It has passed.
    head: Vec<u8>,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing was asked, or all has been answered: what comes is nobody's, and Pingora drops such a connection.
    #[default]
    Nothing,
    Head,
    Length(u64),
    Chunks(Chunks),
    /// All that comes.
    Open,
    /// Likewise, in a tunnel.
    Tunnel,
    Unsound(Refused),
}

impl Reading {
    /// A request goes out.
    fn begin(&mut self, to_head: bool) {
        self.to_head = to_head;
        self.head = Vec::new();
        self.state = match self.state {
            State::Nothing => State::Head,
            // An answer that is not over, and another request: nobody could tell whose the next byte is.
            _ => State::Unsound(Refused::NotOver),
        };
    }

    fn is_tunnel(&self) -> bool {
        matches!(self.state, State::Tunnel)
    }

    /// How many of these bytes may pass. Behind them is what may not, which the next ones are refused for.
    ///
    /// # Errors
    /// None may.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.state {
                State::Nothing | State::Open | State::Tunnel => return Ok(bytes.len()),
                State::Unsound(refused) if at == 0 => return Err(*refused),
                State::Unsound(_) => return Ok(at),
                State::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= taken as u64;
                    at += taken;
                    if *left == 0 {
                        self.state = State::Nothing;
                    }
                }
                State::Chunks(chunks) => {
                    let taken = chunks.take(rest);
                    if chunks.is_broken() {
                        self.state = State::Unsound(Refused::Chunk);
                        continue;
                    }
                    at += taken;
                    if chunks.is_done() {
                        self.state = State::Nothing;
                    }
                }
                State::Head => match self.take_head(rest) {
                    Ok(taken) => at += taken,
                    Err(refused) => self.state = State::Unsound(refused),
                },
            }
        }
        Ok(at)
    }

    /// How many of these bytes are a head's.
    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        let had = self.head.len();
        if had > 0 {
            self.head.extend_from_slice(bytes);
        }
        let text = if had > 0 { &self.head[..] } else { bytes };
        let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut read = httparse::Response::new(&mut []);
        let Some(length) = judge::head(&mut read, text, &mut space)? else {
            if had == 0 {
                self.head.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        };
        let status = read.code.unwrap_or(0);
        judge::status(status)?;
        let fields = read.headers.iter().map(|field| (field.name.as_bytes(), field.value));
        self.state = match status {
            100..200 => {
                judge::informational(fields)?;
                if status == 101 { State::Tunnel } else { State::Head }
            }
            _ => match judge::ends(status, read.version == Some(0), self.to_head, fields)? {
                Ends::AtOnce => State::Nothing,
                Ends::After(length) => State::Length(length),
                Ends::WithChunks => State::Chunks(Chunks::of_response()),
                Ends::WithConnection => State::Open,
            },
        };
        self.head = Vec::new();
        Ok(length - had)
    }
}

passes_on!(Followed);

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("io", &self.io).field("reading", &self.reading.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::judge::HEAD_MAX;

    fn asked(to_head: bool) -> Reading {
        let mut reading = Reading::default();
        reading.begin(to_head);
        reading
    }

    /// What passes of an answer that comes at once, and what the next byte is refused for.
    fn passes(answer: &str) -> (Result<usize, Refused>, Result<usize, Refused>) {
        let mut reading = asked(false);
        (reading.take(answer.as_bytes()), reading.take(b"x"))
    }

    #[test]
    fn answers_pass_wherever_they_are_cut_and_the_next_one_is_found() {
        let answers = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: 1\r\n\r\n",
            "HTTP/1.0 404 Not Found\r\ncontent-length:0\r\n\r\n",
        ];
        for answer in answers {
            let bytes = answer.as_bytes();
            for cut in 0..=bytes.len() {
                let mut reading = asked(false);
                assert_eq!(reading.take(&bytes[..cut]), Ok(cut), "{answer:?} {cut}");
                assert_eq!(reading.take(&bytes[cut..]), Ok(bytes.len() - cut), "{answer:?} {cut}");
                assert!(matches!(reading.state, State::Nothing), "{answer:?} {cut}");
                reading.begin(true);
                assert_eq!(reading.take(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), Ok(38));
                assert!(matches!(reading.state, State::Nothing));
            }
        }
    }

    #[test]
    fn what_ends_in_two_ways_does_not_begin() {
        for (fields, refused) in [
            ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Refused::LengthAndChunks),
            ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Refused::LengthAndChunks),
            ("Transfer-Encoding : chunked\r\n", Refused::Name),
            ("Transfer-Encoding:\r\n chunked\r\n", Refused::Name),
            ("Transfer-Encoding: chunked\n", Refused::LineFeed),
            ("Content-Length: 3\r\nContent-Length: 3\r\n", Refused::LengthTwice),
            ("Content-Length: +3\r\n", Refused::Length),
        ] {
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n3\r\nabc\r\n0\r\n\r\n");
            assert_eq!(passes(&answer), (Err(refused), Err(refused)), "{fields}");
        }
    }

    #[test]
    fn a_head_goes_before_the_chunks_that_are_refused() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in ["5;\nxx\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "0\r\n\n"] {
            assert_eq!(passes(&format!("{head}{body}")), (Ok(head.len()), Err(Refused::Chunk)), "{body:?}");
        }
    }

    #[test]
    fn tunnels_and_what_ends_with_the_connection_are_nobodys_to_judge() {
        for head in ["HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
            let answer = format!("{head}\0\n\r\nHTTP/1.1 200 OK\r\n");
            assert_eq!(passes(&answer), (Ok(answer.len()), Ok(1)));
        }
        assert_eq!(Reading::default().take(b"unasked"), Ok(7));
    }

    #[test]
    fn a_request_behind_half_an_answer_gets_none() {
        let mut reading = asked(false);
        assert_eq!(reading.take(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"), Ok(41));
        reading.begin(false);
        assert_eq!(reading.take(b"lo"), Err(Refused::NotOver));
    }

    #[test]
    fn heads_are_bounded() {
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(HEAD_MAX));
        assert_eq!(passes(&head).0, Err(Refused::TooLarge));
        let mut reading = asked(false);
        let pieces = head.as_bytes().chunks(1000).map(|piece| reading.take(piece)).find_map(Result::err);
        assert_eq!(pieces, Some(Refused::TooLarge));
    }
}
