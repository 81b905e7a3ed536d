//! What waits to be written: bounded, filled without waiting, emptied in one go.
//!
//! Each thread has a [`Tray`] of its own, so threads don't meet here; lines of one thread keep their order. The writer goes round the
//! trays, with a buffer that it leaves in the place of the one that it takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::tray::{Put, Tray};

/// How long lines gather after some have been written: under load a write is worth its system call.
const GATHER: Duration = Duration::from_millis(5);
/// What a buffer keeps between two bursts.
const KEEP: usize = 256 * 1024;
const NO_ROOM: &str = "the output takes no more";

/// Tells queues apart.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Lines between those who record and the one who writes.
pub(super) struct Queue {
    number: u64,
    /// A thread's is here from its first line until the thread is gone and its lines are written.
    trays: Mutex<Vec<Arc<Tray>>>,
    /// The thread that writes, once it is there.
    writer: OnceLock<Thread>,
    /// The writer sleeps until it is woken.
    sleeping: AtomicBool,
    /// The writer should come before its time.
    hurry: AtomicBool,
    reopen: AtomicBool,
    /// Nothing more is to come.
    finished: AtomicBool,
    /// Lines in the writer's hands.
    in_hand: AtomicU64,
    /// There is a writer, and it has not ended.
    writing: Mutex<bool>,
    /// Wakes who waits for the writer's end.
    ended: Condvar,
    losses: Mutex<Losses>,
    /// Wakes who reports losses.
    losing: Notify,
}

/// A thread's tray, as the thread keeps it.
pub(super) struct Own {
    queue: u64,
    tray: Arc<Tray>,
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
    /// Empty the trays.
    Write,
    /// Likewise, then open the file anew.
    WriteAndReopen,
    /// Likewise, and end.
    Finish,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            trays: Mutex::default(),
            writer: OnceLock::new(),
            sleeping: AtomicBool::new(false),
            hurry: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            in_hand: AtomicU64::new(0),
            writing: Mutex::new(false),
            ended: Condvar::new(),
            losses: Mutex::default(),
            losing: Notify::new(),
        }
    }

    /// Takes a line, which is written where it is kept, or drops it if there is no room. `own`: what this thread keeps between two lines.
    pub(super) fn push(&self, own: &mut Option<Own>, write: impl FnOnce(&mut Vec<u8>)) {
        let own = match own {
            Some(own) if own.queue == self.number => own,
            own => own.insert(Own { queue: self.number, tray: self.tray_of(thread::current().id()) }),
        };
        match own.tray.put(write) {
            Put::Kept => {}
            Put::KeptAmongMany => {
                self.hurry.store(true, Ordering::SeqCst);
                self.wake();
            }
            Put::Lost(first) => {
                if first {
                    self.losing.notify_one();
                }
                return;
            }
        }
        // The writer looks into the trays once more after it has said that it sleeps: one of both sees the other.
        if self.sleeping.load(Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// There will be a writer.
    pub(super) fn begin(&self) {
        *self.writing() = true;
    }

    /// Waits for work. For the writer, who says whether there was any the last time.
    pub(super) fn next(&self, busy: bool) -> Task {
        self.writer.get_or_init(thread::current);
        fence(Ordering::SeqCst);
        if busy {
            self.gather();
        }
        loop {
            if let Some(task) = self.task() {
                return task;
            }
            self.sleeping.store(true, Ordering::SeqCst);
            let task = self.task();
            if task.is_none() {
                thread::park();
            }
            self.sleeping.store(false, Ordering::SeqCst);
            if let Some(task) = task {
                return task;
            }
        }
    }

    fn gather(&self) {
        let until = Instant::now() + GATHER;
        let called = || [&self.hurry, &self.reopen, &self.finished].into_iter().any(|flag| flag.load(Ordering::SeqCst));
        while !called() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn task(&self) -> Option<Task> {
        self.hurry.store(false, Ordering::SeqCst);
        if self.reopen.swap(false, Ordering::SeqCst) {
            Some(Task::WriteAndReopen)
        } else if self.finished.load(Ordering::SeqCst) {
            Some(Task::Finish)
        } else {
            let empty = self.trays().iter().all(|tray| tray.is_empty());
            (!empty).then_some(Task::Write)
        }
    }

    /// Goes round the trays. Whether there was anything in them.
    pub(super) fn empty(&self, buffer: &mut Vec<u8>, mut write: impl FnMut(&[u8])) -> bool {
        let trays = self.trays().clone();
        let mut busy = false;
        for tray in trays {
            buffer.clear();
            buffer.shrink_to(KEEP);
            self.in_hand.store(tray.take(buffer), Ordering::SeqCst);
            if !buffer.is_empty() {
                busy = true;
                write(buffer);
            }
            self.in_hand.store(0, Ordering::SeqCst);
        }
        // A thread that has ended has given up its own; nobody else will write there.
        self.trays().retain(|tray| Arc::strong_count(tray) > 1 || !tray.is_done());
        busy
    }

    /// These of the lines in hand are written.
    pub(super) fn written(&self, lines: u64) {
        // It never refuses.
        let _ = self.in_hand.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| Some(held.saturating_sub(lines)));
    }

    /// The rest of the lines in hand can't be written.
    pub(super) fn failed(&self, why: &str) {
        self.lose(self.in_hand.swap(0, Ordering::SeqCst), why);
    }

    /// The writer ends.
    pub(super) fn end(&self) {
        self.in_hand.store(0, Ordering::SeqCst);
        *self.writing() = false;
        self.ended.notify_all();
    }

    /// The file is to be opened anew.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Lets the writer write what is left, until then; what it did not is lost.
    pub(super) fn finish(&self, until: Instant) {
        self.finished.store(true, Ordering::SeqCst);
        self.wake();
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(self.writing(), left, |writing| *writing);
        drop(waited);
        let waiting: u64 = self.trays().iter().map(|tray| tray.give_up()).sum();
        self.lose(waiting + self.in_hand.swap(0, Ordering::SeqCst), "the process ended before they were written");
    }

    /// Waits until lines are lost of which nobody has been told.
    pub(super) async fn lost(&self) {
        loop {
            let losing = self.losing.notified();
            {
                let losses = self.losses();
                if losses.lines > losses.reported {
                    return;
                }
            }
            losing.await;
        }
    }

    /// Lines lost since this was asked last, and in all, and why the last of them was.
    pub(super) fn take_losses(&self) -> (u64, u64, String) {
        let mut losses = self.losses();
        let new = losses.lines - losses.reported;
        losses.reported = losses.lines;
        (new, losses.lines, losses.why.clone())
    }

    /// With those that found no room.
    fn losses(&self) -> MutexGuard<'_, Losses> {
        let crowded: u64 = self.trays().iter().map(|tray| tray.take_losses()).sum();
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.add(crowded, NO_ROOM);
        losses
    }

    fn lose(&self, lines: u64, why: &str) {
        if lines > 0 {
            self.losses().add(lines, why);
            self.losing.notify_one();
        }
    }

    /// Has a thread's lines: there from its first line on.
    fn tray_of(&self, owner: ThreadId) -> Arc<Tray> {
        let mut trays = self.trays();
        if let Some(tray) = trays.iter().find(|tray| tray.owner() == owner) {
            return tray.clone();
        }
        let tray = Arc::new(Tray::new(owner));
        trays.push(tray.clone());
        tray
    }

    fn wake(&self) {
        // A writer that is not there yet sees first what it was to be woken for.
        fence(Ordering::SeqCst);
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn trays(&self) -> MutexGuard<'_, Vec<Arc<Tray>>> {
        self.trays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, bool> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Losses {
    fn add(&mut self, lines: u64, why: &str) {
        self.lines += lines;
        if lines > 0 && self.why != why {
            why.clone_into(&mut self.why);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::super::tray::CAPACITY;
    use super::*;

    fn push(queue: &Queue, line: &[u8]) {
        queue.push(&mut None, |out| out.extend_from_slice(line));
    }

    /// What the writer is told to do, and what there is to write.
    fn round(queue: &Queue, busy: bool) -> (Task, Vec<u8>) {
        let (task, mut all) = (queue.next(busy), Vec::new());
        queue.empty(&mut Vec::new(), |bytes| all.extend_from_slice(bytes));
        (task, all)
    }

    #[test]
    fn lines_come_out_together_and_in_order() {
        let queue = Queue::new();
        push(&queue, b"a\n");
        push(&queue, b"b\n");
        assert_eq!(round(&queue, false), (Task::Write, b"a\nb\n".to_vec()));
        push(&queue, b"c\n");
        queue.reopen();
        assert_eq!(round(&queue, true), (Task::WriteAndReopen, b"c\n".to_vec()));
        queue.finish(Instant::now());
        assert_eq!(round(&queue, false), (Task::Finish, Vec::new()));
        assert_eq!(queue.take_losses().0, 0);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let queue = Queue::new();
        let line = vec![b'x'; CAPACITY / 4];
        for _ in 0..6 {
            push(&queue, &line);
        }
        assert_eq!(queue.take_losses(), (2, 2, NO_ROOM.to_owned()));
        push(&queue, &line);
        assert_eq!((queue.take_losses().0, queue.take_losses()), (1, (0, 3, NO_ROOM.to_owned())));
        assert_eq!(round(&queue, false).1.len(), CAPACITY);
    }

    #[test]
    fn what_a_writer_does_not_manage_is_lost() {
        let queue = Queue::new();
        queue.begin();
        push(&queue, b"a\n");
        push(&queue, b"b\n");
        queue.empty(&mut Vec::new(), |_| {
            queue.written(1);
            push(&queue, b"c\n");
            queue.finish(Instant::now());
        });
        assert_eq!(queue.take_losses().0, 2);
    }

    #[test]
    fn a_thread_that_is_gone_leaves_its_lines_and_nothing_else() {
        let queue = Queue::new();
        for _ in 0..3 {
            std::thread::scope(|scope| {
                scope.spawn(|| push(&queue, b"x\n"));
            });
        }
        push(&queue, b"y\n");
        assert_eq!(queue.trays().len(), 4);
        assert_eq!(round(&queue, false).1, b"x\nx\nx\ny\n");
        assert_eq!(queue.trays().len(), 0);
    }

    #[test]
    fn nothing_is_lost_or_out_of_order_under_many_threads() {
        const THREADS: usize = 4;
        const LINES: usize = 5_000;
        let queue = Arc::new(Queue::new());
        queue.begin();
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let (mut buffer, mut all, mut busy) = (Vec::new(), Vec::new(), false);
                loop {
                    let task = queue.next(busy);
                    busy = queue.empty(&mut buffer, |bytes| all.extend_from_slice(bytes));
                    if task == Task::Finish {
                        break;
                    }
                }
                queue.end();
                String::from_utf8(all).unwrap()
            }
        });
        let start = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (queue, start) = (&queue, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut own = None;
                    for line in 0..LINES {
                        queue.push(&mut own, |out| out.extend_from_slice(format!("{thread} {line}\n").as_bytes()));
                        // So that the writer sleeps now and then.
                        if line % 1_000 == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
        });
        queue.finish(Instant::now() + Duration::from_secs(60));
        let all = writer.join().unwrap();
        for thread in 0..THREADS {
            let own = all.lines().filter_map(|line| line.strip_prefix(&format!("{thread} ")));
            assert!(own.eq((0..LINES).map(|line| line.to_string())), "lines of thread {thread}");
        }
        assert_eq!(queue.take_losses().0, 0);
    }

    #[test]
    fn a_writer_that_sleeps_is_woken() {
        let queue = Arc::new(Queue::new());
        let (sender, written) = std::sync::mpsc::channel();
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || {
                while queue.next(false) != Task::Finish {
                    queue.empty(&mut Vec::new(), |bytes| sender.send(bytes.to_vec()).unwrap());
                }
            }
        });
        for _ in 0..200 {
            push(&queue, b"x\n");
            // Nobody else wakes it: a line of which it did not hear would wait for ever.
            assert_eq!(written.recv_timeout(Duration::from_secs(60)).unwrap(), b"x\n");
        }
        queue.finish(Instant::now());
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_loss_wakes_who_reports_it() {
        let queue = Arc::new(Queue::new());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lost().await }
        });
        tokio::task::yield_now().await;
        push(&queue, &vec![0; CAPACITY + 1]);
        waiting.await.unwrap();
        queue.lost().await;
        assert_eq!(queue.take_losses().0, 1);
    }
}
