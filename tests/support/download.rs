//! A large body, and a download of it that pauses in the middle until it is told to go on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const BLOCK: u64 = 1 << 20;

/// An origin for one connection, which sends half of its body and waits.
pub(crate) struct Halfway {
    bytes: u64,
    address: String,
    go: Sender<()>,
    sending: JoinHandle<()>,
}

/// A download that has begun.
pub(crate) struct Download {
    reader: BufReader<TcpStream>,
    /// The head of the response.
    pub(crate) head: String,
    came: u64,
}

impl Halfway {
    /// Of so many MiB.
    pub(crate) fn start(mebibytes: u64) -> Self {
        let bytes = mebibytes * BLOCK;
        let (go, half) = channel();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let sending = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            head(&mut BufReader::new(stream.try_clone().expect("a second descriptor")));
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n").expect("a head is taken");
            let block = vec![b'x'; usize::try_from(BLOCK).expect("it fits")];
            for number in 0..bytes / BLOCK {
                if number == bytes / BLOCK / 2 {
                    half.recv_timeout(Duration::from_secs(60)).expect("somebody says go");
                }
                stream.write_all(&block).expect("the body is taken");
            }
        });
        Self { bytes, address, go, sending }
    }

    /// Where it listens: for one connection, so without health checks.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Asks for it through a proxy, and reads the first MiB.
    pub(crate) fn begin(&self, proxy: &str) -> Download {
        let mut client = TcpStream::connect(proxy).expect("a connection");
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a request is taken");
        let mut reader = BufReader::with_capacity(1 << 16, client);
        let head = head(&mut reader);
        let came = std::io::copy(&mut reader.by_ref().take(BLOCK), &mut std::io::sink()).expect("a body");
        Download { reader, head, came }
    }

    /// Lets the other half come, and sees that all of it does.
    pub(crate) fn end(self, mut download: Download) {
        self.go.send(()).expect("the origin waits");
        download.came += std::io::copy(&mut download.reader, &mut std::io::sink()).expect("the rest of the body");
        assert_eq!(download.came, self.bytes);
        self.sending.join().expect("all was sent");
    }
}

fn head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
    }
    head
}
