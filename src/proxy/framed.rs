//! A connection over HTTP/2 to an endpoint, whose frames are read along as they pass, as `followed` does over HTTP/1: below the h2 crate,
//! which hides what an endpoint said. It drops pseudo-fields of requests, informational heads and 101 without a word, has no bound for frames that
//! it must answer, and can't tell a reset behind a whole answer from one in the midst of it.
//!
//! What breaks the rules that the endpoint and we share fails the read, and with it the connection and all of its streams: what
//! follows may be anything. What is wrong with one answer alone is told by `judge`, and ends that one.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use pingora_core::connectors::http::v2::ConnectionRef;
use pingora_core::protocols::http::v2::client::drive_connection;
use pingora_core::protocols::{Digest, Stream};
use pingora_core::{Error as PingoraError, ErrorType, OrErr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::proxy::followed::Unsound;
use crate::proxy::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, PADDED, PRIORITY, PUSH_PROMISE, RST_STREAM, WINDOW_UPDATE,
};
use crate::proxy::hpack::{Blocks, Pseudo};
use crate::proxy::judge::{HEAD_MAX, INFORMATIONAL_MAX, Refused};
use crate::proxy::wrapping::passes_on;
use crate::proxy::{Purse, Result};

/// What an endpoint may send ahead of what we take, on a stream and in all.
const WINDOW: u32 = 1 << 23;
/// We like frames to be larger than they would be.
const FRAME: u32 = 64 * 1024;
/// How long a list of fields may be below us, with what each field counts for beside its text (RFC 9113 §6.5.2). `judge` has a narrower
/// bound, and a reason to tell.
const LIST: u32 = 4 * HEAD_MAX as u32;

/// PING, SETTINGS, PRIORITY, CONTINUATION, frames of unknown kinds, empty DATA, and heads that answer nothing.
const CONTROL: Purse = Purse::new(1000.0, 100.0);
/// A frame of ours explains one of these: an endpoint that measures how far away we are asks by a PING for each burst of data.
const CONTROL_PER_FRAME: f64 = 1.0;
const UPDATES: Purse = Purse::new(1000.0, 100.0);
/// So many bytes that we send explain a WINDOW_UPDATE.
const BYTES_PER_UPDATE: f64 = 64.0;
/// RST_STREAM, beside one for each stream.
const RESETS: Purse = Purse::new(200.0, 20.0);

/// Begins HTTP/2 with an endpoint.
pub(super) async fn handshake(stream: Stream, streams: usize) -> Result<ConnectionRef> {
    let id = stream.id();
    let digest = Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    };
    let (requests, connection) = h2::client::Builder::new()
        .enable_push(false)
        .initial_max_send_streams(streams)
        .max_concurrent_streams(1)
        .max_frame_size(FRAME)
        .max_header_list_size(LIST)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(Framed::new(stream))
        .await
        .or_err(ErrorType::HandshakeError, "beginning HTTP/2")?;
    let (closed, closes) = watch::channel(false);
    let pings = Arc::new(AtomicBool::new(false));
    tokio::spawn(drive_connection(connection, id, closed, None, pings.clone()));
    Ok(ConnectionRef::new(requests, closes, pings, id, streams, digest))
}

/// Why an answer over HTTP/2 can't be relied on, if that is what an error says: what a connection was refused for, or what the h2 crate
/// has refused of it.
pub(super) fn refusal(error: &PingoraError) -> Option<Refused> {
    let error = error.root_cause().downcast_ref::<h2::Error>()?;
    match error.get_io() {
        // On its way through the crate an error becomes a text.
        Some(error) => error.get_ref().and_then(|cause| Refused::told_by(&cause.to_string())),
        None if !error.is_library() => None,
        None if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) => Some(Refused::Flood),
        None => Some(Refused::Http2),
    }
}

/// A connection to an endpoint.
struct Framed {
    io: Stream,
    answers: Answers,
    asked: Asked,
}

impl Framed {
    fn new(io: Stream) -> Self {
        Self { io, answers: Answers::default(), asked: Asked::default() }
    }
}

impl AsyncRead for Framed {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let taken = match this.answers.refused {
            Some(refused) => Err(refused),
            None => {
                ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
                this.answers.take(&mut buffer.filled_mut()[before..], Instant::now)
            }
        };
        Poll::Ready(match taken {
            Ok(passing) => {
                buffer.set_filled(before + passing);
                Ok(())
            }
            Err(refused) => {
                buffer.set_filled(before);
                let digest = this.io.get_socket_digest();
                let endpoint = digest.as_ref().and_then(|digest| digest.peer_addr()).map(ToString::to_string);
                log::warn!(
                    "a connection over HTTP/2 is given up endpoint={} reason={} detail={:?}",
                    endpoint.unwrap_or_default(),
                    refused.reason(),
                    refused.why(),
                );
                Err(io::Error::other(Unsound(refused)))
            }
        })
    }
}

impl AsyncWrite for Framed {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.asked.take(&bytes[..written], &mut this.answers);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bytes))?;
        let mut left = written;
        for slice in bytes {
            let here = left.min(slice.len());
            this.asked.take(&slice[..here], &mut this.answers);
            left -= here;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

passes_on!(Framed);

impl fmt::Debug for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framed").field("io", &self.io).finish_non_exhaustive()
    }
}

/// What goes to the endpoint.
#[derive(Debug)]
struct Asked {
    frame: Frame,
}

impl Default for Asked {
    fn default() -> Self {
        Self { frame: Frame::behind_preface() }
    }
}

impl Asked {
    fn take(&mut self, mut bytes: &[u8], answers: &mut Answers) {
        answers.updates.earn(bytes.len() as f64 / BYTES_PER_UPDATE);
        while !bytes.is_empty() {
            let here = self.frame.left.min(bytes.len());
            self.frame.left -= here;
            bytes = &bytes[here..];
            let (here, whole) = self.frame.take(bytes);
            bytes = &bytes[here..];
            if whole {
                answers.asked(&self.frame);
            }
        }
    }
}

/// What comes from the endpoint.
#[derive(Debug)]
struct Answers {
    frame: Frame,
    /// A head that is not whole: whose it is, whether it ends its stream, and what there is of it.
    block: Option<(u32, bool)>,
    text: Vec<u8>,
    blocks: Blocks,
    /// Streams that wait for an answer, or for the rest of one.
    open: HashMap<u32, Progress>,
    /// Whether a reset that passes has shown a reason yet.
    code: u8,
    control: Purse,
    updates: Purse,
    resets: Purse,
    refused: Option<Refused>,
}

/// How far the answer on a stream has come.
#[derive(Debug, Default)]
struct Progress {
    informational: u8,
    has_head: bool,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            frame: Frame::default(),
            block: None,
            text: Vec::new(),
            blocks: Blocks::default(),
            open: HashMap::new(),
            code: 0,
            control: CONTROL,
            updates: UPDATES,
            resets: RESETS,
            refused: None,
        }
    }
}

impl Answers {
    /// A frame goes out.
    fn asked(&mut self, frame: &Frame) {
        match frame.kind() {
            HEADERS => {
                self.open.entry(frame.stream()).or_default();
                self.resets.earn(1.0);
                self.control.earn(CONTROL_PER_FRAME);
            }
            DATA => self.control.earn(CONTROL_PER_FRAME),
            RST_STREAM => _ = self.open.remove(&frame.stream()),
            _ => {}
        }
    }

    /// How many of these bytes may pass. Behind them is what may not, which the next read fails for.
    ///
    /// # Errors
    /// None may.
    fn take(&mut self, bytes: &mut [u8], now: impl Fn() -> Instant) -> std::result::Result<usize, Refused> {
        let mut at = 0;
        while at < bytes.len() {
            match self.step(&mut bytes[at..], &now) {
                Ok(taken) => at += taken,
                Err(refused) => {
                    self.refused = Some(refused);
                    return if at == 0 { Err(refused) } else { Ok(at) };
                }
            }
        }
        Ok(at)
    }

    /// The rest of a frame, or of its head.
    fn step(&mut self, bytes: &mut [u8], now: &impl Fn() -> Instant) -> std::result::Result<usize, Refused> {
        if self.frame.left == 0 {
            let (taken, whole) = self.frame.take(bytes);
            if whole {
                self.begin(now)?;
                if self.frame.left == 0 {
                    self.end()?;
                }
            }
            return Ok(taken);
        }
        let taken = self.frame.left.min(bytes.len());
        let part = &mut bytes[..taken];
        self.frame.left -= taken;
        match self.frame.kind() {
            HEADERS | CONTINUATION => self.text.extend_from_slice(part),
            RST_STREAM => self.code = part.iter().fold(self.code, |code, byte| code | byte),
            _ => {}
        }
        if self.frame.left == 0 {
            if self.frame.kind() == RST_STREAM
                && self.open.remove(&self.frame.stream()).is_some()
                && self.code == 0
                && let Some(last) = part.last_mut()
            {
                // Without an error, behind half an answer: the h2 crate would not tell it from one behind a whole answer, which only says
                // that the rest of the request is not wanted (RFC 9113 §8.1).
                *last = u32::from(Reason::CANCEL) as u8;
            }
            self.end()?;
        }
        Ok(taken)
    }

    /// A frame begins.
    fn begin(&mut self, now: &impl Fn() -> Instant) -> std::result::Result<(), Refused> {
        let kind = self.frame.kind();
        if self.block.is_some() != (kind == CONTINUATION) {
            // Between the pieces of a head comes nothing else, and without one no piece (RFC 9113 §6.10).
            return Err(Refused::Frame);
        }
        let affordable = match kind {
            DATA => self.frame.left > 0 || self.frame.has(END_STREAM) || self.control.spend(now()),
            HEADERS => self.open.contains_key(&self.frame.stream()) || self.control.spend(now()),
            RST_STREAM => {
                self.code = 0;
                self.resets.spend(now())
            }
            WINDOW_UPDATE => self.updates.spend(now()),
            // We have said that we want none.
            PUSH_PROMISE => return Err(Refused::Push),
            _ => self.control.spend(now()),
        };
        if !affordable {
            return Err(Refused::Flood);
        }
        match kind {
            HEADERS => {
                self.text.clear();
                self.block = Some((self.frame.stream(), self.frame.has(END_STREAM)));
            }
            CONTINUATION if self.block.is_none_or(|(stream, _)| stream != self.frame.stream()) => return Err(Refused::Frame),
            _ => {}
        }
        if matches!(kind, HEADERS | CONTINUATION) && self.text.len() + self.frame.left > LIST as usize {
            return Err(Refused::TooLarge);
        }
        Ok(())
    }

    /// A frame is over.
    fn end(&mut self) -> std::result::Result<(), Refused> {
        match self.frame.kind() {
            DATA if self.frame.has(END_STREAM) => _ = self.open.remove(&self.frame.stream()),
            HEADERS => self.unwrap()?,
            _ => {}
        }
        if !matches!(self.frame.kind(), HEADERS | CONTINUATION) || !self.frame.has(END_HEADERS) {
            return Ok(());
        }
        let Some((stream, ends)) = self.block.take() else { return Ok(()) };
        let pseudo = self.blocks.read(&self.text).map_err(|_| Refused::Block)?;
        if self.text.capacity() > FRAME as usize {
            self.text = Vec::new();
        }
        if let Some(progress) = self.open.get_mut(&stream) {
            progress.take(pseudo, ends)?;
        }
        if ends {
            self.open.remove(&stream);
        }
        Ok(())
    }

    /// Takes off a head what stands around it in its first frame (RFC 9113 §6.2).
    fn unwrap(&mut self) -> std::result::Result<(), Refused> {
        let (mut start, mut end) = (0, self.text.len());
        if self.frame.has(PADDED) {
            let padding = usize::from(*self.text.first().ok_or(Refused::Frame)?);
            start = 1;
            end = end.checked_sub(padding).ok_or(Refused::Frame)?;
        }
        if self.frame.has(PRIORITY) {
            start += 5;
        }
        if start > end {
            return Err(Refused::Frame);
        }
        self.text.truncate(end);
        self.text.drain(..start);
        Ok(())
    }
}

impl Progress {
    /// A block of fields is whole: an informational head, the final one, or trailers.
    fn take(&mut self, pseudo: Pseudo, ends: bool) -> std::result::Result<(), Refused> {
        let Pseudo { statuses, status, others } = pseudo;
        if others || statuses != u8::from(!self.has_head) {
            return Err(Refused::Pseudo);
        }
        match status {
            _ if self.has_head => Ok(()),
            // Nobody switches protocols here (RFC 9113 §8.6).
            101 => Err(Refused::Switches),
            0..100 => Err(Refused::LowStatus),
            100..200 if ends => Err(Refused::InformationalEnd),
            100..200 => {
                self.informational += 1;
                if self.informational > INFORMATIONAL_MAX { Err(Refused::InformationalFlood) } else { Ok(()) }
            }
            _ => {
                self.has_head = true;
                Ok(())
            }
        }
    }
}

/// What must hold of frames, whatever comes: they are found alike however they are cut. For `server::fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn found_alike(data: &[u8]) {
    let now = Instant::now();
    let asked = || {
        let mut answers = Answers::default();
        answers.open.insert(1, Progress::default());
        answers
    };
    let (mut whole, mut bytewise) = (asked(), asked());
    let (mut at_once, mut one_by_one) = (data.to_vec(), data.to_vec());
    let _ = whole.take(&mut at_once, || now);
    let ended = one_by_one.chunks_mut(1).position(|byte| bytewise.take(byte, || now).is_err());
    assert_eq!(whole.refused, bytewise.refused);
    assert_eq!(whole.refused.is_some(), ended.is_some());
    assert_eq!(whole.open.len(), bytewise.open.len());
    let end = ended.unwrap_or(data.len());
    assert_eq!(at_once[..end], one_by_one[..end]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// Requests on streams 1 and 3 have gone out.
    fn asked() -> Answers {
        let mut answers = Answers::default();
        let mut asked = Asked::default();
        let written = [vec![0; 24], frame(4, 0, 0, &[]), frame(1, 5, 1, b"abc"), frame(1, 4, 3, b"abc")].concat();
        // However it is cut.
        for piece in written.chunks(5) {
            asked.take(piece, &mut answers);
        }
        assert_eq!(answers.open.len(), 2);
        answers
    }

    /// What is refused of these bytes, however they are cut; and how many pass when they come at once.
    fn outcome(bytes: &[u8]) -> (usize, Option<Refused>) {
        let (now, mut whole) = (Instant::now(), asked());
        let passing = whole.take(&mut bytes.to_vec(), || now).unwrap_or(0);
        for step in [1, 4, 10, 100] {
            let mut answers = asked();
            for piece in bytes.to_vec().chunks_mut(step) {
                if answers.refused.is_none() {
                    let _ = answers.take(piece, || now);
                }
            }
            assert_eq!(answers.refused, whole.refused, "{step}");
        }
        (passing, whole.refused)
    }

    #[test]
    fn answers_as_they_should_be_pass() {
        let bytes = [
            frame(4, 0, 0, &[0, 4, 0, 1, 0, 0]),
            frame(4, 1, 0, &[]),
            frame(8, 0, 0, &[0, 1, 0, 0]),
            frame(1, 4, 1, b"\x08\x03103\x0f\x1e\x01a"),
            // In pieces, with padding and a priority.
            frame(1, PADDED | PRIORITY, 1, b"\x02\0\0\0\0\x10\x48\x03\0\0"),
            frame(9, 0, 1, b"20"),
            frame(9, 4, 1, b"6\x0f\x0d\x015"),
            frame(0, 0, 1, b"hello"),
            frame(1, 5, 1, b"\0\x0bgrpc-status\x010"),
            // By its place in the table.
            frame(1, 5, 3, b"\xbe"),
        ]
        .concat();
        assert_eq!(outcome(&bytes), (bytes.len(), None));
        let mut answers = asked();
        answers.take(&mut bytes.clone(), Instant::now).unwrap();
        assert!(answers.open.is_empty() && answers.block.is_none());
    }

    #[test]
    fn heads_that_are_none_end_the_connection() {
        for bytes in [
            frame(1, 5, 1, b"\x88\x04\x01/"),
            frame(1, 5, 1, b"\x81"),
            frame(1, 5, 1, b"\x88\x88"),
            frame(1, 5, 1, b"\0\x01a\x01b"),
            frame(1, 4, 1, b"\x08\x03101"),
            frame(1, 4, 1, b"\x08\x0299"),
            frame(1, 5, 1, b"\x08\x03103"),
            [frame(1, 4, 1, b"\x88"), frame(1, 5, 1, b"\x04\x01/")].concat(),
            [frame(1, 4, 1, b"\x88"), frame(1, 5, 1, b"\x88")].concat(),
            [frame(1, 0, 1, b"\x88"), frame(0, 1, 1, b"x")].concat(),
            [frame(1, 0, 1, b"\x88"), frame(9, 4, 3, b"")].concat(),
            frame(9, 4, 1, b"\x88"),
            frame(1, 5 | PADDED, 1, b"\x05\x88"),
            frame(1, 5 | PADDED, 1, b""),
            frame(1, 5 | PRIORITY, 1, b"\x88"),
            frame(5, 4, 1, b"\0\0\0\x02\x82\x84\x86"),
            frame(1, 5, 1, b"\xff\xff\xff\xff\xff\xff"),
        ] {
            assert_eq!(outcome(&bytes).1.map(Refused::reason), Some("invalid_response"), "{bytes:x?}");
        }
    }

    #[test]
    fn what_comes_before_passes() {
        let good = [frame(4, 0, 0, &[]), frame(1, 5, 3, b"\x88")].concat();
        let bytes = [good.clone(), frame(1, 5, 1, b"\x81")].concat();
        // But for the head of the frame, which tells nothing.
        assert_eq!(outcome(&bytes), (good.len() + 9, Some(Refused::Pseudo)));
    }

    #[test]
    fn informational_heads_have_an_end() {
        let few = [frame(1, 4, 1, b"\x08\x03102").repeat(16), frame(1, 5, 1, b"\x88")].concat();
        assert_eq!(outcome(&few).1, None);
        assert_eq!(outcome(&frame(1, 4, 1, b"\x08\x03102").repeat(17)).1, Some(Refused::InformationalFlood));
    }

    #[test]
    fn floods_have_an_end() {
        let now = Instant::now();
        let floods = [
            (frame(6, 0, 0, &[0; 8]), 1000),
            (frame(4, 0, 0, &[]), 1000),
            (frame(2, 0, 1, &[0; 5]), 1000),
            (frame(7, 0, 0, &[0; 8]), 1000),
            (frame(77, 0, 0, &[]), 1000),
            (frame(0, 0, 1, &[]), 1000),
            (frame(8, 0, 0, &[0, 0, 0, 1]), 1000),
            (frame(3, 0, 1, &[0, 0, 0, 8]), 200),
            // Nobody has asked on it, or does any more.
            (frame(1, 4, 5, b"\x88"), 1000),
        ];
        for (flood, most) in floods {
            let mut answers = asked();
            let passing = (0..5000).take_while(|_| answers.take(&mut flood.clone(), || now).is_ok() && answers.refused.is_none());
            let passing = passing.count();
            assert_eq!(passing, most, "{flood:x?}");
            assert_eq!(answers.refused, Some(Refused::Flood));
        }
        // What we send explains some, and time passes.
        let mut answers = asked();
        let mut asked = Asked::default();
        asked.take(&[0; 24], &mut answers);
        for second in 0..3000 {
            asked.take(&frame(0, 0, 1, &[0; 640]), &mut answers);
            let mut bytes = [frame(6, 0, 0, &[0; 8]), frame(8, 0, 0, &[0, 0, 0, 1]).repeat(10)].concat();
            let now = now + Duration::from_millis(second);
            assert_eq!(answers.take(&mut bytes, || now), Ok(bytes.len()));
        }
    }

    #[test]
    fn continuations_are_bounded() {
        let piece = vec![0; 1 << 16];
        let mut bytes = frame(1, 0, 1, &piece);
        for _ in 0..4 {
            bytes.extend(frame(9, 0, 1, &piece));
        }
        assert_eq!(outcome(&bytes).1, Some(Refused::TooLarge));
    }

    #[test]
    fn a_reset_without_an_error_is_one_unless_the_answer_is_whole() {
        let half = [frame(1, 4, 1, b"\x88"), frame(3, 0, 1, &[0; 4])].concat();
        for step in [1, 3, 100] {
            let (mut answers, mut bytes) = (asked(), half.clone());
            for piece in bytes.chunks_mut(step) {
                answers.take(piece, Instant::now).unwrap();
            }
            assert_eq!(bytes[bytes.len() - 4..], [0, 0, 0, 8]);
            assert_eq!(answers.open.len(), 1);
        }
        for whole in [
            [frame(1, 5, 1, b"\x88"), frame(3, 0, 1, &[0; 4])].concat(),
            [frame(1, 4, 1, b"\x88"), frame(0, 1, 1, b"x"), frame(3, 0, 1, &[0; 4])].concat(),
            [frame(1, 4, 1, b"\x88"), frame(3, 0, 1, &[0, 0, 0, 2])].concat(),
        ] {
            let mut bytes = whole.clone();
            asked().take(&mut bytes, Instant::now).unwrap();
            assert_eq!(bytes, whole);
        }
    }
}
