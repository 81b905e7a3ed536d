//! Where a chunked body ends (RFC 9112 §7.1): so that no byte of the next request is taken for a part of it.
//!
//! Framing that somebody else could read differently breaks the body: whoever reads it then must end both sides.

use crate::types::is_token;

/// Follows the chunks of one body as they pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    state: State,
    /// How many bytes of extensions and trailers have passed.
    extras: u16,
    name: Name,
    /// Trailers are dropped, so it does not matter what they say.
    drops_trailers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In the extensions of a size.
    Extension {
        size: u64,
    },
    /// After the CR of a size line.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// After a chunk's data.
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// After the CR of the empty line.
    LastLf,
    Done,
    /// Not chunks as they should be: the end can't be told.
    Broken,
}

/// Digits of a chunk's size at most.
const MAX_DIGITS: u8 = 15;
/// Bytes of extensions and trailers of one body at most: nobody reads them, so they are no place for a client's megabytes.
const MAX_EXTRAS: u16 = 16 * 1024;

/// What no trailer may say (RFC 9110 §6.5.1): where the message ends, whom it is for, and what the connection does.
const FRAMING: [&[u8]; 7] = [b"connection", b"content-length", b"host", b"te", b"trailer", b"transfer-encoding", b"upgrade"];

impl Chunks {
    pub(crate) const fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, extras: 0, name: Name::EMPTY, drops_trailers: false }
    }

    /// Those of an endpoint, whose trailers go no further.
    pub(crate) const fn of_response() -> Self {
        Self { drops_trailers: true, ..Self::new() }
    }

    /// Whether the whole body has passed.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the framing can't be trusted: no byte of it is the body's.
    pub(crate) fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// How many of these bytes belong to the body: all of them unless it ends here. Of a broken body, all.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        self.take_data(bytes, |_| {})
    }

    /// [`Chunks::take`], and `data` is told what of these bytes is inside of chunks.
    pub(crate) fn take_data(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Done | State::Broken) {
            if let State::Data { left } = &mut self.state {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= here as u64;
                data(&bytes[at..at + here]);
                at += here;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.after(bytes[at]);
            at += 1;
        }
        if self.state == State::Broken { bytes.len() } else { at }
    }

    fn after(&mut self, byte: u8) -> State {
        match (self.state, byte) {
            (State::Size { size, digits }, digit) if digit.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
                State::Size { size: size * 16 + digit, digits: digits + 1 }
            }
            (State::Size { size, digits: 1.. } | State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Size { size, digits: 1.. }, b';') => self.extra(State::Extension { size }),
            (State::Extension { .. }, byte) if is_text(byte) => self.extra(self.state),
            (State::SizeEnd { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeEnd { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart, byte) if is_token(byte) => {
                self.name = Name::EMPTY;
                self.name.push(byte);
                self.extra(State::TrailerName)
            }
            (State::TrailerName, b':') if self.drops_trailers || !self.name.is_framing() => self.extra(State::TrailerValue),
            (State::TrailerName, byte) if is_token(byte) => {
                self.name.push(byte);
                self.extra(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, byte) if is_text(byte) => self.extra(State::TrailerValue),
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            _ => State::Broken,
        }
    }

    /// Goes on, unless there have been too many bytes that nobody reads.
    fn extra(&mut self, next: State) -> State {
        self.extras += 1;
        if self.extras > MAX_EXTRAS { State::Broken } else { next }
    }
}

/// What may stand in a value: no controls but the tab.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// The beginning of a trailer's name, in lower case: as much as tells those that frame from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name {
    bytes: [u8; Self::KEPT],
    length: u8,
}

impl Name {
    /// One more than the longest of [`FRAMING`].
    const KEPT: usize = 18;
    const EMPTY: Self = Self { bytes: [0; Self::KEPT], length: 0 };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    fn is_framing(&self) -> bool {
        FRAMING.contains(&&self.bytes[..usize::from(self.length)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_ends_at_every_cut() {
        let body = b"3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nX: 1\r\nTransfer-Encoding-X: 2\r\n\r\n";
        let with_next = [&body[..], b"GET / HTTP/1.1\r\n"].concat();
        for cut in 0..=with_next.len() {
            let mut chunks = Chunks::new();
            let taken = chunks.take(&with_next[..cut]);
            let rest = chunks.take(&with_next[taken..]);
            assert_eq!(taken + rest, body.len(), "{cut}");
            assert!(chunks.is_done());
        }
    }

    #[test]
    fn a_broken_body_has_no_end() {
        for body in [
            "\r\n",
            "x\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3 \r\nabc\r\n",
            "3 ;x\r\nabc\r\n",
            " 3\r\nabc\r\n",
            "1;\n\r\na\r\n0\r\n\r\n",
            "1;\x01\r\na\r\n0\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n X: 1\r\n\r\n",
            "0\r\nX: 1\r\n 2\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\nContent-Length: 1\r\n\r\n",
            "0\r\nTRANSFER-encoding: chunked\r\n\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\n\n",
            "-1\r\n",
            "0x1\r\n",
            "1111111111111111\r\n",
        ] {
            let bytes = [body.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            let mut chunks = Chunks::new();
            assert_eq!(chunks.take(&bytes), bytes.len(), "{body:?}");
            assert!(chunks.is_broken(), "{body:?}");
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        for (body, part) in [("1;", "x"), ("0\r\nX: ", "y"), ("", "1;x\r\na\r\n"), ("0\r\n", "X: 1\r\n")] {
            let mut chunks = Chunks::new();
            chunks.take(body.as_bytes());
            for _ in 0..=MAX_EXTRAS {
                chunks.take(part.as_bytes());
            }
            assert!(chunks.is_broken(), "{body:?}");
        }
    }
}
