//! How the process stops: at once when nothing is to be finished, and not before what has begun has ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    Action, Answer, Connection, Deadline, Events, H2Connection, Origin, Outgoing, Ravelin, Signal, Trouble, full, get, metric,
    until_metric,
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

/// A client that sends one request after the other until it is told to go, or nobody is there any more.
fn load(address: String, answered: Arc<AtomicU64>) -> thread::JoinHandle<Result<(), String>> {
    thread::spawn(move || {
        loop {
            let mut opened = Some(Instant::now());
            let Ok(mut client) = Connection::open(&address, Deadline::standard()) else { return Ok(()) };
            loop {
                let (fresh, began) = (opened.is_some(), opened.take().unwrap_or_else(Instant::now));
                client.request(&Outgoing::get("/", "a"), Deadline::standard()).map_err(|trouble| trouble.to_string())?;
                // An idle connection may be closed; who takes its time on a crowded machine may meet with that. And between the last
                // look at the queue and the close of a listening socket the system may still complete a connection, to reset it.
                let slow = fresh || began.elapsed() > Duration::from_millis(10);
                let response = match client.next_response(Deadline::standard()) {
                    Err(Trouble::Silence(_)) if slow => break,
                    response => response.map_err(|trouble| trouble.to_string())?,
                };
                if response.head.status() != Some(200) || response.cut.is_some() {
                    return Err(format!("{response:?}"));
                }
                answered.fetch_add(1, Ordering::Relaxed);
                if response.head.closes() {
                    break;
                }
            }
        }
    })
}

// covers: grace_period_seconds
#[test]
fn a_graceful_stop_loses_no_request() {
    loses_no_request(0);
    loses_no_request(1);
}

fn loses_no_request(grace_period: u32) {
    const HELD: usize = 16;
    let (origin, events) = origin();
    let settings = format!("grace_period_seconds: {grace_period}\ngraceful_shutdown_timeout_seconds: 300\n");
    let mut ravelin = start(&origin, &settings);
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..4).map(|_| load(ravelin.address().to_owned(), answered.clone())).collect();
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
    eprintln!("{} requests before the signal, {} after it", before, answered.load(Ordering::Relaxed) - before);
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
