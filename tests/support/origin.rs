//! A scripted origin: what it answers is given beforehand, what it receives is kept byte for byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::deadline::Deadline;
use super::events::Events;
use super::ports::Reserved;
use super::runtime;
use super::serve::{self, Acceptor};
use super::wire::{Field, Head};

/// A server whose answers are scripted.
pub(crate) struct Origin {
    state: Arc<Shared>,
    address: String,
    bind: Bind,
    reserved: Option<Reserved>,
    accepting: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Where an origin listens.
#[derive(Debug, Clone)]
pub(crate) enum Bind {
    V4,
    V6,
    Unix(PathBuf),
}

/// What an origin does for one request (or connection).
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) trigger: Trigger,
    /// For requests of this target only; any number of them.
    pub(crate) target: Option<String>,
    pub(crate) actions: Vec<Action>,
}

/// When an answer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// As soon as the connection is accepted, before a byte has been read.
    Connect,
    /// Once the request's head has come.
    Head,
    /// Once the whole request has come.
    Request,
}

/// A step of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// A head and a body; the body is left out in the answer to HEAD.
    Message {
        head: Vec<u8>,
        body: Vec<u8>,
    },
    /// These bytes.
    Send(Vec<u8>),
    /// Until the test releases this event.
    Wait(String),
    Sleep(Duration),
    /// FIN; what still comes is read and dropped.
    Close,
    /// RST.
    Reset,
    /// Never a byte again, until the peer closes.
    Stall,
    /// From now on sends back what comes.
    Echo,
}

impl Answer {
    pub(crate) fn text(status: u16, body: &str) -> Self {
        let reason = if status == 200 { "OK" } else { "" };
        let head = format!("HTTP/1.1 {status} {reason}\r\ncontent-length: {}\r\n\r\n", body.len()).into();
        Self::of(vec![Action::Message { head, body: body.into() }])
    }

    pub(crate) fn of(actions: Vec<Action>) -> Self {
        Self { trigger: Trigger::Request, target: None, actions }
    }
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// On which of the origin's connections, from 1.
    pub(crate) connection: usize,
    /// Its place among the requests that all origins of this process received.
    pub(crate) sequence: usize,
    pub(crate) head: Head,
    /// The body, decoded.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Field>,
    /// Head and body as they came.
    pub(crate) raw: Vec<u8>,
    pub(crate) complete: bool,
}

impl Origin {
    /// Starts one on a free port of 127.0.0.1. Its answers are given in turn, the last one again and again;
    /// without any it says 200 and its name.
    pub(crate) fn start(name: &str, answers: Vec<Answer>) -> Self {
        let origin = Self::prepare(name, Bind::V4, false, Events::new()).expect("loopback has a free port");
        origin.script(answers);
        origin.resume().expect("the origin can listen");
        origin
    }

    /// Reserves its address; it listens after [`Origin::resume`]. With `per_connection` each connection has
    /// the list of answers from its beginning.
    pub(crate) fn prepare(name: &str, bind: Bind, per_connection: bool, events: Events) -> io::Result<Self> {
        let reserved = match &bind {
            Bind::V4 => Some(Reserved::v4()?),
            Bind::V6 => Some(Reserved::v6()?),
            Bind::Unix(_) => None,
        };
        let address = match (&bind, &reserved) {
            (Bind::Unix(path), _) => format!("unix:{}", path.display()),
            (_, Some(reserved)) => reserved.address().to_string(),
            (_, None) => String::new(),
        };
        let state = Arc::new(Shared {
            name: name.to_owned(),
            answers: Mutex::default(),
            per_connection,
            events,
            record: Mutex::new(Record::default()),
            changed: Condvar::new(),
        });
        Ok(Self { state, address, bind, reserved, accepting: Mutex::new(None) })
    }

    /// What it answers from now on, begun from the first.
    pub(crate) fn script(&self, answers: Vec<Answer>) {
        *self.state.answers() = answers;
        self.state.record().answered = 0;
    }

    /// `127.0.0.1:port` or `unix:/path`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn name(&self) -> &str {
        &self.state.name
    }

    /// Listens (again), on the same address.
    pub(crate) fn resume(&self) -> io::Result<()> {
        let _entered = runtime().enter();
        let acceptor = match (&self.bind, &self.reserved) {
            (Bind::Unix(path), _) => {
                remove(path);
                Acceptor::unix(path)?
            }
            (_, Some(reserved)) => Acceptor::tcp(reserved.address())?,
            (_, None) => return Err(io::Error::other("no address")),
        };
        let task = runtime().spawn(serve::accept(self.state.clone(), acceptor));
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    /// Stops listening and drops its connections; new ones are refused.
    pub(crate) fn stop(&self) {
        let task = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            let _ = runtime().block_on(task);
        }
        if let Bind::Unix(path) = &self.bind {
            remove(path);
        }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.state.record().requests.clone()
    }

    /// How many connections have been accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.record().connections
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.state.record().open
    }

    /// Bytes that were not (yet) a request, by connection.
    pub(crate) fn strays(&self) -> Vec<(usize, Vec<u8>)> {
        self.state.record().strays.clone()
    }

    /// Forgets all requests and connections so far.
    pub(crate) fn forget(&self) {
        let mut record = self.state.record();
        record.generation += 1;
        record.requests.clear();
        record.strays.clear();
        record.connections = 0;
    }

    /// Waits until `look` finds what it looks for in the origin; `None`: not before the deadline.
    pub(crate) fn wait_for<T>(&self, deadline: Deadline, look: impl Fn(&Record) -> Option<T>) -> Option<T> {
        let mut record = self.state.record();
        loop {
            if let Some(found) = look(&record) {
                return Some(found);
            }
            if deadline.passed() {
                return None;
            }
            let waited = self.state.changed.wait_timeout(record, deadline.left());
            record = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// What an origin has seen.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: Vec<Received>,
    pub(crate) connections: usize,
    pub(crate) open: usize,
    pub(crate) strays: Vec<(usize, Vec<u8>)>,
    /// How often it has been forgotten.
    generation: usize,
    answered: usize,
    accepted: usize,
}

/// What the tasks of an origin share.
pub(super) struct Shared {
    pub(super) name: String,
    answers: Mutex<Vec<Answer>>,
    per_connection: bool,
    pub(super) events: Events,
    record: Mutex<Record>,
    changed: Condvar,
}

/// Which entry of the record a request is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    generation: usize,
    index: usize,
}

static SEQUENCE: AtomicUsize = AtomicUsize::new(0);

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let result = change(&mut self.record());
        self.changed.notify_all();
        result
    }

    /// A connection was accepted: its number, from 1.
    pub(super) fn connected(&self) -> usize {
        self.change(|record| {
            record.connections += 1;
            record.open += 1;
            record.accepted += 1;
            record.accepted
        })
    }

    pub(super) fn disconnected(&self) {
        self.change(|record| record.open = record.open.saturating_sub(1));
    }

    pub(super) fn stray(&self, connection: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.change(|record| record.strays.push((connection, bytes.to_vec())));
        }
    }

    /// A head has come.
    pub(super) fn began(&self, connection: usize, head: Head) -> Entry {
        self.change(|record| {
            let raw = head.raw.clone();
            let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
            let (body, trailers) = (Vec::new(), Vec::new());
            record.requests.push(Received { connection, sequence, head, body, trailers, raw, complete: false });
            Entry { generation: record.generation, index: record.requests.len() - 1 }
        })
    }

    /// More of a request has come.
    pub(super) fn update(&self, entry: Entry, update: impl FnOnce(&mut Received)) {
        self.change(|record| {
            if record.generation == entry.generation
                && let Some(request) = record.requests.get_mut(entry.index)
            {
                update(request);
            }
        });
    }

    /// The answer to the next request on a connection that has had `answered` before.
    pub(super) fn answer(&self, target: &[u8], answered: usize) -> Answer {
        let answers = self.answers();
        let targeted = |answer: &&Answer| answer.target.as_ref().is_some_and(|wanted| wanted.as_bytes() == target);
        if let Some(answer) = answers.iter().find(targeted) {
            return answer.clone();
        }
        let turn = if self.per_connection { answered } else { self.record().take_turn() };
        let answer = in_turn(&answers, turn).filter(|answer| answer.trigger != Trigger::Connect);
        answer.cloned().unwrap_or_else(|| Answer::text(200, &self.name))
    }

    /// What is to be done as soon as a connection is accepted.
    pub(super) fn greeting(&self) -> Option<Answer> {
        let answers = self.answers();
        let mut record = self.record();
        let turn = if self.per_connection { 0 } else { record.answered };
        let greeting = in_turn(&answers, turn).filter(|answer| answer.trigger == Trigger::Connect)?;
        record.answered += 1;
        Some(greeting.clone())
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers without a target are given in turn, the last one again and again.
fn in_turn(answers: &[Answer], turn: usize) -> Option<&Answer> {
    let untargeted: Vec<&Answer> = answers.iter().filter(|answer| answer.target.is_none()).collect();
    untargeted.get(turn).or(untargeted.last()).copied()
}

impl Record {
    fn take_turn(&mut self) -> usize {
        self.answered += 1;
        self.answered - 1
    }
}
