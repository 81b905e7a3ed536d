//! Plays the corpus `tests/hostile/**/*.txt`: messages that two parsers could read differently, sent as bytes to a real Ravelin in
//! front of an origin that keeps the bytes it gets.
//!
//! `cargo test --test meaning framing/` plays the cases below `tests/hostile/framing`. The format is in `tests/hostile/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

#[path = "meaning/case.rs"]
mod case;
#[path = "meaning/differential.rs"]
mod differential;
#[path = "meaning/h2.rs"]
mod h2;
#[path = "meaning/stage.rs"]
mod stage;
#[path = "meaning/streams.rs"]
mod streams;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

/// The ways in which Ravelin carries requests.
pub(crate) const LANES: [&str; 2] = ["general", "express"];

/// So many tricks there are at least.
const CASES: usize = 300;

fn main() -> io::Result<ExitCode> {
    let cases = case::all()?;
    let sound: Arc<[case::Case]> = cases.iter().filter_map(|case| case.as_ref().ok().cloned()).collect();
    let mut trials = vec![Trial::test("the corpus is large", {
        let number = sound.len();
        move || if number >= CASES { Ok(()) } else { Err(format!("{number} cases").into()) }
    })];
    trials.extend(differential::trials(&sound));
    for case in cases {
        match case {
            // No lane carries these, so it is the clients that differ.
            Ok(case) if case.frames.is_some() => trials.extend(streams::CLIENTS.map(|client| {
                let case = case.clone();
                Trial::test(format!("{client}: {}", case.name), move || {
                    streams::play(&case, client).map_err(|why| Failed::from(format!("{why}\n({})", case.source)))
                })
            })),
            // A difference between the lanes is a failure of one of them.
            Ok(case) => trials.extend(LANES.map(|lane| {
                let case = case.clone();
                Trial::test(format!("{lane}: {}", case.name), move || {
                    stage::play(&case, lane).map_err(|why| Failed::from(format!("{why}\n({})", case.source)))
                })
            })),
            Err(mistake) => trials.push(Trial::test(mistake.clone(), move || Err(mistake.into()))),
        }
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    stage::clear();
    streams::clear();
    Ok(conclusion.exit_code())
}
