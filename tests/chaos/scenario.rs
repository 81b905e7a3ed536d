//! What happens to endpoints, and what clients may notice of it.

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::endpoint::{Endpoint, USUAL};
use crate::load::{Load, Sample, per_mille};
use crate::support::{Deadline, Ravelin, Signal, full, metric};
use crate::watch::Watch;

/// The ways in which requests are carried.
pub(crate) const LANES: [&str; 2] = ["general", "express"];

/// Something that happens to endpoints.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// In the table.
    said: &'static str,
    begin: fn(&Stage),
    /// While it lasts; comes back when it should end.
    last: fn(&Stage, Instant),
    end: fn(&Stage),
    /// Whether the endpoint must be left out meanwhile.
    left_out: bool,
    /// Whether requests that can't be repeated may be lost: those that were under way at an endpoint that broke off.
    loses_posts: bool,
}

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "killed",
        said: "kill -9",
        begin: |stage| stage.victim().kill(),
        last: wait,
        end: |stage| stage.victim().restart(),
        left_out: true,
        loses_posts: true,
    },
    Scenario {
        name: "hangs",
        said: "SIGSTOP: connections open, nothing answers",
        begin: |stage| stage.victim().signal(Signal::STOP),
        last: wait,
        end: |stage| stage.victim().signal(Signal::CONT),
        left_out: false,
        loses_posts: true,
    },
    Scenario {
        name: "lies",
        said: "503 for 20 % of its requests",
        begin: |stage| _ = stage.victim().tell("share 20"),
        last: wait,
        end: |stage| _ = stage.victim().tell("share 0"),
        left_out: false,
        loses_posts: true,
    },
    Scenario {
        name: "slows_down",
        said: "5 ms become 2 s",
        begin: |stage| _ = stage.victim().tell("delay 2000"),
        last: wait,
        end: |stage| _ = stage.victim().tell(&format!("delay {}", USUAL.as_millis())),
        left_out: false,
        loses_posts: true,
    },
    Scenario {
        name: "resets",
        said: "accepts and resets",
        begin: |stage| _ = stage.victim().tell("resets 1"),
        last: wait,
        end: |stage| _ = stage.victim().tell("resets 0"),
        left_out: false,
        loses_posts: true,
    },
    Scenario {
        name: "flaps",
        said: "down for a second, up for a second, …",
        begin: |_| {},
        last: flap,
        end: |_| {},
        left_out: false,
        loses_posts: true,
    },
    Scenario {
        name: "rolling",
        said: "each killed and started, one by one",
        begin: |_| {},
        last: roll,
        end: |_| {},
        left_out: false,
        loses_posts: true,
    },
];

/// Times of a run.
#[derive(Debug, Clone, Copy)]
struct Times {
    before: Duration,
    during: Duration,
    after: Duration,
    /// An endpoint that is given nothing for so long is left out.
    quiet: Duration,
    rate: u64,
}

impl Times {
    fn of_this_run() -> Self {
        let millis = Duration::from_millis;
        if full() {
            Self { before: millis(5000), during: millis(15_000), after: millis(5000), quiet: millis(500), rate: 200 }
        } else {
            Self { before: millis(600), during: millis(2000), after: millis(500), quiet: millis(400), rate: 100 }
        }
    }
}

/// Three endpoints, and Ravelin in front of them.
struct Stage {
    endpoints: Vec<Endpoint>,
    ravelin: Arc<Ravelin>,
}

impl Stage {
    fn build(lane: &str) -> Self {
        let endpoints: Vec<Endpoint> = ["one", "two", "three"].map(Endpoint::start).into();
        let mut addresses = String::new();
        for endpoint in &endpoints {
            write!(addresses, "\"{}\", ", endpoint.address()).unwrap();
        }
        let config = format!(
            "listeners: {{main: {{address: 127.0.0.1:0, limits: {{connections_per_client: 20000}}}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
             upstreams:\n  app:\n    endpoints: [{addresses}]\n{UPSTREAM}\
             routes: {{all: {{upstream: app, timeout: 10s}}}}\n"
        );
        Self { endpoints, ravelin: Arc::new(Ravelin::start_in(lane, &config)) }
    }

    fn victim(&self) -> &Endpoint {
        &self.endpoints[1]
    }

    fn given(&self, endpoint: &Endpoint) -> f64 {
        let sample = format!("ravelin_endpoint_selections_total{{upstream=\"app\",endpoint=\"{}\"}}", endpoint.address());
        metric(&self.ravelin, &sample)
    }

    /// Waits until the endpoint is given requests again.
    fn until_given(&self, endpoint: &Endpoint) {
        let (before, deadline) = (self.given(endpoint), Deadline::standard());
        while self.given(endpoint) <= before {
            assert!(!deadline.passed(), "{} is given nothing\n{}", endpoint.address(), self.ravelin.log().text());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What an upstream says that should survive all of this. Probes of a connection alone do not find who accepts and is of no use, so a third of
/// the requests may want a retry for as long as that lasts: the budget is above that.
const UPSTREAM: &str = "    health_check: {tcp: {interval: 500ms, timeout: 1s, unhealthy_after: 2, healthy_after: 1}}\n    \
    retry: {retries: 2, conditions: [connect_error, reset, timeout, \"503\"], try_timeout: 500ms, budget: {ratio: 50%, min: 10/s}}\n";

fn wait(_: &Stage, until: Instant) {
    thread::sleep(until.saturating_duration_since(Instant::now()));
}

fn flap(stage: &Stage, until: Instant) {
    let step = if full() { Duration::from_secs(1) } else { Duration::from_millis(300) };
    while Instant::now() < until {
        for command in ["down", "up"] {
            stage.victim().tell(command);
            thread::sleep(step);
        }
    }
}

fn roll(stage: &Stage, _: Instant) {
    for endpoint in &stage.endpoints {
        endpoint.kill();
        thread::sleep(if full() { Duration::from_secs(2) } else { Duration::from_millis(300) });
        endpoint.restart();
        stage.until_given(endpoint);
    }
}

/// One line of the table.
struct Row {
    lane: &'static str,
    said: &'static str,
    requests: usize,
    lost: [usize; 2],
    p99: [Option<Duration>; 3],
    out: Option<Duration>,
    back: Option<Duration>,
}

static TABLE: Mutex<Vec<Row>> = Mutex::new(Vec::new());

/// Plays a scenario, and judges what clients noticed.
pub(crate) fn play(scenario: &'static Scenario, lane: &'static str) -> Result<(), Failed> {
    let times = Times::of_this_run();
    let stage = Stage::build(lane);
    let watch = Watch::start(&stage.ravelin);
    let load = Load::start(stage.ravelin.address(), times.rate, true);
    thread::sleep(times.before);
    let begun = Instant::now();
    (scenario.begin)(&stage);
    (scenario.last)(&stage, begun + times.during);
    let ended = Instant::now();
    (scenario.end)(&stage);
    stage.until_given(stage.victim());
    thread::sleep(times.after);
    let (start, seen) = (load.began, watch.stop());
    let samples = load.stop();

    let phase = |from: Instant, until: Option<Instant>| {
        let (from, until) = (from - start, until.map(|until| until - start));
        samples.iter().filter(move |sample| sample.at >= from && until.is_none_or(|until| sample.at < until))
    };
    let address = stage.victim().address();
    let out = seen.left_out(&address, begun, ended, times.quiet);
    let back = out.and_then(|_| seen.returned(&address, ended));
    let settled = ended + back.unwrap_or_default();
    let lost = |post: bool| samples.iter().filter(|sample| sample.post == post && sample.failed()).count();
    let row = Row {
        lane,
        said: scenario.said,
        requests: samples.len(),
        lost: [lost(false), lost(true)],
        p99: [phase(start, Some(begun)), phase(begun, Some(ended)), phase(settled, None)].map(|samples| per_mille(samples, 990)),
        out,
        back,
    };
    let verdict = judge(scenario, &row, &samples);
    TABLE.lock().unwrap().push(row);
    verdict.map_err(|problem| Failed::from(format!("{problem}\n{}", stage.ravelin.log().text())))
}

fn judge(scenario: &Scenario, row: &Row, samples: &[Sample]) -> Result<(), String> {
    let [gets, posts] = row.lost;
    // The target is none. On a machine that is busy with other things even a sound endpoint may need longer than a try may take.
    let allowed = if full() { row.requests / 1000 } else { 2 + row.requests / 50 };
    if gets > allowed {
        let failed: Vec<&Sample> = samples.iter().filter(|sample| sample.failed() && !sample.post).take(20).collect();
        return Err(format!("{gets} of {} requests that can be repeated were lost: {failed:?}", row.requests));
    }
    if !scenario.loses_posts && posts > allowed {
        return Err(format!("{posts} POSTs were lost"));
    }
    if scenario.left_out && row.out.is_none() {
        return Err("the endpoint was not left out".to_owned());
    }
    if scenario.left_out && row.back.is_none() {
        return Err("the endpoint did not come back".to_owned());
    }
    Ok(())
}

/// As it stands in `docs/RESILIENCE.md`.
pub(crate) fn print_table() {
    let rows = TABLE.lock().unwrap();
    if rows.is_empty() {
        return;
    }
    println!(
        "\n| One of three endpoints … | Lane | Requests | GET lost | POST lost | p99 before | during | after | left out after | back after |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let time = |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), |time| format!("{} ms", time.as_millis()));
    for row in rows.iter() {
        let Row { lane, said, requests, lost: [gets, posts], p99: [before, during, after], out, back } = row;
        let times = [before, during, after, out, back].map(|value| time(*value)).join(" | ");
        println!("| {said} | {lane} | {requests} | {gets} | {posts} | {times} |");
    }
}
