//! The background: the process leaves its terminal, and the one that was started waits to hear that it serves.
//!
//! Pingora's own daemon lets go at once, so that whoever started it can't tell whether it serves. Here addresses are bound before,
//! and everything that can still fail is told over a pipe: the exit status of `ravelin run -d` is the truth.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::process::exit;
use std::time::{Duration, Instant};

use daemonix::{Daemonize, Outcome, Stdio};
use pingora_core::server::configuration::ServerConf;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

/// What the process says once it serves; anything else is why it doesn't.
const READY: &[u8] = b"ready\n";
/// How long the start may take (`daemon_ready_timeout_seconds`).
const PATIENCE: Duration = Duration::from_secs(600);
/// Nobody but owner and group has a business with files that the process makes.
const UMASK: u32 = 0o027;

/// Why the process can't go there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackgroundError {
    /// The log can't be written.
    #[error("can't write `error_log: {path}`: {reason}")]
    ErrorLog {
        /// As configured.
        path: String,
        /// What the system says.
        reason: io::Error,
    },
    /// The system does not let it.
    #[error("can't run in the background: {0}")]
    System(#[from] io::Error),
    /// Nor this.
    #[error("can't run in the background: {0}")]
    Fork(#[from] daemonix::Error),
}

/// The process that was started, and waits.
pub(super) struct Launcher(File);

impl Launcher {
    /// Tells it that this process serves: it ends with success.
    pub(super) fn ready(mut self) {
        if let Err(error) = self.0.write_all(READY) {
            log::debug!("nobody waits for this process error={error}");
        }
    }

    /// Tells it why this process will not serve: it ends with that message.
    pub(super) fn failed(mut self, reason: &str) {
        // There is nobody else to tell but the log.
        let _ = self.0.write_all(reason.as_bytes());
    }
}

/// Goes to the background. Only that process returns: the one that was started ends here.
///
/// # Errors
/// The system refuses, or `error_log` can't be written.
pub(super) fn enter(conf: &ServerConf, wait: bool) -> Result<Launcher, BackgroundError> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let mut daemon = Daemonize::new().umask(UMASK).stderr(Stdio::keep());
    if let Some(path) = &conf.error_log {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        daemon = daemon.stderr(opened.map_err(|reason| BackgroundError::ErrorLog { path: path.clone(), reason })?);
    }
    if let Some(path) = &conf.working_directory {
        daemon = daemon.working_directory(path);
    }
    match daemon.execute() {
        Outcome::Child(left) => {
            let _: daemonix::Child<()> = left?;
            drop(read);
            Ok(Launcher(write.into()))
        }
        Outcome::Parent(forked) => {
            forked?;
            drop(write);
            let limit = conf.daemon_ready_timeout_seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.get()));
            exit(if wait { await_ready(read.into(), limit) } else { 0 })
        }
    }
}

/// The exit status of the process that was started.
#[expect(clippy::print_stderr, reason = "the command line speaks to a person")]
fn await_ready(mut pipe: File, limit: Duration) -> i32 {
    let said = match hear(&mut pipe, limit) {
        Ok(said) if said == READY => return 0,
        Ok(said) if said.is_empty() => "the process in the background ended before it served; its log says why".to_owned(),
        Ok(said) => String::from_utf8_lossy(&said).trim_end().to_owned(),
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            format!("the process in the background does not serve yet, after {limit:?}: its log says why")
        }
        Err(error) => format!("the process in the background can't be heard: {error}"),
    };
    eprintln!("error: {said}");
    1
}

/// All that comes until the other side is done, or says that it is ready.
fn hear(pipe: &mut File, limit: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + limit;
    let mut said = Vec::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
        if poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut bytes = [0; 4096];
        let read = pipe.read(&mut bytes)?;
        said.extend_from_slice(&bytes[..read]);
        if read == 0 || said == READY {
            return Ok(said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (File, Launcher) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        (read.into(), Launcher(write.into()))
    }

    #[test]
    fn whoever_waits_hears_what_became_of_it() {
        let limit = Duration::from_secs(60);
        let (mut pipe, launcher) = pair();
        launcher.ready();
        assert_eq!(hear(&mut pipe, limit).unwrap(), READY);
        let (mut pipe, launcher) = pair();
        launcher.failed("no such user");
        assert_eq!(hear(&mut pipe, limit).unwrap(), b"no such user");
        let (mut pipe, launcher) = pair();
        drop(launcher);
        assert_eq!(hear(&mut pipe, limit).unwrap(), b"");
    }

    #[test]
    fn it_does_not_wait_for_ever() {
        let (mut pipe, _launcher) = pair();
        assert_eq!(hear(&mut pipe, Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
