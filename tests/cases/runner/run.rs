//! Plays a case: its steps in order.

use std::time::Duration;

use super::model::{Case, Check, Expects, Output, Step, What};
use super::stage::{Against, Stage};
use super::text::find;
use super::verify::{Problem, View, exact_head};
use super::{exchange, observe, report};
use crate::support::{Deadline, visible};

/// Plays a case; the error is a whole report.
pub(crate) fn play(case: &Case, against: Against) -> Result<(), String> {
    let mut stage = Stage::set(case).map_err(|error| format!("{}: {error}", case.file))?;
    perform(&mut stage, against).map_err(|problems| report::render(&stage, &problems))
}

fn perform(stage: &mut Stage<'_>, against: Against) -> Result<(), Vec<Problem>> {
    let first = stage.case.steps.first();
    let starts = !matches!(first.map(|step| &step.what), Some(What::Exits { .. }));
    let line = first.map_or(1, |step| step.line);
    let expected = if starts { "ravelin to accept connections" } else { "ravelin to start" };
    stage.start_origins().map_err(|error| vec![Problem::new(line, "the origins to start", error)])?;
    match against {
        Against::Ravelin(lane) => stage.start_ravelin(lane, starts).map_err(|error| vec![Problem::new(line, expected, error)])?,
        Against::Origin => {
            let address = stage.origins.first().map(|origin| origin.address().to_owned()).unwrap_or_default();
            stage.variables.insert("listener".into(), address);
        }
    }
    for step in &stage.case.steps {
        let problems = take(stage, step).map_err(|error| vec![error.at(step)])?;
        if !problems.is_empty() {
            return Err(problems);
        }
    }
    epilogue(stage)
}

/// Whatever the case is about: the process is alive at its end, and nothing in it panicked.
fn epilogue(stage: &mut Stage<'_>) -> Result<(), Vec<Problem>> {
    let last = stage.case.steps.last().map_or(1, |step| step.line);
    let may_end = stage.case.steps.iter().any(|step| matches!(step.what, What::Exits { .. } | What::Signal(_)));
    let Some(ravelin) = &mut stage.ravelin else { return Ok(()) };
    if let (Some(status), false) = (ravelin.exited(), may_end) {
        return Err(vec![Problem::new(last, "ravelin still running after the last step", status.to_string())]);
    }
    if let Some(line) = ravelin.log().lines().iter().find(|line| line.contains("panicked at") && !stage.case.panics) {
        return Err(vec![Problem::new(last, "no panic", line.as_str())]);
    }
    Ok(())
}

/// Why a step cannot be taken.
pub(super) struct Stuck {
    expected: String,
    pub(super) came: String,
}

impl Stuck {
    pub(super) fn new(expected: impl Into<String>, came: impl ToString) -> Self {
        Self { expected: expected.into(), came: came.to_string() }
    }

    fn at(self, step: &Step) -> Problem {
        Problem::new(step.line, self.expected, self.came)
    }
}

impl From<String> for Stuck {
    fn from(error: String) -> Self {
        Self::new("the step to be possible", error)
    }
}

pub(super) type Taken = Result<Vec<Problem>, Stuck>;

fn take(stage: &mut Stage<'_>, step: &Step) -> Taken {
    let deadline = stage.deadline;
    let problem = |expected: &str, came: String| Ok(vec![Problem::new(step.line, expected, came)]);
    match &step.what {
        What::Request { via, times, message } => exchange::request(stage, via, *times, message),
        What::Send { via, bytes } => exchange::send(stage, via, bytes),
        What::Response { on, so_far, checks } => exchange::response(stage, step.line, on.as_ref(), *so_far, checks),
        What::Receive { on, bytes } => exchange::receive(stage, step.line, on.as_ref(), bytes),
        What::Close { on, how } => exchange::close(stage, on.as_ref(), *how),
        What::Closed { on } => {
            let rest = exchange::closed(stage.used(on.as_ref())?, deadline)?;
            if rest.is_empty() { Ok(vec![]) } else { problem("the connection closed without a byte more", visible(&rest)) }
        }
        What::Aborted { on } => exchange::aborted(stage, step.line, on.as_ref()),
        What::Received { origin, nth, checks } => {
            let incomplete = checks.iter().any(|check| matches!(check.expects, Expects::Incomplete));
            let request = observe::received(stage, origin, *nth, !incomplete)?;
            Ok(View::request(&request).verify(step.line, checks, true, &mut stage.variables))
        }
        What::ReceivedExactly { origin, nth, head, body } => {
            let request = observe::received(stage, origin, *nth, true)?;
            let mut problems = exact_head(step.line, head, &request.head, &stage.variables)?;
            let body = body.pattern(&stage.variables)?;
            if !body.matches(&request.body) {
                problems.push(Problem::new(step.line, visible(&body.text()), visible(&request.body)));
            }
            Ok(problems)
        }
        What::ReceivedBytes { origin, nth, bytes } => {
            let request = observe::received(stage, origin, *nth, true)?;
            let bytes = bytes.pattern(&stage.variables)?;
            if bytes.matches(&request.raw) { Ok(vec![]) } else { problem(&visible(&bytes.text()), visible(&request.raw)) }
        }
        What::Saw { origin, what, numbers } => observe::saw(stage, step.line, origin, *what, numbers),
        What::Disconnected { origin } => {
            let gone = stage.origin(origin)?.wait_for(deadline, |record| (record.open == 0).then_some(()));
            if gone.is_some() { Ok(vec![]) } else { problem("no open connection", "some are open still".into()) }
        }
        What::Spread(parts) => observe::spread(stage, step.line, parts),
        What::Order(order) => {
            let came = observe::arrivals(stage).join(" ");
            if came == order.join(" ") { Ok(vec![]) } else { problem(&order.join(" "), came) }
        }
        What::Forget => {
            stage.origins.iter().for_each(crate::support::Origin::forget);
            stage.looked_at.clear();
            Ok(vec![])
        }
        What::Stop { origin } => {
            stage.origin(origin)?.stop();
            Ok(vec![])
        }
        What::Start { origin } => match stage.origin(origin)?.resume() {
            Ok(()) => Ok(vec![]),
            Err(error) => problem("the origin to listen", error.to_string()),
        },
        What::Release(event) => {
            stage.events.release(event);
            Ok(vec![])
        }
        What::Signal(signal) => match stage.ravelin.as_ref().map(|ravelin| ravelin.signal(*signal)) {
            Some(Err(error)) => problem("the process to take the signal", error.to_string()),
            _ => Ok(vec![]),
        },
        What::Exits { code, checks } => exits(stage, step.line, *code, checks),
        What::Log(check) => output(stage, check, true),
        What::Read(file, check) => read(stage, file, check),
        What::WaitUntil { status, from, via, message } => exchange::wait_until(stage, *status, from.as_deref(), via, message),
        What::Write { file, text } => {
            stage.write(file, text)?;
            Ok(vec![])
        }
    }
}

fn exits(stage: &mut Stage<'_>, line: usize, code: Option<i32>, checks: &[Check]) -> Taken {
    let deadline = stage.deadline;
    let Some(ravelin) = &mut stage.ravelin else { return Err(Stuck::new("a process", "there is none")) };
    let Some(status) = ravelin.wait_for_exit(deadline) else {
        return Err(Stuck::new("ravelin to end", "it is running still"));
    };
    let mut problems = Vec::new();
    if code.is_some_and(|code| status.code() != Some(code)) {
        let expected = code.map_or_else(String::new, |code| format!("exit status {code}"));
        problems.push(Problem::new(line, expected, status.to_string()));
    }
    for check in checks {
        problems.extend(output(stage, check, false)?);
    }
    Ok(problems)
}

/// Checks a file, until what is to be there is.
fn read(stage: &mut Stage<'_>, file: &str, check: &Check) -> Taken {
    let path = stage.directory.path().join(file);
    loop {
        let text = std::fs::read(&path).unwrap_or_default();
        let lines = || text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let met = match &check.expects {
            Expects::OutputContains(_, expected) => find(&text, &expected.bytes(&stage.variables)?).is_some(),
            Expects::OutputLacks(_, unwanted) => find(&text, &unwanted.bytes(&stage.variables)?).is_none(),
            Expects::OutputMatches(_, expression) => {
                expression.compile(&stage.variables)?;
                lines().any(|line| expression.matches(line, &mut stage.variables) == Ok(true))
            }
            _ => true,
        };
        if met {
            return Ok(vec![]);
        }
        if stage.deadline.passed() {
            let came = format!("{file} holds {}", String::from_utf8_lossy(&text));
            return Ok(vec![Problem::new(check.line, check.written.as_str(), came)]);
        }
        // Nobody tells of a file that grows.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks what the process wrote; `wait`: what is to be there may come until the deadline.
fn output(stage: &mut Stage<'_>, check: &Check, wait: bool) -> Taken {
    let Some(ravelin) = &stage.ravelin else { return Err(Stuck::new("a process", "there is none")) };
    let log = |output: Output| if output == Output::Log { ravelin.log() } else { ravelin.stdout() };
    let deadline = if wait { stage.deadline } else { Deadline::after(Duration::ZERO) };
    let (met, captured) = match &check.expects {
        Expects::OutputContains(output, text) => {
            let text = text.bytes(&stage.variables)?;
            let found = |lines: &[String]| find(lines.join("\n").as_bytes(), &text).map(|_| ());
            (log(*output).wait_for(deadline, found).is_some(), None)
        }
        Expects::OutputLacks(output, text) => {
            (find(log(*output).text().as_bytes(), &text.bytes(&stage.variables)?).is_none(), None)
        }
        Expects::OutputMatches(output, expression) => {
            expression.compile(&stage.variables)?;
            let found = log(*output).wait_for(deadline, |lines| {
                let mut variables = stage.variables.clone();
                let mut any = |line: &String| expression.matches(line.as_bytes(), &mut variables) == Ok(true);
                lines.iter().any(&mut any).then_some(variables)
            });
            (found.is_some(), found)
        }
        _ => (true, None),
    };
    if let Some(variables) = captured {
        stage.variables = variables;
    }
    let came = "see what it wrote below";
    if met { Ok(vec![]) } else { Ok(vec![Problem::new(check.line, check.written.as_str(), came)]) }
}
