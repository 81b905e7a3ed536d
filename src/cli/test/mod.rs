//! `ravelin test`: what the file's author expects of it, against the configuration as it would serve.

mod expect;
mod junit;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::expect::{Mismatch, mismatches};
use crate::cli::app::{ConfOrFile, config_path, fail, load_offline, note, show};
use crate::cli::explain::{Text, colours};
use crate::config::Test;
use crate::filter::Registry;
use crate::proxy::offline::{Offline, Question, Script};
use crate::server::verdict;
use crate::types::{HeaderName, Status};

/// How many routes whose host or path does not match the trace of a failed test tells of.
const FAR: usize = 5;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    conf: ConfOrFile,
    /// Further files with `tests`, which hold nothing else.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    tests: Vec<PathBuf>,
    /// Write the results to this file, as JUnit's XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// What came of a test.
struct Ran {
    name: String,
    /// `file:line:column`.
    place: String,
    took: Duration,
    /// None: it passed.
    mismatches: Vec<Mismatch>,
    /// Why the request went where it went, if it failed.
    trace: String,
}

pub(super) fn test(args: &Args, registry: &Registry) -> ExitCode {
    let path = config_path(args.conf.named());
    let (compiled, report) = load_offline(&path, &args.tests, registry);
    let Some(mut compiled) = compiled else {
        show(&report, args.conf.named());
        return ExitCode::FAILURE;
    };
    note(&report);
    let tests = std::mem::take(&mut compiled.tests);
    if tests.is_empty() {
        return fail(&format!("{} has no `tests`", path.display()));
    }
    let places: Vec<String> = tests.iter().map(|test| report.locate(test.name.span).unwrap_or_default()).collect();
    let offline = match Offline::new(compiled, report, verdict) {
        Ok(offline) => offline,
        Err(error) => return fail(&error.to_string()),
    };
    let began = Instant::now();
    let ran: Vec<Ran> = tests.iter().zip(places).map(|(test, place)| run(&offline, test, place)).collect();
    let took = began.elapsed();
    // Standard output may be a pipe that nobody reads to its end.
    let _ = std::io::stdout().write_all(told(&ran, took).as_bytes());
    if let Some(file) = &args.junit
        && let Err(error) = std::fs::write(file, junit::xml(&path.display().to_string(), &ran, took))
    {
        return fail(&format!("cannot write `{}`: {error}", file.display()));
    }
    if ran.iter().all(|ran| ran.mismatches.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(offline: &Offline, test: &Test, place: String) -> Ran {
    let began = Instant::now();
    let question = question(test);
    let reply = &test.upstream_reply;
    let script = Script {
        status: reply.status.map_or(200, Status::get),
        headers: fields(&reply.headers),
        body: Bytes::from(reply.body.clone()),
    };
    let mismatches = match offline.carry(&question, &script) {
        Ok(carried) => mismatches(&test.expect, &carried),
        Err(error) => vec![Mismatch::of("request", "one that can be sent", error.to_string())],
    };
    let took = began.elapsed();
    let traced = if mismatches.is_empty() { None } else { offline.explain(&question, FAR).ok() };
    let trace = traced.map(|trace| Text { trace: &trace, colours: false }.to_string()).unwrap_or_default();
    Ran { name: test.name.value.clone(), place, took, mismatches, trace }
}

fn question(test: &Test) -> Question {
    let request = &test.request;
    Question {
        method: request.method.clone().unwrap_or_default(),
        url: request.url.value.clone(),
        headers: fields(&request.headers),
        body: Bytes::from(request.body.clone()),
        client: Some(request.client.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into())),
        listener: request.listener.as_ref().map(|listener| listener.as_str().to_owned()),
    }
}

fn fields(headers: &std::collections::BTreeMap<HeaderName, String>) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect()
}

fn told(ran: &[Ran], took: Duration) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let colours = colours();
    let paint = |code: &str, text: &str| if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    for ran in ran {
        // Writing to a String can't fail.
        let _ = if ran.mismatches.is_empty() {
            writeln!(out, "{} {}", paint("1;32", "ok    "), ran.name)
        } else {
            writeln!(out, "{} {} ({})\n\n{}", paint("1;31", "FAILED"), ran.name, ran.place, ran.diff())
        };
    }
    let failed = ran.iter().filter(|ran| !ran.mismatches.is_empty()).count();
    let _ = writeln!(out, "{} passed, {failed} failed, in {:.1} ms", ran.len() - failed, took.as_secs_f64() * 1000.0);
    out
}

impl Ran {
    /// What was expected and what came, and why it came.
    fn diff(&self) -> String {
        let mut out = String::new();
        for mismatch in &self.mismatches {
            out.push_str(&format!("    {mismatch}\n"));
        }
        out.push('\n');
        for line in self.trace.lines() {
            out.push_str(format!("    {line}").trim_end());
            out.push('\n');
        }
        out
    }
}
