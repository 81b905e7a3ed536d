//! A raw HTTP/1 client: sends the bytes it is given and keeps the bytes that come.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::runtime;
use super::wire::{BodyReader, Direction, Head, Response, Transcript, Trouble};

/// One connection to a server.
pub(crate) struct Connection {
    stream: Stream,
    /// Came, not yet read by anyone.
    buffer: Vec<u8>,
    /// How the peer ended the connection.
    end: Option<End>,
    /// A response of which the head has been read.
    open: Option<Open>,
    /// Methods of the requests that await their answers.
    methods: VecDeque<String>,
    /// When the last bytes were sent.
    pub(crate) sent_at: Instant,
    pub(crate) transcript: Transcript,
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: String,
    /// In order, as they are to be sent.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Outgoing {
    pub(crate) fn get(target: &str, host: &str) -> Self {
        Self {
            method: "GET".into(),
            target: target.into(),
            version: "HTTP/1.1".into(),
            fields: vec![("Host".into(), host.into())],
            body: Vec::new(),
        }
    }

    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// As HTTP/1 bytes: the body in one chunk if the fields say `chunked`, else as it is.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        for (name, value) in &self.fields {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        let chunked = self.value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
        out.extend_from_slice(&if chunked { one_chunk(&self.body) } else { self.body.clone() });
        out
    }
}

/// A body in chunked coding, as one chunk.
pub(crate) fn one_chunk(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if !body.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

struct Open {
    head: Head,
    interim: Vec<Head>,
    body: BodyReader,
}

#[derive(Debug, Clone)]
enum End {
    Closed,
    Failed(String),
}

impl End {
    fn text(&self) -> String {
        match self {
            Self::Closed => "closed by the peer".into(),
            Self::Failed(error) => error.clone(),
        }
    }
}

impl Connection {
    /// Connects to `address:port` or `unix:/path`.
    pub(crate) fn open(address: &str, deadline: Deadline) -> io::Result<Self> {
        let stream = match address.strip_prefix("unix:") {
            Some(path) => Stream::Unix(UnixStream::connect(path)?),
            None => {
                let address = address.parse().map_err(|error| io::Error::other(format!("{address}: {error}")))?;
                let stream = TcpStream::connect_timeout(&address, deadline.left())?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        Ok(Self {
            stream,
            buffer: Vec::new(),
            end: None,
            open: None,
            methods: VecDeque::new(),
            sent_at: Instant::now(),
            transcript: Transcript::default(),
        })
    }

    /// Where it comes from, over TCP.
    pub(crate) fn local_address(&self) -> Option<std::net::SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Sends bytes. That the peer has closed already is no error here: its answer tells.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.send_by(bytes, Deadline::standard())
    }

    pub(crate) fn send_by(&mut self, bytes: &[u8], deadline: Deadline) -> Result<(), Trouble> {
        self.transcript.add(Direction::Sent, bytes);
        self.sent_at = Instant::now();
        let sent = self.stream.set_timeouts(deadline.left()).and_then(|()| self.stream.write_all(bytes));
        match sent {
            Err(error) if timed_out(&error) => Err(Trouble::Deadline("the peer to take the bytes")),
            Err(error) => {
                self.transcript.event(&format!("sending failed: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Sends a request and remembers its method for [`Connection::next_response`].
    pub(crate) fn request(&mut self, request: &Outgoing, deadline: Deadline) -> Result<(), Trouble> {
        self.methods.push_back(request.method.clone());
        self.send_by(&request.bytes(), deadline)
    }

    /// Remembers that a request of this method has been sent in raw bytes.
    pub(crate) fn sent_method(&mut self, method: &str) {
        self.methods.push_back(method.to_owned());
    }

    /// The answer to the oldest unanswered request; 1xx before it are collected, but for 101.
    pub(crate) fn next_response(&mut self, deadline: Deadline) -> Result<Response, Trouble> {
        self.next_head(deadline)?;
        while self.open.as_ref().is_some_and(|open| !open.body.ended()) && self.end.is_none() {
            self.fill(deadline, "the rest of the body")?;
            self.absorb();
        }
        self.snapshot(true)
    }

    /// One answer to a request of this method.
    pub(crate) fn response(&mut self, method: &str, deadline: Deadline) -> Result<Response, Trouble> {
        self.methods.push_back(method.to_owned());
        self.next_response(deadline)
    }

    /// The answer as far as it has come once `enough` says so; the rest is left to a later call.
    pub(crate) fn response_so_far(
        &mut self,
        deadline: Deadline,
        enough: impl Fn(&Response) -> bool,
    ) -> Result<Response, Trouble> {
        self.next_head(deadline)?;
        loop {
            let so_far = self.snapshot(false)?;
            let ended = self.end.is_some() || self.open.as_ref().is_none_or(|open| open.body.ended());
            if ended || enough(&so_far) {
                return Ok(so_far);
            }
            if self.fill(deadline, "more of the body").is_err() {
                return Ok(so_far);
            }
            self.absorb();
        }
    }

    /// A 1xx head, if the next one is that; else the head stays for the response.
    pub(crate) fn next_interim(&mut self, deadline: Deadline) -> Result<Response, Trouble> {
        let head = self.read_head(deadline)?;
        if matches!(head.status(), Some(102..=199 | 100)) {
            return Ok(Response { head, interim: Vec::new(), body: Vec::new(), trailers: Vec::new(), cut: None });
        }
        self.begin(head.clone(), Vec::new());
        self.snapshot(false)
    }

    fn next_head(&mut self, deadline: Deadline) -> Result<(), Trouble> {
        let mut interim = Vec::new();
        while self.open.is_none() {
            let head = self.read_head(deadline)?;
            if matches!(head.status(), Some(100 | 102..=199)) {
                interim.push(head);
            } else {
                self.begin(head, std::mem::take(&mut interim));
            }
        }
        Ok(())
    }

    fn begin(&mut self, head: Head, interim: Vec<Head>) {
        let method = self.methods.pop_front().unwrap_or_else(|| "GET".into());
        let body = BodyReader::new(head.response_framing(&method));
        self.open = Some(Open { head, interim, body });
        self.absorb();
    }

    fn read_head(&mut self, deadline: Deadline) -> Result<Head, Trouble> {
        loop {
            if let Some(end) = Head::end(&self.buffer) {
                return Ok(Head::parse(&self.buffer.drain(..end).collect::<Vec<u8>>()));
            }
            match &self.end {
                Some(end) if self.buffer.is_empty() => return Err(Trouble::Silence(end.text())),
                Some(end) => return Err(Trouble::CutHead(end.text())),
                None => self.fill(deadline, "a response")?,
            }
        }
    }

    /// Moves what belongs to the open response's body out of the buffer.
    fn absorb(&mut self) {
        let Some(open) = &mut self.open else { return };
        let used = open.body.feed(&self.buffer);
        self.buffer.drain(..used);
        if matches!(self.end, Some(End::Closed)) {
            open.body.closed();
        }
    }

    fn snapshot(&mut self, finish: bool) -> Result<Response, Trouble> {
        let Some(open) = &self.open else { return Err(Trouble::Broken("no response is open".into())) };
        let why = self.end.as_ref().map_or_else(|| "still open".into(), End::text);
        let cut = match &open.body.malformed {
            Some(malformed) => Some(malformed.clone()),
            None if open.body.complete() => None,
            None => Some(why),
        };
        let response = Response {
            head: open.head.clone(),
            interim: open.interim.clone(),
            body: open.body.body.clone(),
            trailers: open.body.trailers.clone(),
            cut,
        };
        if finish {
            self.open = None;
        }
        Ok(response)
    }

    /// Reads until `wanted` bytes are there or the peer ends; takes them out.
    pub(crate) fn receive(&mut self, wanted: usize, deadline: Deadline) -> Result<Vec<u8>, Trouble> {
        while self.buffer.len() < wanted && self.end.is_none() {
            self.fill(deadline, "bytes")?;
        }
        let taken = wanted.min(self.buffer.len());
        Ok(self.buffer.drain(..taken).collect())
    }

    /// Looks at the unread bytes until `enough` says so or the peer ends; takes all of them out.
    pub(crate) fn receive_until(&mut self, deadline: Deadline, enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, Trouble> {
        while !enough(&self.buffer) && self.end.is_none() {
            self.fill(deadline, "bytes")?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits for the peer to end the connection; gives the bytes that nobody had read.
    pub(crate) fn closed(&mut self, deadline: Deadline) -> Result<Vec<u8>, Trouble> {
        while self.end.is_none() {
            self.fill(deadline, "the connection to be closed")?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whether the connection is open as far as can be seen now.
    pub(crate) fn is_open(&mut self) -> bool {
        if self.end.is_none() {
            let _ = self.fill(Deadline::after(Duration::from_millis(1)), "nothing");
        }
        self.end.is_none()
    }

    /// Sends FIN, and still reads.
    pub(crate) fn half_close(&mut self) {
        self.transcript.event("half-closed by the client");
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with RST instead of FIN (TCP only).
    pub(crate) fn reset(self) {
        if let Stream::Tcp(stream) = self.stream {
            let _entered = runtime().enter();
            let _ = stream.set_nonblocking(true);
            if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
                let _ = stream.set_zero_linger();
            }
        }
    }

    fn fill(&mut self, deadline: Deadline, what: &'static str) -> Result<(), Trouble> {
        let mut chunk = [0; 16 * 1024];
        if let Err(error) = self.stream.set_timeouts(deadline.left()) {
            self.finish(End::Failed(error.to_string()));
            return Ok(());
        }
        match self.stream.read(&mut chunk) {
            Ok(0) => self.finish(End::Closed),
            Ok(read) => {
                self.transcript.add(Direction::Came, &chunk[..read]);
                self.buffer.extend_from_slice(&chunk[..read]);
            }
            Err(error) if timed_out(&error) && deadline.passed() => return Err(Trouble::Deadline(what)),
            Err(error) if timed_out(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => self.finish(End::Failed(error.to_string())),
        }
        Ok(())
    }

    fn finish(&mut self, end: End) {
        self.transcript.event(&end.text());
        self.end = Some(end);
        self.absorb();
    }
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_timeouts(&self, time: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}
