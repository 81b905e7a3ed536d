//! How bytes come and go: through one buffer for each thread, so that an exchange that waits holds none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::spare;

/// As much as is read at once.
const SCRATCH: usize = 64 * 1024;
/// A buffer that has grown beyond this is given back once it is empty.
const KEPT: usize = 16 * 1024;

thread_local! {
    static SPACE: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Reads what is there, and hands it on. Empty: the other side has ended.
pub(super) fn poll_read_with<S: AsyncRead + Unpin + ?Sized, T>(
    stream: &mut S,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8], &mut Context<'_>) -> T,
) -> Poll<io::Result<T>> {
    SPACE.with_borrow_mut(|space| {
        let mut buffer = ReadBuf::new(space);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(buffer.filled(), cx)))
    })
}

/// Bytes on their way out, of which a part may have left.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// To be filled; nothing waits in it.
    pub(super) fn fresh(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.is_empty());
        if self.bytes.capacity() == 0 {
            self.bytes = spare::text(0);
        }
        self.bytes.clear();
        self.sent = 0;
        &mut self.bytes
    }

    /// To be added to.
    pub(super) fn more(&mut self) -> &mut Vec<u8> {
        if self.is_empty() { self.fresh() } else { &mut self.bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Writes until all has left.
    pub(super) fn poll_leave(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            match ready!(write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        if self.bytes.capacity() > KEPT {
            self.bytes = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        spare::give_text(std::mem::take(&mut self.bytes));
    }
}

/// The line before a chunk of this size.
fn write_size(size: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = size;
    while left > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[left & 15];
        left >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// The end of a body in chunks.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes data as one chunk, unless there is none: that would end the body.
pub(super) fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        write_size(data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_hexadecimal() {
        for size in [0, 1, 9, 10, 15, 16, 255, 256, 4096, 65535, 1 << 20, usize::MAX] {
            let mut out = Vec::new();
            write_size(size, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{size:X}\r\n"));
        }
    }
}
