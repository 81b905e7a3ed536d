//! Endpoints that take neither a connection nor bytes: Pingora alone would wait for them for ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::{Connection, Deadline, Outgoing, Ravelin};

fn start(endpoint: SocketAddr, timeouts: &str) -> Ravelin {
    Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{a: {{endpoints: [\"{endpoint}\"], health_check: none, retry: {{retries: 0}}, timeouts: {{{timeouts}}}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n"
    ))
}

/// Clients that no room is left behind for.
fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the system's queue has no end");
    }
    waiting
}

#[test]
fn an_endpoint_that_accepts_nothing_is_given_up_in_time() {
    // The system drops what comes when the queue of connections that wait to be accepted is full.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let _waiting = fill(address);

    let ravelin = start(address, "connect: 300ms");
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    assert_eq!(client.next_response(deadline).unwrap().head.status(), Some(504));
    let line = ravelin.wait_for_log("request failed party=upstream", deadline).unwrap();
    assert!(line.contains("reason=connect_timeout "), "{line}");
}

/// Pingora goes on to wait for an answer after a write has failed: it may say why no more is wanted.
#[test]
fn an_endpoint_that_takes_no_bytes_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ravelin = start(listener.local_addr().unwrap(), "write: 300ms, response: 300ms, read: 300ms");
    let mut client = TcpStream::connect(ravelin.address()).unwrap();
    let mut uploading = client.try_clone().unwrap();
    let upload = thread::spawn(move || {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1_u64 << 30);
        uploading.write_all(head.as_bytes()).unwrap();
        let block = vec![b'x'; 1 << 16];
        // Until the proxy closes.
        while uploading.write_all(&block).is_ok() {}
    });
    let (_held, _) = listener.accept().unwrap();
    let line = ravelin.wait_for_log("request failed party=upstream", Deadline::standard());
    let line = line.unwrap_or_else(|| panic!("{}", ravelin.log().text()));
    assert!(line.contains("status=504"), "{line}");
    // The client may lose the answer to a reset, as it goes on sending.
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    upload.join().unwrap();
}
