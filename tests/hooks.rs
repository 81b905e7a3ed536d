//! The hook contract on live traffic: cases against a program that has filters made to show it.
//!
//! The program is this test itself: `hooks run -c FILE` serves, like any program that embeds Ravelin. The cases are in
//! `tests/hooks/`, in the format of `tests/cases/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

#[path = "cases/runner/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the runner's tests of itself run with the cases")]
mod runner;

#[path = "hooks/filters.rs"]
mod filters;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use runner::Against;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return filters::app().run();
    }
    let trials = match trials() {
        Ok(trials) => trials,
        Err(error) => {
            eprintln!("tests/hooks: {error}");
            return ExitCode::FAILURE;
        }
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trials() -> std::io::Result<Vec<Trial>> {
    support::use_program(std::env::current_exe()?);
    let mut trials = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hooks"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "case") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path)?;
        // A difference between the lanes is a failure of one of them.
        trials.extend(["general", "express"].map(|lane| {
            let (name, text) = (name.clone(), text.clone());
            Trial::test(format!("{lane}: {name}"), move || {
                let case = runner::parse(&format!("tests/hooks/{name}.case"), &text)?;
                runner::play(&case, Against::Ravelin(lane)).map_err(Failed::from)
            })
        }));
    }
    Ok(trials)
}
