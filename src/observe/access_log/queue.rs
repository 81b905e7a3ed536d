//! What waits to be written: bounded, filled without waiting, emptied in one go.
//!
//! Two buffers take turns: requests fill one while the other is written. The lock is held for as long as it takes to copy a line.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Bytes that wait at most. As many again may be in the writer's hands.
const CAPACITY: usize = 2 * 1024 * 1024;
/// With so many the writer is woken; before, it comes by itself.
const HURRY: usize = CAPACITY / 4;
/// How long lines gather after some have been written: under load a write is worth its system call.
const GATHER: Duration = Duration::from_millis(5);
/// What a buffer keeps between two bursts.
const KEEP: usize = 256 * 1024;

/// Lines between those who record and the one who writes.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    filled: Condvar,
    /// Wakes who waits for the writer's end.
    ended: Condvar,
    /// Wakes who reports losses.
    losing: Notify,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    lines: u64,
    /// The writer sleeps until it is woken.
    sleeping: bool,
    reopen: bool,
    /// Nothing more is to come.
    finished: bool,
    /// There is a writer, and it has not ended.
    writing: bool,
    /// Lines in the writer's hands.
    in_hand: u64,
    losses: Losses,
}

#[derive(Default)]
struct Losses {
    lines: u64,
    reported: u64,
    why: String,
}

/// What the writer is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Write what is in the buffer.
    Write,
    /// Likewise, then open the file anew.
    WriteAndReopen,
    /// Likewise, and end.
    Finish,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), ended: Condvar::new(), losing: Notify::new() }
    }

    /// Takes a line, or drops it if there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state();
        let before = state.bytes.len();
        if before + line.len() > CAPACITY {
            self.lose(state, 1, "the output takes no more");
            return;
        }
        state.bytes.extend_from_slice(line);
        state.lines += 1;
        let hurry = before < HURRY && state.bytes.len() >= HURRY;
        let wake = mem::take(&mut state.sleeping) || hurry;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// There will be a writer.
    pub(super) fn begin(&self) {
        self.state().writing = true;
    }

    /// Waits for work, and puts the bytes to be written in the place of those that have been.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) -> Task {
        let gathered = !buffer.is_empty();
        buffer.clear();
        buffer.shrink_to(KEEP);
        let mut state = self.state();
        state.in_hand = 0;
        if gathered {
            let few = |state: &mut State| state.bytes.len() < HURRY && !state.reopen && !state.finished;
            state = self.filled.wait_timeout_while(state, GATHER, few).unwrap_or_else(PoisonError::into_inner).0;
        }
        loop {
            let task = match (state.reopen, state.finished) {
                (true, _) => Task::WriteAndReopen,
                (_, true) => Task::Finish,
                _ if !state.bytes.is_empty() => Task::Write,
                _ => {
                    state.sleeping = true;
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            state.reopen = false;
            mem::swap(&mut state.bytes, buffer);
            state.in_hand = mem::take(&mut state.lines);
            return task;
        }
    }

    /// These of the lines in hand are written.
    pub(super) fn written(&self, lines: u64) {
        let mut state = self.state();
        state.in_hand = state.in_hand.saturating_sub(lines);
    }

    /// The rest of the lines in hand can't be written.
    pub(super) fn failed(&self, why: &str) {
        let mut state = self.state();
        let lines = mem::take(&mut state.in_hand);
        self.lose(state, lines, why);
    }

    /// The writer ends.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.writing = false;
        state.in_hand = 0;
        self.ended.notify_all();
    }

    /// The file is to be opened anew.
    pub(super) fn reopen(&self) {
        self.state().reopen = true;
        self.filled.notify_one();
    }

    /// Lets the writer write what is left, until then; what it did not is lost.
    pub(super) fn finish(&self, until: Instant) {
        let mut state = self.state();
        state.finished = true;
        self.filled.notify_one();
        let left = until.saturating_duration_since(Instant::now());
        state = self.ended.wait_timeout_while(state, left, |state| state.writing).unwrap_or_else(PoisonError::into_inner).0;
        let lines = mem::take(&mut state.lines) + mem::take(&mut state.in_hand);
        if lines > 0 {
            self.lose(state, lines, "the process ended before they were written");
        }
    }

    /// Waits until lines are lost of which nobody has been told.
    pub(super) async fn lost(&self) {
        loop {
            let losing = self.losing.notified();
            {
                let state = self.state();
                if state.losses.lines > state.losses.reported {
                    return;
                }
            }
            losing.await;
        }
    }

    /// Lines lost since this was asked last, and in all, and why the last of them was.
    pub(super) fn take_losses(&self) -> (u64, u64, String) {
        let losses = &mut self.state().losses;
        let new = losses.lines - losses.reported;
        losses.reported = losses.lines;
        (new, losses.lines, losses.why.clone())
    }

    fn lose(&self, mut state: MutexGuard<'_, State>, lines: u64, why: &str) {
        let losses = &mut state.losses;
        let first = losses.lines == losses.reported && lines > 0;
        losses.lines += lines;
        if losses.why != why {
            why.clone_into(&mut losses.why);
        }
        drop(state);
        if first {
            self.losing.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_come_out_together_and_in_order() {
        let queue = Queue::new();
        queue.push(b"a\n");
        queue.push(b"b\n");
        let mut buffer = Vec::new();
        assert_eq!(queue.take(&mut buffer), Task::Write);
        assert_eq!(buffer, b"a\nb\n");
        queue.push(b"c\n");
        queue.reopen();
        assert_eq!(queue.take(&mut buffer), Task::WriteAndReopen);
        assert_eq!(buffer, b"c\n");
        queue.written(1);
        queue.finish(Instant::now());
        assert_eq!(queue.take(&mut buffer), Task::Finish);
        assert_eq!((buffer.len(), queue.take_losses().0), (0, 0));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Queue::new();
        let line = vec![b'x'; CAPACITY / 4];
        for _ in 0..6 {
            queue.push(&line);
        }
        assert_eq!(queue.take_losses(), (2, 2, "the output takes no more".to_owned()));
        queue.push(&line);
        assert_eq!((queue.take_losses().0, queue.take_losses()), (1, (0, 3, "the output takes no more".to_owned())));
        let mut buffer = Vec::new();
        queue.take(&mut buffer);
        assert_eq!(buffer.len(), CAPACITY);
    }

    #[test]
    fn what_a_writer_does_not_manage_is_lost() {
        let queue = Queue::new();
        queue.begin();
        queue.push(b"a\n");
        queue.push(b"b\n");
        let mut buffer = Vec::new();
        queue.take(&mut buffer);
        queue.written(1);
        queue.push(b"c\n");
        queue.finish(Instant::now());
        assert_eq!(queue.take_losses().0, 2);
    }

    #[test]
    fn a_writer_that_sleeps_is_woken() {
        let queue = Arc::new(Queue::new());
        queue.begin();
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let (mut buffer, mut all) = (Vec::new(), Vec::new());
                while queue.take(&mut buffer) != Task::Finish {
                    all.extend_from_slice(&buffer);
                }
                all.extend_from_slice(&buffer);
                queue.end();
                all
            }
        });
        for _ in 0..100 {
            queue.push(b"x\n");
            std::thread::yield_now();
        }
        queue.finish(Instant::now() + Duration::from_secs(60));
        assert_eq!(writer.join().unwrap(), b"x\n".repeat(100));
        assert_eq!(queue.take_losses().0, 0);
    }

    #[tokio::test]
    async fn a_loss_wakes_who_reports_it() {
        let queue = Arc::new(Queue::new());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lost().await }
        });
        tokio::task::yield_now().await;
        queue.push(&vec![0; CAPACITY + 1]);
        waiting.await.unwrap();
        queue.lost().await;
        assert_eq!(queue.take_losses().0, 1);
    }
}
