//! Runs every `tests/cases/**/*.case` against a real Ravelin process, each as a test of its own.
//!
//! The format is described in `tests/cases/README.md`. `cargo test --test cases routing/` runs the cases below
//! `tests/cases/routing`, each in both lanes (`express: routing/…`); the arguments are those of every Rust test. Tests named `runner: …` are about the
//! runner itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

#[path = "cases/runner/mod.rs"]
mod runner;

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use libtest_mimic::{Arguments, Failed, Trial};

use runner::{Against, Case};
use support::{covers, has_ipv6};

fn main() -> io::Result<ExitCode> {
    let mut trials = runner::selftest::trials();
    // A difference between the lanes is a failure of one of them.
    trials.extend(covers::files()?.iter().flat_map(|file| LANES.map(|lane| trial(file, lane))));
    Ok(libtest_mimic::run(&Arguments::from_args(), trials).exit_code())
}

/// The ways in which Ravelin carries requests.
const LANES: [&str; 2] = ["general", "express"];

fn trial(file: &Path, lane: &'static str) -> Trial {
    let name = format!("{lane}: {}", covers::name(file));
    // A case that cannot be read fails as a test, not the whole run.
    match load(file) {
        Ok(Ok(case)) => {
            let ignored = case.needs_ipv6 && !has_ipv6();
            Trial::test(name, move || runner::play(&case, Against::Ravelin(lane)).map_err(Failed::from))
                .with_ignored_flag(ignored)
        }
        Ok(Err(mistake)) => Trial::test(name, move || Err(mistake.into())),
        Err(error) => Trial::test(name, move || Err(error.to_string().into())),
    }
}

fn load(file: &Path) -> io::Result<Result<Case, String>> {
    let shown = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(file);
    Ok(runner::parse(&shown.to_string_lossy(), &fs::read_to_string(file)?))
}
