//! What happens to endpoints, and what clients may notice of it.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::endpoint::{Endpoint, USUAL};
use crate::load::{Load, Sample, per_mille};
use crate::support::{Deadline, NameServer, Ravelin, Says, Signal, full, metric};
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
    /// Endpoints are found by a name server.
    found: bool,
    /// A second endpoint is asked beside one that is slow.
    hedged: bool,
}

const HANGS: Scenario = Scenario {
    name: "hangs",
    said: "SIGSTOP: connections open, nothing answers",
    begin: |stage| stage.victim().signal(Signal::STOP),
    last: wait,
    end: |stage| stage.victim().signal(Signal::CONT),
    left_out: true,
    loses_posts: true,
    found: false,
    hedged: false,
};

const SLOWS_DOWN: Scenario = Scenario {
    name: "slows_down",
    said: "5 ms become 2 s",
    begin: |stage| _ = stage.victim().tell("delay 2000"),
    last: wait,
    end: |stage| _ = stage.victim().tell(&format!("delay {}", USUAL.as_millis())),
    left_out: true,
    loses_posts: true,
    found: false,
    hedged: false,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "killed",
        said: "kill -9",
        begin: |stage| stage.victim().kill(),
        last: wait,
        end: |stage| stage.victim().restart(),
        left_out: true,
        loses_posts: true,
        found: false,
        hedged: false,
    },
    HANGS,
    Scenario {
        name: "lies",
        said: "503 for 20 % of its requests",
        begin: |stage| _ = stage.victim().tell("share 20"),
        last: wait,
        end: |stage| _ = stage.victim().tell("share 0"),
        left_out: true,
        loses_posts: true,
        found: false,
        hedged: false,
    },
    SLOWS_DOWN,
    Scenario { name: "hangs_hedged", said: "SIGSTOP, with `hedge`", hedged: true, ..HANGS },
    // Who is asked beside it answers first: nothing is held against the one that is merely slower.
    Scenario { name: "slows_down_hedged", said: "5 ms become 2 s, with `hedge`", hedged: true, left_out: false, ..SLOWS_DOWN },
    Scenario {
        name: "resets",
        said: "accepts and resets",
        begin: |stage| _ = stage.victim().tell("resets 1"),
        last: wait,
        end: |stage| _ = stage.victim().tell("resets 0"),
        left_out: true,
        loses_posts: true,
        found: false,
        hedged: false,
    },
    Scenario {
        name: "flaps",
        said: "down for a second, up for a second, …",
        begin: |_| {},
        last: flap,
        end: |_| {},
        left_out: true,
        loses_posts: true,
        found: false,
        hedged: false,
    },
    Scenario {
        name: "empty_dns",
        said: "none: the name server's answer is empty",
        begin: |stage| stage.names().say(SERVICE, Says::Nothing),
        last: unnamed,
        end: |stage| stage.names().say(SERVICE, stage.services()),
        left_out: false,
        loses_posts: false,
        found: true,
        hedged: false,
    },
    Scenario {
        name: "rolling",
        said: "each killed and started, one by one",
        begin: |_| {},
        last: roll,
        end: |_| {},
        left_out: false,
        loses_posts: true,
        found: false,
        hedged: false,
    },
];

/// Times of a run.
#[derive(Debug, Clone, Copy)]
struct Times {
    before: Duration,
    during: Duration,
    after: Duration,
    rate: u64,
}

impl Times {
    fn of_this_run() -> Self {
        let millis = Duration::from_millis;
        if full() {
            Self { before: millis(5000), during: millis(15_000), after: millis(5000), rate: 200 }
        } else {
            Self { before: millis(600), during: millis(1500), after: millis(500), rate: 100 }
        }
    }
}

/// Three endpoints, and Ravelin in front of them.
struct Stage {
    endpoints: Vec<Endpoint>,
    names: Option<NameServer>,
    ravelin: Arc<Ravelin>,
}

/// What a name server says of the endpoints, where it is asked.
const SERVICE: &str = "_http._tcp.app.test";
const HOST: &str = "host.test";

impl Stage {
    fn build(lane: &str, Scenario { found, hedged, .. }: &Scenario) -> Self {
        let endpoints: Vec<Endpoint> = ["one", "two", "three"].map(Endpoint::start).into();
        let names = found.then(NameServer::start);
        let hedge = if *hedged { ", hedge: {after: 50ms}, budget: {ratio: 40%}" } else { "" };
        let source = match &names {
            Some(names) => {
                names.say(SERVICE, services(&endpoints));
                names.say(HOST, Says::Addresses(vec![[127, 0, 0, 1].into()], 0));
                format!("discover: {{dns_srv: {{name: {SERVICE}, refresh: 100ms, resolver: '{}'}}}}", names.address)
            }
            None => {
                let addresses: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{}\"", endpoint.address())).collect();
                format!("endpoints: [{}]", addresses.join(", "))
            }
        };
        let config = format!(
            "listeners: {{main: {{address: 127.0.0.1:0, limits: {{connections_per_client: 20000}}}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
             upstreams:\n  app:\n    {source}\n{UPSTREAM}{hedge}}}\n\
             routes: {{all: {{upstream: app, timeout: 10s}}}}\n"
        );
        Self { endpoints, names, ravelin: Arc::new(Ravelin::start_in(lane, &config)) }
    }

    fn names(&self) -> &NameServer {
        self.names.as_ref().unwrap()
    }

    fn services(&self) -> Says {
        services(&self.endpoints)
    }

    fn victim(&self) -> &Endpoint {
        &self.endpoints[1]
    }

    fn given(&self, endpoint: &Endpoint) -> f64 {
        let sample = format!("ravelin_endpoint_selections_total{{upstream=\"app\",endpoint=\"{}\"}}", endpoint.address());
        metric(&self.ravelin, &sample)
    }

    /// Whether its probes or its requests speak against the endpoint.
    fn is_out(&self, endpoint: &Endpoint) -> bool {
        let labels = format!("{{upstream=\"app\",endpoint=\"{}\"}}", endpoint.address());
        let value = |name: &str| metric(&self.ravelin, &format!("ravelin_endpoint_{name}{labels}"));
        value("healthy") == 0.0 || value("ejected") == 1.0
    }

    /// Waits until the endpoint is left out, however slow the machine is.
    fn until_out(&self, endpoint: &Endpoint) {
        let deadline = Deadline::standard();
        while !self.is_out(endpoint) {
            assert!(!deadline.passed(), "{} is not left out\n{}", endpoint.address(), self.ravelin.log().text());
            thread::sleep(Duration::from_millis(10));
        }
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

/// What an upstream says that should survive all of this. The budget is the default one: a fifth of the requests, and ten in a second.
const UPSTREAM: &str = "    health_check: {http: {path: /health, interval: 500ms, timeout: 500ms}}\n    \
    outlier_detection: {error_ratio: 10%, eject_for: 2s}\n    \
    retry: {retries: 2, conditions: [connect_error, reset, timeout, \"502\", \"503\"], try_timeout: 500ms";

/// As `UPSTREAM` has it.
const TRY_TIMEOUT: Duration = Duration::from_millis(500);

/// As a service record has them.
fn services(endpoints: &[Endpoint]) -> Says {
    let port = |endpoint: &Endpoint| endpoint.address().rsplit_once(':').unwrap().1.parse().unwrap();
    Says::Services(endpoints.iter().map(|endpoint| (1, 1, port(endpoint), HOST.to_owned())).collect())
}

fn wait(_: &Stage, until: Instant) {
    thread::sleep(until.saturating_duration_since(Instant::now()));
}

/// However slow the machine is, the empty answer has come.
fn unnamed(stage: &Stage, until: Instant) {
    let told = stage.ravelin.wait_for_log("discovery finds none, the last endpoints are kept", Deadline::standard());
    assert!(told.is_some(), "{}", stage.ravelin.log().text());
    wait(stage, until);
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
        // As whoever rolls a service does: the next one once this one serves.
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
    let stage = Stage::build(lane, scenario);
    let watch = Watch::start(&stage.ravelin);
    let load = Load::start(stage.ravelin.address(), times.rate, true);
    thread::sleep(times.before);
    let begun = Instant::now();
    (scenario.begin)(&stage);
    (scenario.last)(&stage, begun + times.during);
    if scenario.left_out {
        stage.until_out(stage.victim());
    }
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
    let out = seen.left_out(&address, begun);
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
    let allowed = if full() { 2 } else { 2 + row.requests / 50 };
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
    if full() { judge_closely(scenario, row, samples) } else { Ok(()) }
}

/// What holds on a machine that has time for it: nothing of this is asked of the short form.
fn judge_closely(scenario: &Scenario, row: &Row, samples: &[Sample]) -> Result<(), String> {
    let (sent, lost) = (samples.iter().filter(|sample| sample.post).count(), row.lost[1]);
    if lost * 20 > sent {
        return Err(format!("{lost} of {sent} POSTs were lost"));
    }
    // One try in vain, and one that is answered.
    let during = row.p99[1].unwrap_or_default();
    if during > TRY_TIMEOUT + Duration::from_millis(250) {
        return Err(format!("meanwhile 1 in 100 took {during:?} or longer"));
    }
    let out = row.out.unwrap_or_default();
    if scenario.left_out && out > Duration::from_secs(8) {
        return Err(format!("the endpoint was left out after {out:?}"));
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
