//! A Ravelin and an origin that many cases share, one after the other.

use std::sync::{Mutex, PoisonError};

use super::case::{Case, Request, Then, Verdict, shown};
use super::h2;
use crate::support::{Action, Answer, Connection, Deadline, Origin, Outgoing, Ravelin, Received, Response, Trigger};

/// Fields that Ravelin adds to what it forwards: other tests are about them.
const ADDED: [&[u8]; 5] = [b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"date"];

/// A Ravelin in front of one origin.
pub(crate) struct Stage {
    lane: &'static str,
    ravelin: Ravelin,
    origin: Origin,
    played: usize,
}

static FREE: Mutex<Vec<Stage>> = Mutex::new(Vec::new());

/// Plays a case on a stage that is free. One on which a case failed is not used again, nor one where a message was cut: what went on of
/// it may reach the origin, or be found incomplete there, when the case is over.
pub(crate) fn play(case: &Case, lane: &'static str) -> Result<(), String> {
    let free = {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().position(|stage| stage.lane == lane).map(|at| free.swap_remove(at))
    };
    let mut stage = free.unwrap_or_else(|| Stage::new(lane));
    stage.play(case)?;
    if !matches!(case.verdict, Verdict::Aborted(_) | Verdict::Cut(_) | Verdict::Harmless) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(stage);
    }
    Ok(())
}

/// Ends all processes.
pub(crate) fn clear() {
    FREE.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// The configuration of every stage.
pub(crate) fn config(origin: &str) -> String {
    format!(
        "access_log: {{}}\n\
         listeners:\n  \
           usual: {{address: \"127.0.0.1:0\", http2: true}}\n  \
           refuse: {{address: \"127.0.0.1:0\", http2: true, underscores: refuse}}\n  \
           pass: {{address: \"127.0.0.1:0\", http2: true, underscores: pass}}\n\
         upstreams: {{origin: {{endpoints: [\"{origin}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: origin}}}}\n"
    )
}

/// The place of a listener among the addresses.
pub(crate) fn listener(ravelin: &Ravelin, name: &str) -> String {
    let place = ["usual", "refuse", "pass"].iter().position(|listener| *listener == name).unwrap_or(0);
    ravelin.addresses()[place].clone()
}

impl Stage {
    fn new(lane: &'static str) -> Self {
        let origin = Origin::start("origin", Vec::new());
        let ravelin = Ravelin::start_in(lane, &config(origin.address()));
        Self { lane, ravelin, origin, played: 0 }
    }

    fn play(&mut self, case: &Case) -> Result<(), String> {
        self.played += 1;
        self.origin.forget();
        let (same, next) = (format!("/same-{}", self.played), format!("/next-{}", self.played));
        let mut answer = case.answer.as_ref().map_or_else(|| Answer::text(200, "ok"), |bytes| raw(bytes, case.then));
        if case.early {
            answer.trigger = Trigger::Head;
        }
        let ours = [&same, &next].map(|target| Answer { target: Some(target.clone()), ..Answer::text(200, target) });
        self.origin.script([ours.to_vec(), vec![answer]].concat());
        let lines = self.ravelin.stdout().lines().len();
        let address = listener(&self.ravelin, &case.listener);
        let deadline = Deadline::standard();
        let came = match &case.request {
            Request::Http1(bytes) => http1(case, bytes, &address, &same, deadline),
            Request::Http2(frames) => {
                let answer = h2::exchange(&address, frames, deadline).map_err(|error| format!("HTTP/2: {error}"))?;
                judge_http2(case, &answer)
            }
        }?;
        // Whoever comes next on the origin's connections gets its own answer.
        let mut other = Connection::open(&self.ravelin.addresses()[0], deadline).map_err(|error| error.to_string())?;
        other.request(&Outgoing::get(&next, "next"), deadline).map_err(|error| error.to_string())?;
        let answered = other.next_response(deadline).map_err(|error| format!("the next client: {error}"))?;
        if answered.head.status() != Some(200) || answered.body != next.as_bytes() {
            return Err(format!("the next client got the wrong answer:\n{}{}", shown(&answered.head.raw), shown(&answered.body)));
        }
        reason(&self.ravelin, case, lines, deadline)?;
        self.arrived(case, &same, &next, came)
    }

    fn arrived(&self, case: &Case, same: &str, next: &str, came: bool) -> Result<(), String> {
        let received = self.origin.requests();
        let strays = self.origin.strays();
        let is = |request: &Received, target: &str| request.head.target() == target.as_bytes();
        let (ours, theirs): (Vec<&Received>, Vec<&Received>) =
            received.iter().partition(|request| is(request, same) || is(request, next));
        if ours.len() != 1 + usize::from(came) || !strays.is_empty() {
            return Err(format!("{} requests of ours, strays: {strays:?}", ours.len()));
        }
        match &case.verdict {
            Verdict::Refused(_) if case.answer.is_none() => {
                if let Some(request) = theirs.first() {
                    return Err(format!("reached the origin: {}", shown(&request.raw)));
                }
            }
            Verdict::Aborted(_) => {
                if let Some(request) = theirs.iter().find(|request| request.complete) {
                    return Err(format!("reached the origin whole: {}", shown(&request.raw)));
                }
            }
            Verdict::Harmless => {
                let tricky = |request: &&Received| request.raw.windows(6).any(|six| six == b"hidden" || six == b":path:");
                // Over HTTP/1 the trick is in a body, where it may stand.
                let http2 = matches!(case.request, Request::Http2(_));
                if theirs.len() > 1 || http2 && theirs.iter().any(tricky) {
                    return Err(format!("reached the origin: {theirs:?}"));
                }
            }
            Verdict::Arrives(wanted) => {
                let all: Vec<u8> = theirs.iter().flat_map(|request| without_added(&request.raw)).collect();
                same_bytes("the origin got", &with_placeholder(&all, self.origin.address()), wanted, case)?;
            }
            _ => {}
        }
        let spoiled = case.spoils_origin || matches!(case.verdict, Verdict::Aborted(_) | Verdict::Cut(_));
        if spoiled && theirs.iter().any(|bad| ours.iter().any(|good| good.connection == bad.connection)) {
            return Err("the connection to the origin was used again".to_owned());
        }
        Ok(())
    }
}

/// `Ok(true)`: a second request on the connection was answered too.
pub(crate) fn http1(case: &Case, bytes: &[u8], address: &str, same: &str, deadline: Deadline) -> Result<bool, String> {
    let text = |error: crate::support::Trouble| error.to_string();
    let mut client = Connection::open(address, deadline).map_err(|error| error.to_string())?;
    client.send(bytes).map_err(text)?;
    if case.half_closes {
        client.half_close();
    }
    let method = String::from_utf8_lossy(bytes.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
    match &case.verdict {
        Verdict::Refused(status) => {
            let answer = client.response(&method, deadline).map_err(text)?;
            let wanted = status.as_ref().map(|(status, _)| *status);
            if answer.head.status() != wanted || answer.cut.is_some() || !answer.head.closes() {
                return Err(format!("answered: {:?}\n{}{}", answer.cut, shown(&answer.head.raw), shown(&answer.body)));
            }
            if method != "HEAD" && answer.body.is_empty() {
                return Err("refused without a body".to_owned());
            }
            nothing_more(&mut client, deadline)?;
            Ok(false)
        }
        Verdict::Aborted(_) => {
            let came = client.closed(deadline).map_err(text)?;
            let refused = came.starts_with(b"HTTP/1.1 4") && came.windows(4).any(|end| end == b"\r\n\r\n");
            let whole = came.windows(4).filter(|four| *four == b"HTTP").count();
            if !(came.is_empty() || refused && whole == 1) {
                return Err(format!("not aborted: {}", shown(&came)));
            }
            Ok(false)
        }
        Verdict::Arrives(wanted) => {
            let mut closes = false;
            for request in split(wanted)? {
                let method = String::from_utf8_lossy(request.split(|byte| *byte == b' ').next().unwrap_or_default()).into_owned();
                let answer = client.response(&method, deadline).map_err(text)?;
                if answer.head.status() != Some(200) || answer.cut.is_some() {
                    return Err(format!("answered: {:?}\n{}{}", answer.cut, shown(&answer.head.raw), shown(&answer.body)));
                }
                old_enough(bytes, &answer)?;
                closes = answer.head.closes();
            }
            if case.ends_refused {
                let answer = client.next_response(deadline).map_err(text)?;
                if answer.head.status().is_none_or(|status| status < 400) || !answer.head.closes() {
                    return Err(format!("not refused: {}{}", shown(&answer.head.raw), shown(&answer.body)));
                }
            }
            if closes || case.half_closes || case.ends_refused {
                nothing_more(&mut client, deadline)?;
                return Ok(false);
            }
            client.request(&Outgoing::get(same, "same"), deadline).map_err(text)?;
            let answer = client.next_response(deadline).map_err(text)?;
            if answer.body != same.as_bytes() {
                return Err(format!(
                    "the next request got the wrong answer:\n{}{}",
                    shown(&answer.head.raw),
                    shown(&answer.body)
                ));
            }
            Ok(true)
        }
        Verdict::Delivered(wanted) => {
            let answer = client.response(&method, deadline).map_err(text)?;
            if answer.cut.is_some() {
                return Err(format!("cut: {:?}\n{}", answer.cut, shown(&answer.head.raw)));
            }
            old_enough(bytes, &answer)?;
            let interim: Vec<u8> = answer.interim.iter().flat_map(|head| without_added(&head.raw)).collect();
            let trailers: Vec<u8> =
                answer.trailers.iter().flat_map(|(name, value)| [name, &b": "[..], value, b"\r\n"].concat()).collect();
            let came = [interim, without_added(&answer.head.raw), answer.body.clone(), trailers].concat();
            same_bytes("the client got", &came, wanted, case)?;
            Ok(false)
        }
        Verdict::Harmless => {
            client.response(&method, deadline).map_err(text)?;
            // A connection that is closed by now takes nothing more.
            let _ = client.send(case.later.as_deref().unwrap_or_default());
            client.half_close();
            let more = client.closed(deadline).map_err(text)?;
            if more.windows(6).any(|six| six == b"HTTP/1") && more.windows(5).any(|five| five == b" 200 ") {
                return Err(format!("answered again: {}", shown(&more)));
            }
            Ok(false)
        }
        Verdict::Ended(_) => {
            let answer = client.response(&method, deadline).map_err(text)?;
            if answer.cut.is_some() || !answer.body.is_empty() {
                return Err(format!("answered: {:?}\n{}{}", answer.cut, shown(&answer.head.raw), shown(&answer.body)));
            }
            nothing_more(&mut client, deadline)?;
            Ok(false)
        }
        Verdict::Cut(_) => match client.response(&method, deadline) {
            Ok(answer) if answer.cut.is_none() => Err(format!("whole: {}{}", shown(&answer.head.raw), shown(&answer.body))),
            _ => Ok(false),
        },
    }
}

/// A refusal is in the access log with its reason.
pub(crate) fn reason(ravelin: &Ravelin, case: &Case, lines: usize, deadline: Deadline) -> Result<(), String> {
    let reason = match &case.verdict {
        Verdict::Refused(Some((_, reason))) | Verdict::Aborted(reason) | Verdict::Cut(Some(reason)) | Verdict::Ended(reason) => {
            format!("\"reason\":\"{reason}\"")
        }
        Verdict::Refused(None) => "\"party\":\"client\"".to_owned(),
        _ => return Ok(()),
    };
    let found = ravelin.stdout().wait_for(deadline, |all| all[lines..].iter().any(|line| line.contains(&reason)).then_some(()));
    found.ok_or_else(|| format!("{reason} is not in the access log:\n{}", ravelin.stdout().lines()[lines..].join("\n")))
}

pub(crate) fn judge_http2(case: &Case, answer: &h2::Answer) -> Result<bool, String> {
    match (&case.verdict, answer) {
        (Verdict::Refused(None), h2::Answer::Reset | h2::Answer::Status(400..500, _)) => Ok(false),
        (Verdict::Refused(Some((wanted, _))), h2::Answer::Status(status, body)) if status == wanted && !body.is_empty() => {
            Ok(false)
        }
        (Verdict::Arrives(_), h2::Answer::Status(200, _)) => Ok(false),
        (Verdict::Aborted(_), h2::Answer::Reset | h2::Answer::Status(400..500, _)) => Ok(false),
        (Verdict::Ended(_), h2::Answer::Status(_, body)) if body.is_empty() => Ok(false),
        (Verdict::Cut(_) | Verdict::Ended(_), h2::Answer::Reset) | (Verdict::Harmless, _) => Ok(false),
        (Verdict::Delivered(wanted), h2::Answer::Status(status, body)) => {
            let came = [format!("{status}\r\n").as_bytes(), body].concat();
            same_bytes("the client got", &came, wanted, case).map(|()| false)
        }
        (_, answer) => Err(format!("answered: {answer:?}")),
    }
}

/// HTTP/1.0 knows no chunks and no informational answers.
fn old_enough(request: &[u8], answer: &Response) -> Result<(), String> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if line.ends_with(b"HTTP/1.0") && (!answer.interim.is_empty() || !answer.head.values("transfer-encoding").is_empty()) {
        return Err(format!("no answer for HTTP/1.0: {}", shown(&answer.head.raw)));
    }
    Ok(())
}

fn nothing_more(client: &mut Connection, deadline: Deadline) -> Result<(), String> {
    let more = client.closed(deadline).map_err(|error| format!("the connection is not closed: {error}"))?;
    if more.is_empty() { Ok(()) } else { Err(format!("came after the answer: {}", shown(&more))) }
}

/// The requests of a verdict, each with its body.
pub(crate) fn split(wanted: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut requests = Vec::new();
    let mut rest = wanted;
    while !rest.is_empty() {
        let length = crate::support::message_length(rest).ok_or("the verdict is no request")?;
        requests.push(rest[..length].to_vec());
        rest = &rest[length..];
    }
    Ok(requests)
}

/// A message without the fields that Ravelin adds.
pub(crate) fn without_added(message: &[u8]) -> Vec<u8> {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    let mut out = Vec::new();
    for line in message[..end].split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !ADDED.iter().any(|added| name.eq_ignore_ascii_case(added)) {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&message[end..]);
    out
}

/// `{origin}` for the address of the origin, which nobody knows beforehand.
fn with_placeholder(bytes: &[u8], address: &str) -> Vec<u8> {
    match bytes.windows(address.len()).position(|part| part == address.as_bytes()) {
        Some(at) => [&bytes[..at], b"{origin}", &bytes[at + address.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

/// With `RAVELIN_UPDATE=1` the case is written anew, to be read by somebody who knows what it should be.
fn same_bytes(what: &str, came: &[u8], wanted: &[u8], case: &Case) -> Result<(), String> {
    // In which order fields of different names stand means nothing (RFC 9110 §5.3).
    if came == wanted || in_order(came) == in_order(wanted) {
        return Ok(());
    }
    if std::env::var_os("RAVELIN_UPDATE").is_some() {
        let text = std::fs::read_to_string(&case.file).map_err(|error| error.to_string())?;
        let title = if what.contains("origin") { "\n--- arrives\n" } else { "\n--- client\n" };
        let (before, _) = text.split_once(title).ok_or("no section to write")?;
        let shown = shown(came);
        std::fs::write(&case.file, format!("{before}{title}{}\n", shown.trim_end())).map_err(|error| error.to_string())?;
    }
    Err(format!("{what}\n{}\nin place of\n{}", shown(came), shown(wanted)))
}

/// The lines of a text, where those that are fields, one after the other, are in the order of their names.
fn in_order(text: &[u8]) -> Vec<u8> {
    let name = |line: &[u8]| -> Option<Vec<u8>> {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].iter().all(|byte| byte.is_ascii_graphic()).then(|| line[..colon].to_ascii_lowercase())
    };
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut out = Vec::with_capacity(text.len());
    for run in lines.chunk_by(|one, other| name(one).is_some() && name(other).is_some()) {
        let mut run = run.to_vec();
        run.sort_by_key(|line| name(line));
        run.iter().for_each(|line| out.extend_from_slice(line));
    }
    out
}

fn raw(bytes: &[u8], then: Then) -> Answer {
    let mut actions = vec![Action::Send(bytes.to_vec())];
    match then {
        Then::NextRequest => {}
        Then::Close => actions.push(Action::Close),
        Then::Stall => actions.push(Action::Stall),
    }
    Answer::of(actions)
}
