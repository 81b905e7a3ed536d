//! The frames of an HTTP/2 connection, counted as they pass: a client that sends many which ask for work and carry nothing is told to
//! calm down (RFC 9113 §10.5).
//!
//! Below us, the h2 crate bounds what a connection makes it keep: header lists, CONTINUATION frames, streams that are reset before they
//! are taken up, small pieces of data. What it does not bound is how often it is made to answer or to begin something: PING, SETTINGS,
//! PRIORITY, WINDOW_UPDATE, and requests that are reset once they are on their way upstream. Pure: the time is an argument.

use std::time::Instant;

use crate::proxy::Purse;
use crate::proxy::frame::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, HEADERS, RST_STREAM, WINDOW_UPDATE};

/// PING, SETTINGS, PRIORITY, CONTINUATION, frames of unknown kinds, and DATA that is empty. A gRPC client sends a PING with each burst of
/// data; nobody sends hundreds a second for long.
const CONTROL: Purse = Purse::new(1000.0, 100.0);
/// WINDOW_UPDATE, beside those that what we send explains.
const UPDATES: Purse = Purse::new(1000.0, 100.0);
/// RST_STREAM. A browser that leaves a page resets all of its streams at once.
const RESETS: Purse = Purse::new(200.0, 20.0);
/// A stream that is opened explains so much of a reset: a client may give up on half of its requests.
const RESETS_PER_STREAM: f64 = 0.5;
/// So many bytes that we send explain a WINDOW_UPDATE.
const BYTES_PER_UPDATE: f64 = 64.0;

/// Follows the frames that a client sends.
#[derive(Debug)]
pub(super) struct Frames {
    frame: Frame,
    /// The last stream that was opened, and how many were.
    last: u32,
    opened: u32,
    block: Block,
    control: Purse,
    updates: Purse,
    resets: Purse,
}

/// A head, which may come in several frames, and behind which no other frame may come until it is whole.
#[derive(Debug, Default)]
struct Block {
    begun: bool,
    /// The frame that passes is its last.
    ending: bool,
    /// Since when we wait for the rest of it.
    since: Option<Instant>,
}

impl Frames {
    /// Before the preface.
    pub(super) fn new() -> Self {
        let block = Block::default();
        Self { frame: Frame::behind_preface(), last: 0, opened: 0, block, control: CONTROL, updates: UPDATES, resets: RESETS }
    }

    /// So many bytes went to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.updates.earn(bytes as f64 / BYTES_PER_UPDATE);
    }

    /// How many of these bytes may pass: all of them, or those before the frame that is one too many.
    pub(super) fn take(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.frame.left > 0 {
                let here = self.frame.left.min(bytes.len() - at);
                self.frame.left -= here;
                at += here;
                self.block.passed(self.frame.left);
                continue;
            }
            let (here, whole) = self.frame.take(&bytes[at..]);
            at += here;
            if whole {
                self.block.frame(&self.frame);
                self.block.passed(self.frame.left);
                if !self.spend(&now) {
                    return Some(at);
                }
            }
        }
        self.block.since = if self.block.begun { self.block.since.or_else(|| Some(now())) } else { None };
        None
    }

    /// Since when the client owes the rest of a head.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        self.block.since
    }

    fn spend(&mut self, now: &impl Fn() -> Instant) -> bool {
        match self.frame.kind() {
            DATA if self.frame.left > 0 || self.frame.has(END_STREAM) => true,
            HEADERS => {
                self.resets.earn(RESETS_PER_STREAM);
                let stream = self.frame.stream();
                if stream > self.last {
                    self.last = stream;
                    self.opened = self.opened.saturating_add(1);
                }
                true
            }
            RST_STREAM => self.resets.spend(now()),
            WINDOW_UPDATE => self.updates.spend(now()),
            _ => self.control.spend(now()),
        }
    }

    /// How many streams have been opened.
    pub(super) fn opened(&self) -> u32 {
        self.opened
    }

    /// How many bytes belong to the frame whose head has passed last: what has to pass before another frame may begin.
    pub(super) fn rest(&self) -> usize {
        self.frame.left
    }
}

impl Block {
    fn frame(&mut self, frame: &Frame) {
        // HEADERS begins one; behind it comes CONTINUATION alone, or the connection ends.
        if frame.kind() == HEADERS || (frame.kind() == CONTINUATION && self.begun) {
            self.begun = true;
            self.ending = frame.has(END_HEADERS);
        }
    }

    /// So much of the frame is left.
    fn passed(&mut self, left: usize) {
        if left == 0 && self.ending {
            *self = Self::default();
        }
    }
}

/// Frames that make the h2 crate say GOAWAY with ENHANCE_YOUR_CALM and close, in the place of the client's: a header block in more pieces
/// than any is allowed to have. What it writes stays in one order that way, and streams end as they would for a flood that it sees itself.
pub(super) fn last_straw() -> Vec<u8> {
    const PIECES: usize = 160;
    const STREAM: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
    let frame = |kind: u8| [&[0, 0, 0, kind, 0], &STREAM[..]].concat();
    let mut frames = frame(HEADERS);
    for _ in 0..PIECES {
        frames.extend(frame(CONTINUATION));
    }
    frames
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::frame::{HEAD, PREFACE};

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + payload, 0);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        assert_eq!(frames.take(&[0; PREFACE], Instant::now), None);
        frames
    }

    /// How many of these pass before one is too many.
    fn passing(frames: &mut Frames, unit: &[u8], times: usize) -> usize {
        let now = Instant::now();
        (0..times).take_while(|_| frames.take(unit, || now).is_none()).count()
    }

    #[test]
    fn floods_have_an_end() {
        for kind in [2, 4, 5, 6, 8, 9, 77] {
            assert_eq!(passing(&mut begun(), &frame(kind, 0, 8), 10_000), 1000, "{kind}");
        }
        assert_eq!(passing(&mut begun(), &frame(0, 0, 0), 10_000), 1000, "empty DATA");
        assert_eq!(passing(&mut begun(), &[frame(1, 4, 20), frame(3, 0, 4)].concat(), 10_000), 399, "rapid reset");
    }

    #[test]
    fn what_carries_something_may_come_for_ever() {
        let exchange = [frame(1, 4, 20), frame(0, 0, 100), frame(0, 1, 0)].concat();
        assert_eq!(passing(&mut begun(), &exchange, 10_000), 10_000);
        let mut frames = begun();
        for _ in 0..10_000 {
            frames.sent(1000);
            assert_eq!(frames.take(&frame(8, 0, 4), Instant::now), None);
        }
        // A client that gives up on a third of its requests.
        let third = [frame(1, 5, 20), frame(1, 5, 20), frame(1, 5, 20), frame(3, 0, 4)].concat();
        assert_eq!(passing(&mut begun(), &third, 10_000), 10_000);
    }

    #[test]
    fn a_stream_is_opened_once() {
        let on = |stream: u8| {
            let mut frame = frame(1, 4, 20);
            frame[8] = stream;
            frame
        };
        let mut frames = begun();
        assert_eq!(frames.take(&[on(1), on(3), on(1), on(3), on(9)].concat(), Instant::now), None);
        assert_eq!(frames.opened(), 3);
    }

    #[test]
    fn time_forgives() {
        let mut frames = begun();
        let start = Instant::now();
        for second in 0..60 {
            for _ in 0..100 {
                assert_eq!(frames.take(&frame(6, 0, 8), || start + Duration::from_secs(second)), None);
            }
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let whole = [frame(6, 0, 8), frame(0, 0, 300), frame(6, 0, 8)].concat();
        let mut frames = begun();
        let now = Instant::now();
        for byte in &whole {
            assert_eq!(frames.take(std::slice::from_ref(byte), || now), None);
        }
        assert_eq!(frames.control.left(), 998.0);
        assert!(frames.frame.is_between());
    }

    #[test]
    fn the_frame_that_is_too_many_is_pointed_at() {
        let mut frames = begun();
        let now = Instant::now();
        frames.control = Purse::new(1.0, 0.0);
        let bytes = [frame(6, 0, 8), frame(6, 0, 8)].concat();
        assert_eq!(frames.take(&bytes, || now), Some(2 * HEAD + 8));
        assert_eq!(frames.rest(), 8);
    }
}
