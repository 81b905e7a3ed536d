//! What came against what a case expects.

use std::time::Duration;

use super::model::{Check, Expects};
use super::text::{Text, Variables, find};
use crate::support::{Field, Head, Received, Response, visible};

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) line: usize,
    pub(crate) expected: String,
    pub(crate) came: String,
}

impl Problem {
    pub(crate) fn new(line: usize, expected: impl Into<String>, came: impl Into<String>) -> Self {
        Self { line, expected: expected.into(), came: came.into() }
    }
}

/// A message of either direction.
pub(crate) struct View<'a> {
    head: &'a Head,
    body: &'a [u8],
    trailers: &'a [Field],
    cut: Option<&'a str>,
    connection: usize,
    elapsed: Duration,
}

impl<'a> View<'a> {
    pub(crate) fn response(response: &'a Response, elapsed: Duration) -> Self {
        Self {
            head: &response.head,
            body: &response.body,
            trailers: &response.trailers,
            cut: response.cut.as_deref(),
            connection: 0,
            elapsed,
        }
    }

    pub(crate) fn request(request: &'a Received) -> Self {
        Self {
            head: &request.head,
            body: &request.body,
            trailers: &request.trailers,
            cut: (!request.complete).then_some("its body is not complete"),
            connection: request.connection,
            elapsed: Duration::ZERO,
        }
    }

    /// All expectations that it does not meet. `whole`: unless a check says otherwise, it is to be complete.
    pub(crate) fn verify(&self, step: usize, checks: &[Check], whole: bool, variables: &mut Variables) -> Vec<Problem> {
        let mut problems = Vec::new();
        let may_be_cut = checks.iter().any(|check| matches!(check.expects, Expects::Incomplete));
        if let (Some(why), true, false) = (self.cut, whole, may_be_cut) {
            problems.push(Problem::new(step, "a complete message", format!("one that is cut short: {why}")));
        }
        for check in checks {
            match self.check(&check.expects, variables) {
                Ok(None) => {}
                Ok(Some(came)) => problems.push(Problem::new(check.line, check.written.as_str(), came)),
                Err(error) => problems.push(Problem::new(check.line, check.written.as_str(), error)),
            }
        }
        problems
    }

    /// What came instead, if the expectation is not met.
    fn check(&self, expects: &Expects, variables: &mut Variables) -> Result<Option<String>, String> {
        let unless = |met: bool, came: String| Ok((!met).then_some(came));
        match expects {
            Expects::Status(status) => unless(self.head.status() == Some(*status), self.first()),
            Expects::First(text) => unless(text.pattern(variables)?.matches(&self.head.first), self.first()),
            Expects::FirstMatches(expression) => unless(expression.matches(&self.head.first, variables)?, self.first()),
            Expects::Fields { name, values } => self.fields(name, values, variables),
            Expects::FieldMatches { name, expression } => {
                let [value] = self.head.values(name)[..] else { return Ok(Some(self.named(name))) };
                unless(expression.matches(value, variables)?, self.named(name))
            }
            Expects::Absent { name } => unless(self.head.values(name).is_empty(), self.named(name)),
            Expects::Trailer { name, value } => {
                let pattern = value.pattern(variables)?;
                let named = self.trailers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()));
                let values: Vec<&[u8]> = named.map(|(_, value)| value.as_slice()).collect();
                unless(values.len() == 1 && pattern.matches(values[0]), listed(name, &values))
            }
            Expects::Body(text) => unless(text.pattern(variables)?.matches(self.body), self.body()),
            Expects::BodyMatches(expression) => unless(expression.matches(self.body, variables)?, self.body()),
            Expects::BodyContains(text) => unless(find(self.body, &text.bytes(variables)?).is_some(), self.body()),
            Expects::BodyLacks(text) => unless(find(self.body, &text.bytes(variables)?).is_none(), self.body()),
            Expects::Json { pointer, value } => self.json(pointer, value, variables),
            Expects::Incomplete => unless(self.cut.is_some(), format!("a complete message; {}", self.body())),
            Expects::Within(time) => unless(self.elapsed <= *time, format!("it took {:?}", self.elapsed)),
            Expects::After(time) => unless(self.elapsed >= *time, format!("it took {:?}", self.elapsed)),
            Expects::OnConnection(nth) => unless(self.connection == *nth, format!("on connection {}", self.connection)),
            // Of the connection, not the message: the stage looks at these.
            Expects::Closed | Expects::Kept => Ok(None),
            Expects::OutputContains(..) | Expects::OutputLacks(..) | Expects::OutputMatches(..) => Ok(None),
        }
    }

    fn fields(&self, name: &str, values: &[Text], variables: &Variables) -> Result<Option<String>, String> {
        let came = self.head.values(name);
        let mut met = came.len() == values.len();
        for (value, came) in values.iter().zip(&came) {
            met &= value.pattern(variables)?.matches(came);
        }
        Ok((!met).then(|| self.named(name)))
    }

    fn json(&self, pointer: &str, value: &Text, variables: &Variables) -> Result<Option<String>, String> {
        let pattern = value.pattern(variables)?;
        let document: serde_json::Value = match serde_json::from_slice(self.body) {
            Ok(document) => document,
            Err(error) => return Ok(Some(format!("no JSON ({error}); {}", self.body()))),
        };
        let came = match document.pointer(pointer) {
            None => return Ok(Some(format!("nothing at {pointer}; {}", self.body()))),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        Ok((!pattern.matches(came.as_bytes())).then_some(came))
    }

    fn first(&self) -> String {
        visible(&self.head.first)
    }

    fn named(&self, name: &str) -> String {
        listed(name, &self.head.values(name))
    }

    fn body(&self) -> String {
        if self.body.is_empty() { "an empty body".into() } else { format!("body = {}", super::report::brief(self.body)) }
    }
}

fn listed(name: &str, values: &[&[u8]]) -> String {
    if values.is_empty() {
        return format!("no `{name}`");
    }
    values.iter().map(|value| format!("{name}: {}", visible(value))).collect::<Vec<_>>().join(" | ")
}

/// Lines of a head against all lines of a head, in order.
pub(crate) fn exact_head(
    step: usize,
    wanted: &[(usize, Text)],
    head: &Head,
    variables: &Variables,
) -> Result<Vec<Problem>, String> {
    let text = head.raw.strip_suffix(b"\r\n\r\n").unwrap_or(&head.raw);
    let mut came = text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut problems = Vec::new();
    for (line, text) in wanted {
        let pattern = text.pattern(variables)?;
        match came.next() {
            Some(came) if pattern.matches(came) => {}
            Some(came) => problems.push(Problem::new(*line, visible(&pattern.text()), visible(came))),
            None => problems.push(Problem::new(*line, visible(&pattern.text()), "the end of the head")),
        }
    }
    problems.extend(came.map(|line| Problem::new(step, "the end of the head", visible(line))));
    Ok(problems)
}
