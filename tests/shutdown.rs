//! How the process stops: at once when nothing is to be finished, and not before what has begun has ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::tls::{Authority, Client};
use support::{
    Action, Answer, Connection, Deadline, Events, H2Connection, Origin, Outgoing, Ravelin, Signal, Trouble, full, get, metric,
    until_metric, visible,
};

/// An origin that answers `/held` when it is told to (`go`), sends the half of `/half` before that, and all else at once.
fn origin() -> (Origin, Events) {
    let events = Events::new();
    let origin = Origin::prepare("a", support::Bind::V4, false, events.clone()).unwrap();
    let for_target = |target: &str, actions| Answer { target: Some(target.into()), ..Answer::of(actions) };
    let wait = || Action::Wait("go".into());
    let message = |text: &str| Action::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).into());
    let half = Action::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec());
    let mut held = vec![wait(), message("held")];
    if full() {
        // As long as the issue says, beside what the test itself takes.
        held.insert(1, Action::Sleep(Duration::from_secs(30)));
    }
    origin.script(vec![
        for_target("/held", held),
        for_target("/half", vec![half, wait(), Action::Send(b"0\r\n\r\n".to_vec())]),
        Answer::text(200, "a"),
    ]);
    origin.resume().unwrap();
    (origin, events)
}

fn start(origin: &Origin, more: &str) -> Ravelin {
    Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\nadmin: {{address: 127.0.0.1:0}}\n{more}\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ))
}

fn ask(ravelin: &Ravelin, target: &str) -> Connection {
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    client.request(&Outgoing::get(target, "a"), Deadline::standard()).unwrap();
    client
}

fn until_in_flight(ravelin: &Ravelin, requests: f64) {
    until_metric(ravelin, "ravelin_requests_in_flight", |value| value == requests);
}

/// Sends the signal, and waits for the end: how it ended, and how long that took.
fn stop(ravelin: &mut Ravelin, signal: Signal) -> (std::process::ExitStatus, Duration) {
    let since = Instant::now();
    ravelin.signal(signal).unwrap();
    let status = ravelin.wait_for_exit(Deadline::standard()).unwrap_or_else(|| panic!("it goes on\n{}", ravelin.log().text()));
    (status, since.elapsed())
}

/// What an idle process has to stop in; Pingora's takes 300 s.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How often it may miss that before it is taken for slow.
const TIMES: usize = 20;

#[test]
fn an_idle_process_stops_at_once() {
    let (origin, _) = origin();
    for (signal, kept) in [(Signal::TERM, 0), (Signal::INT, 0), (Signal::TERM, 20)] {
        let once = || {
            let mut ravelin = start(&origin, "");
            let mut idle: Vec<Connection> = (0..kept).map(|_| ask(&ravelin, "/")).collect();
            for client in &mut idle {
                assert_eq!(client.next_response(Deadline::standard()).unwrap().head.status(), Some(200));
            }
            let (status, took) = stop(&mut ravelin, signal);
            assert!(status.success(), "{status}");
            for mut client in idle {
                assert_eq!(client.closed(Deadline::standard()), Ok(Vec::new()), "closed without a word");
            }
            took
        };
        // What a busy machine adds, it does not add each time.
        let mut times = Vec::new();
        while times.len() < TIMES && times.iter().min().is_none_or(|best| *best >= AT_ONCE) {
            times.push(once());
        }
        eprintln!("{signal:?} with {kept} idle connections: stopped after {times:?}");
        assert!(times.iter().any(|took| *took < AT_ONCE), "{times:?}");
    }
}

/// What came of a client's requests.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    /// A connection that was made carried none: the system reset it.
    lost: AtomicU64,
}

/// How many connections a stop may lose: one that is made in the microseconds between the last look at the queue and the close of the socket.
/// On a crowded machine the process may have to wait just there; not twice.
const MOST_LOST: u64 = 1;

/// A client that sends one request after the other until it is told to go, or nobody is there any more.
fn load(address: String, tally: Arc<Tally>) -> thread::JoinHandle<Result<(), String>> {
    thread::spawn(move || {
        loop {
            let Ok(mut client) = Connection::open(&address, Deadline::standard()) else { return Ok(()) };
            let mut fresh = true;
            loop {
                let began = Instant::now();
                client.request(&Outgoing::get("/", "a"), Deadline::standard()).map_err(|trouble| trouble.to_string())?;
                // An idle connection may be closed: who takes its time on a crowded machine may meet with that.
                let response = match client.next_response(Deadline::standard()) {
                    Err(Trouble::Silence(_)) if fresh => {
                        tally.lost.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Err(Trouble::Silence(_)) if began.elapsed() > Duration::from_millis(10) => break,
                    response => response.map_err(|trouble| trouble.to_string())?,
                };
                if response.head.status() != Some(200) || response.cut.is_some() {
                    return Err(format!("{response:?}"));
                }
                fresh = false;
                tally.answered.fetch_add(1, Ordering::Relaxed);
                if response.head.closes() {
                    break;
                }
            }
        }
    })
}

/// Like `load`, with a connection for each request: half of the work of a proxy in front of short-lived clients.
fn newcomer(address: String, tally: Arc<Tally>) -> thread::JoinHandle<Result<(), String>> {
    let mut request = Outgoing::get("/", "a");
    request.fields.push(("Connection".into(), "close".into()));
    thread::spawn(move || {
        while let Ok(mut client) = Connection::open(&address, Deadline::standard()) {
            client.request(&request, Deadline::standard()).map_err(|trouble| trouble.to_string())?;
            match client.next_response(Deadline::standard()) {
                Ok(response) if response.head.status() == Some(200) && response.cut.is_none() => {
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(Trouble::Silence(_)) => {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                }
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })
}

/// Clients that open a connection for each request meet with a stop: who has connected is answered, who comes later is refused at once.
#[test]
fn who_has_connected_is_answered() {
    const CLIENTS: usize = 8;
    let stops = if full() { 20 } else { 3 };
    let (origin, _) = origin();
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("edge.sock").display());
    let (mut answered, mut lost) = (0, Vec::new());
    for _ in 0..stops {
        let mut ravelin = Ravelin::start(&format!(
            "graceful_shutdown_timeout_seconds: 300\n\
             listeners:\n  main: {{address: 127.0.0.1:0, limits: {{connections_per_client: none}}}}\n  file: {{address: \"{socket}\"}}\n\
             upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
            origin.address()
        ));
        let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
        let clients: Vec<_> = ravelin
            .addresses()
            .iter()
            .zip(&tallies)
            .flat_map(|(address, tally)| (0..CLIENTS).map(|_| newcomer(address.clone(), tally.clone())))
            .collect();
        let deadline = Deadline::standard();
        while tallies.iter().any(|tally| tally.answered.load(Ordering::Relaxed) < 100) {
            assert!(!deadline.passed(), "the clients are answered");
            thread::yield_now();
        }
        ravelin.signal(Signal::TERM).unwrap();
        for client in clients {
            client.join().unwrap().unwrap();
        }
        assert!(ravelin.wait_for_exit(deadline).expect("it ends").success());
        answered += tallies.iter().map(|tally| tally.answered.load(Ordering::Relaxed)).sum::<u64>();
        lost.push(tallies.map(|tally| tally.lost.load(Ordering::Relaxed)));
    }
    eprintln!("{stops} stops, {answered} requests answered; connections lost over TCP and over a unix socket: {lost:?}");
    let beyond = lost.iter().flatten().filter(|lost| **lost > MOST_LOST).count();
    assert!(beyond <= 1, "{lost:?}");
}

// covers: grace_period_seconds
#[test]
fn a_graceful_stop_loses_no_request() {
    for grace_period in [0, 1] {
        let lost = || lost_by_a_stop(grace_period);
        assert!(lost() <= MOST_LOST || lost() <= MOST_LOST, "connections were reset, twice");
    }
}

/// How many connections were reset; no other request fails.
fn lost_by_a_stop(grace_period: u32) -> u64 {
    const HELD: usize = 16;
    let (origin, events) = origin();
    let settings = format!("grace_period_seconds: {grace_period}\ngraceful_shutdown_timeout_seconds: 300\n");
    let mut ravelin = start(&origin, &settings);
    let tally = Arc::new(Tally::default());
    let answered = &tally.answered;
    let clients: Vec<_> = (0..4).map(|_| load(ravelin.address().to_owned(), tally.clone())).collect();
    let mut held: Vec<Connection> = (0..HELD).map(|_| ask(&ravelin, "/held")).collect();
    origin.wait_for(Deadline::standard(), |record| {
        (record.requests.iter().filter(|request| request.head.target() == b"/held").count() == HELD).then_some(())
    });
    let deadline = Deadline::standard();
    while answered.load(Ordering::Relaxed) < 100 {
        assert!(!deadline.passed(), "the clients are answered");
        thread::yield_now();
    }
    ravelin.signal(Signal::TERM).unwrap();
    let before = answered.load(Ordering::Relaxed);
    let admin = ravelin.admin().unwrap();
    while get(&admin, "/readyz") != 503 {
        assert!(!deadline.passed(), "it says that it stops");
    }
    // Clients end when nobody accepts any more: until then each request is answered.
    for client in clients {
        client.join().unwrap().unwrap();
    }
    assert!(grace_period == 0 || answered.load(Ordering::Relaxed) > before, "requests are answered during the grace period");
    assert!(Connection::open(ravelin.address(), Deadline::standard()).is_err());
    assert!(ravelin.exited().is_none(), "it waits for what is held");
    events.release("go");
    for client in &mut held {
        let response = client.next_response(Deadline::after(Duration::from_secs(60))).unwrap();
        assert_eq!((response.head.status(), response.body.as_slice(), response.cut), (Some(200), &b"held"[..], None));
        assert!(response.head.closes(), "it says that the connection closes");
    }
    let status = ravelin.wait_for_exit(Deadline::standard()).expect("it ends as soon as nothing is in flight");
    assert!(status.success(), "{status}");
    let lost = tally.lost.load(Ordering::Relaxed);
    eprintln!("{before} requests before the signal, {} after it, {lost} lost", answered.load(Ordering::Relaxed) - before);
    lost
}

#[test]
fn http2_connections_are_told_and_finish_their_streams() {
    let (origin, events) = origin();
    let mut ravelin = start(&origin, "graceful_shutdown_timeout_seconds: 300\n");
    let deadline = Deadline::after(Duration::from_secs(60));
    let open = || H2Connection::open(ravelin.address(), deadline).unwrap();
    let (mut idle, mut busy) = (open(), open());
    idle.request(&Outgoing::get("/", "a"), deadline).unwrap();
    assert_eq!(idle.next_response(deadline).unwrap().body, b"a");
    busy.request(&Outgoing::get("/held", "a"), deadline).unwrap();
    origin.wait_for(deadline, |record| record.requests.iter().find(|request| request.head.target() == b"/held").map(|_| ()));
    ravelin.signal(Signal::TERM).unwrap();
    // GOAWAY: the client library takes no new stream, and closes once the last one has ended.
    idle.closed(deadline).unwrap();
    assert!(busy.is_open());
    assert!(ravelin.exited().is_none(), "it waits for the stream");
    events.release("go");
    assert_eq!(busy.next_response(deadline).unwrap().body, b"held");
    busy.closed(deadline).unwrap();
    assert!(ravelin.wait_for_exit(deadline).expect("it ends").success());
}

#[test]
fn a_second_signal_stops_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let (origin, _events) = origin();
        let mut ravelin = start(&origin, "graceful_shutdown_timeout_seconds: 600\n");
        let mut held = ask(&ravelin, "/held");
        until_in_flight(&ravelin, 1.0);
        ravelin.signal(Signal::TERM).unwrap();
        ravelin.wait_for_log("stopping ", Deadline::standard()).unwrap();
        let (_, took) = stop(&mut ravelin, signal);
        eprintln!("{signal:?} as the second signal: stopped after {took:?}");
        assert!(ravelin.log().text().contains("second signal: stopping at once"), "{}", ravelin.log().text());
        assert!(matches!(held.next_response(Deadline::standard()), Err(Trouble::Silence(_))));
    }
}

// covers: graceful_shutdown_timeout_seconds
#[test]
fn what_takes_too_long_is_cut_visibly() {
    let (origin, _events) = origin();
    let mut ravelin = start(&origin, "graceful_shutdown_timeout_seconds: 1\naccess_log: {}\n");
    let (mut held, mut half) = (ask(&ravelin, "/held"), ask(&ravelin, "/half"));
    let so_far = half.response_so_far(Deadline::standard(), |response| response.body == b"half").unwrap();
    assert_eq!(so_far.head.status(), Some(200));
    until_in_flight(&ravelin, 2.0);
    assert_eq!(metric(&ravelin, "ravelin_connections_open{listener=\"main\"}"), 2.0);
    stop(&mut ravelin, Signal::TERM);
    assert!(matches!(held.next_response(Deadline::standard()), Err(Trouble::Silence(_))));
    let half = half.next_response(Deadline::standard()).unwrap();
    assert!(half.cut.is_some(), "half a body is not taken for a whole one");
    let log = ravelin.log().text();
    assert!(log.contains("connections cut at the end of graceful_shutdown_timeout_seconds connections=2"), "{log}");
    // Both are in the records, too.
    let cut = ravelin.stdout().lines().iter().filter(|line| line.contains("\"reason\":\"cut_off\"")).count();
    assert_eq!(cut, 2, "{}", ravelin.stdout().text());
}

/// What clients have begun and do not end: half a head, a handshake, a PROXY header, a preface. Each has ten minutes by its own limit.
#[test]
fn what_is_begun_and_not_ended_does_not_hold_up_the_end() {
    let (origin, _) = origin();
    let directory = tempfile::tempdir().unwrap();
    Authority::new("ca").issue(&["a.example"]).write(directory.path(), "a");
    let limits = "limits: {header_timeout: 10m, idle_timeout: 10m, tls_handshake_timeout: 10m}";
    let mut ravelin = Ravelin::start(&format!(
        "graceful_shutdown_timeout_seconds: 600\naccess_log: {{}}\nadmin: {{address: 127.0.0.1:0}}\nlisteners:\n  \
         plain: {{address: 127.0.0.1:0, http2: true, {limits}}}\n  \
         secure: {{address: 127.0.0.1:0, {limits}, tls: {{certificates: [{{cert: \"{path}/a.pem\", key: \"{path}/a.key\"}}]}}}}\n  \
         proxied: {{address: 127.0.0.1:0, {limits}, proxy_protocol: {{trust: [127.0.0.0/8]}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address(),
        path = directory.path().display(),
    ));
    let addresses = ravelin.addresses().to_vec();
    let [plain, secure, proxied] = &addresses[..] else { panic!("{addresses:?}") };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let begun: [(&str, &[u8]); 8] = [
        (plain, b"GET / HTTP/1.1\r\nHost: a\r\n"),
        (plain, &preface[..20]),
        (plain, preface),
        // The end of the fields is missing: END_HEADERS is not set.
        (plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x01\0\0\0\x01\x82"),
        (secure, b"\x16\x03\x01\x02\0\x01"),
        (proxied, b"PROXY TCP4 192.0.2.1 "),
        (proxied, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n"),
        (secure, b""),
    ];
    let mut clients: Vec<Connection> = begun
        .iter()
        .map(|(address, bytes)| {
            let mut client = Connection::open(address, Deadline::standard()).unwrap();
            client.send(bytes).unwrap();
            client
        })
        .collect();
    for (listener, open) in [("plain", 4.0), ("secure", 2.0), ("proxied", 2.0)] {
        until_metric(&ravelin, &format!("ravelin_connections_open{{listener=\"{listener}\"}}"), |value| value == open);
    }
    let (status, took) = stop(&mut ravelin, Signal::TERM);
    eprintln!("stopped after {took:?}");
    assert!(status.success(), "{status}");
    let log = ravelin.log().text();
    assert!(!log.contains("connections cut"), "{log}");
    for half in [0, 1, 6] {
        let answer = clients[half].response("GET", Deadline::standard()).unwrap();
        assert_eq!(answer.head.status(), Some(408), "{}", visible(begun[half].1));
        assert!(answer.head.closes());
    }
    assert_eq!(clients[4].closed(Deadline::standard()), Ok(Vec::new()));
    // Refused in the records, with a reason that says whose doing it was.
    let refused = ravelin.stdout().lines().iter().filter(|line| line.contains("\"reason\":\"stopping\"")).count();
    assert_eq!(refused, 4, "{}\n{log}", ravelin.stdout().text());
    assert!(log.contains("TLS handshake failed reason=stopping"), "{log}");
}

/// The other side of it: who has connected when the process stops has a moment to ask, and who has begun to ask may end.
#[test]
fn what_is_begun_may_be_ended_within_a_moment() {
    let (origin, _) = origin();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    authority.issue(&["a.example"]).write(directory.path(), "a");
    let trusting = Client::new(&authority);
    let once = || {
        let mut ravelin = Ravelin::start(&format!(
            "graceful_shutdown_timeout_seconds: 600\nlisteners:\n  main: {{address: 127.0.0.1:0}}\n  \
             secure: {{address: 127.0.0.1:0, tls: {{certificates: [{{cert: \"{path}/a.pem\", key: \"{path}/a.key\"}}]}}}}\n\
             upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
            origin.address(),
            path = directory.path().display(),
        ));
        let [address, secure] = ravelin.addresses() else { panic!("{:?}", ravelin.addresses()) };
        let deadline = Deadline::standard();
        // Both closed as idle ones would be, 50 ms after the stop, if they were that.
        let mut begun = Connection::open(address, deadline).unwrap();
        begun.send(b"GET / HTTP/1.1\r\n").unwrap();
        let mut new = Connection::open(address, deadline).unwrap();
        let mut new_secure = trusting.connect(secure, "a.example", deadline).unwrap();
        let mut idle = ask(&ravelin, "/");
        assert_eq!(idle.next_response(deadline).unwrap().head.status(), Some(200));
        ravelin.signal(Signal::TERM).unwrap();
        idle.closed(deadline).unwrap();
        begun.send(b"Host: a\r\n\r\n").unwrap();
        new.request(&Outgoing::get("/", "a"), deadline).unwrap();
        let statuses = [
            begun.response("GET", deadline).ok().and_then(|response| response.head.status()),
            new.next_response(deadline).ok().and_then(|response| response.head.status()),
            new_secure.get("/", "a.example").ok().map(|(status, _)| status),
        ];
        assert!(ravelin.wait_for_exit(deadline).unwrap().success());
        statuses
    };
    // A crowded machine may take longer than the moment lasts; not each time.
    let mut seen = Vec::new();
    while seen.len() < TIMES && !seen.contains(&[Some(200); 3]) {
        seen.push(once());
    }
    assert!(seen.contains(&[Some(200); 3]), "{seen:?}");
}

/// The end of an HTTP/2 connection is agreed on with a PING. A client that sleeps, or is cut off, answers none.
#[test]
fn a_silent_http2_client_does_not_hold_up_the_end() {
    let (origin, _) = origin();
    let mut ravelin = start(&origin, "");
    let mut client = std::net::TcpStream::connect(ravelin.address()).unwrap();
    // The preface, empty settings, and nothing ever after.
    std::io::Write::write_all(&mut client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    std::io::Read::read_exact(&mut client, &mut [0; 9]).unwrap();
    let (status, took) = stop(&mut ravelin, Signal::TERM);
    assert!(status.success(), "{status}");
    assert!(!ravelin.log().text().contains("connections cut"), "{took:?}\n{}", ravelin.log().text());
}
