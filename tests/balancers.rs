//! A real balancer in front: HAProxy's word on the client, in each of the ways in which it gives it.
//!
//! Only where it is installed, and only when everything is tested (`RAVELIN_TEST_ALL`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{Connection, Deadline, Outgoing, Ravelin, free_port};

/// It ends with the test.
struct Balancer(Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn haproxy_names_the_client() {
    if std::env::var_os("RAVELIN_TEST_ALL").is_none() {
        return;
    }
    let ravelin = Ravelin::start(
        "listeners:\n  \
           tcp: {address: 127.0.0.1:0, proxy_protocol: {trust: [127.0.0.2]}}\n  \
           http: {address: 127.0.0.1:0, trust_forwarded: {from: [127.0.0.2]}}\n\
         routes: {all: {respond: {body: \"{{ client.ip }} {{ request.scheme }}\"}}}\n",
    );
    let [tcp, http] = ravelin.addresses() else { panic!("two listeners") };
    let ports = [free_port(), free_port(), free_port()];
    let [v1, v2, forwarded] = [&ports[0], &ports[1], &ports[2]].map(|port| port.address());
    // It connects from an address of its own, which is not its clients'.
    let config = format!(
        "global\n  maxconn 100\n\
         defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n  source 127.0.0.2\n\
         listen v1\n  mode tcp\n  bind {v1}\n  server a {tcp} check inter 100ms send-proxy\n\
         listen v2\n  mode tcp\n  bind {v2}\n  server a {tcp} check inter 100ms send-proxy-v2 proxy-v2-options crc32c\n\
         listen forwarded\n  mode http\n  bind {forwarded}\n  option forwardfor\n  \
         http-request set-header X-Forwarded-Proto https\n  server a {http}\n"
    );
    let file = ravelin.directory().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let started = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(balancer) = started.map(Balancer) else {
        return eprintln!("haproxy is not installed: nothing was tested");
    };
    let deadline = Deadline::standard();
    for (address, expected) in [(v1, "127.0.0.1 http"), (v2, "127.0.0.1 http"), (forwarded, "127.0.0.1 https")] {
        while TcpStream::connect(address).is_err() {
            assert!(!deadline.passed(), "haproxy does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        let mut client = Connection::open(&address.to_string(), deadline).unwrap();
        let mut request = Outgoing::get("/", "a");
        request.fields.push(("X-Forwarded-For".into(), "6.6.6.6".into()));
        for _ in 0..2 {
            client.request(&request, deadline).unwrap();
            let response = client.next_response(deadline).unwrap();
            assert_eq!(String::from_utf8_lossy(&response.body), expected, "{address}");
        }
    }
    drop(balancer);
    // Its checks speak for themselves (LOCAL, or nothing at all before they close).
    assert!(!ravelin.log().text().contains("bad_proxy_header"), "{}", ravelin.log().text());
}
