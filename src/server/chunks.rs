//! Where a chunked body ends (RFC 9112 §7.1): so that no byte of the next request is taken for a part of it.

/// Follows the chunks of one body as they pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size line: the size so far, its digits, and whether an extension has begun.
    Size {
        size: u64,
        digits: u8,
        extension: bool,
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
    Trailer,
    TrailerLf,
    /// After the CR of the empty line.
    LastLf,
    Done,
    /// Not chunks as they should be: the end can't be told.
    Broken,
}

/// Digits of a chunk's size at most.
const MAX_DIGITS: u8 = 15;

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0, extension: false } }
    }

    /// Whether the whole body has passed.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many of these bytes belong to the body: all of them unless it ends here. Of a broken body, all.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(self.state, State::Done | State::Broken) {
            if let State::Data { left } = &mut self.state {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                *left -= here as u64;
                at += here;
                if *left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            self.state = self.state.after(bytes[at]);
            at += 1;
        }
        if self.state == State::Broken { bytes.len() } else { at }
    }
}

impl State {
    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Size { size, digits, extension: false }, digit) if digit.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
                Self::Size { size: size * 16 + digit, digits: digits + 1, extension: false }
            }
            (Self::Size { size, digits: 1.., .. }, b'\r') => Self::SizeEnd { size },
            (Self::Size { size, digits: digits @ 1.., extension: false }, b';' | b' ' | b'\t') => {
                Self::Size { size, digits, extension: true }
            }
            (Self::Size { extension: true, .. }, b'\t' | b' '..=b'~' | 0x80..) => self,
            (Self::SizeEnd { size: 0 }, b'\n') => Self::TrailerStart,
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size { size: 0, digits: 0, extension: false },
            (Self::TrailerStart, b'\r') => Self::LastLf,
            (Self::TrailerStart | Self::Trailer, byte) if byte != b'\r' && byte != b'\n' => Self::Trailer,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::LastLf, b'\n') => Self::Done,
            _ => Self::Broken,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_ends_where_it_ends_at_every_cut() {
        let body = b"3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\nX: 1\r\nY: 2\r\n\r\n";
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
            "1;\n\r\na\r\n0\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "-1\r\n",
            "0x1\r\n",
            "1111111111111111\r\n",
        ] {
            let bytes = [body.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            let mut chunks = Chunks::new();
            assert_eq!(chunks.take(&bytes), bytes.len(), "{body:?}");
            assert!(!chunks.is_done());
        }
    }
}
