//! An endpoint dies under load and comes back, again and again: no request that can be repeated is lost. What it had already read
//! on a connection of its own when it died is not repeated: at most one for each client and death. And when Ravelin itself is another
//! process, clients stay where they were.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::{Answer, Connection, Deadline, Launch, Origin, Outgoing, Ravelin, Signal};

const CLIENTS: usize = 4;
const DEATHS: usize = 10;
/// Requests between a death and a return: enough that each client meets the dead endpoint.
const BETWEEN: u64 = 100;

#[test]
fn no_request_is_lost_while_an_endpoint_dies_and_returns() {
    let (one, two) = (Origin::start("one", vec![Answer::text(200, "one")]), Origin::start("two", vec![Answer::text(200, "two")]));
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams:\n  both:\n    endpoints: [\"{}\", \"{}\"]\n    health_check: {{tcp: {{interval: 50ms, unhealthy_after: 1}}}}\n\
         routes: {{all: {{upstream: both}}}}\n",
        one.address(),
        two.address(),
    ));
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let cut = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, stop, answered, cut) = (ravelin.address().to_owned(), stop.clone(), answered.clone(), cut.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if !get(&address) {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let pass = |more: u64| {
        let deadline = Deadline::standard();
        let until = answered.load(Ordering::Relaxed) + more;
        while answered.load(Ordering::Relaxed) < until && clients.iter().all(|client| !client.is_finished()) && !deadline.passed()
        {
            thread::yield_now();
        }
    };
    for _ in 0..DEATHS {
        pass(BETWEEN);
        two.stop();
        pass(BETWEEN);
        two.resume().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every answer of this client was a 200");
    }
    assert!(answered.load(Ordering::Relaxed) >= BETWEEN * 2 * DEATHS as u64, "the clients were too slow for the deadline");
    let cut = cut.load(Ordering::Relaxed);
    assert!(cut <= (CLIENTS * DEATHS) as u64, "{cut} requests were lost");
    assert!(!two.requests().is_empty(), "the endpoint that dies was never used");
}

/// Whether the answer is a 200; the only other one that may be is the 502 of an exchange that was cut in its middle.
fn get(address: &str) -> bool {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    let status = response.head.status();
    assert!(matches!(status, Some(200 | 502)), "{status:?} {}", String::from_utf8_lossy(&response.body));
    status == Some(200)
}

/// The cookie is of the key and the upstream's name, and of no process: another one, with the endpoints in another order and a reload behind
/// it, sends a client where it was.
#[test]
fn a_client_stays_at_its_endpoint_when_the_process_is_another() {
    let origins = ["a", "b", "c", "d"].map(|name| Origin::start(name, vec![Answer::text(200, name)]));
    let directory = tempfile::tempdir().unwrap();
    let write = |turned: usize, more: &str| {
        let mut addresses: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
        addresses.rotate_left(turned);
        let yaml = format!(
            "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
             upstreams: {{a: {{endpoints: [{}], health_check: none, sticky: {{key: correct horse battery}}{more}}}}}\nroutes: {{all: {{upstream: a}}}}\n",
            addresses.join(", ")
        );
        fs::write(directory.path().join("ravelin.yaml"), yaml).unwrap();
    };
    let start = || {
        let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
        ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
        ravelin
    };
    let ask = |ravelin: &Ravelin, cookie: Option<&str>| {
        let deadline = Deadline::standard();
        let mut client = Connection::open(ravelin.address(), deadline).unwrap();
        let mut request = Outgoing::get("/", "a");
        request.fields.extend(cookie.map(|cookie| ("Cookie".into(), cookie.as_bytes().to_vec())));
        client.request(&request, deadline).unwrap();
        let response = client.next_response(deadline).unwrap();
        let set = response.head.values("set-cookie").first().map(|value| String::from_utf8_lossy(value).into_owned());
        (String::from_utf8(response.body).unwrap(), set)
    };
    write(0, "");
    let first = start();
    let clients: Vec<(String, String)> = (0..6)
        .map(|_| {
            let (endpoint, set) = ask(&first, None);
            (endpoint, set.unwrap().split(';').next().unwrap().to_owned())
        })
        .collect();
    drop(first);
    write(1, "");
    let second = start();
    let stay = |ravelin: &Ravelin, when: &str| {
        for (endpoint, cookie) in clients.iter().cycle().take(18) {
            assert_eq!(ask(ravelin, Some(cookie)), (endpoint.clone(), None), "{when}\n{}", ravelin.log().text());
        }
    };
    stay(&second, "another process");
    write(2, ", balance: random");
    second.signal(Signal::HUP).unwrap();
    second.wait_for_log("configuration reloaded", Deadline::standard()).unwrap();
    stay(&second, "and a reload");
}
