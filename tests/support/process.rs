//! A real Ravelin process: started with a configuration, ended by its process id when dropped.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

pub(crate) use rustix::process::Signal;

use super::deadline::Deadline;

/// The program that is started in place of the `ravelin` binary.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Tests of a program that embeds Ravelin say so before they start the first.
pub(crate) fn use_program(program: PathBuf) {
    PROGRAM.set(program).expect("one program for all tests of a binary");
}

/// `RAVELIN_TEST_PROGRAM` names another build of it, for figures that a debug build can't give.
fn program() -> PathBuf {
    let named = || std::env::var_os("RAVELIN_TEST_PROGRAM").map(PathBuf::from);
    PROGRAM.get().cloned().or_else(named).unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ravelin")))
}

/// How Ravelin is to be started.
pub(crate) struct Launch {
    directory: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    stdout: Option<Stdio>,
    /// How many may be open, and how many at most it may ask for.
    descriptors: Option<(u32, u32)>,
    resolver: Option<PathBuf>,
}

impl Launch {
    /// `ravelin run -c ravelin.yaml` in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        let arguments = ["run", "-c", "ravelin.yaml"].map(OsString::from).to_vec();
        Self {
            directory: directory.to_owned(),
            arguments,
            environment: Vec::new(),
            stdout: None,
            descriptors: None,
            resolver: None,
        }
    }

    pub(crate) fn arguments<I: IntoIterator<Item: Into<OsString>>>(mut self, arguments: I) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where its standard output goes. Without it, all of it is read: see [`Ravelin::stdout`].
    pub(crate) fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// How many descriptors it may have open, whatever it asks for.
    pub(crate) fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some((limit, limit));
        self
    }

    /// How many it may have open, unless it asks for more, and how many then.
    pub(crate) fn descriptors_up_to(mut self, limit: u32, most: u32) -> Self {
        self.descriptors = Some((limit, most));
        self
    }

    /// What it sees as `/etc/resolv.conf`: takes root, and `unshare`.
    pub(crate) fn resolves_by(mut self, file: &Path) -> Self {
        self.resolver = Some(file.to_owned());
        self
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn spawn(self) -> io::Result<Ravelin> {
        let program = program();
        // The shell becomes the program: the process id stays.
        let mut command = match (self.descriptors, &self.resolver) {
            (Some((limit, most)), _) => {
                let mut shell = Command::new("sh");
                let limits = format!("ulimit -S -n {limit} && ulimit -H -n {most}");
                shell.arg("-c").arg(format!("{limits} && exec \"$0\" \"$@\"")).arg(program);
                shell
            }
            (None, Some(file)) => {
                let mut shell = Command::new("unshare");
                shell.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]).arg(file).arg(program);
                shell
            }
            (None, None) => Command::new(program),
        };
        command.args(&self.arguments).current_dir(&self.directory).env_remove("RUST_LOG");
        // Nothing is left behind in /run by a process that is killed.
        command.env("RAVELIN_RUNTIME_DIR", &self.directory);
        command.envs(self.environment);
        command.stdin(Stdio::null()).stdout(self.stdout.unwrap_or_else(Stdio::piped)).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (log, stdout) = (Log::default(), Log::default());
        let readers = [child.stderr.take().map(|pipe| log.follow(pipe)), child.stdout.take().map(|pipe| stdout.follow(pipe))];
        Ok(Ravelin { child, log, stdout, readers, addresses: Vec::new(), directory: self.directory, _owned: None })
    }
}

/// A running Ravelin.
pub(crate) struct Ravelin {
    child: Child,
    log: Log,
    stdout: Log,
    readers: [Option<thread::JoinHandle<()>>; 2],
    addresses: Vec<String>,
    directory: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl Ravelin {
    /// Starts one with this configuration in a directory of its own and waits until it accepts on as many
    /// addresses as the configuration has listeners. Panics, with the log, if it does not.
    pub(crate) fn start(config: &str) -> Self {
        Self::begin(None, config)
    }

    /// The same, with its requests in this lane.
    pub(crate) fn start_in(lane: &str, config: &str) -> Self {
        Self::begin(Some(lane), config)
    }

    fn begin(lane: Option<&str>, config: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("ravelin.yaml"), config).expect("a file in it");
        let mut launch = Launch::new(directory.path());
        if let Some(lane) = lane {
            launch = launch.env("RAVELIN_LANE", lane);
        }
        let mut ravelin = launch.spawn().expect("the binary starts");
        ravelin._owned = Some(directory);
        let listeners = listeners(config).len().max(1);
        if let Err(problem) = ravelin.ready(listeners, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log.text());
        }
        ravelin
    }

    /// Waits until it accepts on this many addresses.
    pub(crate) fn ready(&mut self, listeners: usize, deadline: Deadline) -> Result<(), String> {
        loop {
            let addresses = self.log.wait_for(deadline.min_step(), |lines| {
                let addresses: Vec<String> = lines.iter().filter_map(|line| listening(line)).collect();
                (addresses.len() >= listeners).then_some(addresses)
            });
            if let Some(addresses) = addresses {
                self.addresses = addresses;
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ravelin ended before it listened: {status}"));
            }
            if deadline.passed() {
                return Err(format!("ravelin did not say `listening on` for {listeners} listener(s) before the deadline"));
            }
        }
    }

    /// The first address that it reported: `127.0.0.1:port` or `unix:/path`.
    pub(crate) fn address(&self) -> &str {
        self.addresses.first().map_or("", String::as_str)
    }

    /// All addresses that it reported, in that order.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The admin address that it reported, if it has one: it does so before it reports the listeners'.
    pub(crate) fn admin(&self) -> Option<String> {
        self.log.lines().iter().find_map(|line| admin(line))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it writes to stderr.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// What it writes to stdout.
    pub(crate) fn stdout(&self) -> &Log {
        &self.stdout
    }

    /// Waits until a line of the log contains `text`; `None`: not before the deadline.
    pub(crate) fn wait_for_log(&self, text: &str, deadline: Deadline) -> Option<String> {
        self.log.wait_for(deadline, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)?)
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended and all that it wrote has been read; `None`: not before the deadline.
    pub(crate) fn wait_for_exit(&mut self, deadline: Deadline) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.exited() {
                for reader in self.readers.iter_mut().filter_map(Option::take) {
                    let _ = reader.join();
                }
                return Some(status);
            }
            if deadline.passed() {
                return None;
            }
            // The pipe's end is the event; a process may close it before it is gone, hence the step.
            let ended = self.log.wait_for_end(deadline.min_step());
            if ended {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Ravelin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address of a listener on a line that reports one.
fn listening(line: &str) -> Option<String> {
    if admin(line).is_some() { None } else { address(line, "listening on ") }
}

/// The admin address, likewise.
fn admin(line: &str) -> Option<String> {
    address(line, "admin listening on ")
}

fn address(line: &str, after: &str) -> Option<String> {
    let (_, rest) = line.split_once(after)?;
    let address = rest.split_whitespace().next()?.trim_end_matches([',', ';']);
    Some(address.trim_matches(['`', '"', '\'']).to_owned())
}

/// Names and addresses of a configuration's listeners, in the order of the file; empty if it cannot be read.
pub(crate) fn listeners(config: &str) -> Vec<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Sections {
        #[serde(default)]
        listeners: Pairs,
    }
    #[derive(Default)]
    struct Pairs(Vec<(String, String)>);
    #[derive(serde::Deserialize)]
    struct Listener {
        address: String,
    }
    impl<'de> serde::Deserialize<'de> for Pairs {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(InOrder)
        }
    }
    struct InOrder;
    impl<'de> serde::de::Visitor<'de> for InOrder {
        type Value = Pairs;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("listeners")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
            let mut pairs = Vec::new();
            while let Some((name, listener)) = map.next_entry::<String, Listener>()? {
                pairs.push((name, listener.address));
            }
            Ok(Pairs(pairs))
        }
    }
    serde_saphyr::from_str::<Sections>(config).map_or_else(|_| Vec::new(), |sections| sections.listeners.0)
}

/// Lines that a process writes. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<Written>, Condvar)>);

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Adds a line.
    pub(crate) fn say(&self, line: &str) {
        self.change(|written| written.lines.push(line.to_owned()));
    }

    pub(crate) fn follow(&self, pipe: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let log = self.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
                log.change(|written| written.lines.push(text));
                line.clear();
            }
            log.change(|written| written.ended = true);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    pub(crate) fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits until `look` finds what it looks for; `None`: not before the deadline, or never (the end was reached).
    pub(crate) fn wait_for<T>(&self, deadline: Deadline, look: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let mut written = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = look(&written.lines) {
                return Some(found);
            }
            if written.ended || deadline.passed() {
                return None;
            }
            written = self.0.1.wait_timeout(written, deadline.left()).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wait_for_end(&self, deadline: Deadline) -> bool {
        let mut written = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !written.ended && !deadline.passed() {
            written = self.0.1.wait_timeout(written, deadline.left()).unwrap_or_else(PoisonError::into_inner).0;
        }
        written.ended
    }
}
