//! What is refused of HTTP/2 below us, before there is a request: told by the frames that the h2 crate and Pingora send. Each has a record
//! like any other request that was refused.
//!
//! Only the heads of frames are looked at, and few bytes behind the head of a reset, of GOAWAY and of an answer that is no more than a status.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::filter::{Client, Scheme};
use crate::proxy::{Refused, refused_silently, refused_unseen};
use crate::server::listeners::Listener;

/// Records the refusals of a connection.
pub(super) struct Refusals {
    listener: Arc<Listener>,
    client: Client,
    scheme: Scheme,
    /// How many requests have come to us.
    served: Arc<AtomicU32>,
    sent: Sent,
    /// How many streams have been refused.
    refused: u32,
    /// Why the connection ends has been recorded.
    over: bool,
}

impl Refusals {
    pub(super) fn new(listener: Arc<Listener>, client: Client, scheme: Scheme, served: Arc<AtomicU32>) -> Self {
        Self { listener, client, scheme, served, sent: Sent::default(), refused: 0, over: false }
    }

    /// Looks at what goes to the client, who has opened so many streams. `calmed`: why the connection ends is recorded elsewhere.
    pub(super) fn look(&mut self, bytes: &[u8], opened: u32, calmed: bool) {
        let mut sent = std::mem::take(&mut self.sent);
        sent.take(bytes, |refusal| self.record(refusal, opened, calmed));
        self.sent = sent;
    }

    fn record(&mut self, refusal: Refusal, opened: u32, calmed: bool) {
        let (name, observers) = (&*self.listener.name, &self.listener.observers);
        let reason = match refusal {
            Refusal::Answered => {
                self.refused += 1;
                return refused_unseen(name, self.client, self.scheme, observers);
            }
            Refusal::Stream(reason) => {
                // One that has come to us is recorded when its exchange ends.
                if opened <= self.served.load(Ordering::Relaxed).saturating_add(self.refused) {
                    return;
                }
                self.refused += 1;
                reason
            }
            Refusal::Connection(_) if calmed || self.over => return,
            Refusal::Connection(reason) => {
                self.over = true;
                reason
            }
        };
        let refused = Refused { status: 400, reason, listener: name, client: self.client, scheme: self.scheme, seen: b"" };
        refused_silently(&refused, observers);
    }
}

/// What a frame refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// A stream, for this reason.
    Stream(&'static str),
    /// All that the client may still send.
    Connection(&'static str),
    /// A request, by a status of 400 and nothing else: none of ours is as short.
    Answered,
}

const HEAD: usize = 9;
/// So much of a payload is looked at.
const SEEN: usize = 8;

/// Follows the frames that are sent.
#[derive(Debug, Default)]
struct Sent {
    /// Bytes until the next frame's head.
    skip: usize,
    /// A head, and what is looked at behind it.
    frame: [u8; HEAD + SEEN],
    have: usize,
}

impl Sent {
    fn take(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Refusal)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let here = self.skip.min(bytes.len());
                self.skip -= here;
                bytes = &bytes[here..];
                continue;
            }
            let want = HEAD + if self.have < HEAD { 0 } else { self.behind() };
            let here = (want - self.have).min(bytes.len());
            self.frame[self.have..self.have + here].copy_from_slice(&bytes[..here]);
            self.have += here;
            bytes = &bytes[here..];
            if self.have >= HEAD && self.have == HEAD + self.behind() {
                if let Some(refusal) = self.refusal() {
                    tell(refusal);
                }
                self.skip = self.length() - self.behind();
                self.have = 0;
            }
        }
    }

    fn length(&self) -> usize {
        u32::from_be_bytes([0, self.frame[0], self.frame[1], self.frame[2]]) as usize
    }

    /// How many bytes behind the head say something.
    fn behind(&self) -> usize {
        const END_STREAM: u8 = 1;
        let length = self.length();
        match self.frame[3] {
            // HEADERS that end a stream, and hold no more than a status and changes of a table's size.
            1 if self.frame[4] & END_STREAM != 0 && length <= SEEN => length,
            // RST_STREAM
            3 => length.min(4),
            // GOAWAY
            7 => length.min(8),
            _ => 0,
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        /// `:status: 400` of the static table (RFC 7541, appendix A).
        const BAD_REQUEST: u8 = 0x8c;
        let payload = &self.frame[HEAD..self.have];
        match (self.frame[3], payload) {
            (1, [sizes @ .., BAD_REQUEST]) if sizes.is_empty() || sizes[0] & 0xe0 == 0x20 => Some(Refusal::Answered),
            (3, [a, b, c, d]) => reason(u32::from_be_bytes([*a, *b, *c, *d])).map(Refusal::Stream),
            (7, [_, _, _, _, a, b, c, d]) => match u32::from_be_bytes([*a, *b, *c, *d]) {
                0 => None,
                code => Some(Refusal::Connection(reason(code).unwrap_or("http2_error"))),
            },
            _ => None,
        }
    }
}

/// Why something is refused, by an error code (RFC 9113 §7). Others end what is no longer wanted, or are our own.
fn reason(code: u32) -> Option<&'static str> {
    match code {
        1 => Some("http2_protocol_error"),
        3 => Some("http2_flow_control"),
        6 => Some("http2_frame_size"),
        7 => Some("http2_refused_stream"),
        9 => Some("http2_compression"),
        11 => Some("http2_flood"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn told(bytes: &[u8], step: usize) -> Vec<Refusal> {
        let (mut sent, mut told) = (Sent::default(), Vec::new());
        for piece in bytes.chunks(step) {
            sent.take(piece, |refusal| told.push(refusal));
        }
        assert_eq!((sent.skip, sent.have), (0, 0));
        told
    }

    #[test]
    fn refusals_are_found_however_they_are_cut() {
        let bytes = [
            frame(4, 0, &[0; 12]),
            frame(3, 0, &[0, 0, 0, 1]),
            frame(1, 4, &[0x88; 20]),
            frame(0, 1, &[0; 300]),
            frame(1, 5, &[0x8c]),
            frame(1, 5, &[0x3f, 0xe1, 0x1f, 0x8c]),
            frame(3, 0, &[0, 0, 0, 7]),
            frame(7, 0, &[0, 0, 0, 1, 0, 0, 0, 9, b'w', b'h', b'y']),
            frame(4, 1, &[]),
        ]
        .concat();
        let all = [
            Refusal::Stream("http2_protocol_error"),
            Refusal::Answered,
            Refusal::Answered,
            Refusal::Stream("http2_refused_stream"),
            Refusal::Connection("http2_compression"),
        ];
        for step in [1, 2, 3, 7, 10, bytes.len()] {
            assert_eq!(told(&bytes, step), all, "{step}");
        }
    }

    #[test]
    fn ends_that_nobody_is_to_blame_for_are_none() {
        let bytes = [
            // Cancelled, over, of no interest, an error of ours.
            frame(3, 0, &[0, 0, 0, 8]),
            frame(3, 0, &[0, 0, 0, 0]),
            frame(3, 0, &[0, 0, 0, 5]),
            frame(3, 0, &[0, 0, 0, 2]),
            frame(7, 0, &[0; 8]),
            // An answer of ours, and one that goes on.
            frame(1, 5, &[0x8c, 0x5c, 0x01, b'0']),
            frame(1, 4, &[0x8c]),
            frame(1, 5, &[0x8d]),
        ]
        .concat();
        assert_eq!(told(&bytes, 5), []);
    }
}
