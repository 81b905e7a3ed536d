//! An idle connection is a small task without buffers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use support::tls::{Authority, Client};
use support::{Answer, Deadline, H2Connection, Origin, Outgoing, Ravelin, Usage, full, may_open};

/// What one may cost in the proxy, in KiB: half of it in a release build (`RAVELIN_TEST_PROGRAM`), whose tasks are smaller.
fn most() -> f64 {
    if std::env::var_os("RAVELIN_TEST_PROGRAM").is_some() { 4.0 } else { 8.0 }
}

fn connections() -> usize {
    if full() { 10_000 } else { 1_000 }
}

fn start(origin: &Origin) -> Ravelin {
    Ravelin::start(&format!(
        "listeners:\n  main: {{address: 127.0.0.1:0, http2: true, limits: {{idle_timeout: 10m, connections_per_client: none}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ))
}

/// KiB for each of `count` connections that `open` has opened, and used once; the first hundred don't count.
fn cost<T>(ravelin: &Ravelin, count: usize, open: impl Fn() -> T) -> f64 {
    let _warm: Vec<T> = (0..100).map(|_| open()).collect();
    let before = Usage::of(ravelin).resident_kib;
    let _idle: Vec<T> = (0..count).map(|_| open()).collect();
    let after = Usage::of(ravelin).resident_kib;
    let each = after.saturating_sub(before) as f64 / count as f64;
    eprintln!("{count} idle connections: {before} KiB before, {after} KiB after, {each:.2} KiB each");
    each
}

#[test]
fn an_idle_connection_costs_little_memory() {
    let count = connections();
    if !may_open(count as u64 + 1_000) {
        return eprintln!("skipped: {count} descriptors are not allowed here (ulimit -n)");
    }
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let each = cost(&ravelin, count, || {
        let mut stream = TcpStream::connect(ravelin.address()).unwrap();
        stream.write_all(b"GET /some/path?with=query HTTP/1.1\r\nHost: example.com\r\nUser-Agent: test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            let mut piece = [0; 1024];
            let read = stream.read(&mut piece).unwrap();
            assert!(read > 0, "the connection stays open");
            answer.extend_from_slice(&piece[..read]);
        }
        stream
    });
    assert!(each <= most(), "{each:.2} KiB each");
}

#[test]
fn an_idle_http2_connection_is_bounded_too() {
    let count = connections() / 5;
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let ravelin = start(&origin);
    let each = cost(&ravelin, count, || {
        let deadline = Deadline::standard();
        let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
        assert_eq!(client.next_response(deadline).unwrap().body, b"hello");
        client
    });
    assert!(each <= 160.0, "{each:.2} KiB each");
}

#[test]
fn an_idle_connection_over_tls_is_small_too() {
    let count = connections() / 2;
    if !may_open(count as u64 + 1_000) {
        return eprintln!("skipped: {count} descriptors are not allowed here (ulimit -n)");
    }
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let authority = Authority::new("ca");
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example"]).write(directory.path(), "a");
    let ravelin = Ravelin::start(&format!(
        "listeners:\n  main:\n    address: 127.0.0.1:0\n    tls: {{certificates: [{{cert: \"{path}/a.pem\", key: \"{path}/a.key\"}}]}}\n    \
         limits: {{idle_timeout: 10m, connections_per_client: none, handshakes_per_client: none}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address(),
        path = directory.path().display(),
    ));
    let client = Client::new(&authority);
    let each = cost(&ravelin, count, || {
        let mut connection = client.connect(ravelin.address(), "a.example", Deadline::standard()).unwrap();
        assert_eq!(connection.get("/some/path?with=query", "a.example").unwrap().0, 200);
        connection
    });
    // rustls keeps 4 KiB to read into, and keys.
    assert!(each <= 24.0, "{each:.2} KiB each");
}
