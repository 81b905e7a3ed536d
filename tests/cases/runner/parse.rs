//! Case files: text → [`Case`].

use std::collections::BTreeSet;

use super::block::{At, Block, Line, Mistake, blocks, mistake};
use super::model::{Act, AnswerScript, BindKind, Case, Message, OriginScript};
use super::steps;
use super::text::{Known, Style, Text};
use crate::support::{Trigger, covers};

/// Reads a case; `file` is for messages. The error is `file:line: message`.
pub(crate) fn parse(file: &str, text: &str) -> Result<Case, String> {
    read(file, text).map_err(|mistake| format!("{file}:{}: {}", mistake.line, mistake.message))
}

fn read(file: &str, text: &str) -> Result<Case, Mistake> {
    let (title, blocks) = blocks(text)?;
    let known = Known::with(origin_names(&blocks));
    let mut case = Case {
        file: file.to_owned(),
        title,
        covers: Vec::new(),
        needs_ipv6: false,
        panics: false,
        arguments: None,
        config: Text::parse("", Style::Literal, &known).at(1)?,
        config_exactly: false,
        files: Vec::new(),
        environment: Vec::new(),
        origins: Vec::new(),
        steps: Vec::new(),
        placeholders: BTreeSet::new(),
    };
    for block in &blocks {
        if section(&mut case, block, &known)? {
            if let Some(step) = case.steps.last() {
                return mistake(block.line, format!("`{}` belongs before the first step (line {})", block.head, step.line));
            }
        } else {
            case.steps.push(steps::step(block, &known)?);
        }
    }
    if case.steps.is_empty() {
        return mistake(blocks.last().map_or(1, |block| block.line), "the case has no step");
    }
    check_covers(&case, text)?;
    case.placeholders = known.used();
    Ok(case)
}

fn origin_names(blocks: &[Block<'_>]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for block in blocks {
        let mut words = block.head.split(' ');
        // Steps begin with `origin` too, but these are no declarations.
        if words.next() == Some("origin") && !steps::is_origin_step(block.head) {
            names.extend(words.next().map(str::to_owned));
        }
    }
    names
}

/// Reads a section into the case; `false`: the block is none.
fn section(case: &mut Case, block: &Block<'_>, known: &Known) -> Result<bool, Mistake> {
    let line = block.line;
    let words: Vec<&str> = block.head.split(' ').collect();
    match words.as_slice() {
        ["covers:", ..] => {
            block.no_body()?;
            case.covers.extend(covers::keys(block.head).map(str::to_owned));
        }
        ["needs:", "ipv6"] => case.needs_ipv6 = true,
        ["panics:", "expected"] => case.panics = true,
        ["panics:", ..] => return mistake(line, "panics are `expected`, or there is no such line"),
        ["needs:", ..] => return mistake(line, "a case may need `ipv6`"),
        ["args:", arguments @ ..] => {
            block.no_body()?;
            let texts = arguments.iter().map(|text| Text::parse(text, Style::Literal, known).at(line));
            case.arguments = Some(texts.collect::<Result<_, _>>()?);
        }
        ["config", rest @ ..] => {
            case.config_exactly = match rest {
                [] => false,
                ["exactly"] => true,
                _ => return mistake(line, "write `config` or `config exactly`"),
            };
            case.config = literal(&block.body, known)?;
        }
        ["file", name] => case.files.push(((*name).to_owned(), literal(&block.body, known)?)),
        ["env"] => {
            for line in &block.body {
                let Some((name, value)) = line.text.split_once('=') else {
                    return mistake(line.number, "write NAME=value");
                };
                let value = Text::parse(value, Style::Literal, known).at(line.number)?;
                case.environment.push((name.to_owned(), value));
            }
        }
        ["origin", ..] if steps::is_origin_step(block.head) => return Ok(false),
        ["origin", name, options @ ..] => case.origins.push(origin(block, name, options)?),
        ["answer" | "script", ..] => {
            let answer = answer(block, known)?;
            match case.origins.last_mut() {
                Some(origin) => origin.answers.push(answer),
                None => return mistake(line, "an answer belongs below `origin NAME`"),
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The lines of a block, each with its end, placeholders only.
pub(super) fn literal(lines: &[Line<'_>], known: &Known) -> Result<Text, Mistake> {
    let mut text = Text::parse("", Style::Literal, known).at(0)?;
    for line in lines {
        text = text.then(Text::parse(line.text, Style::Literal, known).at(line.number)?);
        text = text.then(Text::parse("\n", Style::Literal, known).at(line.number)?);
    }
    Ok(text)
}

/// The lines of a block put together with `between` in between.
pub(super) fn joined(lines: &[Line<'_>], between: &str, style: Style, known: &Known) -> Result<Text, Mistake> {
    let mut text = Text::parse("", Style::Literal, known).at(0)?;
    for (index, line) in lines.iter().enumerate() {
        if index > 0 {
            text = text.then(Text::parse(between, Style::Literal, known).at(line.number)?);
        }
        text = text.then(Text::parse(line.text, style, known).at(line.number)?);
    }
    Ok(text)
}

fn origin(block: &Block<'_>, name: &str, options: &[&str]) -> Result<OriginScript, Mistake> {
    block.no_body()?;
    let mut origin =
        OriginScript { name: name.to_owned(), bind: BindKind::V4, per_connection: false, stopped: false, answers: Vec::new() };
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "unix" => origin.bind = BindKind::Unix,
            "ipv6" => origin.bind = BindKind::V6,
            "stopped" => origin.stopped = true,
            "per" if options.next() == Some(&"connection") => origin.per_connection = true,
            other => {
                let known = "`unix`, `ipv6`, `stopped` and `per connection`";
                return mistake(block.line, format!("`{other}` is no option of an origin; there are {known}"));
            }
        }
    }
    Ok(origin)
}

const ANSWER: &str = "write `answer` or `script`, then if needed `for /path`, `on connect`, `on head`, \
                      and for an answer `then close`, `then reset`, `then stall`";

fn answer(block: &Block<'_>, known: &Known) -> Result<AnswerScript, Mistake> {
    let mut words = block.head.split(' ');
    let scripted = words.next() == Some("script");
    let mut answer = AnswerScript { trigger: Trigger::Request, target: None, actions: Vec::new() };
    let mut ending = None;
    while let Some(word) = words.next() {
        match (word, words.next()) {
            ("for", Some(target)) => answer.target = Some(Text::parse(target, Style::Literal, known).at(block.line)?),
            ("on", Some("connect")) => answer.trigger = Trigger::Connect,
            ("on", Some("head")) => answer.trigger = Trigger::Head,
            ("then", Some("close")) if !scripted => ending = Some(Act::Close),
            ("then", Some("reset")) if !scripted => ending = Some(Act::Reset),
            ("then", Some("stall")) if !scripted => ending = Some(Act::Stall),
            _ => return mistake(block.line, ANSWER),
        }
    }
    if scripted {
        for line in &block.body {
            answer.actions.push(act(*line, known)?);
        }
    } else {
        answer.actions.push(Act::Message(message(block, "200 OK", known)?));
    }
    answer.actions.extend(ending);
    Ok(answer)
}

fn act(line: Line<'_>, known: &Known) -> Result<Act, Mistake> {
    let (word, rest) = line.text.split_once(' ').unwrap_or((line.text, ""));
    Ok(match (word, rest) {
        ("send", bytes) => Act::Send(Text::parse(bytes, Style::Escaped, known).at(line.number)?),
        ("wait", event) if !event.is_empty() => Act::Wait(event.to_owned()),
        ("sleep", time) => Act::Sleep(duration(time).at(line.number)?),
        ("close", "") => Act::Close,
        ("reset", "") => Act::Reset,
        ("stall", "") => Act::Stall,
        ("echo", "") => Act::Echo,
        _ => {
            let known = "`send BYTES`, `wait EVENT`, `sleep TIME`, `close`, `reset`, `stall` and `echo`";
            return mistake(line.number, format!("`{}` is nothing that an origin does; there are {known}", line.text));
        }
    })
}

/// A start line, fields, and after an empty line the body.
pub(super) fn message(block: &Block<'_>, default: &str, known: &Known) -> Result<Message, Mistake> {
    let empty = block.body.iter().position(|line| line.text.is_empty()).unwrap_or(block.body.len());
    let (head, rest) = block.body.split_at(empty);
    let first = head.first().copied().unwrap_or(Line { number: block.line, text: default });
    let mut message = Message {
        first: Text::parse(first.text, Style::Escaped, known).at(first.number)?,
        fields: Vec::new(),
        without: Vec::new(),
        body: joined(rest.get(1..).unwrap_or_default(), "\n", Style::Escaped, known)?,
    };
    for line in head.iter().skip(1) {
        if let Some(name) = line.text.strip_prefix('!') {
            message.without.push(name.to_ascii_lowercase());
            continue;
        }
        let Some((name, value)) = line.text.split_once(':') else {
            return mistake(line.number, "write `name: value`, or `!name` to leave out one that would be added");
        };
        let value = Text::parse(value.trim_start(), Style::Escaped, known).at(line.number)?;
        message.fields.push((name.to_owned(), value));
    }
    Ok(message)
}

/// `250ms`, `3s`.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    match (number.parse(), unit) {
        (Ok(number), "ms") => Ok(std::time::Duration::from_millis(number)),
        (Ok(number), "s") => Ok(std::time::Duration::from_secs(number)),
        _ => Err(format!("`{text}` is no time: write 250ms or 3s")),
    }
}

/// What a case says to cover must stand in it.
fn check_covers(case: &Case, text: &str) -> Result<(), Mistake> {
    for (index, line) in text.lines().enumerate() {
        for key in covers::keys(line) {
            let word = key.rsplit('.').next().unwrap_or(key);
            let mentioned = text.lines().filter(|line| !line.starts_with("covers:") && !line.starts_with('#'));
            if !mentioned.into_iter().any(|line| line.contains(word)) {
                return mistake(index + 1, format!("covers `{key}`, but `{word}` does not occur in {}", case.file));
            }
        }
    }
    Ok(())
}
