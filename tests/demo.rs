//! `ravelin demo`, as somebody who has just built it would try it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::collections::BTreeSet;

use support::{Connection, Deadline, Launch, Outgoing, Ravelin};

#[test]
fn three_services_take_turns_and_one_may_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = Launch::new(directory.path()).arguments(["demo", "--address", "127.0.0.1:0"]).spawn().unwrap();
    demo.ready(1, Deadline::standard()).unwrap();

    let names: BTreeSet<String> = (0..3).map(|_| served_by(&demo)).collect();
    assert_eq!(names, ["alpha", "beta", "gamma"].map(str::to_owned).into());

    assert_eq!(send(&demo, "POST", "/stop/beta"), (200, "beta stops\n".to_owned()));
    for _ in 0..12 {
        assert_ne!(served_by(&demo), "beta");
    }

    assert_eq!(send(&demo, "POST", "/start/beta"), (200, "beta starts\n".to_owned()));
    let deadline = Deadline::standard();
    while served_by(&demo) != "beta" {
        assert!(!deadline.passed(), "beta never came back");
    }
    assert_eq!(send(&demo, "GET", "/about"), (200, "answered by the proxy itself, for 127.0.0.1\n".to_owned()));
}

#[test]
fn its_configuration_can_be_copied() {
    let directory = tempfile::tempdir().unwrap();
    let print = Launch::new(directory.path()).arguments(["demo", "--config"]).spawn().unwrap();
    let yaml = finished(print);
    assert!(yaml.contains("address: \"127.0.0.1:6188\""), "{yaml}");
    std::fs::write(directory.path().join("demo.yaml"), yaml).unwrap();
    let check = Launch::new(directory.path()).arguments(["check", "--strict", "-c", "demo.yaml"]).spawn().unwrap();
    assert_eq!(finished(check), "demo.yaml: ok (listeners: 1, routes: 2, upstreams: 1)");
}

/// The first line of a body is only the service's name.
fn served_by(demo: &Ravelin) -> String {
    let (status, body) = send(demo, "GET", "/");
    assert_eq!(status, 200);
    body.lines().next().unwrap_or_default().to_owned()
}

fn send(demo: &Ravelin, method: &str, target: &str) -> (u16, String) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(demo.address(), deadline).unwrap();
    let request = Outgoing { method: method.to_owned(), ..Outgoing::get(target, "demo") };
    client.request(&request, deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    (response.head.status().unwrap(), String::from_utf8(response.body).unwrap())
}

/// What a command printed that must succeed.
fn finished(mut command: Ravelin) -> String {
    let status = command.wait_for_exit(Deadline::standard()).expect("it ends");
    assert!(status.success(), "{}", command.log().text());
    command.stdout().text()
}
