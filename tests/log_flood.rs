//! What clients cause can't flood the process log: some lines a second for each reason, and the number of the others. The access log and
//! the metrics have all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Deadline, Ravelin};

const REQUESTS: usize = 400;

/// Sends this on a connection of its own; what comes back.
fn say(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Deadline::standard().left())).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has said all that it will.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn lines_are_bounded_for_each_reason_and_the_rest_is_counted() {
    let ravelin = Ravelin::start(
        "access_log: {output: stderr, format: {template: 'ACCESS {{ request.path }}'}}\n\
         admin: {address: 127.0.0.1:0}\nlisteners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {match: {paths: [/x]}, respond: {}}}\n",
    );
    let began = Instant::now();
    for _ in 0..REQUESTS {
        assert!(say(ravelin.address(), b"GET  / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
        assert!(
            say(ravelin.address(), b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 404")
        );
    }
    let deadline = Deadline::after(Duration::from_secs(60));
    let held = ravelin.log().wait_for(deadline, |lines| {
        let count = |line: &String| line.split("count=").nth(1)?.split(':').next()?.parse::<usize>().ok();
        let all_told = |reason: &str| {
            let of_it: Vec<&String> = lines.iter().filter(|line| line.contains(&format!("reason={reason}"))).collect();
            let (held, said): (Vec<&String>, Vec<&String>) = of_it.into_iter().partition(|line| line.contains("lines held back"));
            held.into_iter().filter_map(count).sum::<usize>() + said.len() == REQUESTS
        };
        (all_told("no_route") && all_told("bad_request_line")).then_some(())
    });
    let lines = ravelin.log().lines();
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    // Ten a second, and those of the second that had begun.
    let most = 10 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 2);
    assert!(held.is_some(), "some lines were neither written nor counted: {}", count("reason=no_route"));
    assert!(count("request failed") <= most, "{} of {most}", count("request failed"));
    assert!(count("request refused") <= most, "{} of {most}", count("request refused"));
    let address = ravelin.admin().expect("an admin address");
    let metrics = say(&address, b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(metrics.contains(&format!("reason=\"no_route\"}} {REQUESTS}\n")), "{metrics}");
}
