//! The process log: env_logger, and a bound on what clients can make others write to it. It goes to standard error, and nobody waits there
//! for whoever reads it: what that takes no more of is lost, and counted.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use env_logger::{Target, WriteStyle};
use log::{Level, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, poll};

use crate::observe::{Budget, metrics};

/// Whose lines a client can cause as often as it likes: the libraries below, and panics that were contained.
const BOUNDED: [&str; 6] =
    ["pingora", "h2", "hyper", "ravelin::filter::erased", "ravelin::cli::logging", "ravelin::server::connection"];

/// Starts it: `RUST_LOG`, or what an operator wants to see. A panic that is contained goes there too.
pub(super) fn start_logging() {
    let filter = env_logger::Env::default().default_filter_or(
        // Pingora's own lines on start and stop say nothing that ours don't; its health checks' do.
        "info,pingora_core=warn,pingora_proxy=warn,pingora_load_balancing=info",
    );
    let mut builder = env_logger::Builder::from_env(filter);
    builder.format_timestamp_millis().target(Target::Pipe(Box::new(Lines::to(io::stderr()))));
    // What is written to through something of ours is never taken for a terminal.
    let plain = ["NO_COLOR", "RUST_LOG_STYLE"].iter().any(|name| std::env::var_os(name).is_some());
    if io::stderr().is_terminal() && !plain {
        builder.write_style(WriteStyle::Always);
    }
    let logger = builder.build();
    let most = logger.filter();
    // A second call, in tests, leaves the first logger in place.
    if log::set_boxed_logger(Box::new(Bounded { logger, budget: Budget::default() })).is_ok() {
        log::set_max_level(most);
    }
    std::panic::set_hook(Box::new(|panic| {
        metrics().panicked();
        log::error!("panic {panic}");
    }));
}

/// As much fits into a pipe that has room at all (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Whole lines for somebody who may not read them.
struct Lines<W> {
    to: W,
    lost: u64,
    /// The last line that was written has no end.
    torn: bool,
}

impl<W: Write + std::os::fd::AsFd> Lines<W> {
    fn to(to: W) -> Self {
        Self { to, lost: 0, torn: false }
    }

    /// Whether some bytes can be written at once.
    fn has_room(&self) -> bool {
        // A reader that is gone is no reason to wait either: the write says so.
        poll(&mut [PollFd::new(&self.to, PollFlags::OUT)], Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))
            .is_ok_and(|ready| ready > 0)
    }

    /// Writes a line, as far as that needs no waiting; says whether it is out.
    fn put(&mut self, line: &[u8]) -> bool {
        for (at, piece) in line.chunks(PIECE).enumerate() {
            if !self.has_room() {
                self.torn |= at > 0;
                return false;
            }
            // There is nobody to tell that it failed.
            let _ = self.to.write_all(piece);
        }
        true
    }
}

impl<W: Write + std::os::fd::AsFd> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.torn || self.lost > 0 {
            let end = if self.torn { "\n" } else { "" };
            let said = format!("{end}[lines of this log were lost, since nobody read it: {}]\n", self.lost);
            if !self.put(said.as_bytes()) {
                self.lost += 1;
                return Ok(line.len());
            }
            (self.lost, self.torn) = (0, false);
        }
        if !self.put(line) {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Bounded {
    logger: env_logger::Logger,
    budget: Budget,
}

/// Below `info` the libraries write down whole heads, with cookies and tokens in them. What ours write, whatever the level, has no secrets.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    metadata.level() <= Level::Info || metadata.target().starts_with("ravelin")
}

impl Log for Bounded {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_discreet(metadata) && self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if BOUNDED.iter().any(|bounded| record.target().starts_with(bounded)) {
            let kind = (record.file_static().unwrap_or(""), record.line().unwrap_or(0));
            match self.budget.spend(kind, Instant::now()) {
                None => return,
                Some(0) => {}
                Some(held) => {
                    let said = format_args!("lines held back like the next count={held}");
                    self.logger.log(&Record::builder().metadata(record.metadata().clone()).args(said).build());
                }
            }
        }
        self.logger.log(record);
    }

    fn flush(&self) {
        self.logger.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_lost_is_counted() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::to(writer);
        let line = |number: usize| format!("{number:08} {}\n", "x".repeat(990));
        for number in 0..1000 {
            assert_eq!(lines.write(line(number).as_bytes()).unwrap(), 1000);
        }
        let lost = lines.lost;
        assert!((800..1000).contains(&lost), "{lost}");
        // Longer than what a pipe takes at once.
        lines.write_all(&[b'y'; 9000]).unwrap();
        assert_eq!(lines.lost, lost + 1);
        let mut part = vec![0; 32 * 1024];
        reader.read_exact(&mut part).unwrap();
        lines.write_all(line(5000).as_bytes()).unwrap();
        drop(lines);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let said = format!("[lines of this log were lost, since nobody read it: {}]\n{}", lost + 1, line(5000));
        assert!(rest.ends_with(&said), "{}", &rest[rest.len() - 1500..]);
    }

    #[test]
    fn a_line_that_was_torn_is_ended() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = Lines::to(writer);
        lines.torn = true;
        lines.write_all(b"next\n").unwrap();
        drop(lines);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "\n[lines of this log were lost, since nobody read it: 0]\nnext\n");
        // A file takes all there is.
        let mut lines = Lines::to(tempfile::tempfile().unwrap());
        lines.write_all(&[b'z'; 100_000]).unwrap();
        assert_eq!((lines.lost, File::metadata(&lines.to).unwrap().len()), (0, 100_000));
    }
}
