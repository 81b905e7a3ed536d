//! Where lines go: a standard stream or a file, and what becomes of the file while it is written to.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::queue::{Queue, Task};

/// How often a file is looked after at most.
const LOOK: Duration = Duration::from_secs(1);
/// What a pipe takes in one piece, whoever else writes to it (PIPE_BUF).
const PIECE: usize = 4096;
/// The log may hold what is nobody's business but the operators'.
const MODE: u32 = 0o640;

/// A file that can't be written to.
#[derive(Debug, thiserror::Error)]
#[error("the access log `{path}` can't be opened: {reason}{}", self.who())]
pub(crate) struct OpenError {
    path: String,
    reason: io::Error,
}

impl OpenError {
    /// Who asked, where that is what matters: it may be another than who started the process.
    fn who(&self) -> String {
        let denied = self.reason.kind() == ErrorKind::PermissionDenied;
        if denied { format!(", as user id {}", rustix::process::geteuid().as_raw()) } else { String::new() }
    }
}

/// What is written to.
pub(super) enum Sink {
    Stdout,
    Stderr,
    File(LogFile),
}

/// A file, and how to know whether it is still the one that its path names.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Of its directory, at the time when it was opened.
    directory: Option<Identity>,
    looked: Instant,
    /// The trouble that was reported, and is not over.
    trouble: Option<String>,
    /// Nobody will read what is written: the file has no name any more.
    orphaned: bool,
}

/// What tells a file from another of the same name.
type Identity = (u64, u64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

impl Sink {
    /// Opens a file.
    pub(super) fn file(path: &Path) -> Result<Self, OpenError> {
        LogFile::open(path).map(Self::File).map_err(|reason| OpenError { path: path.display().to_string(), reason })
    }

    /// Writes what comes until the queue ends: a thread's whole work.
    pub(super) fn write_all_of(self, queue: &Queue) {
        match self {
            // Duplicates: the process's own handles have locks and buffers, which others use.
            Self::Stdout => match io::stdout().as_fd().try_clone_to_owned() {
                Ok(stream) => Writer { file: stream.into(), piece: PIECE, torn: false }.run(queue, None),
                Err(error) => log::error!("access log can't be written error={error}"),
            },
            Self::Stderr => match io::stderr().as_fd().try_clone_to_owned() {
                Ok(stream) => Writer { file: stream.into(), piece: PIECE, torn: false }.run(queue, None),
                Err(error) => log::error!("access log can't be written error={error}"),
            },
            Self::File(file) => match file.file.try_clone() {
                Ok(own) => Writer { file: own, piece: usize::MAX, torn: false }.run(queue, Some(file)),
                Err(error) => log::error!("access log can't be written error={error}"),
            },
        }
        queue.end();
    }
}

/// Takes turns until one is the last. A panic costs the lines in hand, which count as lost, and not the log.
fn until_over(queue: &Queue, mut turn: impl FnMut() -> bool) {
    loop {
        match catch_unwind(AssertUnwindSafe(&mut turn)) {
            Ok(true) => return,
            Ok(false) => {}
            Err(_) => queue.failed("the writer panicked"),
        }
    }
}

struct Writer {
    file: File,
    /// How much is written at once.
    piece: usize,
    /// The last line was written in part.
    torn: bool,
}

impl Writer {
    fn run(mut self, queue: &Queue, mut named: Option<LogFile>) {
        let (mut buffer, mut busy) = (Vec::new(), false);
        until_over(queue, || {
            let task = queue.next(busy);
            busy = queue.empty(&mut buffer, |bytes| {
                self.go_on_in(named.as_mut().and_then(LogFile::look_after));
                if named.as_ref().is_some_and(|file| file.orphaned) {
                    queue.failed("the file was removed, and can't be opened anew");
                } else {
                    self.write(bytes, queue);
                }
            });
            match task {
                Task::Write => false,
                Task::WriteAndReopen => {
                    self.go_on_in(named.as_mut().and_then(|file| file.reopen(true)));
                    false
                }
                Task::Finish => true,
            }
        });
    }

    /// In another file from now on, if there is one.
    fn go_on_in(&mut self, new: Option<File>) {
        if let Some(file) = new {
            (self.file, self.torn) = (file, false);
        }
    }

    fn write(&mut self, bytes: &[u8], queue: &Queue) {
        if self.torn {
            // What is left of a line that could not be written whole must not become the beginning of another.
            match self.write_piece(b"\n") {
                Ok(()) => self.torn = false,
                Err((_, error)) => return queue.failed(&error.to_string()),
            }
        }
        let mut left = bytes;
        while !left.is_empty() {
            let (piece, rest) = left.split_at(end_of_lines(left, self.piece));
            match self.write_piece(piece) {
                Ok(()) => {
                    if !rest.is_empty() {
                        queue.written(lines(piece));
                    }
                }
                Err((done, error)) => {
                    self.torn = piece[..done].last().is_some_and(|last| *last != b'\n');
                    queue.written(lines(&piece[..done]));
                    return queue.failed(&error.to_string());
                }
            }
            left = rest;
        }
    }

    /// The error comes with the number of bytes that were written before it.
    fn write_piece(&mut self, piece: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < piece.len() {
            match self.file.write(&piece[done..]) {
                Ok(0) => return Err((done, ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process may have made the stream so; a FIFO is.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(),
                Err(error) => return Err((done, error)),
            }
        }
        Ok(())
    }

    fn wait(&self) {
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // Whatever comes of it, the next write tells.
        let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&second));
    }
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let (file, directory) = open(path)?;
        Ok(Self { path: path.to_owned(), file, directory, looked: Instant::now(), trouble: None, orphaned: false })
    }

    /// Looks whether the path still leads to the file, or to a directory where it did; once a second at most. A file that was only
    /// renamed is left alone: whoever rotates it says when to open a new one.
    fn look_after(&mut self) -> Option<File> {
        if self.looked.elapsed() < LOOK {
            return None;
        }
        self.looked = Instant::now();
        let own = self.file.metadata().ok()?;
        let replaced = std::fs::metadata(&self.path).is_ok_and(|there| identity(&there) != identity(&own));
        let moved = directory(&self.path) != self.directory;
        if own.nlink() == 0 || replaced || moved { self.reopen(false) } else { None }
    }

    /// Opens the file anew. `None`: it can't be, and the old one goes on. Who asked for it is told so each time.
    fn reopen(&mut self, asked: bool) -> Option<File> {
        let opened = open(&self.path).and_then(|(file, directory)| Ok((file.try_clone()?, file, directory)));
        match opened {
            Ok((own, file, directory)) => {
                (self.file, self.directory, self.trouble, self.orphaned) = (file, directory, None, false);
                log::info!("access log opened anew path={:?}", self.path);
                Some(own)
            }
            Err(error) => {
                self.orphaned = self.file.metadata().is_ok_and(|own| own.nlink() == 0);
                let trouble = error.to_string();
                if asked || self.trouble.as_ref() != Some(&trouble) {
                    let what = if self.orphaned { "its lines are lost" } else { "writing to the old file" };
                    // Landlock lets the process write to the folder that was there at its start, and to no other of the same name.
                    let hint = if error.kind() == ErrorKind::PermissionDenied {
                        "; if the folder is another than at the start: `ravelin run -u`"
                    } else {
                        ""
                    };
                    log::error!("access log can't be opened anew, {what}{hint} path={:?} error={error}", self.path);
                }
                self.trouble = Some(trouble);
                None
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(File, Option<Identity>)> {
    // A FIFO that nobody reads must not hold up the process.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(nonblocking).open(path)?;
    Ok((file, directory(path)))
}

fn directory(path: &Path) -> Option<Identity> {
    std::fs::metadata(path.parent()?).ok().map(|metadata| identity(&metadata))
}

/// Where to stop writing: after the last line that ends within `most` bytes, or after the first line if that is longer.
fn end_of_lines(bytes: &[u8], most: usize) -> usize {
    if bytes.len() <= most {
        return bytes.len();
    }
    let last = bytes[..most].iter().rposition(|byte| *byte == b'\n');
    last.or_else(|| bytes.iter().position(|byte| *byte == b'\n')).map_or(bytes.len(), |at| at + 1)
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn writer(path: &Path) -> (Writer, LogFile) {
        let file = LogFile::open(path).unwrap();
        (Writer { file: file.file.try_clone().unwrap(), piece: usize::MAX, torn: false }, file)
    }

    fn overdue() -> Instant {
        Instant::now().checked_sub(LOOK).unwrap()
    }

    #[test]
    fn pieces_end_with_lines() {
        assert_eq!(end_of_lines(b"ab\ncd\nef\n", 100), 9);
        assert_eq!(end_of_lines(b"ab\ncd\nef\n", 8), 6);
        assert_eq!(end_of_lines(b"ab\ncd\nef\n", 6), 6);
        assert_eq!(end_of_lines(b"abcdef\ngh\n", 3), 7);
    }

    #[test]
    fn a_file_is_appended_to_and_is_not_for_everybody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        for _ in 0..2 {
            writer(&path).0.write(b"a\n", &Queue::new());
        }
        assert_eq!(fs::read(&path).unwrap(), b"a\na\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn what_is_no_place_for_a_file_is_said_with_its_path() {
        let Err(error) = Sink::file(Path::new("/nonexistent/x.log")) else { panic!("there is no such directory") };
        assert_eq!(
            error.to_string(),
            "the access log `/nonexistent/x.log` can't be opened: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_file_that_was_renamed_goes_on_until_it_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let (mut writer, mut file) = writer(&path);
        fs::rename(&path, &old).unwrap();
        file.looked = overdue();
        assert!(file.look_after().is_none());
        writer.write(b"old\n", &Queue::new());
        writer.file = file.reopen(false).unwrap();
        writer.write(b"new\n", &Queue::new());
        assert_eq!((fs::read(&old).unwrap(), fs::read(&path).unwrap()), (b"old\n".to_vec(), b"new\n".to_vec()));
    }

    #[test]
    fn a_directory_that_comes_back_has_the_file_again() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let (_, mut file) = writer(&logs.join("access.log"));
        for moved in [false, true] {
            if moved {
                fs::rename(&logs, directory.path().join("elsewhere")).unwrap();
            } else {
                fs::remove_dir_all(&logs).unwrap();
            }
            file.looked = overdue();
            assert!(file.look_after().is_none(), "there is no directory to open it in");
            fs::create_dir(&logs).unwrap();
            assert!(file.look_after().is_none(), "a second has not passed");
            file.looked = overdue();
            assert!(file.look_after().is_some());
            assert!(logs.join("access.log").exists());
        }
    }

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let (mut writer, _) = writer(&path);
        writer.write(b"to", &Queue::new());
        writer.torn = true;
        writer.write(b"whole\n", &Queue::new());
        assert_eq!(fs::read(&path).unwrap(), b"to\nwhole\n");
    }

    #[test]
    fn what_can_not_be_written_is_counted() {
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let queue = Queue::new();
        for line in [b"a\n", b"b\n"] {
            queue.push(&mut None, |out| out.extend_from_slice(line));
        }
        let mut writer = Writer { file: full, piece: PIECE, torn: false };
        queue.empty(&mut Vec::new(), |bytes| writer.write(bytes, &queue));
        let (lost, _, why) = queue.take_losses();
        assert_eq!((lost, why.as_str()), (2, "No space left on device (os error 28)"));
    }

    #[test]
    fn a_panic_costs_the_lines_in_hand_and_no_more() {
        let queue = Queue::new();
        queue.push(&mut None, |out| out.extend_from_slice(b"a\n"));
        let mut turns = 0;
        until_over(&queue, || {
            turns += 1;
            queue.empty(&mut Vec::new(), |_| panic!("of a test"));
            true
        });
        let (lost, _, why) = queue.take_losses();
        assert_eq!((turns, lost, why.as_str()), (2, 1, "the writer panicked"));
    }

    #[test]
    fn a_stream_that_is_full_is_waited_for() {
        let (mut reader, stream) = io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&stream, OFlags::NONBLOCK).unwrap();
        let lines = b"0123456789abcde\n".repeat(16 * 1024);
        let writing = std::thread::spawn({
            let lines = lines.clone();
            move || {
                let queue = Queue::new();
                let file = File::from(std::os::fd::OwnedFd::from(stream));
                Writer { file, piece: PIECE, torn: false }.write(&lines, &queue);
                queue.take_losses().0
            }
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!((read == lines, writing.join().unwrap()), (true, 0));
    }
}
