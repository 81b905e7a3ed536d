//! What a Ravelin process uses: as the system sees it (`/proc`), and by its own account (`/metrics`).

use std::fs;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::deadline::Deadline;
use super::http1::{Connection, Outgoing};
use super::process::Ravelin;

/// A process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) resident_kib: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
    /// Spent in user and system mode.
    pub(crate) cpu: Duration,
}

impl Usage {
    pub(crate) fn of(ravelin: &Ravelin) -> Self {
        let process = format!("/proc/{}", ravelin.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("the process lives");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let stat = fs::read_to_string(format!("{process}/stat")).expect("the process lives");
        // The name, in parentheses, may hold anything; the first field after it is the third.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = [14, 15].iter().map(|field| fields[field - 3].parse::<u64>().expect("a number")).sum();
        Self {
            resident_kib: number("VmRSS:"),
            descriptors: fs::read_dir(format!("{process}/fd")).expect("the process is ours").count(),
            threads: number("Threads:"),
            cpu: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()),
        }
    }
}

/// Whether the long forms of tests are to run.
pub(crate) fn full() -> bool {
    std::env::var_os("RAVELIN_TEST_ALL").is_some()
}

/// Whether this process may open as many descriptors; its own limit is raised for that. If not, the test that
/// asks says so and is skipped.
pub(crate) fn may_open(descriptors: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    // An error shows in what is compared below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.is_none_or(|limit| limit >= descriptors)
}

/// Sends a request on a connection of its own; its status.
pub(crate) fn get(address: &str, target: &str) -> u16 {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).expect("it accepts");
    client.request(&Outgoing::get(target, "a"), deadline).expect("it reads");
    client.next_response(deadline).ok().and_then(|response| response.head.status()).unwrap_or(0)
}

/// The text of `/metrics`.
pub(crate) fn metrics(ravelin: &Ravelin) -> String {
    let deadline = Deadline::standard();
    let mut client = Connection::open(&ravelin.admin().expect("an admin address"), deadline).expect("it accepts");
    client.request(&Outgoing::get("/metrics", "a"), deadline).expect("it reads");
    let response = client.next_response(deadline).expect("it answers");
    String::from_utf8_lossy(&response.body).into_owned()
}

/// The value of a sample, named as in `ravelin_connections_open{listener="main"}`; 0 if it isn't there (yet).
pub(crate) fn metric(ravelin: &Ravelin, sample: &str) -> f64 {
    let text = metrics(ravelin);
    let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}

/// Waits until a sample has a value that will do.
pub(crate) fn until_metric(ravelin: &Ravelin, sample: &str, enough: impl Fn(f64) -> bool) -> f64 {
    let deadline = Deadline::standard();
    loop {
        let value = metric(ravelin, sample);
        if enough(value) {
            return value;
        }
        assert!(!deadline.passed(), "{sample} is {value}\n{}", ravelin.log().text());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until nothing is left of what clients have done: no connection, no exchange, no old snapshot.
pub(crate) fn until_nothing_is_left(ravelin: &Ravelin) {
    until_metric(ravelin, "ravelin_connections_open{listener=\"main\"}", |open| open == 0.0);
    until_metric(ravelin, "ravelin_requests_in_flight", |requests| requests == 0.0);
    until_metric(ravelin, "ravelin_config_snapshots", |snapshots| snapshots == 1.0);
}
