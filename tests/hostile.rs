//! Clients that stall, drip, half-close, reset or never read: each is closed within its deadline, and nothing of it is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use support::{
    Action, Answer, Connection, Deadline, H2Connection, Origin, Outgoing, Ravelin, Trigger, Usage, full, get, until_metric,
    until_nothing_is_left,
};

const REQUEST: &str = "POST /path?query HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\nContent-Length: 4\r\n\r\nbody";

fn start(origin: &Origin) -> Ravelin {
    let ravelin = Ravelin::start(&format!(
        "listeners:\n  main:\n    address: 127.0.0.1:0\n    http2: true\n    \
         limits: {{header_timeout: 500ms, idle_timeout: 500ms, write_timeout: 500ms, connections_per_client: none}}\n\
         admin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none, timeouts: {{idle: 100ms}}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ));
    // What a first exchange needs is no leak.
    assert_eq!(get(ravelin.address(), "/"), 200);
    until_nothing_is_left(&ravelin);
    ravelin
}

/// Nothing is left, descriptors neither, and others are served.
fn nothing_leaked(ravelin: &Ravelin, before: Usage) {
    until_nothing_is_left(ravelin);
    let deadline = Deadline::standard();
    // Those of connections to the endpoint go when they have been idle for their time.
    while Usage::of(ravelin).descriptors > before.descriptors + 2 {
        assert!(!deadline.passed(), "{before:?} {:?}", Usage::of(ravelin));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get(ravelin.address(), "/"), 200);
}

#[test]
fn a_client_that_stalls_at_any_byte_of_the_head_is_closed_in_time() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let before = Usage::of(&ravelin);
    let head = REQUEST.find("\r\n\r\n").unwrap() + 4;
    let mut clients: Vec<(usize, Connection)> = (0..head)
        .map(|length| {
            let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
            client.send(&REQUEST.as_bytes()[..length]).unwrap();
            (length, client)
        })
        .collect();
    for (length, client) in &mut clients {
        let answer = client.closed(Deadline::standard()).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        // Of a request that has begun it is told why; a connection that says nothing is closed without a word.
        assert_eq!(answer.starts_with("HTTP/1.1 408 "), *length > 0, "after {length} bytes: {answer}");
    }
    nothing_leaked(&ravelin, before);
    assert_eq!(origin.requests().iter().filter(|request| request.head.method() == b"POST").count(), 0, "none got through");
}

#[test]
fn a_head_that_drips_is_not_waited_for() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let before = Usage::of(&ravelin);
    // Each byte comes long before the deadline, the whole never.
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").unwrap();
    let deadline = Deadline::standard();
    while client.is_open() {
        assert!(!deadline.passed(), "the connection is still open");
        client.send(b"x").unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert!(client.transcript.render().contains("HTTP/1.1 408 "), "{}", client.transcript.render());
    nothing_leaked(&ravelin, before);
}

#[test]
fn a_client_that_ends_its_side_or_resets_leaves_nothing() {
    let origin = Origin::start(
        "a",
        vec![Answer::of(vec![
            Action::Sleep(Duration::from_millis(50)),
            Action::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
        ])],
    );
    let ravelin = start(&origin);
    let before = Usage::of(&ravelin);
    let mut ended = Vec::new();
    for reset in [false, true] {
        // From within the head to a whole request: each byte, in parallel.
        for length in 1..=REQUEST.len() {
            let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
            client.send(&REQUEST.as_bytes()[..length]).unwrap();
            if reset {
                client.reset();
            } else {
                client.half_close();
                ended.push((length, client));
            }
        }
    }
    for (length, mut client) in ended {
        let answer = client.closed(Deadline::standard()).unwrap_or_else(|trouble| panic!("after {length} bytes: {trouble}"));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let in_head = length < REQUEST.find("\r\n\r\n").unwrap() + 4;
        assert!(!in_head || answer.starts_with("HTTP/1.1 400 "), "after {length} bytes: {answer}");
        assert!(in_head || length == REQUEST.len() || !answer.starts_with("HTTP/1.1 200 "), "after {length} bytes: {answer}");
    }
    nothing_leaked(&ravelin, before);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let before = Usage::of(&ravelin);
    origin.script(vec![Answer::text(200, &"a".repeat(20_000_000))]);
    let clients: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut client = TcpStream::connect(ravelin.address()).unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            client
        })
        .collect();
    until_metric(&ravelin, "ravelin_failures_total{party=\"client\",reason=\"client_stalls\"}", |count| count == 8.0);
    origin.script(vec![Answer::text(200, "hello")]);
    nothing_leaked(&ravelin, before);
    drop(clients);
}

#[test]
fn an_idle_http2_connection_is_closed_in_time() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let before = Usage::of(&ravelin);
    let mut client = H2Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
    assert_eq!(client.next_response(Deadline::standard()).unwrap().body, b"hello");
    client.closed(Deadline::standard()).unwrap();
    // A preface and settings, and then nothing.
    let mut silent = H2Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    silent.closed(Deadline::standard()).unwrap();
    nothing_leaked(&ravelin, before);
}

#[test]
fn http2_heads_are_bounded() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let mut client = H2Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    let mut request = Outgoing::get("/", "a");
    // Above the 64 KiB that are announced, as the list is counted; 50 fields, so that it is not their number.
    for number in 0..50 {
        request.fields.push((format!("x-{number}"), vec![b'a'; 1500]));
    }
    let refused = client.request(&request, Deadline::standard()).map_or(true, |()| {
        client.next_response(Deadline::standard()).map_or(true, |response| response.head.status() != Some(200))
    });
    assert!(refused);
    let large = |request: &support::Received| request.raw.len() > 10_000;
    assert!(!origin.requests().iter().any(large), "it did not get through");
    until_nothing_is_left(&ravelin);
}

/// Pingora would close a tunnel whose 101 it reads before it has ended the request: here it lies there before the request is written, or
/// comes as soon as the request does.
#[test]
fn tunnels_hold_however_soon_an_endpoint_answers() {
    const EACH: usize = 125;
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    let answer = |trigger| Answer { trigger, ..Answer::of(vec![Action::Send(switching.to_vec()), Action::Echo]) };
    let (now, soon) = (Origin::start("now", vec![answer(Trigger::Connect)]), Origin::start("soon", vec![answer(Trigger::Head)]));
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams:\n  now: {{endpoints: [\"{}\"], health_check: none}}\n  soon: {{endpoints: [\"{}\"], health_check: none}}\n\
         routes:\n  now: {{match: {{paths: [/now]}}, upstream: now}}\n  soon: {{upstream: soon}}\n",
        now.address(),
        soon.address()
    ));
    thread::scope(|scope| {
        for worker in 0..8 {
            let (address, target) = (ravelin.address(), if worker % 2 == 0 { "/now" } else { "/soon" });
            scope.spawn(move || {
                for _ in 0..EACH {
                    let mut client = Connection::open(address, Deadline::standard()).unwrap();
                    let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
                    client.send(head.as_bytes()).unwrap();
                    let receive = |client: &mut Connection, text: &str| {
                        // The origin that answers before it reads sends the request's head back too.
                        let there = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
                        let came = client.receive_until(Deadline::standard(), there).unwrap();
                        assert!(there(&came), "{target}: {}", String::from_utf8_lossy(&came));
                    };
                    receive(&mut client, "\r\n\r\nhello");
                    client.send(b"ping").unwrap();
                    receive(&mut client, "ping");
                }
            });
        }
    });
    until_nothing_is_left(&ravelin);
}

/// Pingora would close a tunnel that carries nothing after 60 s, with the timeout of request bodies.
#[test]
fn a_tunnel_outlives_the_timeout_of_bodies() {
    if !full() {
        return eprintln!("skipped: it takes 65 s (RAVELIN_TEST_ALL=1)");
    }
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let tunnel = vec![Action::Send(switching.to_vec()), Action::Echo];
    let origin = Origin::start("a", vec![Answer::of(tunnel)]);
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ));
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n").unwrap();
    client.receive_until(Deadline::standard(), |bytes| bytes.ends_with(b"\r\n\r\n")).unwrap();
    // Time itself is the subject.
    thread::sleep(Duration::from_secs(65));
    client.send(b"still here").unwrap();
    assert_eq!(client.receive(10, Deadline::standard()).unwrap(), b"still here");
}
