//! All endpoints fail, and a configuration that would try each request eleven times: the budget keeps retries from becoming a storm.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::endpoint::Endpoint;
use crate::load::Load;
use crate::support::{Ravelin, full, metric};

/// Requests in a second.
const RATE: u64 = 1000;

/// How all endpoints fail.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// From the first request on, or after a good while.
    warm: bool,
    command: &'static str,
    status: u16,
}

pub(crate) const ALL: &[Kind] = &[
    Kind { name: "503", warm: false, command: "share 100", status: 503 },
    Kind { name: "503_after_a_good_while", warm: true, command: "share 100", status: 503 },
    Kind { name: "resets", warm: false, command: "resets 1", status: 502 },
    Kind { name: "refusals", warm: false, command: "down", status: 502 },
    Kind { name: "refusals_after_a_good_while", warm: true, command: "down", status: 502 },
];

pub(crate) fn play(kind: &'static Kind, lane: &'static str) -> Result<(), Failed> {
    let endpoints: Vec<Endpoint> = ["one", "two", "three"].map(Endpoint::start).into();
    let mut addresses = String::new();
    for endpoint in &endpoints {
        endpoint.tell("delay 0");
        write!(addresses, "\"{}\", ", endpoint.address()).unwrap();
    }
    let ravelin = Ravelin::start_in(
        lane,
        &format!(
            "listeners: {{main: {{address: 127.0.0.1:0, limits: {{connections_per_client: 20000}}}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams:\n  app:\n    endpoints: [{addresses}]\n    health_check: none\n    \
         retry: {{retries: 10, conditions: [connect_error, reset, timeout, \"503\"], backoff: {{base: 1ms, max: 5ms}}}}\n\
         routes: {{all: {{upstream: app}}}}\n"
        ),
    );
    if kind.warm {
        let load = Load::start(ravelin.address(), RATE, false);
        thread::sleep(Duration::from_millis(1500));
        let calm = load.stop();
        if let Some(failed) = calm.iter().find(|sample| sample.failed()) {
            return Err(format!("before the storm: {failed:?}").into());
        }
    }
    // Who is not there can't count: then it is how often Ravelin turned to it.
    let absent = kind.command == "down";
    let turned_to = |endpoint: &Endpoint| {
        let sample = format!("ravelin_endpoint_selections_total{{upstream=\"app\",endpoint=\"{}\"}}", endpoint.address());
        metric(&ravelin, &sample) as u64
    };
    let count = |command: &str| -> u64 {
        let had = |endpoint: &Endpoint| {
            let had = endpoint.tell(command);
            if absent { turned_to(endpoint) } else { had }
        };
        endpoints.iter().map(had).sum()
    };
    let before = count(kind.command);
    let load = Load::start(ravelin.address(), RATE, false);
    let began = Instant::now();
    thread::sleep(if full() { Duration::from_secs(10) } else { Duration::from_secs(3) });
    let samples = load.stop();
    let lasted = began.elapsed();
    let (sent, came) = (samples.len() as u64, count("count") - before);
    let factor = came as f64 / sent as f64;
    println!("{} requests in {lasted:?} ({}, {lane}) were {came} at the endpoints: {factor:.3} x", sent, kind.name);
    // A machine that can't serve so many lets single clients wait for longer than they do: what an answer says is the subject here.
    if let Some(other) = samples.iter().find(|sample| sample.status.is_some_and(|status| status != kind.status)) {
        return Err(format!("not what the endpoints answer: {other:?}").into());
    }
    if came <= sent {
        return Err("nothing was tried again".into());
    }
    // A fifth of the requests, 10 in each second, and what a window holds at the start: of refused connections so many as were under way
    // when the first endpoint was found out besides.
    let window = if kind.warm { RATE / 5 } else { 0 } + if absent { RATE / 20 } else { 0 };
    let allowed = sent + sent / 5 + 10 * (lasted.as_secs() + 2) + window;
    if came > allowed {
        return Err(format!("{came} requests came of {sent}, where {allowed} are allowed").into());
    }
    // On a machine that could not send them so fast, the 10 in a second weigh more.
    let fast = sent * 1000 >= RATE * 9 / 10 * lasted.as_millis() as u64;
    // In a short storm what the window holds at its start weighs more as well.
    if fast && (full() || !kind.warm) && factor > 1.25 {
        return Err(format!("{factor:.3} times as many requests as were sent").into());
    }
    Ok(())
}
