//! Bodies pass piece by piece: 1 GiB up and 1 GiB down leave the process's memory as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use support::Ravelin;

const GIB: u64 = 1 << 30;
const GROWTH_MAX_KIB: u64 = 64 * 1024;

#[test]
fn a_gibibyte_up_and_down_leaves_memory_as_it_was() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = origin.local_addr().unwrap();
    thread::spawn(move || {
        for stream in origin.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0, limits: {{body_size: none}}}}}}\n\
         upstreams: {{big: {{endpoints: [\"{address}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: big}}}}\n"
    ));
    // What a first exchange needs is no growth.
    assert_eq!(download(&ravelin, 1), 1);
    let before = memory(&ravelin, "VmRSS:");

    assert_eq!(download(&ravelin, GIB), GIB);
    assert_eq!(upload(&ravelin, GIB), format!("{GIB}"));

    let growth = memory(&ravelin, "VmHWM:").saturating_sub(before);
    assert!(growth < GROWTH_MAX_KIB, "grew by {growth} KiB from {before} KiB");
}

/// The origin: `GET /N` sends N bytes; `POST` says how many came.
fn serve(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some((first, length)) = head(&mut reader) else { return };
    if first.starts_with("GET") {
        let wanted: u64 = first.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {wanted}\r\nConnection: close\r\n\r\n").unwrap();
        send(&mut stream, wanted);
    } else {
        let came = std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap().to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{came}", came.len()).unwrap();
    }
}

fn download(ravelin: &Ravelin, bytes: u64) -> u64 {
    let mut stream = TcpStream::connect(ravelin.address()).unwrap();
    write!(stream, "GET /{bytes} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let (first, length) = head(&mut reader).unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert_eq!(length, bytes);
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap()
}

fn upload(ravelin: &Ravelin, bytes: u64) -> String {
    let mut stream = TcpStream::connect(ravelin.address()).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n").unwrap();
    send(&mut stream, bytes);
    let mut reader = BufReader::new(stream);
    let (first, _) = head(&mut reader).unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    said
}

fn send(stream: &mut TcpStream, mut bytes: u64) {
    let block = vec![b'x'; 256 * 1024];
    while bytes > 0 {
        let piece = usize::try_from(bytes).unwrap().min(block.len());
        stream.write_all(&block[..piece]).unwrap();
        bytes -= piece as u64;
    }
}

/// The first line of a head, and its content length.
fn head(reader: &mut impl BufRead) -> Option<(String, u64)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line == "\r\n" {
            return Some((first, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(ravelin: &Ravelin, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", ravelin.pid())).unwrap();
    let line = status.lines().find(|text| text.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
