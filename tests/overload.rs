//! An adaptive limit: endpoints that get slow bring it down, so that what is over it hears so at once instead of waiting with the rest.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use support::{Action, Answer, Connection, Deadline, Origin, Outgoing, Ravelin};

const CLIENTS: usize = 60;

fn get(address: &str) -> u16 {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    client.next_response(deadline).unwrap().head.status().unwrap()
}

// covers: overload.adaptive
#[test]
fn a_slow_upstream_brings_the_limit_down() {
    let origin = Origin::start("a", vec![Answer::text(200, "fast")]);
    let ravelin = Ravelin::start(&format!(
        "overload: {{requests: 1000, adaptive: true}}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ));
    // Until it is known what an answer takes: enough of them in some windows.
    let deadline = Deadline::after(Duration::from_millis(600));
    while !deadline.passed() {
        assert_eq!(get(ravelin.address()), 200);
    }
    let slow = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    origin.script(vec![Answer::of(vec![Action::Sleep(Duration::from_millis(200)), Action::Send(slow)])]);
    let (served, shed) = (AtomicU64::new(0), AtomicU64::new(0));
    let deadline = Deadline::standard();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // Far below the fixed limit, and yet too many.
                while shed.load(Ordering::Relaxed) < 100 && !deadline.passed() {
                    match get(ravelin.address()) {
                        200 => served.fetch_add(1, Ordering::Relaxed),
                        503 => shed.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            });
        }
    });
    let (served, shed) = (served.into_inner(), shed.into_inner());
    eprintln!("{served} served, {shed} turned away");
    assert!(shed >= 100, "{served} served, {shed} turned away");
    assert!(served > 0);
}
