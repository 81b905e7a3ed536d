//! Both lanes in one process, fed with the same bytes: what the endpoint gets is the same, and what the client gets.
//!
//! Client, proxy and endpoint share one thread, and all sockets are unix sockets. So whatever is going to happen has happened once nothing
//! moves any more: no time has to pass, and none of the proxy's deadlines does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::config::{Limits, parse};
use crate::filter::{Client, Registry, Scheme};
use crate::observe::Observers;
use crate::proxy::{Chunks, Clock, Connection, Proxy, Rows, express_fuzzing};
use crate::runtime::{Store, compile};
use crate::server::connection::{Accepted, serve};
use crate::server::engine::engine;
use crate::server::head::{Body, Scan, scan};
use crate::server::listeners::Listener;
use crate::upstream::Wire;

/// What stands between the request and the response.
const BETWEEN: &[u8] = b"\n%%\n";
/// So often all tasks have their turn without anything to be seen outside, before nothing is expected any more.
const QUIET: usize = 40;
/// More than this might fill a socket.
const LONGEST: usize = 64 * 1024;

static HOUSE: LazyLock<Mutex<House>> = LazyLock::new(|| Mutex::new(House::new().unwrap()));

/// Feeds both lanes. Whether there was anything to be fed.
///
/// # Panics
/// They differ.
pub(super) fn feed(data: &[u8]) -> bool {
    let Some(at) = data.windows(BETWEEN.len()).position(|four| four == BETWEEN) else { return false };
    let (request, response) = (&data[..at], &data[at + BETWEEN.len()..]);
    let Some(request) = first(request) else { return false };
    if data.len() > LONGEST || is_known_to_differ(request, response) {
        return false;
    }
    let house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    let [general, express] = [&house.general, &house.express].map(|lane| house.runtime.block_on(lane.play(request, response)));
    assert!(
        general == express,
        "{}\n{}\ngeneral: {general:#?}\nexpress: {express:#?}",
        request.escape_ascii(),
        response.escape_ascii()
    );
    true
}

/// A head before the classifier of a proxy that has several routes. Whether it is admitted.
///
/// # Panics
/// The general way would have taken it for something else.
pub(super) fn classify(data: &[u8]) -> bool {
    let limits = Limits::default().or(&Limits::default());
    let mut rows = [Rows::default(), Rows::default()];
    let lengths = rows.each_mut().map(|rows| match scan(data, 0, &limits, rows) {
        Scan::Head { length, .. } => Some(length),
        _ => None,
    });
    let [Some(length), _] = lengths else { return false };
    let house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    let Listener { name, index, express, observers, .. } = &*house.express.listener;
    let connection = Connection {
        listener: name.clone(),
        index: Some(*index),
        client: Client::direct(Some(([127, 0, 0, 1], 4711).into())),
        scheme: Scheme::Http,
        tls: None,
        clock: Arc::new(Clock::new()),
        tunnel_idle: None,
        body_size: None,
        stream: None,
        last: false,
        observers: observers.clone(),
    };
    express_fuzzing::classify(express, &data[..length], rows.into(), &connection)
}

/// The first request of these bytes, whole. What our scan refuses has come to no lane, and of what never ends no lane sees the end.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let limits = Limits::default().or(&Limits::default());
    let Scan::Head { length, body } = scan(bytes, 0, &limits, &mut Rows::default()) else { return None };
    let end = match body {
        Body::Length(more) => length.checked_add(usize::try_from(more).ok()?)?,
        Body::Chunked(mut chunks) => {
            let taken = chunks.take(&bytes[length..]);
            (chunks.is_done() || chunks.is_broken()).then_some(length + taken)?
        }
        // A tunnel is nobody's but the general way's.
        Body::Open => return None,
    };
    bytes.get(..end)
}

/// What is right in either way, or is Pingora's to mend. Each has its reason in `docs/ARCHITECTURE.md`.
fn is_known_to_differ(request: &[u8], _response: &[u8]) -> bool {
    // Of several such fields Pingora looks at the first when it decides whether the client stays.
    let head = request.to_ascii_lowercase();
    head.windows(13).filter(|piece| *piece == b"\r\nconnection:").count() > 1
}

struct House {
    runtime: Runtime,
    general: Lane,
    express: Lane,
    _shutdown: watch::Sender<bool>,
}

/// One lane, and an endpoint of its own.
struct Lane {
    listener: Arc<Listener>,
    /// Of the endpoint's socket, which is there for one exchange.
    path: PathBuf,
}

/// What was to be seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Requests that came to the endpoint whole.
    requests: Vec<Message>,
    /// Responses that came to the client: informational ones, and the last.
    responses: Vec<Message>,
    /// The client's connection is closed.
    closed: bool,
}

/// A message, in an order of fields that does not matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    first: String,
    fields: Vec<(String, String)>,
    body: String,
    whole: bool,
}

impl House {
    fn new() -> io::Result<Self> {
        let (stop, shutdown) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let general = Lane::new(&runtime, false, shutdown.clone())?;
        let express = Lane::new(&runtime, true, shutdown)?;
        Ok(Self { runtime, general, express, _shutdown: stop })
    }
}

impl Lane {
    fn new(runtime: &Runtime, express: bool, shutdown: ShutdownWatch) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("ravelin-lanes-{}-{express}", std::process::id()));
        let text = format!(
            "listeners: {{main: {{address: \"127.0.0.1:1\", trust_forwarded: {{from: [127.0.0.1]}}}}}}\n\
             upstreams: {{a: {{endpoints: [\"unix:{}\"], health_check: none, retry: {{retries: 0}}}}}}\n\
             routes:\n  \
               own: {{match: {{paths: [/own]}}, respond: {{status: 403, body: no}}}}\n  \
               posts: {{match: {{hosts: [\"*.example.com\"], paths: [/a/*], methods: [POST]}}, upstream: a}}\n  \
               all: {{upstream: a, filters: [{{request_id: {{}}}}, {{headers: {{response: {{set: {{x-edge: '1'}}}}}}}}]}}\n",
            path.display()
        );
        let mut filters = Registry::default();
        crate::filters::register(&mut filters).unwrap();
        let (config, mut report) = parse(&text, Path::new("lanes.yaml"), &filters, &|_| None);
        let compiled = config.and_then(|config| compile(config, &filters, None, &mut report));
        let compiled = compiled.unwrap_or_else(|| panic!("{report}"));
        let conf = Arc::new(compiled.boot.pingora);
        let (store, observers) = (Arc::new(Store::new(compiled.snapshot)), Arc::new(Observers::default()));
        runtime.block_on(async {
            for upstream in store.load().upstreams() {
                upstream.prepare(false).await;
            }
        });
        let proxy = Proxy::new(store.clone(), observers.clone(), &conf);
        let lane = Arc::new(proxy.express(&conf).opened(express));
        let listener = Listener::detached(engine(&conf, proxy)?, lane, store, observers, shutdown);
        Ok(Self { listener, path })
    }

    async fn play(&self, request: &[u8], response: &[u8]) -> Seen {
        // One that was left behind by a process that failed.
        let _ = std::fs::remove_file(&self.path);
        let endpoint = UnixListener::bind(&self.path).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let accepted = Accepted { stream: Wire::Unix(far), peer: None, proxied: false, listener: self.listener.clone() };
        let serving = tokio::spawn(serve(accepted));
        let mut view = View { endpoint: &endpoint, client: Side::new(near), endpoints: Vec::new() };
        view.client.stream.write_all(request).await.unwrap();
        view.settle().await;
        // It answers once the request has come as far as it will.
        let mut answered = 0;
        while let Some(endpoint) = view.endpoints.get_mut(answered) {
            answered += 1;
            let _ = endpoint.stream.write_all(response).await;
            let _ = endpoint.stream.shutdown().await;
            view.settle().await;
        }
        let View { client, endpoints, .. } = view;
        let method = request.split(|byte| *byte == b' ').next().unwrap_or_default();
        let seen = Seen {
            requests: endpoints
                .iter()
                .map(|endpoint| message(&mut &*endpoint.come, None, true))
                .filter(|one| one.whole)
                .collect(),
            responses: responses(&client.come, method, client.ended),
            closed: client.ended,
        };
        drop((client, endpoints));
        serving.abort();
        for _ in 0..QUIET {
            tokio::task::yield_now().await;
        }
        let _ = std::fs::remove_file(&self.path);
        seen
    }
}

/// What is outside of the proxy.
struct View<'a> {
    endpoint: &'a UnixListener,
    client: Side,
    endpoints: Vec<Side>,
}

/// The far end of one of its connections.
struct Side {
    stream: UnixStream,
    come: Vec<u8>,
    ended: bool,
}

impl View<'_> {
    /// Waits until nothing moves any more.
    async fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET {
            tokio::task::yield_now().await;
            let mut moves = self.client.take();
            for endpoint in &mut self.endpoints {
                moves |= endpoint.take();
            }
            if let Some(accepted) = futures_util::FutureExt::now_or_never(self.endpoint.accept()) {
                self.endpoints.push(Side::new(accepted.unwrap().0));
                moves = true;
            }
            quiet = if moves { 0 } else { quiet + 1 };
        }
    }
}

impl Side {
    fn new(stream: UnixStream) -> Self {
        Self { stream, come: Vec::new(), ended: false }
    }

    /// Takes what has come. Whether anything has.
    fn take(&mut self) -> bool {
        let before = (self.come.len(), self.ended);
        let mut piece = [0; 8192];
        while !self.ended {
            match self.stream.try_read(&mut piece) {
                Ok(read) if read > 0 => self.come.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.ended = true,
            }
        }
        before != (self.come.len(), self.ended)
    }
}

/// All of a client's, of whom only one thing was asked.
fn responses(mut bytes: &[u8], method: &[u8], ended: bool) -> Vec<Message> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let next = message(&mut bytes, Some(method), ended);
        let last = !next.first.starts_with("HTTP/1.1 1");
        all.push(next);
        if last {
            assert!(bytes.is_empty(), "more came than was asked for: {}", bytes.escape_ascii());
        }
    }
    let last = all.last().map_or("", |last| last.first.as_str());
    if ended && !all.last().is_some_and(|last| last.whole && !last.first.starts_with("HTTP/1.1 1")) {
        // Broken off: how much has left before is a matter of buffers.
        all.clear();
    } else if last.starts_with("HTTP/1.1 502") {
        // Pingora forgets an informational answer that came together with one that is refused.
        all.drain(..all.len() - 1);
    }
    all
}

/// Reads a message that is well-formed: it comes from us.
fn message(bytes: &mut &[u8], asked: Option<&[u8]>, ended: bool) -> Message {
    let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        let rest = std::mem::take(bytes);
        return Message { first: shown(rest), ..Message::default() };
    };
    let (head, mut rest) = (&bytes[..at], &bytes[at + 4..]);
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = shown(lines.next().unwrap_or_default());
    let mut fields: Vec<(String, String)> = lines
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or_else(|| panic!("no field: {}", line.escape_ascii()));
            (shown(&line[..colon]).to_ascii_lowercase(), shown(line[colon + 1..].trim_ascii()))
        })
        .collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    let value = |name: &str| fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let status: Option<u16> = asked.and_then(|_| first.get(9..12)?.parse().ok());
    let bodiless = asked == Some(b"HEAD") || status.is_some_and(|status| status < 200 || matches!(status, 204 | 304));
    let (body, whole) = if bodiless {
        (Vec::new(), true)
    } else if let Some(length) = value("content-length") {
        assert!(value("transfer-encoding").is_none(), "two framings: {}", head.escape_ascii());
        let length: usize = length.parse().unwrap();
        let body = &rest[..length.min(rest.len())];
        rest = &rest[body.len()..];
        (body.to_vec(), body.len() == length)
    } else if value("transfer-encoding").is_some() {
        let (mut chunks, mut body) = (Chunks::new(), Vec::new());
        let taken = chunks.take_data(rest, |data| body.extend_from_slice(data));
        assert!(!chunks.is_broken(), "broken chunks: {}", rest.escape_ascii());
        rest = &rest[taken..];
        (body, chunks.is_done())
    } else if asked.is_some() {
        (std::mem::take(&mut rest).to_vec(), ended)
    } else {
        (Vec::new(), true)
    };
    *bytes = rest;
    // What differs from one exchange to the next.
    for (name, value) in &mut fields {
        if matches!(name.as_str(), "via" | "date" | "x-request-id") {
            value.clear();
        }
    }
    let body = shown(&body);
    let body =
        body.split("request id: ").next().and_then(|body| body.split("\"request_id\":").next()).unwrap_or_default().to_owned();
    Message { first, fields, body, whole }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use fastrand::Rng;

    use super::*;

    const FEW: u64 = 400;
    const MANY: u64 = 20_000;

    /// What is worth to be put where it was not expected.
    const PIECES: [&[u8]; 16] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b",",
        b";",
        b"0\r\n\r\n",
        b"\r\nContent-Length: 5",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nConnection: close",
        b"\r\nX-A: 1",
        b"\r\nContent-Length: 0",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"\xff",
    ];

    fn mutate(random: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[random.usize(..corpus.len())].clone();
        if random.bool() {
            // The request of one, and the response of another.
            let other = &corpus[random.usize(..corpus.len())];
            let at = |bytes: &[u8]| bytes.windows(BETWEEN.len()).position(|four| four == BETWEEN).unwrap();
            input.truncate(at(&input));
            input.extend_from_slice(&other[at(other)..]);
        }
        for _ in 0..random.usize(..4) {
            let at = random.usize(..input.len());
            match random.u8(..5) {
                0 => input[at] = random.u8(..),
                1 => _ = input.remove(at),
                2 => input.truncate(at.max(input.len().saturating_sub(8))),
                3 => {
                    let end = (at + random.usize(..16)).min(input.len());
                    let piece = input[at..end].to_vec();
                    input.splice(at..at, piece);
                }
                _ => {
                    let piece = PIECES[random.usize(..PIECES.len())];
                    input.splice(at..at, piece.iter().copied());
                }
            }
        }
        input
    }

    /// On every toolchain, though less cleverly than a fuzzer: the corpus, joined and damaged at random. The seed is shown by what fails.
    #[test]
    fn damaged_inputs_are_treated_alike() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/lanes");
        let mut paths: Vec<_> = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        let seeds = if std::env::var_os("RAVELIN_TEST_ALL").is_some() { MANY } else { FEW };
        let fed = (0..seeds).filter(|seed| {
            println!("seed {seed}");
            feed(&mutate(&mut Rng::with_seed(*seed), &corpus))
        });
        let fed = fed.count() as u64;
        assert!(fed > seeds / 2, "{fed} of {seeds} were requests");
    }
}
