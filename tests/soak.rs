//! What must hold over time and under load, against a program with filters of its own: reloads leave nothing behind, and the
//! admin address answers while every worker is busy.
//!
//! The program is this test itself: `soak run -c FILE` serves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use ravelin::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use support::{Answer, Connection, Deadline, Launch, Origin, Outgoing, Ravelin, Signal, Usage, get, metric, until_metric};

// As in the `ravelin` binary: what an allocator keeps is part of what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("run") {
        return App::new().filter::<Keep>().filter::<Busy>().run();
    }
    support::use_program(std::env::current_exe().unwrap());
    let trials = vec![
        Trial::test("reloads_leave_nothing_behind", || {
            reloads_leave_nothing_behind();
            Ok(())
        }),
        Trial::test("generations_that_are_left_behind_are_seen", || {
            generations_that_are_left_behind_are_seen();
            Ok(())
        }),
        Trial::test("the_admin_address_answers_while_every_worker_is_busy", || {
            the_admin_address_answers_while_every_worker_is_busy();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A filter that holds a MiB, and a task that holds it too: a generation that is not freed would show.
struct Keep(Arc<[u8]>);

const KEPT: usize = 1 << 20;
/// How many of them a configuration has.
const KEEPS: usize = 9;
/// In the environment of a program that loses every fiftieth generation.
const LEAKS: &str = "RAVELIN_TEST_LEAKS";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeepConfig {}

impl Filter for Keep {
    const NAME: &'static str = "keep";
    type Config = KeepConfig;
    type State = Option<Arc<[u8]>>;

    fn build(_: KeepConfig, cx: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        static BUILT: AtomicUsize = AtomicUsize::new(0);
        let kept: Arc<[u8]> = vec![1; KEPT].into();
        let generation = BUILT.fetch_add(1, Ordering::Relaxed) / KEEPS;
        if generation % RELOADS == RELOADS - 1 && std::env::var_os(LEAKS).is_some() {
            std::mem::forget(kept.clone());
        }
        let of_task = kept.clone();
        cx.task(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(u64::from(of_task[0]))).await;
            }
        });
        Ok(Self(kept))
    }

    async fn request(&self, _: &mut RequestCx<'_>, held: &mut Self::State) -> Result<Flow, Error> {
        *held = Some(self.0.clone());
        Ok(Flow::Next)
    }
}

/// A filter that should not be: it holds its thread until a file is gone.
struct Busy(String);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BusyConfig {
    file: String,
}

impl Filter for Busy {
    const NAME: &'static str = "busy";
    type Config = BusyConfig;
    type State = ();

    fn build(config: BusyConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
        Ok(Self(config.file))
    }

    async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
        while fs::exists(&self.0).unwrap_or(false) {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Flow::Next)
    }
}

const RELOADS: usize = 50;
/// What an allocator keeps comes in steps, later on a busy machine; what leaks comes with each reload.
const ROUNDS: usize = 6;
const CLIENTS: usize = 2;

/// After 100 more reloads the memory in use is less than one generation's more, and descriptors and threads are as many: what comes and goes
/// with a configuration is freed. All the while clients are served.
fn reloads_leave_nothing_behind() {
    let (usages, answered) = reloaded(&[], |usages| usages.len() > ROUNDS || stays(usages));
    eprintln!("each {RELOADS} reloads: {usages:?}, {answered} requests");
    assert!(stays(&usages), "{usages:?}");
}

/// The same, where one generation in 50 is lost: that it is seen shows that the bound is one.
fn generations_that_are_left_behind_are_seen() {
    // An allocator may have had room for the first that are lost.
    let (usages, _) = reloaded(&[(LEAKS, "1")], |usages| usages.len() > ROUNDS || (usages.len() > 2 && !stays(usages)));
    eprintln!("each {RELOADS} reloads, with a leak: {usages:?}");
    assert!(!stays(&usages), "{usages:?}");
}

/// What a process uses after each round of reloads, until that is enough; and how many requests it has answered.
fn reloaded(environment: &[(&str, &str)], enough: impl Fn(&[Usage]) -> bool) -> (Vec<Usage>, u64) {
    let origins: Vec<Origin> = (0..KEEPS - 1).map(|_| Origin::start("a", vec![Answer::text(200, "a")])).collect();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ravelin.yaml"), config(&origins, 0)).unwrap();
    let launch = environment.iter().fold(Launch::new(directory.path()), |launch, (name, value)| launch.env(name, value));
    let mut ravelin = launch.spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, stop, answered) = (ravelin.address().to_owned(), stop.clone(), answered.clone());
            thread::spawn(move || {
                let mut client = Connection::open(&address, Deadline::standard()).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
                    let response = client.next_response(Deadline::standard()).unwrap();
                    assert_eq!(response.head.status(), Some(200));
                    answered.fetch_add(1, Ordering::Relaxed);
                    // A client that floods would only slow the reloads.
                    thread::sleep(Duration::from_millis(2));
                }
            })
        })
        .collect();
    let mut usages = Vec::new();
    let mut generation = 0;
    while !enough(&usages) {
        for _ in 0..RELOADS {
            generation += 1;
            reload(&ravelin, &origins, generation);
        }
        usages.push(at_rest(&ravelin));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("every answer of this client was a 200");
    }
    until_metric_is_one(&ravelin);
    (usages, answered.load(Ordering::Relaxed))
}

/// Once the configurations before are gone: the least that is used in a while, for an allocator gives back late.
fn at_rest(ravelin: &Ravelin) -> Usage {
    until_metric_is_one(ravelin);
    let looks = (0..20).map(|_| {
        thread::sleep(Duration::from_millis(10));
        Usage::of(ravelin)
    });
    looks.min_by_key(|usage| usage.resident_kib).unwrap()
}

fn reload(ravelin: &Ravelin, origins: &[Origin], generation: usize) {
    fs::write(ravelin.directory().join("ravelin.yaml"), config(origins, generation)).unwrap();
    ravelin.signal(Signal::HUP).unwrap();
    let line = ravelin.wait_for_log(&format!("generation={} ", generation + 1), Deadline::standard());
    let line = line.unwrap_or_else(|| panic!("{}", ravelin.log().text()));
    let live: usize = line.rsplit_once("snapshots=").unwrap().1.parse().unwrap();
    // That in force, the one before, and what a request that has just ended still holds.
    assert!(live <= 1 + CLIENTS, "{line}");
}

/// Whether nothing was left behind in the last two rounds. An allocator may have had room for what is lost in one.
fn stays(usages: &[Usage]) -> bool {
    let [.., before, _, after] = usages else { return false };
    // A thread has a heap of its own, and one more may have come for names that were looked up at the same time.
    let more = after.threads.saturating_sub(before.threads);
    let generation = (KEEPS * KEPT / 1024) as u64;
    // Connections in the pool and probes come and go.
    more <= 4
        && after.resident_kib < before.resident_kib + generation + 1024 * more
        && after.descriptors <= before.descriptors + 16
}

/// Each generation has filters with state, and upstreams that come and go, some by name, with health checks.
fn config(origins: &[Origin], generation: usize) -> String {
    let (mut upstreams, mut routes) = (String::new(), String::new());
    for (number, origin) in origins.iter().enumerate() {
        let port = origin.address().rsplit_once(':').unwrap().1;
        let host = if number % 2 == 0 { "localhost" } else { "127.0.0.1" };
        // Every other upstream is another one each time.
        let name = if number < 4 { format!("u{number}") } else { format!("u{number}-{generation}") };
        let interval = 20 + (generation + number) % 2;
        upstreams.push_str(&format!(
            "  {name}: {{endpoints: [\"{host}:{port}\"], health_check: {{tcp: {{interval: {interval}ms}}}}}}\n"
        ));
        routes.push_str(&format!("  r{name}: {{match: {{paths: [/{name}]}}, filters: [{{keep: {{}}}}], upstream: {name}}}\n"));
    }
    format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         admin: {{address: 127.0.0.1:0}}\n\
         upstreams:\n{upstreams}\
         routes:\n{routes}  all: {{filters: [{{keep: {{}}}}], upstream: u0}}\n"
    )
}

/// Nothing but the configuration in force is left.
fn until_metric_is_one(ravelin: &Ravelin) {
    until_metric(ravelin, "ravelin_config_snapshots", |snapshots| snapshots == 1.0);
}

/// Health and numbers are told by a thread of their own.
fn the_admin_address_answers_while_every_worker_is_busy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("busy");
    fs::write(&file, "").unwrap();
    let ravelin = Ravelin::start(&format!(
        "threads: 2\n\
         listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         admin: {{address: 127.0.0.1:0}}\n\
         routes: {{all: {{filters: [{{busy: {{file: {}}}}}], respond: {{body: ok}}}}}}\n",
        file.display(),
    ));
    let admin = ravelin.admin().unwrap();
    let mut clients: Vec<Connection> = (0..6)
        .map(|_| {
            let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
            client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
            client
        })
        .collect();
    until_metric(&ravelin, "ravelin_requests_in_flight", |requests| requests == 2.0);
    for _ in 0..3 {
        assert_eq!((get(&admin, "/healthz"), get(&admin, "/readyz"), get(&admin, "/metrics")), (200, 200, 200));
    }
    // Both threads are held still: nobody else's request has begun.
    assert_eq!(metric(&ravelin, "ravelin_requests_in_flight"), 2.0);
    fs::remove_file(&file).unwrap();
    for client in &mut clients {
        assert_eq!(client.next_response(Deadline::standard()).unwrap().head.status(), Some(200));
    }
}
