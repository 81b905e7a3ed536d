//! A case of the corpus: one file, a few lines on top, then bytes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::streams;

/// Where the corpus is.
pub(crate) const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile");

/// One trick.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Its file below the corpus, without the ending.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// The RFC section or advisory that it is about.
    pub(crate) source: String,
    /// Which listener it is sent to.
    pub(crate) listener: String,
    pub(crate) request: Request,
    /// What it sends once it has the first answer.
    pub(crate) later: Option<Vec<u8>>,
    /// The origin answers as soon as it has the head.
    pub(crate) early: bool,
    /// The client ends its side after the last byte.
    pub(crate) half_closes: bool,
    /// What the origin answers; `None`: 200.
    pub(crate) answer: Option<Vec<u8>>,
    /// What it answers over HTTP/2: the case is about an endpoint that speaks that.
    pub(crate) frames: Option<Vec<Sent>>,
    /// What the origin does then.
    pub(crate) then: Then,
    pub(crate) verdict: Verdict,
    /// The exchange's connection to the origin must not carry another.
    pub(crate) spoils_origin: bool,
    /// Behind what arrives comes something that is refused.
    pub(crate) ends_refused: bool,
}

/// What the client sends.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Http1(Vec<u8>),
    Http2(Vec<Frame>),
}

/// A frame on stream 1, and after it the end of the stream, or not.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// Name and value of each field, as they are encoded.
    Headers(Vec<(Vec<u8>, Vec<u8>)>, bool),
    Data(Vec<u8>, bool),
}

/// A frame of an origin's, sent so many times.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) times: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// `None`: the stream of the request.
    pub(crate) stream: Option<u32>,
    pub(crate) payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    NextRequest,
    Close,
    Stall,
}

/// What must become of it.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The client is told so, nothing whole reaches the origin, and the connection closes. Without a reason: HTTP/2's framing refuses
    /// it, for some reason.
    Refused(Option<(u16, String)>),
    /// The body breaks after its head may have gone on: no whole request reaches the origin, and both sides are closed.
    Aborted(String),
    /// The origin sees exactly these requests, but for the fields that Ravelin adds.
    Arrives(Vec<u8>),
    /// The client sees exactly this, but for the fields that Ravelin adds.
    Delivered(Vec<u8>),
    /// The client gets the head and not the whole body, for this reason, if one is to be recorded.
    Cut(Option<String>),
    /// The client gets a whole answer without a body, and nothing more: its connection ends, for this reason.
    Ended(String),
    /// The head may have gone on before the trick could be seen: the origin sees one request at most, and nothing of the trick.
    Harmless,
}

/// Every case.
pub(crate) fn all() -> io::Result<Vec<Result<Case, String>>> {
    let mut files = Vec::new();
    for folder in fs::read_dir(CORPUS)? {
        let folder = folder?.path();
        if folder.is_dir() {
            files.extend(fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?);
        }
    }
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    files.into_iter().map(|file| Ok(parse(&file, &fs::read_to_string(&file)?))).collect()
}

fn parse(file: &Path, text: &str) -> Result<Case, String> {
    let name = file.strip_prefix(CORPUS).unwrap_or(file).with_extension("").to_string_lossy().into_owned();
    let wrong = |what: &str| format!("{name}: {what}");
    let mut sections = text.split("\n--- ");
    let top = sections.next().unwrap_or_default();
    if !top.starts_with("# ") {
        return Err(wrong("begins with a sentence that says what the trick is"));
    }
    let (mut source, mut listener, mut verdict) = (String::new(), "usual".to_owned(), None);
    let (mut half_closes, mut then, mut spoils_origin) = (false, Then::NextRequest, false);
    let (mut early, mut ends_refused) = (false, false);
    for line in top.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("source", text) => source = text.to_owned(),
            ("listener", text) => listener = text.to_owned(),
            ("then", "refused") => ends_refused = true,
            ("half-close", _) => half_closes = true,
            ("origin answers", "early") => early = true,
            ("origin then", "close") => then = Then::Close,
            ("origin then", "stall") => then = Then::Stall,
            ("origin", "not reused") => spoils_origin = true,
            ("refused", "by framing") => verdict = Some(Verdict::Refused(None)),
            ("refused", text) => {
                let (status, reason) = text.split_once(' ').ok_or_else(|| wrong("refused: STATUS REASON"))?;
                let status = status.parse().map_err(|_| wrong("a status is a number"))?;
                verdict = Some(Verdict::Refused(Some((status, reason.to_owned()))));
            }
            ("aborted", reason) => verdict = Some(Verdict::Aborted(reason.to_owned())),
            ("cut", reason) => verdict = Some(Verdict::Cut((!reason.is_empty()).then(|| reason.to_owned()))),
            ("ended", reason) => verdict = Some(Verdict::Ended(reason.to_owned())),
            ("harmless", _) => verdict = Some(Verdict::Harmless),
            _ => return Err(wrong(&format!("unknown line `{line}`"))),
        }
    }
    let mut request = Request::Http1(b"GET /case HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    let (mut answer, mut later, mut sent) = (None, None, None);
    for section in sections {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        match title.trim_end() {
            "request" => request = Request::Http1(bytes(body).map_err(|what| wrong(&what))?),
            "http2" => request = Request::Http2(frames(body).map_err(|what| wrong(&what))?),
            "later" => later = Some(bytes(body).map_err(|what| wrong(&what))?),
            "origin" => answer = Some(bytes(body).map_err(|what| wrong(&what))?),
            "http2 origin" => sent = Some(streams::frames(body).map_err(|what| wrong(&what))?),
            "arrives" => verdict = Some(Verdict::Arrives(bytes(body).map_err(|what| wrong(&what))?)),
            "client" => verdict = Some(Verdict::Delivered(bytes(body).map_err(|what| wrong(&what))?)),
            other => return Err(wrong(&format!("unknown section `{other}`"))),
        }
    }
    if source.is_empty() {
        return Err(wrong("names no source"));
    }
    let verdict = verdict.ok_or_else(|| wrong("has no verdict"))?;
    let file = file.to_owned();
    if matches!((&verdict, &request), (Verdict::Harmless, Request::Http1(_))) && later.is_none() {
        return Err(wrong("over HTTP/1 every trick can be seen in time"));
    }
    Ok(Case {
        name,
        file,
        source,
        listener,
        request,
        later,
        early,
        half_closes,
        answer,
        frames: sent,
        then,
        verdict,
        spoils_origin,
        ends_refused,
    })
}

/// Lines with nothing in between, and escapes: `\r \n \t \0 \\ \xHH`, and `{repeat N TEXT}`.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for line in text.lines() {
        out.extend(unescaped(line)?);
    }
    Ok(out)
}

pub(crate) fn unescaped(mut text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    while let Some(next) = text.chars().next() {
        let after = &text[next.len_utf8()..];
        text = match next {
            '\\' => {
                let (byte, length) = match after.as_bytes() {
                    [b'r', ..] => (b'\r', 1),
                    [b'n', ..] => (b'\n', 1),
                    [b't', ..] => (b'\t', 1),
                    [b'0', ..] => (0, 1),
                    [b'\\', ..] => (b'\\', 1),
                    [b'x', ..] => {
                        (after.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or("\\x without two digits")?, 3)
                    }
                    _ => return Err(format!("unknown escape in `{text}`")),
                };
                out.push(byte);
                &after[length..]
            }
            '{' if after.starts_with("repeat ") => {
                let (inner, rest) = after["repeat ".len()..].split_once('}').ok_or("{repeat without an end")?;
                let (count, what) = inner.split_once(' ').ok_or("{repeat N TEXT}")?;
                out.extend(unescaped(what)?.repeat(count.parse().map_err(|_| "{repeat N")?));
                rest
            }
            _ => {
                out.extend_from_slice(&text.as_bytes()[..next.len_utf8()]);
                after
            }
        };
    }
    Ok(out)
}

/// Fields `name: value`, then lines `DATA text` and `TRAILERS` with fields; the last frame ends the stream, unless `OPEN` follows.
fn frames(text: &str) -> Result<Vec<Frame>, String> {
    let mut frames = vec![Frame::Headers(Vec::new(), false)];
    let mut ends = true;
    for line in text.lines().filter(|line| !line.is_empty()) {
        if line == "OPEN" {
            ends = false;
        } else if line == "TRAILERS" {
            frames.push(Frame::Headers(Vec::new(), false));
        } else if let Some(data) = line.strip_prefix("DATA") {
            frames.push(Frame::Data(unescaped(data.strip_prefix(' ').unwrap_or(data))?, false));
        } else {
            let colon = line[1..].find(": ").ok_or_else(|| format!("no field: `{line}`"))? + 1;
            let field = (unescaped(&line[..colon])?, unescaped(&line[colon + 2..])?);
            match frames.last_mut() {
                Some(Frame::Headers(fields, _)) => fields.push(field),
                _ => return Err("a field after DATA".to_owned()),
            }
        }
    }
    if let Some(Frame::Headers(_, end) | Frame::Data(_, end)) = frames.last_mut() {
        *end = ends;
    }
    Ok(frames)
}

/// Bytes as a case shows them.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n\n"),
            b'\t' => out.push_str("\\t"),
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}
