//! Endpoints die, hang, lie, slow down and come back under constant load: clients must not notice. And when all of them fail, retries must
//! not become a storm.
//!
//! The endpoints are processes of their own (this program, started as `chaos endpoint …`), so that they can be killed and stopped for
//! real. Each scenario runs once for each way in which requests can be carried ([`scenario::LANES`]). In short form, with slack, in
//! `make test`; in full, one after the other, with `RAVELIN_TEST_ALL=1`. The table of a full run is in `docs/RESILIENCE.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout, reason = "a test may fail loudly")]

mod support;

#[path = "chaos/endpoint.rs"]
mod endpoint;
#[path = "chaos/load.rs"]
mod load;
#[path = "chaos/scenario.rs"]
mod scenario;
#[path = "chaos/storm.rs"]
mod storm;
#[path = "chaos/watch.rs"]
mod watch;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, address, name] = words.as_slice()
        && first == "endpoint"
    {
        return endpoint::serve(address, name);
    }
    let mut arguments = Arguments::from_args();
    if support::full() {
        // What is measured must not be disturbed by its neighbours.
        arguments.test_threads = Some(1);
    }
    let mut trials = Vec::new();
    for lane in scenario::LANES {
        for scenario in scenario::ALL {
            trials.push(Trial::test(format!("{lane}::{}", scenario.name), move || scenario::play(scenario, lane)));
        }
        for kind in storm::ALL {
            trials.push(Trial::test(format!("{lane}::storm_of_{}", kind.name), move || storm::play(kind, lane)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    scenario::print_table();
    conclusion.exit_code()
}
