//! HTTP/1 as bytes: lenient readers that keep what came as it came.

use std::fmt::Write as _;

/// A field's name and value as they came; the value without the space around it.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// The start line and the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// The request or status line.
    pub(crate) first: Vec<u8>,
    /// In order.
    pub(crate) fields: Vec<Field>,
    /// All of it, with the empty line.
    pub(crate) raw: Vec<u8>,
}

impl Head {
    /// Where a head at the start of `bytes` ends, its empty line included.
    pub(crate) fn end(bytes: &[u8]) -> Option<usize> {
        bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
    }

    /// Takes a whole head apart; refuses nothing.
    pub(crate) fn parse(raw: &[u8]) -> Self {
        let mut lines = raw.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().unwrap_or_default().to_vec();
        let fields = lines.filter(|line| !line.is_empty()).map(field).collect();
        Self { first, fields, raw: raw.to_vec() }
    }

    /// The values of every field of this name, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        values(&self.fields, name)
    }

    fn lists(&self, name: &str, token: &str) -> bool {
        let list = self.values(name).join(&b","[..]);
        list.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> Option<u16> {
        std::str::from_utf8(&self.first).ok()?.split(' ').nth(1)?.parse().ok()
    }

    /// The target of a request.
    pub(crate) fn target(&self) -> &[u8] {
        self.first.split(|&byte| byte == b' ').nth(1).unwrap_or_default()
    }

    /// The method of a request.
    pub(crate) fn method(&self) -> &[u8] {
        self.first.split(|&byte| byte == b' ').next().unwrap_or_default()
    }

    /// Whether the sender will close the connection.
    pub(crate) fn closes(&self) -> bool {
        self.lists("connection", "close") || (self.first.starts_with(b"HTTP/1.0") && !self.lists("connection", "keep-alive"))
    }

    /// How a request with this head is framed.
    pub(crate) fn request_framing(&self) -> Framing {
        self.framing().unwrap_or(Framing::None)
    }

    /// How a response with this head to `method` is framed.
    pub(crate) fn response_framing(&self, method: &str) -> Framing {
        match self.status() {
            _ if method == "HEAD" => Framing::None,
            Some(100..=199 | 204 | 304) => Framing::None,
            Some(200..=299) if method == "CONNECT" => Framing::None,
            _ => self.framing().unwrap_or(Framing::Close),
        }
    }

    fn framing(&self) -> Option<Framing> {
        if self.lists("transfer-encoding", "chunked") {
            return Some(Framing::Chunked);
        }
        let length = self.values("content-length").first().copied()?;
        std::str::from_utf8(length).ok()?.parse().ok().map(Framing::Length)
    }
}

/// The values of every field of this name, in order.
pub(crate) fn values<'a>(fields: &'a [Field], name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
    named.map(|(_, value)| value.as_slice()).collect()
}

fn field(line: &[u8]) -> Field {
    match line.iter().position(|&byte| byte == b':') {
        Some(colon) => (line[..colon].to_vec(), line[colon + 1..].trim_ascii().to_vec()),
        None => (line.to_vec(), Vec::new()),
    }
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
    Close,
}

/// A body as it arrives.
#[derive(Debug, Clone)]
pub(crate) struct BodyReader {
    state: State,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Field>,
    /// What was wrong with the framing.
    pub(crate) malformed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Left(u64),
    ToClose,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::ToClose,
        };
        Self { state, body: Vec::new(), trailers: Vec::new(), malformed: None }
    }

    pub(crate) fn complete(&self) -> bool {
        self.state == State::Done && self.malformed.is_none()
    }

    /// Nothing more is to be read: it is whole, or beyond understanding.
    pub(crate) fn ended(&self) -> bool {
        self.state == State::Done || self.malformed.is_some()
    }

    /// The peer closed in good order: the end of a body that nothing else delimits.
    pub(crate) fn closed(&mut self) {
        if self.state == State::ToClose {
            self.state = State::Done;
        }
    }

    /// Takes what belongs to the body from the start of `bytes`; says how much that was.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while !self.ended() {
            match self.step(&bytes[used..]) {
                0 => break,
                taken => used += taken,
            }
        }
        used
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        match self.state {
            State::Done => 0,
            State::ToClose => {
                self.body.extend_from_slice(bytes);
                bytes.len()
            }
            State::Left(left) | State::Chunk(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.body.extend_from_slice(&bytes[..taken]);
                let left = left - taken as u64;
                self.state = match (self.state, left) {
                    (State::Left(_), 0) => State::Done,
                    (State::Left(_), _) => State::Left(left),
                    (_, 0) => State::ChunkEnd,
                    _ => State::Chunk(left),
                };
                taken
            }
            State::ChunkSize | State::ChunkEnd | State::Trailers => {
                let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") else { return 0 };
                self.line(&bytes[..end]);
                end + 2
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let shown = || visible(line);
        match self.state {
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => self.malformed = Some(format!("bytes after a chunk: {}", shown())),
            State::Trailers if line.is_empty() => self.state = State::Done,
            State::Trailers => self.trailers.push(field(line)),
            _ => {
                let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
                match size {
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Chunk(size),
                    None => self.malformed = Some(format!("no chunk size: {}", shown())),
                }
            }
        }
    }
}

/// How long the first request of these bytes is, body included.
pub(crate) fn message_length(bytes: &[u8]) -> Option<usize> {
    let end = Head::end(bytes)?;
    let mut body = BodyReader::new(Head::parse(&bytes[..end]).request_framing());
    let used = body.feed(&bytes[end..]);
    body.complete().then_some(end + used)
}

/// The head and the decoded body of a whole request.
pub(crate) fn request_parts(bytes: &[u8]) -> Option<(Head, Vec<u8>)> {
    let end = Head::end(bytes)?;
    let head = Head::parse(&bytes[..end]);
    let mut body = BodyReader::new(head.request_framing());
    body.feed(&bytes[end..]);
    body.complete().then_some((head, body.body))
}

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    /// The final head.
    pub(crate) head: Head,
    /// Heads of 1xx answers before it.
    pub(crate) interim: Vec<Head>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<Field>,
    /// `None`: the message is whole by its own framing. Else why it is not.
    pub(crate) cut: Option<String>,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the deadline passed while waiting for {0}")]
    Deadline(&'static str),
    #[error("the connection ended without a byte of a response ({0})")]
    Silence(String),
    #[error("the connection ended within the response's head ({0})")]
    CutHead(String),
    #[error("{0}")]
    Broken(String),
}

/// What went over a connection, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transcript(Vec<(Direction, Vec<u8>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Sent,
    Came,
    /// Not bytes but an event, such as the end of the connection.
    Event,
}

impl Transcript {
    pub(crate) fn add(&mut self, direction: Direction, bytes: &[u8]) {
        match self.0.last_mut() {
            Some((last, data)) if *last == direction && direction != Direction::Event => data.extend_from_slice(bytes),
            _ => self.0.push((direction, bytes.to_vec())),
        }
    }

    pub(crate) fn event(&mut self, text: &str) {
        self.add(Direction::Event, text.as_bytes());
    }

    /// For people: `>` sent, `<` came, `*` happened; at most 4 KiB of each run of bytes.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        for (direction, bytes) in &self.0 {
            let mark = match direction {
                Direction::Sent => '>',
                Direction::Came => '<',
                Direction::Event => '*',
            };
            for line in shortened(bytes).lines() {
                let _ = writeln!(out, "{mark} {line}");
            }
        }
        out
    }
}

const SHOWN: usize = 4096;

/// [`visible`], at most 4 KiB of it.
pub(crate) fn shortened(bytes: &[u8]) -> String {
    if bytes.len() <= SHOWN {
        return visible(bytes);
    }
    format!("{}\n… {} bytes more", visible(&bytes[..SHOWN]), bytes.len() - SHOWN)
}

/// Bytes for people: control characters and what is not UTF-8 as escapes; a line ends after each `\n`.
pub(crate) fn visible(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => out.push_str("\\n\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\\' => out.push_str("\\\\"),
                control if control.is_ascii_control() => {
                    let _ = write!(out, "\\x{:02x}", u32::from(control));
                }
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    if out.ends_with('\n') {
        out.pop();
    }
    out
}
