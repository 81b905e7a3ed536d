//! Endpoints on HTTP/2 that send what no library would: the frames of a case for the first request that comes, and a proper answer to all
//! others. Each case is played by a client on HTTP/1.1 and one on HTTP/2.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::case::{Case, Frame, Request, Sent, Verdict, shown, unescaped};
use super::h2::{self, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, encoded, frame};
use super::stage::{http1, judge_http2, reason};
use crate::support::{Connection, Deadline, Outgoing, Ravelin};

/// Who asks.
pub(crate) const CLIENTS: [&str; 2] = ["http1", "http2"];

/// A Ravelin in front of such an endpoint.
struct Stage {
    ravelin: Ravelin,
    origin: Origin,
}

static FREE: Mutex<Vec<Stage>> = Mutex::new(Vec::new());

fn free() -> MutexGuard<'static, Vec<Stage>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all processes.
pub(crate) fn clear() {
    free().clear();
}

/// Plays a case on a stage that is free. One on which a case failed is not used again.
pub(crate) fn play(case: &Case, client: &str) -> Result<(), String> {
    let stage = free().pop();
    let stage = stage.map_or_else(Stage::new, Ok)?;
    stage.play(case, client)?;
    free().push(stage);
    Ok(())
}

impl Stage {
    fn new() -> Result<Self, String> {
        let origin = Origin::start().map_err(|error| error.to_string())?;
        let ravelin = Ravelin::start(&format!(
            "access_log: {{}}\nlisteners: {{usual: {{address: \"127.0.0.1:0\", http2: true}}}}\n\
             upstreams: {{origin: {{endpoints: [\"{}\"], protocol: http2, health_check: none}}}}\nroutes: {{all: {{upstream: origin}}}}\n",
            origin.address
        ));
        Ok(Self { ravelin, origin })
    }

    fn play(&self, case: &Case, client: &str) -> Result<(), String> {
        let deadline = Deadline::standard();
        self.origin.script(case.frames.clone().unwrap_or_default());
        let lines = self.ravelin.stdout().lines().len();
        let address = self.ravelin.address();
        let Request::Http1(bytes) = &case.request else { return Err("both clients send the section `request`".to_owned()) };
        if client == "http2" {
            let answer = h2::exchange(address, &as_frames(bytes)?, deadline).map_err(|error| format!("HTTP/2: {error}"))?;
            match (&case.verdict, &answer) {
                (Verdict::Delivered(wanted), h2::Answer::Status(status, body)) => same(wanted, *status, body)?,
                _ => _ = judge_http2(case, &answer)?,
            }
        } else {
            http1(case, bytes, address, "/same", deadline)?;
        }
        reason(&self.ravelin, case, lines, deadline)?;
        // Whoever comes next gets an answer of its own.
        let mut other = Connection::open(address, deadline).map_err(|error| error.to_string())?;
        other.request(&Outgoing::get("/next", "next"), deadline).map_err(|error| error.to_string())?;
        let answered = other.next_response(deadline).map_err(|error| format!("the next client: {error}"))?;
        let came = self.origin.came();
        let last = came.last().ok_or("nothing came to the origin")?;
        if answered.head.status() != Some(200) || answered.body != last.name().into_bytes() {
            return Err(format!("the next client got the wrong answer:\n{}{}", shown(&answered.head.raw), shown(&answered.body)));
        }
        if case.spoils_origin && came.iter().rev().skip(1).any(|earlier| earlier.connection == last.connection) {
            return Err("the connection to the origin was used again".to_owned());
        }
        Ok(())
    }
}

/// The same request over HTTP/2.
fn as_frames(request: &[u8]) -> Result<Vec<Frame>, String> {
    let text = String::from_utf8_lossy(request);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("the request has no head")?;
    let method = head.split(' ').next().unwrap_or_default();
    let fields = [(":method", method), (":scheme", "http"), (":path", "/case"), (":authority", "a")];
    let fields = fields.map(|(name, value)| (name.into(), value.into())).to_vec();
    let mut frames = vec![Frame::Headers(fields, body.is_empty())];
    if !body.is_empty() {
        frames.push(Frame::Data(body.into(), true));
    }
    Ok(frames)
}

/// Whether status and body are those of an answer over HTTP/1.1.
fn same(wanted: &[u8], status: u16, body: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(wanted);
    let (head, wanted) = text.split_once("\r\n\r\n").ok_or("the answer has no head")?;
    if head.starts_with(&format!("HTTP/1.1 {status} ")) && body == wanted.as_bytes() {
        return Ok(());
    }
    Err(format!("the client got {status} and\n{}", shown(body)))
}

/// A request that came to the origin.
#[derive(Debug, Clone, Copy)]
struct Came {
    connection: usize,
    stream: u32,
}

impl Came {
    /// What it is answered.
    fn name(self) -> String {
        format!("connection {} stream {}", self.connection, self.stream)
    }
}

struct Origin {
    address: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    connections: usize,
    script: Option<Vec<Sent>>,
    came: Vec<Came>,
}

impl Origin {
    fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::<Mutex<Shared>>::default();
        let of_thread = Arc::downgrade(&shared);
        // It ends with the test program, or at the next connection.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some(shared) = of_thread.upgrade() else { return };
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { address, shared })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the first request gets this.
    fn script(&self, frames: Vec<Sent>) {
        let mut shared = self.shared();
        shared.script = Some(frames);
        shared.came.clear();
    }

    fn came(&self) -> Vec<Came> {
        self.shared().came.clone()
    }
}

/// Reads frames until the connection ends.
fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> io::Result<()> {
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let connection = {
        let mut shared = lock();
        shared.connections += 1;
        shared.connections
    };
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Deadline::standard().left()))?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    let mut out = Vec::new();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    stream.write_all(&out)?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        if kind == SETTINGS && flags == 0 {
            let mut ack = Vec::new();
            frame(&mut ack, SETTINGS, 1, 0, &[]);
            stream.write_all(&ack)?;
        }
        if !matches!(kind, HEADERS | DATA) || flags & END_STREAM == 0 {
            continue;
        }
        let came = Came { connection, stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) };
        let script = {
            let mut shared = lock();
            shared.came.push(came);
            shared.script.take()
        };
        let mut out = Vec::new();
        for sent in script.unwrap_or_else(|| proper(&came.name())) {
            for _ in 0..sent.times {
                frame(&mut out, sent.kind, sent.flags, sent.stream.unwrap_or(came.stream), &sent.payload);
            }
        }
        // Who has had enough reads no more of it.
        stream.write_all(&out)?;
    }
}

fn proper(body: &str) -> Vec<Sent> {
    let head = encoded(&[(b":status".to_vec(), b"200".to_vec())]);
    let sent = |kind, flags, payload| Sent { times: 1, kind, flags, stream: None, payload };
    vec![sent(HEADERS, END_HEADERS, head), sent(DATA, END_STREAM, body.into())]
}

/// Heads as fields `name: value`, one behind the other with `HEADERS` in between; `DATA text`; and `FRAME kind flags stream payload` for all
/// else. `N TIMES` in front of one says how often it is sent. The last one ends the stream if it can, unless `OPEN` follows it; `END`
/// behind another says that this one does.
pub(crate) fn frames(text: &str) -> Result<Vec<Sent>, String> {
    let mut frames: Vec<Sent> = Vec::new();
    let mut fields: Option<Vec<(Vec<u8>, Vec<u8>)>> = None;
    let (mut times, mut ends) = (1, true);
    let mut is_raw = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let sent = match word {
            "OPEN" => {
                ends = false;
                continue;
            }
            "END" => {
                frames.last_mut().ok_or("END of what?")?.flags |= END_STREAM;
                fields = None;
                continue;
            }
            "HEADERS" | "TRAILERS" => {
                fields = None;
                continue;
            }
            "DATA" => Sent { times, kind: DATA, flags: 0, stream: None, payload: unescaped(rest)? },
            "FRAME" => raw(rest, times)?,
            _ if rest == "TIMES" => {
                times = word.parse().map_err(|_| format!("how many? `{line}`"))?;
                fields = None;
                continue;
            }
            _ => {
                let colon = line[1..].find(':').ok_or_else(|| format!("no field: `{line}`"))? + 1;
                let value = line[colon + 1..].strip_prefix(' ').unwrap_or(&line[colon + 1..]);
                let begins = fields.is_none();
                let block = fields.get_or_insert_default();
                block.push((unescaped(&line[..colon])?, unescaped(value)?));
                let head = Sent { times, kind: HEADERS, flags: END_HEADERS, stream: None, payload: encoded(block) };
                match frames.last_mut() {
                    Some(last) if !begins => last.payload = head.payload,
                    _ => {
                        frames.push(head);
                        (times, is_raw) = (1, false);
                    }
                }
                continue;
            }
        };
        fields = None;
        times = 1;
        is_raw = word == "FRAME";
        frames.push(sent);
    }
    if let Some(last) = frames.last_mut().filter(|_| ends && !is_raw) {
        last.flags |= END_STREAM;
    }
    Ok(frames)
}

/// `kind flags stream payload`: a name or a number, a number, a number or `S` for the stream of the request, and bytes.
fn raw(text: &str, times: usize) -> Result<Sent, String> {
    const KINDS: [&str; 10] = [
        "DATA",
        "HEADERS",
        "PRIORITY",
        "RST_STREAM",
        "SETTINGS",
        "PUSH_PROMISE",
        "PING",
        "GOAWAY",
        "WINDOW_UPDATE",
        "CONTINUATION",
    ];
    let mut words = text.splitn(4, ' ');
    let mut word = || words.next().unwrap_or_default();
    let (kind, flags, stream, payload) = (word(), word(), word(), word());
    let wrong = |_| format!("no frame: `{text}`");
    let kind = match KINDS.iter().position(|name| *name == kind) {
        Some(number) => u8::try_from(number).expect("there are ten"),
        None => kind.parse().map_err(wrong)?,
    };
    let stream = if stream == "S" { None } else { Some(stream.parse().map_err(wrong)?) };
    Ok(Sent { times, kind, flags: flags.parse().map_err(wrong)?, stream, payload: unescaped(payload)? })
}
