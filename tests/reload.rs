//! Reloads under constant load: no request fails, and what is replaced is freed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::{Answer, Connection, Deadline, Origin, Outgoing, Ravelin, Signal};

const CLIENTS: usize = 3;

/// Fewer in the everyday run.
fn reloads() -> usize {
    if std::env::var_os("RAVELIN_TEST_ALL").is_some() { 100 } else { 20 }
}

#[test]
fn no_request_fails_while_the_configuration_is_replaced() {
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&config(origin.address(), 0));
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, stop, answered) = (ravelin.address().to_owned(), stop.clone(), answered.clone());
            thread::spawn(move || {
                let deadline = Deadline::standard();
                let mut client = Connection::open(&address, deadline).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
                    assert_eq!(client.next_response(Deadline::standard()).unwrap().head.status(), Some(200));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    for generation in 1..=reloads() {
        fs::write(ravelin.directory().join("ravelin.yaml"), config(origin.address(), generation)).unwrap();
        ravelin.signal(Signal::HUP).unwrap();
        let wanted = format!("generation={} ", generation + 1);
        assert!(ravelin.wait_for_log(&wanted, Deadline::standard()).is_some(), "{}", ravelin.log().text());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every answer of this client was a 200");
    }
    assert!(answered.load(Ordering::Relaxed) > 0);

    // Once the last exchanges are gone nobody holds an old snapshot: a reload finds its own only.
    let deadline = Deadline::standard();
    for generation in reloads() + 2.. {
        ravelin.signal(Signal::HUP).unwrap();
        let line = ravelin.wait_for_log(&format!("generation={generation} "), deadline).expect("a further reload");
        if line.contains("snapshots=1") {
            break;
        }
        assert!(!deadline.passed(), "{line}");
    }
}

/// Each generation has other routes, another filter, and an upstream that changes every other time.
fn config(origin: &str, generation: usize) -> String {
    format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams:\n  a: {{endpoints: [\"{origin}\"], timeouts: {{response: {}s}}}}\n\
         routes:\n  all: {{filters: [{{headers: {{response: {{set: {{x-generation: \"{generation}\"}}}}}}}}], upstream: a}}\n  \
         other{generation}: {{match: {{paths: [/other/{generation}]}}, respond: {{body: other}}}}\n",
        60 + generation / 2
    )
}
