//! The steps of clients.

use std::thread;
use std::time::{Duration, Instant};

use super::model::{Check, Closing, Expects, Message, Via};
use super::report;
use super::run::{Stuck, Taken};
use super::stage::{Client, Link, Stage};
use super::text::{Text, Variables};
use super::verify::{Problem, View};
use crate::support::{Connection, Deadline, H2Connection, Response, Trouble, visible};

pub(super) fn request(stage: &mut Stage<'_>, via: &Via, times: Option<usize>, message: &Message) -> Taken {
    let deadline = stage.deadline;
    stage.batch.clear();
    for _ in 0..times.unwrap_or(1) {
        let client = stage.connection(via)?;
        let h2 = matches!(client.link, Link::H2(_));
        let outgoing = stage.outgoing(message, h2)?;
        let client = stage.used(None)?;
        client.request(&outgoing, deadline).map_err(|trouble| Stuck::new("the request to be sent", trouble))?;
        if times.is_some() {
            let answer = client.next_response(deadline).map_err(|trouble| Stuck::new("a response", trouble))?;
            let elapsed = client.sent_at().elapsed();
            stage.batch.push((answer, elapsed));
        }
    }
    Ok(vec![])
}

pub(super) fn send(stage: &mut Stage<'_>, via: &Via, bytes: &Text) -> Taken {
    let deadline = stage.deadline;
    let bytes = bytes.bytes(&stage.variables)?;
    stage.batch.clear();
    match &mut stage.connection(via)?.link {
        Link::H1(connection) => {
            if bytes.starts_with(b"HEAD ") {
                connection.sent_method("HEAD");
            }
            connection.send_by(&bytes, deadline).map_err(|trouble| Stuck::new("the bytes to be sent", trouble))?;
            Ok(vec![])
        }
        _ => Err(Stuck::new("an HTTP/1 connection", "bytes can only be sent over one that is open and not h2")),
    }
}

pub(super) fn response(stage: &mut Stage<'_>, line: usize, on: Option<&String>, so_far: bool, checks: &[Check]) -> Taken {
    let deadline = stage.deadline;
    if on.is_none() && !stage.batch.is_empty() {
        return Ok(batch(stage, line, checks));
    }
    let mut variables = stage.variables.clone();
    let client = stage.used(on)?;
    let answer = match &mut client.link {
        Link::H1(connection) if expects_interim(checks) => connection.next_interim(deadline),
        Link::H1(connection) if so_far => {
            let enough = |response: &Response| enough(response, line, checks, &variables);
            connection.response_so_far(deadline, enough)
        }
        Link::H2(connection) if so_far => {
            let enough = |response: &Response| enough(response, line, checks, &variables);
            connection.response_so_far(deadline, enough)
        }
        _ => client.next_response(deadline),
    };
    let written = checks.first().map_or("a response", |check| check.written.as_str());
    let answer = answer.map_err(|trouble| Stuck::new(format!("a response: {written}"), trouble))?;
    let elapsed = client.sent_at().elapsed();
    let whole = !so_far && !expects_interim(checks);
    let mut problems = View::response(&answer, elapsed).verify(line, checks, whole, &mut variables);
    for check in checks {
        problems.extend(connection_check(client, check, &answer, deadline));
    }
    stage.variables = variables;
    Ok(problems)
}

fn expects_interim(checks: &[Check]) -> bool {
    matches!(checks.first().map(|check| &check.expects), Some(Expects::Status(100 | 102..=199)))
}

/// Whether what has come so far meets the expectations about the body.
fn enough(response: &Response, line: usize, checks: &[Check], variables: &Variables) -> bool {
    let problems = View::response(response, Duration::ZERO).verify(line, checks, false, &mut variables.clone());
    let about_body = |problem: &Problem| {
        let check = checks.iter().find(|check| check.line == problem.line && check.written == problem.expected);
        check.is_some_and(|check| {
            matches!(check.expects, Expects::Body(_) | Expects::BodyContains(_) | Expects::BodyMatches(_) | Expects::Json { .. })
        })
    };
    !problems.iter().any(about_body)
}

fn batch(stage: &mut Stage<'_>, line: usize, checks: &[Check]) -> Vec<Problem> {
    let answers = std::mem::take(&mut stage.batch);
    for (index, (answer, elapsed)) in answers.iter().enumerate() {
        let mut problems = View::response(answer, *elapsed).verify(line, checks, true, &mut stage.variables);
        if !problems.is_empty() {
            for problem in &mut problems {
                problem.came.push_str(&format!(" (response {} of {})", index + 1, answers.len()));
            }
            return problems;
        }
    }
    Vec::new()
}

fn connection_check(client: &mut Client, check: &Check, answer: &Response, deadline: Deadline) -> Option<Problem> {
    let came = match check.expects {
        Expects::Closed => match closed(client, deadline) {
            Ok(rest) if rest.is_empty() => return None,
            Ok(rest) => format!("more bytes: {}", visible(&rest)),
            Err(stuck) => stuck.came,
        },
        Expects::Kept => {
            let open = match &mut client.link {
                Link::H1(connection) => !answer.head.closes() && connection.is_open(),
                Link::H2(connection) => connection.is_open(),
                Link::Gone(_) => false,
            };
            if open {
                return None;
            }
            "the connection is closed, or the response says that it will be".into()
        }
        _ => return None,
    };
    Some(Problem::new(check.line, check.written.as_str(), came))
}

/// Reads until the proxy gives up; a whole response is a problem.
pub(super) fn aborted(stage: &mut Stage<'_>, line: usize, on: Option<&String>) -> Taken {
    let deadline = stage.deadline;
    match stage.used(on)?.next_response(deadline) {
        Ok(Response { cut: Some(_), .. }) | Err(Trouble::Silence(_) | Trouble::CutHead(_)) => Ok(vec![]),
        Ok(whole) => {
            let came = format!("a whole one: {}", visible(&whole.head.first));
            Ok(vec![Problem::new(line, "no complete response", came)])
        }
        Err(trouble) => Err(Stuck::new("no complete response, and an end", trouble)),
    }
}

pub(super) fn closed(client: &mut Client, deadline: Deadline) -> Result<Vec<u8>, Stuck> {
    let rest = match &mut client.link {
        Link::H1(connection) => connection.closed(deadline),
        Link::H2(connection) => connection.closed(deadline).map(|()| Vec::new()),
        Link::Gone(_) => Ok(Vec::new()),
    };
    rest.map_err(|trouble| Stuck::new("the connection closed", trouble))
}

pub(super) fn receive(stage: &mut Stage<'_>, line: usize, on: Option<&String>, bytes: &Text) -> Taken {
    let deadline = stage.deadline;
    let pattern = bytes.pattern(&stage.variables)?;
    let client = stage.used(on)?;
    let Link::H1(connection) = &mut client.link else {
        return Err(Stuck::new("an HTTP/1 connection", "bytes can only be received over one"));
    };
    let came = match pattern.length() {
        Some(length) => connection.receive(length, deadline),
        None => connection.receive_until(deadline, |bytes| pattern.matches(bytes)),
    };
    let came = came.map_err(|trouble| Stuck::new(visible(&pattern.text()), trouble))?;
    if pattern.matches(&came) {
        return Ok(vec![]);
    }
    Ok(vec![Problem::new(line, visible(&pattern.text()), visible(&came))])
}

pub(super) fn close(stage: &mut Stage<'_>, on: Option<&String>, how: Closing) -> Taken {
    let client = stage.used(on)?;
    if how == Closing::HalfClose {
        let Link::H1(connection) = &mut client.link else {
            return Err(Stuck::new("an HTTP/1 connection", "only such a one can be half-closed"));
        };
        connection.half_close();
        return Ok(vec![]);
    }
    let mut transcript = client.transcript().clone();
    transcript.event(if how == Closing::Reset { "reset by the client" } else { "closed by the client" });
    match (std::mem::replace(&mut client.link, Link::Gone(transcript)), how) {
        (Link::H1(connection), Closing::Reset) => Connection::reset(connection),
        (link, _) => drop(link),
    }
    Ok(vec![])
}

/// Sends the request over and over, each time on a new connection, until it gives the status.
pub(super) fn wait_until(stage: &mut Stage<'_>, status: u16, from: Option<&str>, via: &Via, message: &Message) -> Taken {
    let (address, outgoing) = (stage.address(via)?, stage.outgoing(message, via.h2)?);
    let deadline = stage.deadline;
    let started = Instant::now();
    loop {
        let answer = if via.h2 {
            H2Connection::open(&address, deadline).map_err(|error| error.to_string()).and_then(|mut connection| {
                let sent = connection.request(&outgoing, deadline);
                sent.and_then(|()| connection.next_response(deadline)).map_err(|trouble| trouble.to_string())
            })
        } else {
            Connection::open(&address, deadline).map_err(|error| error.to_string()).and_then(|mut connection| {
                let sent = connection.request(&outgoing, deadline);
                sent.and_then(|()| connection.next_response(deadline)).map_err(|trouble| trouble.to_string())
            })
        };
        let came = match &answer {
            Ok(answer) => {
                let named = from.is_none_or(|name| answer.body.split(|&byte| byte == b'\n').next() == Some(name.as_bytes()));
                if answer.head.status() == Some(status) && named {
                    return Ok(vec![]);
                }
                format!("{} with {}", visible(&answer.head.first), report::brief(&answer.body))
            }
            Err(error) => error.clone(),
        };
        if deadline.passed() {
            let from = from.map_or_else(String::new, |name| format!(" from {name}"));
            let expected = format!("status {status}{from} within {:?}", started.elapsed());
            return Err(Stuck::new(expected, format!("at last {came}")));
        }
        // Each try is a request of its own; this only keeps the loop from spinning.
        thread::sleep(Duration::from_millis(10));
    }
}
