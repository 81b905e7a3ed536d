//! The lines of one thread, until the writer takes them.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

/// Bytes that wait at most. As many again may be in the writer's hands.
pub(super) const CAPACITY: usize = 2 * 1024 * 1024;
/// With so many the writer is woken; before, it comes by itself.
pub(super) const HURRY: usize = CAPACITY / 4;

/// No two have a cache line in common. The lock is the thread's own: besides the thread only the writer takes it, to swap two buffers.
#[repr(align(128))]
pub(super) struct Tray {
    owner: ThreadId,
    lines: Mutex<Lines>,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
    /// Of those that found no room, how many nobody has been told of.
    lost: u64,
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    Kept,
    /// Likewise, and now there are so many that the writer should come.
    KeptAmongMany,
    /// There was no room. Whether it is the first of which nobody has been told.
    Lost(bool),
}

impl Tray {
    pub(super) fn new(owner: ThreadId) -> Self {
        Self { owner, lines: Mutex::default() }
    }

    pub(super) fn owner(&self) -> ThreadId {
        self.owner
    }

    /// Adds a line, which is written where it is kept.
    pub(super) fn put(&self, write: impl FnOnce(&mut Vec<u8>)) -> Put {
        let mut lines = self.lines();
        let before = lines.bytes.len();
        write(&mut lines.bytes);
        let after = lines.bytes.len();
        if after > CAPACITY {
            lines.bytes.truncate(before);
            lines.lost += 1;
            return Put::Lost(lines.lost == 1);
        }
        lines.count += 1;
        if before < HURRY && after >= HURRY { Put::KeptAmongMany } else { Put::Kept }
    }

    /// Puts an empty buffer in the place of the one with the lines, and says how many they are.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> u64 {
        let mut lines = self.lines();
        mem::swap(&mut lines.bytes, buffer);
        mem::take(&mut lines.count)
    }

    /// How many lines were lost since this was asked last.
    pub(super) fn take_losses(&self) -> u64 {
        mem::take(&mut self.lines().lost)
    }

    /// How many lines wait; they count no more.
    pub(super) fn give_up(&self) -> u64 {
        mem::take(&mut self.lines().count)
    }

    /// Whether there is nothing to write, nor to be told.
    pub(super) fn is_done(&self) -> bool {
        let lines = self.lines();
        lines.bytes.is_empty() && lines.lost == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines().bytes.is_empty()
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_kept_whole_or_lost() {
        let tray = Tray::new(std::thread::current().id());
        let put = |length: usize| tray.put(|out| out.resize(out.len() + length, b'x'));
        assert_eq!(put(HURRY - 1), Put::Kept);
        assert_eq!(put(1), Put::KeptAmongMany);
        assert_eq!(put(CAPACITY - HURRY), Put::Kept);
        assert_eq!((put(1), put(1)), (Put::Lost(true), Put::Lost(false)));
        let mut buffer = Vec::new();
        assert_eq!((tray.take(&mut buffer), buffer.len()), (3, CAPACITY));
        assert_eq!((tray.take_losses(), tray.is_done()), (2, true));
        assert_eq!(put(1), Put::Kept);
        assert!(!tray.is_done() && !tray.is_empty());
    }
}
