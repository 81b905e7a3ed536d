//! The lines that expect something.

use super::block::{At, Line, Mistake, mistake};
use super::model::{Check, Expects, Output};
use super::parse::{duration, joined};
use super::text::{Expression, Known, Style, Text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// A start line, lines about fields and the rest, and after an empty line the exact body.
pub(super) fn message(lines: &[Line<'_>], side: Side, known: &Known) -> Result<Vec<Check>, Mistake> {
    let empty = lines.iter().position(|line| line.text.is_empty()).unwrap_or(lines.len());
    let (head, rest) = lines.split_at(empty);
    let mut checks: Vec<Check> = Vec::new();
    let mut first = true;
    for line in head.iter().filter(|line| !line.text.starts_with('#')) {
        let expects = match first.then(|| start(*line, side, known)).transpose()?.flatten() {
            Some(expects) => expects,
            None => expectation(*line, side, known)?,
        };
        first = false;
        add(&mut checks, Check { line: line.number, written: line.text.to_owned(), expects });
    }
    if let Some((_, body)) = rest.split_first() {
        let line = body.first().map_or(0, |line| line.number);
        let expects = Expects::Body(joined(body, "\n", Style::Pattern, known)?);
        checks.push(Check { line, written: "the body".into(), expects });
    }
    Ok(checks)
}

/// Lines about the same field are one expectation: all its values in order.
fn add(checks: &mut Vec<Check>, check: Check) {
    if let Expects::Fields { name, values } = &check.expects {
        for earlier in checks.iter_mut() {
            if let Expects::Fields { name: same, values: more } = &mut earlier.expects
                && same.eq_ignore_ascii_case(name)
            {
                more.extend(values.iter().cloned());
                return;
            }
        }
    }
    checks.push(check);
}

/// The first line, if it is a start line.
fn start(line: Line<'_>, side: Side, known: &Known) -> Result<Option<Expects>, Mistake> {
    let text = line.text;
    if let Some(expression) = text.strip_prefix("~ ") {
        return Ok(Some(Expects::FirstMatches(Expression::parse(expression, known).at(line.number)?)));
    }
    if side == Side::Response && text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text.parse().ok().map(Expects::Status));
    }
    let is_start = match side {
        Side::Response => text.starts_with("HTTP/"),
        Side::Request => text.contains(" HTTP/") || text.ends_with(" *"),
    };
    if is_start {
        return Ok(Some(Expects::First(Text::parse(text, Style::Pattern, known).at(line.number)?)));
    }
    if side == Side::Response {
        return mistake(line.number, "begin with the status: `200`, `HTTP/1.1 200 OK` or `~ REGEX`");
    }
    Ok(None)
}

fn expectation(line: Line<'_>, side: Side, known: &Known) -> Result<Expects, Mistake> {
    let number = line.number;
    let pattern = |text: &str| Text::parse(text, Style::Pattern, known).at(number);
    let (word, rest) = line.text.split_once(' ').unwrap_or((line.text, ""));
    if let Some(name) = line.text.strip_prefix('!') {
        return Ok(Expects::Absent { name: name.to_owned() });
    }
    if let Some(name) = word.strip_suffix(':') {
        if ["body", "json", "status"].contains(&name) {
            return mistake(number, format!("write `{name} …` without the colon (or `~` for a regular expression)"));
        }
        return Ok(Expects::Fields { name: name.to_owned(), values: vec![pattern(rest)?] });
    }
    match (word, rest) {
        ("body", rest) => return body(rest, number, known),
        ("json", rest) => {
            return match rest.split_once(" = ") {
                Some((pointer, value)) => Ok(Expects::Json { pointer: pointer.to_owned(), value: pattern(value)? }),
                None => mistake(number, "write `json /pointer/to/it = value`"),
            };
        }
        ("trailer", rest) => {
            return match rest.split_once(": ") {
                Some((name, value)) => Ok(Expects::Trailer { name: name.to_owned(), value: pattern(value)? }),
                None => mistake(number, "write `trailer name: value`"),
            };
        }
        ("incomplete", "") => return Ok(Expects::Incomplete),
        ("closed", "") if side == Side::Response => return Ok(Expects::Closed),
        ("kept", "") if side == Side::Response => return Ok(Expects::Kept),
        ("within", time) if side == Side::Response => return Ok(Expects::Within(duration(time).at(number)?)),
        ("after", time) if side == Side::Response => return Ok(Expects::After(duration(time).at(number)?)),
        ("connection", nth) if side == Side::Request && !nth.starts_with('~') => {
            return match nth.parse() {
                Ok(nth) => Ok(Expects::OnConnection(nth)),
                Err(_) => mistake(number, "write `connection N`"),
            };
        }
        _ => {}
    }
    if let Some(expression) = rest.strip_prefix("~ ") {
        let expression = Expression::parse(expression, known).at(number)?;
        return Ok(Expects::FieldMatches { name: word.to_owned(), expression });
    }
    let others = match side {
        Side::Response => "`closed`, `kept`, `incomplete`, `within TIME`, `after TIME`",
        Side::Request => "`connection N`, `incomplete`",
    };
    mistake(
        number,
        format!(
            "`{}` expects nothing; there are `name: value`, `name ~ REGEX`, `!name`, `body = TEXT`, `body ~ REGEX`, \
             `body contains TEXT`, `body lacks TEXT`, `json /pointer = value`, `trailer name: value`, {others}",
            line.text
        ),
    )
}

fn body(rest: &str, number: usize, known: &Known) -> Result<Expects, Mistake> {
    let text = |text: &str, style| Text::parse(text, style, known).at(number);
    if rest == "=" {
        return Ok(Expects::Body(text("", Style::Escaped)?));
    }
    match rest.split_once(' ') {
        Some(("=", value)) => Ok(Expects::Body(text(value, Style::Pattern)?)),
        Some(("~", expression)) => Ok(Expects::BodyMatches(Expression::parse(expression, known).at(number)?)),
        Some(("contains", value)) => Ok(Expects::BodyContains(text(value, Style::Escaped)?)),
        Some(("lacks", value)) => Ok(Expects::BodyLacks(text(value, Style::Escaped)?)),
        _ => mistake(number, "write `body = TEXT`, `body ~ REGEX`, `body contains TEXT` or `body lacks TEXT`"),
    }
}

/// `contains TEXT`, `lacks TEXT` or `~ REGEX`.
pub(super) fn output(line: usize, written: &str, text: &str, output: Output, known: &Known) -> Result<Check, Mistake> {
    let expects = match text.split_once(' ') {
        Some(("contains", text)) => Expects::OutputContains(output, Text::parse(text, Style::Literal, known).at(line)?),
        Some(("lacks", text)) => Expects::OutputLacks(output, Text::parse(text, Style::Literal, known).at(line)?),
        Some(("~", expression)) => Expects::OutputMatches(output, Expression::parse(expression, known).at(line)?),
        _ => return mistake(line, "write `contains TEXT`, `lacks TEXT` or `~ REGEX`"),
    };
    Ok(Check { line, written: written.to_owned(), expects })
}

/// A line below `exits`.
pub(super) fn exit_output(line: Line<'_>, known: &Known) -> Result<Check, Mistake> {
    match line.text.split_once(' ') {
        Some(("stderr", rest)) => output(line.number, line.text, rest, Output::Log, known),
        Some(("stdout", rest)) => output(line.number, line.text, rest, Output::Stdout, known),
        _ => mistake(line.number, "write `stderr contains TEXT`, `stderr lacks TEXT`, `stderr ~ REGEX`, or stdout"),
    }
}
