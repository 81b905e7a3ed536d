//! HTTP/1.1 requests at a constant rate, and how long their answers take: the load of `benches/compare` for its latencies.
//!
//! `rate_load ADDRESS PATH SECONDS CONNECTIONS RATE`. Requests are due at fixed times, whatever becomes of those before. One that is due while
//! no connection is free waits for the next that is, and its time runs from when it was due: a server that stalls is not spared the requests
//! that would have come meanwhile. When this program itself is late, that is not the server's time. One thread, which sleeps between
//! requests (`ppoll`, to about 50 µs). Any answer but a 200 with a length ends it.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a program for measurements may fail loudly")]

use std::collections::VecDeque;
use std::env;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A kept-alive connection.
struct Connection {
    stream: TcpStream,
    /// When its request began, if one is on its way.
    began: Option<Instant>,
    answer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("no delay");
        stream.set_nonblocking(true).expect("a socket that does not block");
        Self { stream, began: None, answer: Vec::with_capacity(16 * 1024) }
    }

    /// A request is small, and the connection waits for it: it goes out at once.
    fn send(&mut self, request: &[u8], began: Instant) {
        let sent = self.stream.write(request).expect("a request that goes out");
        assert_eq!(sent, request.len(), "a request went out in part");
        self.began = Some(began);
    }

    /// Takes what has come. Whether the answer is whole.
    fn receive(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => panic!("the server closed a connection"),
                Ok(read) => self.answer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        let Some(length) = whole(&self.answer) else { return false };
        let whole = self.answer.len() >= length;
        assert!(self.answer.len() <= length, "more came than was asked for");
        if whole {
            self.answer.clear();
        }
        whole
    }
}

/// The length of an answer, once its head is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).expect("a head of text");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text.lines().filter_map(|line| line.split_once(": "));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length")).map(|(_, value)| value).next();
    Some(head + length.expect("a length").parse::<usize>().expect("a length"))
}

fn main() {
    let mut arguments = env::args().skip(1);
    let mut next = |what| arguments.next().expect(what);
    let (address, path) = (next("ADDRESS"), next("PATH"));
    let mut number = |what| next(what).parse::<u32>().expect(what);
    let (seconds, connections, rate) = (number("SECONDS"), number("CONNECTIONS"), number("RATE"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut all: Vec<Connection> = (0..connections).map(|_| Connection::open(&address)).collect();
    let mut free: VecDeque<usize> = (0..all.len()).collect();
    let total = u64::from(seconds) * u64::from(rate);
    let start = Instant::now();
    let due = |count: u64| start + Duration::from_nanos(count * 1_000_000_000 / u64::from(rate));
    let (mut begun, mut took) = (0, Vec::with_capacity(usize::try_from(total).expect("a number of requests")));
    while (took.len() as u64) < total {
        let now = Instant::now();
        while begun < total && due(begun) <= now {
            let Some(index) = free.pop_front() else { break };
            // All were busy when it was due, or this program was late.
            let waited = all[index].began.take().filter(|freed| *freed > due(begun));
            all[index].send(request.as_bytes(), waited.map_or(now, |_| due(begun)));
            begun += 1;
        }
        let wait =
            if begun == total || free.is_empty() { Duration::from_secs(1) } else { due(begun).saturating_duration_since(now) };
        let wait = Timespec { tv_sec: i64::from(wait.as_secs() > 0), tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut watched: Vec<PollFd<'_>> = all.iter().map(|connection| PollFd::new(&connection.stream, PollFlags::IN)).collect();
        poll(&mut watched, Some(&wait)).expect("a poll");
        let ready: Vec<usize> = (0..watched.len()).filter(|index| !watched[*index].revents().is_empty()).collect();
        for index in ready {
            let began = all[index].began.expect("an answer to a request");
            if all[index].receive() {
                let now = Instant::now();
                took.push(now.duration_since(began));
                // Since when it is free.
                all[index].began = Some(now);
                free.push_back(index);
            }
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    took.sort_unstable();
    let micros = |share: f64| {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (took.len() as f64 * share) as usize;
        took[index.min(took.len() - 1)].as_secs_f64() * 1e6
    };
    println!(
        "{} requests in {elapsed:.3}s, p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0} us",
        took.len(),
        micros(0.5),
        micros(0.99),
        micros(0.999),
        micros(1.0)
    );
}
