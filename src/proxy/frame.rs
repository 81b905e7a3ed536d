//! The heads of HTTP/2's frames (RFC 9113 §4.1), as they pass in pieces. For who follows frames: those of clients (`server::frames`) and of endpoints
//! (`framed`).

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;
pub(crate) const PRIORITY: u8 = 0x20;

pub(crate) const PREFACE: usize = 24;
pub(crate) const HEAD: usize = 9;

/// The head of a frame (RFC 9113 §4.1), of which some may have come, and how much of the frame is to come behind it.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    head: [u8; HEAD],
    have: usize,
    pub(crate) left: usize,
}

impl Frame {
    /// Of who begins with the client's connection preface (RFC 9113 §3.4).
    pub(crate) fn behind_preface() -> Self {
        Self { left: PREFACE, ..Self::default() }
    }

    /// Takes bytes of a head. Says how many, and whether it is whole.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let here = (self.head.len() - self.have).min(bytes.len());
        self.head[self.have..self.have + here].copy_from_slice(&bytes[..here]);
        self.have += here;
        let whole = self.have == self.head.len();
        if whole {
            self.have = 0;
            self.left = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
        }
        (here, whole)
    }

    pub(crate) fn kind(&self) -> u8 {
        self.head[3]
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.head[4] & flag != 0
    }

    pub(crate) fn stream(&self) -> u32 {
        u32::from_be_bytes([self.head[5] & 0x7f, self.head[6], self.head[7], self.head[8]])
    }

    /// The next byte is the first of a frame.
    #[cfg(test)]
    pub(crate) fn is_between(&self) -> bool {
        (self.left, self.have) == (0, 0)
    }
}
