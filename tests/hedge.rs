//! A second endpoint beside one that is slow (`retry.hedge`): over TLS, with bodies, and never more than the budget allows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::{
    Action, Answer, Authority, Connection, Deadline, Endpoint, H2Connection, Launch, Origin, Outgoing, Ravelin, Reached, metric,
};

fn ravelin(directory: &Path, lane: &str, upstream: &str) -> Ravelin {
    let yaml = format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{a: {{health_check: none, {upstream}}}}}\nroutes: {{all: {{upstream: a}}}}\n"
    );
    fs::write(directory.join("ravelin.yaml"), yaml).unwrap();
    let mut ravelin = Launch::new(directory).env("RAVELIN_LANE", lane).spawn().unwrap();
    if let Err(problem) = ravelin.ready(1, Deadline::standard()) {
        panic!("{problem}\n{}", ravelin.log().text());
    }
    ravelin
}

/// Connections are opened as for any other request, and used again.
#[test]
fn over_tls_and_after_a_proxy_header() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.issue("api.internal");
    let endpoint = |silent| {
        let tls = Some((pair.clone(), vec!["http/1.1"]));
        Endpoint::start(Reached { tls, introduced: true, silent, ..Reached::default() })
    };
    let (slow, quick) = (endpoint(true), endpoint(false));
    let ravelin = ravelin(
        directory.path(),
        "general",
        &format!(
            "endpoints: [{{address: '{}', weight: 1000}}, '{}'], proxy_protocol: v2, tls: {{sni: api.internal, ca: ca.pem}}, \
             retry: {{hedge: {{after: 50ms}}}}",
            slow.address, quick.address
        ),
    );
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    for number in 1..=3 {
        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
        let response = client.next_response(deadline).unwrap();
        let facts = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.head.status(), Some(200), "{facts}\n{}", ravelin.log().text());
        assert!(
            facts.contains("connection=1 ") && facts.contains("v2 127.0.0.1") && facts.contains("sni=api.internal"),
            "{facts}"
        );
        // Whoever was not waited for has lost its connection.
        assert_eq!(slow.connections(), number);
    }
}

/// Over HTTP/2 the stream that is not waited for is reset, and the connection stays.
#[test]
fn over_http2_it_is_a_stream_that_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.issue("api.internal");
    for (tls, protocol) in [(None, "http2"), (Some(vec!["h2"]), "auto"), (Some(vec!["h2", "http/1.1"]), "http2")] {
        let secure = if tls.is_some() { "tls: {sni: api.internal, ca: ca.pem}, " } else { "" };
        let endpoint = |silent| {
            let tls = tls.clone().map(|alpn| (pair.clone(), alpn));
            Endpoint::start(Reached { h2c: tls.is_none(), tls, silent, ..Reached::default() })
        };
        let (slow, quick) = (endpoint(true), endpoint(false));
        let ravelin = ravelin(
            directory.path(),
            "auto",
            &format!(
                "endpoints: [{{address: '{}', weight: 1000}}, '{}'], protocol: {protocol}, {secure}retry: {{hedge: {{after: 50ms}}}}",
                slow.address, quick.address
            ),
        );
        let deadline = Deadline::standard();
        let mut http1 = Connection::open(ravelin.address(), deadline).unwrap();
        let mut http2 = H2Connection::open(ravelin.address(), deadline).unwrap();
        for number in 1..=4 {
            let get = Outgoing::get("/", "a");
            let response = if number % 2 == 0 {
                http1.request(&get, deadline).unwrap();
                http1.next_response(deadline).unwrap()
            } else {
                http2.request(&get, deadline).unwrap();
                http2.next_response(deadline).unwrap()
            };
            let facts = String::from_utf8_lossy(&response.body).into_owned();
            assert_eq!(response.head.status(), Some(200), "{protocol} {facts}\n{}", ravelin.log().text());
            assert!(facts.contains("connection=1 ") && facts.contains(&format!("stream={number} ")), "{facts}");
            while slow.resets.lock().unwrap().len() < number {
                assert!(!deadline.passed(), "{protocol}: the slow one goes on\n{}", ravelin.log().text());
                thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(slow.connections(), 1, "{protocol}");
    }
}

/// All of a body that is at hand goes to both.
#[test]
fn a_body_goes_to_both() {
    let directory = tempfile::tempdir().unwrap();
    let (slow, quick) =
        (Origin::start("slow", vec![Answer::of(vec![Action::Stall])]), Origin::start("quick", vec![Answer::text(200, "quick")]));
    let ravelin = ravelin(
        directory.path(),
        "express",
        &format!(
            "endpoints: [{{address: '{}', weight: 1000}}, '{}'], retry: {{hedge: {{after: 50ms}}}}",
            slow.address(),
            quick.address()
        ),
    );
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.send(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel").unwrap();
    client.send(b"lo").unwrap();
    let response = client.response("PUT", deadline).unwrap();
    assert_eq!((response.head.status(), &*response.body), (Some(200), &b"quick"[..]));
    for origin in [&slow, &quick] {
        assert_eq!(origin.requests()[0].body, b"hello");
    }
}

/// A slow upstream is not made slower: second requests are a share of the first.
#[test]
fn where_all_are_slow_the_budget_bounds_second_requests() {
    for lane in ["general", "express"] {
        let directory = tempfile::tempdir().unwrap();
        let counted = Arc::new(AtomicUsize::new(0));
        let addresses: Vec<String> = (0..3).map(|_| slow(counted.clone())).collect();
        let ravelin = ravelin(
            directory.path(),
            lane,
            &format!(
                "endpoints: ['{}'], retry: {{hedge: {{after: 5ms}}, budget: {{ratio: 10%, min: 0/s}}}}",
                addresses.join("', '")
            ),
        );
        let deadline = Deadline::standard();
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let address = ravelin.address().to_owned();
                thread::spawn(move || {
                    let mut client = Connection::open(&address, deadline).unwrap();
                    for _ in 0..20 {
                        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
                        assert_eq!(client.next_response(deadline).unwrap().head.status(), Some(200));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        let hedged = metric(&ravelin, "ravelin_upstream_retries_total{upstream=\"a\",reason=\"hedge\"}");
        assert!((1.0..=20.0).contains(&hedged), "{lane}: {hedged} of 200");
        assert!(counted.load(Ordering::SeqCst) <= 220, "{lane}");
    }
}

/// Answers each request after 40 ms.
fn slow(counted: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let counted = counted.clone();
            thread::spawn(move || {
                let (mut stream, mut head, mut byte) = (stream, Vec::new(), [0]);
                while let Ok(1) = stream.read(&mut byte) {
                    head.push(byte[0]);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        counted.fetch_add(1, Ordering::SeqCst);
                        thread::sleep(Duration::from_millis(40));
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// A client on HTTP/2 that leaves while two are asked takes both requests with it.
#[test]
fn who_leaves_takes_both_along() {
    let directory = tempfile::tempdir().unwrap();
    for http2 in [false, true] {
        let origins = ["one", "two"].map(|name| Origin::start(name, vec![Answer::of(vec![Action::Stall])]));
        let ravelin = ravelin(
            directory.path(),
            "auto",
            &format!("endpoints: ['{}', '{}'], retry: {{hedge: {{after: 20ms}}}}", origins[0].address(), origins[1].address()),
        );
        let deadline = Deadline::standard();
        let wait = |what: &str, holds: &dyn Fn() -> bool| {
            while !holds() {
                assert!(!deadline.passed(), "{what}\n{}", ravelin.log().text());
                thread::sleep(Duration::from_millis(5));
            }
        };
        let asked = || origins.iter().all(|origin| origin.requests().len() == 1);
        if http2 {
            let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
            client.request(&Outgoing::get("/", "a"), deadline).unwrap();
            wait("both are asked", &asked);
        } else {
            let mut client = Connection::open(ravelin.address(), deadline).unwrap();
            client.request(&Outgoing::get("/", "a"), deadline).unwrap();
            wait("both are asked", &asked);
        }
        for origin in &origins {
            let sample = |name: &str| format!("ravelin_endpoint_{name}{{upstream=\"a\",endpoint=\"{}\"}}", origin.address());
            wait("nothing is under way", &|| metric(&ravelin, &sample("requests_in_flight")) == 0.0);
            assert_eq!(metric(&ravelin, &sample("failures_total")), 0.0, "the client left");
        }
    }
}

#[test]
fn explain_says_when_another_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "listeners: {main: {address: 127.0.0.1:0}}\n\
                upstreams: {a: {endpoints: [10.0.0.1:80, 10.0.0.2:80], retry: {hedge: {after: 95%}}}}\nroutes: {all: {upstream: a}}\n";
    fs::write(directory.path().join("ravelin.yaml"), yaml).unwrap();
    let explained = |method: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"));
        command.args(["explain", "-c", "ravelin.yaml", method, "http://a/"]).current_dir(directory.path());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let line = "hedge: another endpoint is asked too when the first is slower than 95% of the requests";
    assert!(explained("GET").contains(line), "{}", explained("GET"));
    assert!(!explained("POST").contains("hedge"), "it may not be repeated");
}
