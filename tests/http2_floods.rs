//! HTTP/2 clients that flood: each is told to calm down (GOAWAY with ENHANCE_YOUR_CALM) or cut off, and others are served meanwhile.
//!
//! The figures of `docs/THREATS.md` are what this prints: `cargo test --test http2_floods -- --nocapture --test-threads 1`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use support::{Action, Answer, Connection, Deadline, Origin, Outgoing, Ravelin, until_metric};

const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So much is sent at most: what is not stopped by then is not stopped.
const MAX: usize = 64 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a request to `a` for `/`, by the static table (RFC 7541, appendix A).
fn head(method: u8) -> Vec<u8> {
    vec![method, 0x86, 0x84, 0x01, 0x01, b'a']
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    GoAway(u32),
    Closed,
}

struct Flood {
    end: End,
    sent: usize,
    resets: Vec<u32>,
    settings: Vec<(u16, u32)>,
}

/// Sends `first`, then what `next` makes again and again, until the other side ends the connection or `enough` of it is read.
fn flood(address: &str, first: &[u8], mut next: impl FnMut() -> Vec<u8> + Send) -> Flood {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let outcome = read(&mut reader);
            over.store(true, Ordering::Relaxed);
            let _ = reader.shutdown(Shutdown::Both);
            outcome
        });
        let mut sent = 0;
        let mut write = |bytes: &[u8]| {
            sent += bytes.len();
            stream.write_all(bytes).is_ok() && sent < MAX && !over.load(Ordering::Relaxed)
        };
        if write(PREFACE) && write(&frame(4, 0, 0, &[])) && write(first) {
            loop {
                let bytes = next();
                if bytes.is_empty() || !write(&bytes) {
                    break;
                }
            }
        }
        let (end, resets, settings) = reading.join().unwrap();
        Flood { end, sent, resets, settings }
    })
}

type Seen = (End, Vec<u32>, Vec<(u16, u32)>);

fn read(stream: &mut TcpStream) -> Seen {
    let (mut resets, mut settings) = (Vec::new(), Vec::new());
    let mut end = End::Closed;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return (end, resets, settings);
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).is_err() {
            return (end, resets, settings);
        }
        let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match head[3] {
            3 => resets.push(word(0)),
            4 => {
                let setting =
                    |six: &[u8]| (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes(six[2..].try_into().unwrap()));
                settings.extend(payload.chunks_exact(6).map(setting));
            }
            7 => end = End::GoAway(word(4)),
            _ => {}
        }
    }
}

fn config(origin: &str, limits: &str) -> String {
    format!(
        "threads: 2\nlisteners: {{main: {{address: 127.0.0.1:0, http2: true, limits: {limits}}}}}\n\
         upstreams: {{a: {{endpoints: [\"{origin}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n"
    )
}

/// What a flood cost the process, beside the requests of somebody else.
struct Cost {
    /// Beyond what those requests take.
    cpu: Duration,
    /// What one of them takes.
    request: Duration,
    /// By how much the peak of its memory grew, in KiB.
    memory: u64,
}

impl Cost {
    /// So many requests cost as much. That is no matter of how fast a machine is, nor of how busy.
    fn in_requests(&self) -> f64 {
        self.cpu.as_secs_f64() / self.request.as_secs_f64()
    }
}

/// A client that asks for something again and again, until it is told to stop.
struct Other {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    asking: JoinHandle<Duration>,
}

/// Requests by which the cost of one is known.
const MEASURED: u64 = 200;

fn ask(address: &str) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(&Outgoing::get("/other", "a"), deadline).unwrap();
    assert_eq!(client.next_response(deadline).unwrap().head.status().unwrap(), 200);
}

impl Other {
    fn start(address: &str) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let asking = thread::spawn({
            let (over, served, address) = (over.clone(), served.clone(), address.to_owned());
            move || {
                let mut slowest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) || served.load(Ordering::Relaxed) < 20 {
                    let began = Instant::now();
                    ask(&address);
                    served.fetch_add(1, Ordering::Relaxed);
                    slowest = slowest.max(began.elapsed());
                }
                slowest
            }
        });
        Self { over, served, asking }
    }

    /// How many of its requests were served, and how long the slowest took. All were.
    fn stop(self) -> (u64, Duration) {
        self.over.store(true, Ordering::Relaxed);
        let slowest = self.asking.join().expect("the other client is served");
        (self.served.load(Ordering::Relaxed), slowest)
    }
}

/// Runs a flood while somebody else asks for something, again and again; says what it cost.
fn beside_a_client<T>(name: &str, ravelin: &Ravelin, flood: impl FnOnce() -> T) -> (T, Cost) {
    let start = cpu(ravelin);
    for _ in 0..MEASURED {
        ask(ravelin.address());
    }
    let request = (cpu(ravelin) - start) / u32::try_from(MEASURED).unwrap();
    let (start, before, began) = (cpu(ravelin), peak(ravelin), Instant::now());
    let other = Other::start(ravelin.address());
    let outcome = flood();
    let took = began.elapsed();
    let (served, slowest) = other.stop();
    let spent = cpu(ravelin) - start;
    let cpu = spent.saturating_sub(request * u32::try_from(served).unwrap());
    let cost = Cost { cpu, request, memory: peak(ravelin) - before };
    eprintln!(
        "| {name} | {took:.1?} | {:.1?}, as {:.0} requests | {} KiB | all of {served} served, slowest {slowest:.1?} |",
        cost.cpu,
        cost.in_requests(),
        cost.memory
    );
    (outcome, cost)
}

/// Of all threads, as the scheduler counts it.
fn cpu(ravelin: &Ravelin) -> Duration {
    let threads = fs::read_dir(format!("/proc/{}/task", ravelin.pid())).unwrap();
    let spent = |thread: std::io::Result<fs::DirEntry>| {
        // It may have ended.
        let told = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    threads.filter_map(spent).sum()
}

fn peak(ravelin: &Ravelin) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", ravelin.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A flood ends before it has cost more than so many requests do, and than so many KiB.
const CPU: f64 = 500.0;
const MEMORY: u64 = 16 << 10;

fn is_bounded(name: &str, cost: &Cost) {
    assert!(cost.in_requests() < CPU, "{name}: {:?} is {} requests", cost.cpu, cost.in_requests());
    assert!(cost.memory < MEMORY, "{name}: {} KiB", cost.memory);
}

/// The flood is told to calm down, whatever it still writes, and it is counted.
fn calmed(name: &str, first: &[u8], next: impl FnMut() -> Vec<u8> + Send) {
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&format!("admin: {{address: 127.0.0.1:0}}\n{}", config(origin.address(), "{}")));
    let (flood, cost) = beside_a_client(name, &ravelin, || flood(ravelin.address(), first, next));
    assert!(flood.sent < MAX, "{name}: nobody stopped it");
    assert_eq!(flood.end, End::GoAway(ENHANCE_YOUR_CALM), "{name}");
    is_bounded(name, &cost);
    until_metric(&ravelin, "ravelin_failures_total{party=\"client\",reason=\"http2_flood\"}", |count| count >= 1.0);
}

#[test]
fn pings() {
    calmed("PING", &[], || frame(6, 0, 0, &[7; 8]).repeat(64));
}

#[test]
fn settings() {
    calmed("SETTINGS", &[], || frame(4, 0, 0, &[]).repeat(64));
}

#[test]
fn window_updates() {
    calmed("WINDOW_UPDATE", &[], || frame(8, 0, 0, &[0, 0, 0, 1]).repeat(64));
}

#[test]
fn priorities() {
    calmed("PRIORITY", &[], || frame(2, 0, 1, &[0, 0, 0, 3, 9]).repeat(64));
}

#[test]
fn unknown_frames() {
    calmed("unknown frames", &[], || frame(0x77, 0, 0, &[]).repeat(64));
}

#[test]
fn empty_data() {
    let open = frame(1, 4, 1, &head(POST));
    calmed("empty DATA", &open, || frame(0, 0, 1, &[]).repeat(64));
}

#[test]
fn rapid_reset() {
    let mut stream = 1;
    let next = move || {
        let mut bytes = Vec::new();
        for _ in 0..8 {
            bytes.extend(frame(1, 5, stream, &head(GET)));
            bytes.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
            stream += 2;
        }
        bytes
    };
    calmed("rapid reset", &[], next);
}

#[test]
fn continuations() {
    let open = frame(1, 1, 1, &head(GET));
    calmed("CONTINUATION", &open, || frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y']).repeat(64));
}

#[test]
fn hpack_bomb() {
    // One field of 4000 bytes in the dynamic table, and 12,000 references to it in each head: 48 MB from 12 KB.
    let large = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'a'; 4000]].concat();
    let first = frame(1, 5, 1, &[head(GET), large].concat());
    let mut stream = 3;
    let next = move || {
        let bomb = frame(1, 5, stream, &[head(GET), vec![0xbe; 12_000]].concat());
        stream += 2;
        bomb
    };
    calmed("HPACK bomb", &first, next);
}

/// A window that stays shut holds what an endpoint has sent, for no longer than `write_timeout`.
#[test]
fn shut_windows() {
    const STREAMS: u32 = 50;
    let short = Answer { target: Some("/other".to_owned()), ..Answer::text(200, "a") };
    let origin = Origin::start("a", vec![short, Answer::text(200, &"a".repeat(1 << 20))]);
    let ravelin =
        Ravelin::start(&format!("admin: {{address: 127.0.0.1:0}}\n{}", config(origin.address(), "{write_timeout: 500ms}")));
    let shut = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let requests: Vec<u8> = (0..STREAMS).flat_map(|n| frame(1, 5, 2 * n + 1, &head(GET))).collect();
    let (flood, cost) = beside_a_client("zero window, 50 responses of 1 MiB", &ravelin, || {
        flood(ravelin.address(), &[shut, requests].concat(), || {
            until_metric(&ravelin, "ravelin_failures_total{party=\"client\",reason=\"client_stalls\"}", |count| {
                count >= f64::from(STREAMS)
            });
            // That is all: the connection may end.
            frame(7, 0, 0, &[0; 8])
        })
    });
    assert_eq!(flood.resets.len(), STREAMS as usize);
    assert!(cost.in_requests() < CPU, "{:?} is {} requests", cost.cpu, cost.in_requests());
    // Half a MiB for each stream (THREATS), and what an allocator keeps.
    assert!(cost.memory < u64::from(STREAMS) * 512 + MEMORY, "{} KiB", cost.memory);
}

/// An endpoint on HTTP/2 that floods: its connection is given up, other endpoints' requests are served.
fn endpoint_floods(name: &str, first: &[u8], unit: &[u8]) {
    let (first, unit) = (first.to_vec(), unit.repeat(64));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hostile = listener.local_addr().unwrap();
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&format!(
        "threads: 2\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams:\n  a: {{endpoints: [\"{}\"], health_check: none}}\n  b: {{endpoints: [\"{hostile}\"], protocol: http2, health_check: none}}\n\
         routes:\n  b: {{match: {{paths: [/flood]}}, upstream: b}}\n  a: {{upstream: a}}\n",
        origin.address()
    ));
    let (sent, cost) = beside_a_client(name, &ravelin, || {
        let flooding = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            // The preface, and whatever else has come by then.
            let mut asked = Vec::new();
            while !asked.windows(9).any(|head| head[3] == 1 && head[5..] == [0, 0, 0, 1]) {
                let mut more = [0; 1024];
                let length = stream.read(&mut more).unwrap();
                assert!(length > 0, "no request came");
                asked.extend_from_slice(&more[..length]);
            }
            let mut sent = 0;
            let mut bytes = [frame(4, 0, 0, &[]), first].concat();
            while sent < MAX && stream.write_all(&bytes).is_ok() {
                sent += bytes.len();
                bytes.clone_from(&unit);
            }
            sent
        });
        let deadline = Deadline::standard();
        let mut client = Connection::open(ravelin.address(), deadline).unwrap();
        client.request(&Outgoing::get("/flood", "a"), deadline).unwrap();
        let answer = client.next_response(deadline);
        assert!(
            answer.is_err() || answer.is_ok_and(|answer| answer.head.status() == Some(502) || answer.cut.is_some()),
            "{name}"
        );
        flooding.join().unwrap()
    });
    assert!(sent < MAX, "{name}: nobody stopped it");
    is_bounded(name, &cost);
    ravelin.wait_for_log("reason=http2_flood", Deadline::standard()).expect("it is in the log");
}

#[test]
fn endpoints_that_flood() {
    for (name, first, unit) in [
        ("PING from an endpoint", vec![], frame(6, 0, 0, &[7; 8])),
        ("SETTINGS from an endpoint", vec![], frame(4, 0, 0, &[])),
        ("WINDOW_UPDATE from an endpoint", vec![], frame(8, 0, 0, &[0, 0, 0, 1])),
        ("RST_STREAM from an endpoint", frame(1, 4, 1, &[0x88]), frame(3, 0, 1, &[0, 0, 0, 8])),
        ("empty DATA from an endpoint", frame(1, 4, 1, &[0x88]), frame(0, 0, 1, &[])),
        ("CONTINUATION from an endpoint", frame(1, 1, 1, &[0x88]), frame(9, 0, 1, &[0x40, 1, b'x', 1, b'y'])),
    ] {
        endpoint_floods(name, &first, &unit);
    }
}

/// What HTTP/1 clients do not read is bounded for each of them, however long the response.
#[test]
fn unread_responses() {
    let origin = Origin::start("a", vec![Answer::text(200, &"a".repeat(20 << 20))]);
    let ravelin = Ravelin::start(&config(origin.address(), "{write_timeout: 2s}"));
    let before = peak(&ravelin);
    let clients: Vec<TcpStream> = (0..30)
        .map(|_| {
            let mut client = TcpStream::connect(ravelin.address()).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            client
        })
        .collect();
    let all = |lines: &[String]| (lines.iter().filter(|line| line.contains("reason=client_stalls")).count() >= 10).then_some(());
    assert!(ravelin.log().wait_for(Deadline::standard(), all).is_some(), "{}", ravelin.log().text());
    let grown = peak(&ravelin) - before;
    eprintln!("unread: {grown} KiB for 30 clients");
    // Of the 20 MiB that each has asked for.
    assert!(grown < 30 * 1536 + 16384, "{grown} KiB");
    drop(clients);
}

/// A window that is opened byte by byte is never shut for `write_timeout`, and yet its stream ends.
#[test]
fn windows_that_open_by_the_byte() {
    let origin = Origin::start("a", vec![Answer::text(200, &"a".repeat(10_000))]);
    let ravelin = Ravelin::start(&config(origin.address(), "{write_timeout: 1s}"));
    let small = frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]);
    let request = frame(1, 5, 1, &head(GET));
    let flood = flood(ravelin.address(), &[small, request].concat(), || {
        thread::sleep(Duration::from_millis(50));
        let over = ravelin.log().text().contains("reason=client_stalls");
        if over { frame(7, 0, 0, &[0; 8]) } else { frame(8, 0, 1, &[0, 0, 0, 1]) }
    });
    assert_eq!(flood.resets.len(), 1);
}

/// What is refused below us, before there is a request, is counted like any other refusal.
#[test]
fn what_the_framing_refuses_is_counted() {
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&format!("admin: {{address: 127.0.0.1:0}}\n{}", config(origin.address(), "{}")));
    // A request without a path, and one that is as it should be.
    let requests = [frame(1, 5, 1, &[GET, 0x86, 0x01, 0x01, b'a']), frame(1, 5, 3, &head(GET))].concat();
    let mut ended = false;
    let flood = flood(ravelin.address(), &requests, || {
        thread::sleep(Duration::from_millis(100));
        if std::mem::replace(&mut ended, true) { Vec::new() } else { frame(6, 0, 0x7fff_ffff, &[0; 8]) }
    });
    eprintln!("{:?} {:?}", flood.resets, flood.end);
    until_metric(&ravelin, "ravelin_failures_total{party=\"client\",reason=\"http2_protocol_error\"}", |count| count >= 1.0);
}

// covers: listeners.limits.concurrent_streams
#[test]
fn streams_over_the_limit_are_refused() {
    let origin = Origin::start("a", vec![Answer::of(vec![Action::Stall])]);
    let ravelin = Ravelin::start(&config(origin.address(), "{concurrent_streams: 3}"));
    let requests: Vec<u8> = (0..5).flat_map(|n| frame(1, 5, 2 * n + 1, &head(GET))).collect();
    let mut ended = false;
    let flood = flood(ravelin.address(), &requests, || {
        thread::sleep(Duration::from_millis(200));
        if std::mem::replace(&mut ended, true) { Vec::new() } else { frame(6, 0, 0x7fff_ffff, &[0; 8]) }
    });
    assert!(flood.settings.contains(&(3, 3)), "{:?}", flood.settings);
    assert_eq!(flood.resets, [REFUSED_STREAM, REFUSED_STREAM]);
}
