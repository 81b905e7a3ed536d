//! What happens when there is no room for another connection: nothing breaks, nothing spins, and operators are told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::time::{Duration, Instant};
use std::{fs, thread};

use support::{Connection, Deadline, Launch, Outgoing, Ravelin, Usage, get, metric, until_metric, until_nothing_is_left};

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
