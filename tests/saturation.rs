//! What happens when there is no room for another connection: nothing breaks, nothing spins, and operators are told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::time::{Duration, Instant};
use std::{fs, thread};

use support::{
    Action, Answer, Bind, Connection, Deadline, Events, Launch, Origin, Outgoing, Ravelin, Usage, get, metric, until_metric,
    until_nothing_is_left,
};

const DESCRIPTORS: u32 = 100;
const CLIENTS: usize = 150;

fn paused(reason: &str) -> String {
    format!("ravelin_accept_paused_seconds_total{{listener=\"main\",reason=\"{reason}\"}}")
}

/// Connects, and sends a request without waiting for an answer.
fn ask(ravelin: &Ravelin) -> Connection {
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
    client
}

fn answered(client: &mut Connection) -> bool {
    client.next_response(Deadline::standard()).unwrap().head.status() == Some(200)
}

#[test]
fn scarce_descriptors_pause_accepting_without_a_spin() {
    let directory = tempfile::tempdir().unwrap();
    let config = "listeners: {main: {address: 127.0.0.1:0, limits: {idle_timeout: none, connections_per_client: none}}}\n\
                  admin: {address: 127.0.0.1:0}\n\
                  routes: {all: {respond: {body: ok}}}\n";
    fs::write(directory.path().join("ravelin.yaml"), config).unwrap();
    let mut ravelin = Launch::new(directory.path()).descriptors(DESCRIPTORS).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    let clients: Vec<Connection> = (0..CLIENTS).map(|_| ask(&ravelin)).collect();

    let begun = until_metric(&ravelin, &paused("descriptors"), |seconds| seconds > 0.0);
    // For a second of pause, with clients waiting: it says so, answers operators, and does next to nothing.
    let (before, since, deadline) = (Usage::of(&ravelin), Instant::now(), Deadline::standard());
    while metric(&ravelin, &paused("descriptors")) < begun + 1.0 {
        assert!(!deadline.passed(), "{}", ravelin.log().text());
        thread::sleep(Duration::from_millis(100));
    }
    let (after, wall) = (Usage::of(&ravelin), since.elapsed());
    let spent = after.cpu - before.cpu;
    eprintln!("CPU over {wall:?} without descriptors: {spent:?}");
    assert!(spent < wall / 2, "{spent:?} of {wall:?}");
    let admin = ravelin.admin().unwrap();
    assert_eq!((get(&admin, "/healthz"), get(&admin, "/readyz")), (200, 200));
    assert!(after.descriptors < DESCRIPTORS as usize, "some are left: {after:?}");
    let said = || ravelin.log().lines().iter().filter(|line| line.contains("accepting waits")).count();
    assert_eq!(said(), 1, "{}", ravelin.log().text());

    // As clients go, those that wait are served, all of them.
    for mut client in clients {
        assert!(answered(&mut client));
    }
    until_nothing_is_left(&ravelin);
    assert!(answered(&mut ask(&ravelin)));
    assert!(said() <= 3, "{}", ravelin.log().text());
}

/// Connections that were idle, and now all want an endpoint at once: for some there is no descriptor left.
#[test]
fn an_endpoint_is_not_blamed_for_want_of_descriptors() {
    let events = Events::new();
    let origin = Origin::prepare("a", Bind::V4, false, events.clone()).unwrap();
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    origin.script(vec![Answer::of(vec![Action::Wait("go".into()), Action::Send(whole)])]);
    origin.resume().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: {{tcp: {{interval: 20ms, unhealthy_after: 1}}}}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address()
    );
    fs::write(directory.path().join("ravelin.yaml"), config).unwrap();
    let mut ravelin = Launch::new(directory.path()).descriptors(DESCRIPTORS).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    let mut clients: Vec<Connection> =
        (0..CLIENTS).map(|_| Connection::open(ravelin.address(), Deadline::standard()).unwrap()).collect();
    until_metric(&ravelin, &paused("descriptors"), |seconds| seconds > 0.0);
    for client in &mut clients {
        client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
    }
    let line = ravelin.wait_for_log("reason=no_descriptors", Deadline::standard());
    let line = line.unwrap_or_else(|| panic!("{}", ravelin.log().text()));
    assert!(line.contains("party=operator") && line.contains("status=503"), "{line}");
    let blamed = format!("ravelin_endpoint_connect_failures_total{{upstream=\"a\",endpoint=\"{}\"}}", origin.address());
    // Time for ten probes.
    thread::sleep(Duration::from_millis(200));
    events.release("go");
    drop(clients);
    until_nothing_is_left(&ravelin);
    assert_eq!(metric(&ravelin, &blamed), 0.0);
    assert!(!ravelin.log().text().contains("unhealthy"), "{}", ravelin.log().text());
    assert!(answered(&mut ask(&ravelin)));
}

#[test]
fn a_full_listener_is_told_of_and_answers_again() {
    let ravelin = Ravelin::start(
        "listeners: {main: {address: 127.0.0.1:0, limits: {connections: 2}}}\n\
         admin: {address: 127.0.0.1:0}\n\
         routes: {all: {respond: {body: ok}}}\n",
    );
    let mut open: Vec<Connection> = (0..2).map(|_| ask(&ravelin)).collect();
    assert!(open.iter_mut().all(answered));
    let waiting: Vec<Connection> = (0..20).map(|_| ask(&ravelin)).collect();
    until_metric(&ravelin, &paused("connections"), |seconds| seconds > 0.0);
    let admin = ravelin.admin().unwrap();
    assert_eq!((get(&admin, "/healthz"), get(&admin, "/readyz"), get(&admin, "/metrics")), (200, 200, 200));
    drop(open);
    for mut client in waiting {
        assert!(answered(&mut client));
    }
    until_nothing_is_left(&ravelin);
    // Each of them made the listener wait: it says so once in a while only.
    let said = ravelin.log().lines().iter().filter(|line| line.contains("too many connections")).count();
    assert!((1..=3).contains(&said), "{}", ravelin.log().text());
}
