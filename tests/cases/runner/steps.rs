//! The steps of a case file.

use std::ops::RangeInclusive;

use super::block::{At, Block, Mistake, mistake};
use super::checks;
use super::model::{Closing, Seen, Step, Via, What, Which};
use super::parse::{joined, literal, message};
use super::text::{Known, Style, Text};
use crate::support::Signal;

/// Whether a line that begins with `origin` is a step and no section.
pub(super) fn is_origin_step(head: &str) -> bool {
    const VERBS: [&str; 3] = ["received", "saw", "disconnected"];
    head.split(' ').skip(1).take(2).any(|word| VERBS.contains(&word))
}

pub(super) fn step(block: &Block<'_>, known: &Known) -> Result<Step, Mistake> {
    let words: Vec<&str> = block.head.split(' ').collect();
    let (first, rest) = words.split_first().map_or(("", &[][..]), |(first, rest)| (*first, rest));
    let takes_lines = matches!(first, "request" | "send" | "response" | "receive" | "exits" | "write" | "wait" | "origin");
    if !takes_lines {
        block.no_body()?;
    }
    let what = match first {
        "request" => request(block, rest, known)?,
        "send" => {
            let via = via(block, rest, known)?.0;
            What::Send { via, bytes: joined(&block.body, "", Style::Escaped, known)? }
        }
        "response" => response(block, rest, known)?,
        "receive" => What::Receive { on: on(block, rest)?, bytes: joined(&block.body, "", Style::Pattern, known)? },
        "close" => What::Close { on: on(block, rest)?, how: Closing::Close },
        "half-close" => What::Close { on: on(block, rest)?, how: Closing::HalfClose },
        "reset" => What::Close { on: on(block, rest)?, how: Closing::Reset },
        "closed" => What::Closed { on: on(block, rest)? },
        "aborted" => What::Aborted { on: on(block, rest)? },
        "origin" => origin(block, rest, known)?,
        "spread" => spread(block, rest, known)?,
        "order" => {
            let origins = rest.iter().map(|name| named_origin(block, name, known));
            What::Order(origins.collect::<Result<_, _>>()?)
        }
        "forget" => What::Forget,
        "stop" | "start" => match rest {
            ["origin", name] => {
                let origin = named_origin(block, name, known)?;
                if first == "stop" { What::Stop { origin } } else { What::Start { origin } }
            }
            _ => return mistake(block.line, format!("write `{first} origin NAME`")),
        },
        "release" => match rest {
            [event] => What::Release((*event).to_owned()),
            _ => return mistake(block.line, "write `release EVENT`"),
        },
        "signal" => signal(block, rest)?,
        "exits" => exits(block, rest, known)?,
        "log" => {
            let written = block.head.strip_prefix("log ").unwrap_or_default();
            What::Log(checks::output(block.line, block.head, written, super::model::Output::Log, known)?)
        }
        "stdout" => {
            let written = block.head.strip_prefix("stdout ").unwrap_or_default();
            What::Log(checks::output(block.line, block.head, written, super::model::Output::Stdout, known)?)
        }
        "read" => {
            let (file, written) = block.head.strip_prefix("read ").and_then(|rest| rest.split_once(' ')).unwrap_or_default();
            What::Read(file.to_owned(), checks::output(block.line, block.head, written, super::model::Output::Stdout, known)?)
        }
        "wait" => wait(block, rest, known)?,
        "write" => match rest {
            [file] => What::Write { file: (*file).to_owned(), text: literal(&block.body, known)? },
            _ => return mistake(block.line, "write `write FILE`"),
        },
        _ => {
            return mistake(
                block.line,
                format!(
                    "`{}` is no section (covers: needs: args: config file env origin answer script) and no step (request \
                     send response receive close half-close reset closed aborted origin spread order forget stop start release \
                     signal exits log stdout wait read write)",
                    block.head
                ),
            );
        }
    };
    Ok(Step { line: block.line, what })
}

/// `[again | on NAME] [to LISTENER] [over h2] [N times]`.
fn via(block: &Block<'_>, words: &[&str], known: &Known) -> Result<(Via, Option<usize>), Mistake> {
    let (mut via, mut times) = (Via::default(), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "again" => via.connection = Which::Again,
            "on" => match words.next() {
                Some(name) => via.connection = Which::Named((*name).to_owned()),
                None => return mistake(block.line, "write `on NAME`"),
            },
            "to" => match words.next() {
                Some(to) => via.to = Some(Text::parse(to, Style::Literal, known).at(block.line)?),
                None => return mistake(block.line, "write `to LISTENER` or `to ADDRESS`"),
            },
            "over" if words.next() == Some(&"h2") => via.h2 = true,
            number => match (number.parse(), words.next()) {
                (Ok(number), Some(&"times")) if number > 0 => times = Some(number),
                _ => {
                    return mistake(
                        block.line,
                        format!("`{number}`? write `[again | on NAME] [to LISTENER] [over h2] [N times]`"),
                    );
                }
            },
        }
    }
    Ok((via, times))
}

fn request(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let (via, times) = via(block, words, known)?;
    Ok(What::Request { via, times, message: message(block, "GET / HTTP/1.1", known)? })
}

/// `[on NAME]`.
fn on(block: &Block<'_>, words: &[&str]) -> Result<Option<String>, Mistake> {
    match words {
        [] => Ok(None),
        ["on", name] => Ok(Some((*name).to_owned())),
        _ => mistake(block.line, "only `on NAME` can follow here"),
    }
}

fn response(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let (so_far, words) = match words {
        ["so", "far", rest @ ..] => (true, rest),
        _ => (false, words),
    };
    let checks = checks::message(&block.body, checks::Side::Response, known)?;
    if checks.is_empty() {
        return mistake(block.line, "a response has at least a status: write it below, indented");
    }
    Ok(What::Response { on: on(block, words)?, so_far, checks })
}

fn named_origin(block: &Block<'_>, name: &str, known: &Known) -> Result<String, Mistake> {
    if known.origins.contains(name) {
        return Ok(name.to_owned());
    }
    mistake(block.line, format!("there is no `origin {name}`"))
}

/// `origin [NAME] received [N] [exactly | bytes]`, `origin [NAME] saw N requests`, `origin [NAME] disconnected`.
fn origin(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let (origin, words) = match words {
        ["received" | "saw" | "disconnected", ..] if known.origins.len() == 1 => {
            (known.origins.first().cloned().unwrap_or_default(), words)
        }
        ["received" | "saw" | "disconnected", ..] => {
            return mistake(block.line, "which origin? write `origin NAME …`");
        }
        [name, words @ ..] => (named_origin(block, name, known)?, words),
        [] => return mistake(block.line, "write `origin NAME`"),
    };
    match words {
        ["received", rest @ ..] => received(block, origin, rest, known),
        ["saw", number, unit] => {
            block.no_body()?;
            let what = match *unit {
                "request" | "requests" => Seen::Requests,
                "connection" | "connections" => Seen::Connections,
                _ => return mistake(block.line, "write `saw N requests` or `saw N connections`"),
            };
            match range(number) {
                Some(numbers) => Ok(What::Saw { origin, what, numbers }),
                None => mistake(block.line, format!("`{number}` is no number and no range such as 2..5")),
            }
        }
        ["disconnected"] => {
            block.no_body()?;
            Ok(What::Disconnected { origin })
        }
        _ => mistake(block.line, "write `received …`, `saw N requests`, `saw N connections` or `disconnected`"),
    }
}

fn received(block: &Block<'_>, origin: String, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let (nth, words) = match words {
        [number, rest @ ..] if number.parse::<usize>().is_ok_and(|number| number > 0) => (number.parse().ok(), rest),
        _ => (None, words),
    };
    match words {
        [] => {
            let checks = checks::message(&block.body, checks::Side::Request, known)?;
            Ok(What::Received { origin, nth, checks })
        }
        ["bytes"] => {
            let bytes = joined(&block.body, "", Style::Pattern, known)?;
            Ok(What::ReceivedBytes { origin, nth, bytes })
        }
        ["exactly"] => {
            let empty = block.body.iter().position(|line| line.text.is_empty()).unwrap_or(block.body.len());
            let (head, rest) = block.body.split_at(empty);
            let head = head.iter().map(|line| Ok((line.number, Text::parse(line.text, Style::Pattern, known).at(line.number)?)));
            let body = joined(rest.get(1..).unwrap_or_default(), "\n", Style::Pattern, known)?;
            Ok(What::ReceivedExactly { origin, nth, head: head.collect::<Result<_, Mistake>>()?, body })
        }
        _ => mistake(block.line, "write `received [N]`, `received [N] exactly` or `received [N] bytes`"),
    }
}

/// `spread a=3 b=10..20`.
fn spread(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let mut parts = Vec::new();
    for word in words {
        match word.split_once('=').and_then(|(name, count)| Some((name, range(count)?))) {
            Some((name, counts)) => parts.push((named_origin(block, name, known)?, counts)),
            None => return mistake(block.line, format!("`{word}`? write `spread a=3 b=10..20`")),
        }
    }
    if parts.is_empty() {
        return mistake(block.line, "write `spread a=3 b=10..20`");
    }
    Ok(What::Spread(parts))
}

/// `3` or `2..5`, both ends included.
fn range(text: &str) -> Option<RangeInclusive<usize>> {
    let (low, high) = text.split_once("..").unwrap_or((text, text));
    Some(low.parse().ok()?..=high.parse().ok()?)
}

fn signal(block: &Block<'_>, words: &[&str]) -> Result<What, Mistake> {
    let signal = match words {
        ["TERM"] => Signal::TERM,
        ["INT"] => Signal::INT,
        ["QUIT"] => Signal::QUIT,
        ["HUP"] => Signal::HUP,
        ["USR1"] => Signal::USR1,
        ["USR2"] => Signal::USR2,
        _ => return mistake(block.line, "write `signal TERM`, INT, QUIT, HUP, USR1 or USR2"),
    };
    Ok(What::Signal(signal))
}

fn exits(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let code = match words {
        [] => None,
        [code] if code.parse::<i32>().is_ok() => code.parse().ok(),
        _ => return mistake(block.line, "write `exits` or `exits CODE`"),
    };
    let mut checks = Vec::new();
    for line in block.body.iter().filter(|line| !line.text.is_empty() && !line.text.starts_with('#')) {
        checks.push(checks::exit_output(*line, known)?);
    }
    Ok(What::Exits { code, checks })
}

/// `wait until STATUS [from ORIGIN] [to LISTENER] [over h2]`.
fn wait(block: &Block<'_>, words: &[&str], known: &Known) -> Result<What, Mistake> {
    let ["until", status, rest @ ..] = words else {
        return mistake(block.line, "write `wait until STATUS [from ORIGIN]` and the request below");
    };
    let Ok(status) = status.parse() else { return mistake(block.line, format!("`{status}` is no status")) };
    let (from, rest) = match rest {
        ["from", origin, rest @ ..] => (Some(named_origin(block, origin, known)?), rest),
        _ => (None, rest),
    };
    let (via, times) = via(block, rest, known)?;
    if times.is_some() || !matches!(via.connection, Which::New) {
        return mistake(block.line, "each try has a connection of its own");
    }
    Ok(What::WaitUntil { status, from, via, message: message(block, "GET / HTTP/1.1", known)? })
}
