//! Reloads under constant load, during a download and with open tunnels: no request fails, and what is replaced is freed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::tls::Authority;
use support::{
    Action, Answer, Connection, Deadline, Halfway, Load, Mirror, NAME, Origin, Outgoing, Ravelin, Signal, Usage, full, metric,
    until_nothing_is_left,
};

/// Fewer in the everyday run.
fn reloads() -> usize {
    if full() { 100 } else { 20 }
}

#[test]
fn no_request_fails_while_the_configuration_is_replaced() {
    let origin = Mirror::start();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    authority.issue(&[NAME]).write(directory.path(), "a");
    let file = |generation| {
        let tls = format!("certificates: [{{cert: \"{path}/a.pem\", key: \"{path}/a.key\"}}]", path = directory.path().display());
        config(origin.address(), generation)
            .replace("127.0.0.1:0}}", &format!("127.0.0.1:0, http2: true}}, secure: {{address: 127.0.0.1:0, tls: {{{tls}}}}}}}"))
    };
    let ravelin = Ravelin::start(&file(0));
    let [plain, secure] = ravelin.addresses() else { panic!("{:?}", ravelin.addresses()) };
    let load = Load::start(plain, secure, &authority);
    for generation in 1..=reloads() {
        fs::write(ravelin.directory().join("ravelin.yaml"), file(generation)).unwrap();
        ravelin.signal(Signal::HUP).unwrap();
        let wanted = format!("generation={} ", generation + 1);
        assert!(ravelin.wait_for_log(&wanted, Deadline::standard()).is_some(), "{}", ravelin.log().text());
        if generation % 5 == 0 {
            load.until_each_has(5);
        }
    }
    eprintln!("{} reloads, and answers to clients of each kind: {}", reloads(), load.end());

    // Once the last exchanges are gone nobody holds an old snapshot: a reload finds its own only.
    let deadline = Deadline::standard();
    for generation in reloads() + 2.. {
        ravelin.signal(Signal::HUP).unwrap();
        let line = ravelin.wait_for_log(&format!("generation={generation} "), deadline).expect("a further reload");
        if line.contains("snapshots=1") {
            break;
        }
        assert!(!deadline.passed(), "{line}");
    }
}

/// Each generation has other routes, another filter, and an upstream that changes every other time.
fn config(origin: &str, generation: usize) -> String {
    format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams:\n  a: {{endpoints: [\"{origin}\"], timeouts: {{response: {}s}}}}\n\
         routes:\n  all: {{filters: [{{headers: {{response: {{set: {{x-generation: \"{generation}\"}}}}}}}}], upstream: a}}\n  \
         other{generation}: {{match: {{paths: [/other/{generation}]}}, respond: {{body: other}}}}\n",
        60 + generation / 2
    )
}

/// Like `config`, with an admin address.
fn watched(origin: &str, generation: usize) -> String {
    format!("admin: {{address: 127.0.0.1:0}}\n{}", config(origin, generation))
}

fn reload(ravelin: &Ravelin, origin: &str, generation: usize) {
    fs::write(ravelin.directory().join("ravelin.yaml"), watched(origin, generation)).unwrap();
    ravelin.signal(Signal::HUP).unwrap();
    let wanted = format!("generation={} ", generation + 1);
    assert!(ravelin.wait_for_log(&wanted, Deadline::standard()).is_some(), "{}", ravelin.log().text());
}

/// The generation that answers a request on a connection of its own.
fn generation(ravelin: &Ravelin) -> usize {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/other", "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    String::from_utf8_lossy(response.head.values("x-generation")[0]).parse().unwrap()
}

/// So many routes, each other ones in each generation.
fn routes(count: usize, generation: usize) -> String {
    let route =
        |n: usize| format!("  r{n}: {{match: {{hosts: [h{n}.example], paths: [/p{}/*]}}, respond: {{}}}}\n", n + generation);
    let many: String = (0..count).map(route).collect();
    format!(
        "threads: 1\nlisteners: {{main: {{address: 127.0.0.1:0, limits: {{requests_per_connection: none}}}}}}\n\
         routes:\n  all: {{respond: {{}}}}\n{many}"
    )
}

/// Puts it in force; how long that took, from the file to the snapshot.
fn took(ravelin: &Ravelin, count: usize, generation: usize) -> Duration {
    fs::write(ravelin.directory().join("ravelin.yaml"), routes(count, generation)).unwrap();
    ravelin.signal(Signal::HUP).unwrap();
    let line = ravelin.wait_for_log(&format!("generation={} ", generation + 1), Deadline::standard()).unwrap();
    let text = line.split("took=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_alphabetic() || c == 'µ').unwrap());
    let unit = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        _ => 1e-6,
    };
    Duration::from_secs_f64(number.parse::<f64>().unwrap() * unit)
}

/// What ten times as many routes may take longer: ten times, and what a busy machine adds. Were each compared with each, a hundred times.
const TEN_TIMES: u32 = 30;
/// What 10,000 routes may take in a release build (`RAVELIN_TEST_PROGRAM`); of another only the proportion is known.
const LIMIT: Duration = Duration::from_millis(500);
/// How often they may miss that before they are taken for slow.
const TIMES: usize = 8;

/// Reads and compiles beside the requests, which are answered meanwhile as ever.
#[test]
fn ten_thousand_routes_hold_up_no_request() {
    let few = Ravelin::start(&routes(1_000, 0));
    let few = (1..=5).map(|generation| took(&few, 1_000, generation)).min().unwrap();
    let ravelin = Ravelin::start(&routes(10_000, 0));
    let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let answered = Arc::new(AtomicU64::new(0));
    let client = {
        let (address, stop, slowest, answered) = (ravelin.address().to_owned(), stop.clone(), slowest.clone(), answered.clone());
        thread::spawn(move || {
            let mut client = Connection::open(&address, Deadline::standard()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.request(&Outgoing::get("/", "a"), Deadline::standard()).unwrap();
                assert_eq!(client.next_response(Deadline::standard()).unwrap().head.status(), Some(200));
                slowest.fetch_max(u64::try_from(began.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let limit = if is_release() { LIMIT } else { Duration::MAX };
    let (mut quick, mut smooth) = (false, false);
    for generation in 1..=TIMES {
        let before = answered.load(Ordering::Relaxed);
        slowest.store(0, Ordering::Relaxed);
        let took = took(&ravelin, 10_000, generation);
        let (meanwhile, slowest) =
            (answered.load(Ordering::Relaxed) - before, Duration::from_micros(slowest.load(Ordering::Relaxed)));
        eprintln!("1,000 routes: {few:?}; 10,000 routes: {took:?}, {meanwhile} requests meanwhile, the slowest {slowest:?}");
        assert!(meanwhile > 1, "requests are answered while the file is read");
        quick |= took < limit && took < TEN_TIMES * few;
        // One that waited for it would take as long.
        smooth |= slowest < took / 2;
        if quick && smooth && generation >= 3 {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    client.join().expect("every answer was a 200");
    assert!(quick, "less than {limit:?}, and less than {TEN_TIMES} times {few:?}");
    assert!(smooth, "a request waited for a reload");
}

/// Reloads after which memory is looked at.
const EACH: usize = 25;
/// What an allocator keeps goes up and down: the least of so many looks counts.
const LOOKS: usize = 4;
/// Snapshots that are held on purpose, to see what one takes.
const HELD: usize = 4;

/// After 100 reloads and after 100 more as much memory is in use, to less than what one snapshot of so many routes takes: requests that hold
/// theirs show how much that is, and that it would be seen.
#[test]
fn nothing_of_a_large_configuration_is_left_behind() {
    if !is_release() {
        return eprintln!("skipped: a debug build takes minutes for this, so it is for RAVELIN_TEST_PROGRAM");
    }
    let origin = Origin::start("a", vec![Answer::of(vec![Action::Stall])]);
    let file = |generation| {
        let upstream = format!("upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n", origin.address());
        let held = "  held: {match: {paths: [/held]}, upstream: a}\n";
        format!("{upstream}{}{held}", routes(10_000, generation))
    };
    let ravelin = Ravelin::start(&file(0));
    let mut generation = 0;
    let mut reload = |times: usize| {
        for _ in 0..times {
            generation += 1;
            fs::write(ravelin.directory().join("ravelin.yaml"), file(generation)).unwrap();
            ravelin.signal(Signal::HUP).unwrap();
            let taken = ravelin.wait_for_log(&format!("generation={} ", generation + 1), Deadline::standard());
            assert!(taken.is_some(), "{}", ravelin.log().text());
        }
        Usage::of(&ravelin).resident_kib
    };
    let mut least = |looks: usize| (0..looks).map(|_| reload(EACH)).min().unwrap();
    let (before, after) = (least(LOOKS), least(LOOKS));
    let held: Vec<Connection> = (0..HELD)
        .map(|number| {
            let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
            client.request(&Outgoing::get("/held", "a"), Deadline::standard()).unwrap();
            origin.wait_for(Deadline::standard(), |record| (record.requests.len() > number).then_some(()));
            reload(1);
            client
        })
        .collect();
    let kept = (0..LOOKS).map(|_| reload(EACH)).min().unwrap();
    drop(held);
    let one = kept.saturating_sub(after) / HELD as u64;
    eprintln!(
        "after {} reloads {before} KiB, after as many more {after} KiB; a snapshot of 10,000 routes takes {one} KiB",
        EACH * LOOKS
    );
    assert!(one > 1024, "four snapshots more are to be seen: {after} KiB, and {kept} KiB with them");
    assert!(after < before + one, "{before} KiB, {after} KiB");
}

/// Whether a build is tested of which figures are asked.
fn is_release() -> bool {
    std::env::var_os("RAVELIN_TEST_PROGRAM").is_some()
}

#[test]
fn a_download_goes_on_over_reloads() {
    let origin = Halfway::start(if full() { 1 << 10 } else { 1 << 6 });
    let file = |generation| watched(origin.address(), generation).replace("timeouts:", "health_check: none, timeouts:");
    let ravelin = Ravelin::start(&file(0));
    let download = origin.begin(ravelin.address());
    assert!(download.head.starts_with("HTTP/1.1 200") && download.head.contains("x-generation: 0"), "{}", download.head);
    for generation in 1..=3 {
        fs::write(ravelin.directory().join("ravelin.yaml"), file(generation)).unwrap();
        ravelin.signal(Signal::HUP).unwrap();
        let line = ravelin.wait_for_log(&format!("generation={} ", generation + 1), Deadline::standard()).unwrap();
        assert!(line.contains("snapshots=2"), "the download's own and the new one: {line}");
    }
    origin.end(download);
    until_nothing_is_left(&ravelin);
}

#[test]
fn tunnels_go_on_over_a_reload_and_their_configuration_goes_with_them() {
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let tunnel = Answer::of(vec![Action::Send(switching.to_vec()), Action::Echo]);
    let origin = Origin::start("a", vec![Answer { target: Some("/socket".into()), ..tunnel }, Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&watched(origin.address(), 0));
    let deadline = Deadline::standard();
    let mut tunnels: Vec<Connection> = (0..8)
        .map(|_| {
            let mut client = Connection::open(ravelin.address(), deadline).unwrap();
            let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
            client
                .send(format!("GET /socket HTTP/1.1\r\nHost: a\r\n{fields}Sec-WebSocket-Version: 13\r\n\r\n").as_bytes())
                .unwrap();
            let head = client.receive_until(deadline, |bytes| bytes.ends_with(b"\r\n\r\n")).unwrap();
            assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
            client
        })
        .collect();
    let mut echo = |round: usize| {
        for (number, tunnel) in tunnels.iter_mut().enumerate() {
            let said = format!("{round} {number}\x00\u{ff}");
            tunnel.send(said.as_bytes()).unwrap();
            assert_eq!(tunnel.receive(said.len(), deadline).unwrap(), said.as_bytes());
        }
    };
    echo(0);
    for generation in 1..=3 {
        reload(&ravelin, origin.address(), generation);
        echo(generation);
    }
    assert_eq!(generation(&ravelin), 3);
    // That of the tunnels and that in force: those between are gone.
    assert_eq!(metric(&ravelin, "ravelin_config_snapshots"), 2.0);
    drop(tunnels);
    until_nothing_is_left(&ravelin);
}

#[test]
fn a_hundred_signals_at_once_end_with_the_last_file() {
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    let ravelin = Ravelin::start(&watched(origin.address(), 0));
    for number in 1..=100 {
        // Renamed into place, as careful tools do: what is read is a whole file.
        let (new, path) = (ravelin.directory().join("new"), ravelin.directory().join("ravelin.yaml"));
        fs::write(&new, watched(origin.address(), number)).unwrap();
        fs::rename(new, path).unwrap();
        ravelin.signal(Signal::HUP).unwrap();
    }
    let deadline = Deadline::standard();
    while generation(&ravelin) != 100 {
        assert!(!deadline.passed(), "{}", ravelin.log().text());
    }
    assert_eq!(metric(&ravelin, "ravelin_config_reload_failures_total"), 0.0);
    until_nothing_is_left(&ravelin);
}

#[test]
fn a_file_that_is_a_link_is_replaced_by_moving_the_link() {
    let origin = Origin::start("a", vec![Answer::text(200, "a")]);
    // As Kubernetes does with a ConfigMap: a link to a link to a directory of this version.
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let version = |number: usize| {
        fs::create_dir(place(&format!("v{number}"))).unwrap();
        fs::write(place(&format!("v{number}/ravelin.yaml")), watched(origin.address(), number)).unwrap();
        std::os::unix::fs::symlink(format!("v{number}"), place("next")).unwrap();
        fs::rename(place("next"), place("data")).unwrap();
    };
    version(0);
    std::os::unix::fs::symlink("data/ravelin.yaml", place("ravelin.yaml")).unwrap();
    let mut ravelin = support::Launch::new(directory.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    version(1);
    ravelin.signal(Signal::HUP).unwrap();
    ravelin.wait_for_log("cause=SIGHUP", Deadline::standard()).unwrap();
    assert_eq!(generation(&ravelin), 1, "{}", ravelin.log().text());
}

/// Files that `include` finds by a pattern come and go.
#[test]
fn files_of_a_pattern_are_watched_as_they_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    fs::create_dir(place("conf.d")).unwrap();
    let route = |name: &str| format!("routes: {{{name}: {{match: {{paths: [/{name}]}}, respond: {{}}}}}}\n");
    fs::write(place("conf.d/a.yaml"), route("a")).unwrap();
    let file = "reload: watch\nlisteners: {main: {address: 127.0.0.1:0}}\ninclude: [conf.d/*.yaml]\n";
    fs::write(place("ravelin.yaml"), file).unwrap();
    let mut ravelin = support::Launch::new(directory.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap();
    let status = |path: &str| support::get(ravelin.address(), path);
    assert_eq!((status("/a"), status("/b")), (200, 404));
    let until = |generation: &str| {
        let wanted = format!("configuration reloaded cause=watch generation={generation} ");
        assert!(ravelin.wait_for_log(&wanted, Deadline::standard()).is_some(), "{}", ravelin.log().text());
    };
    fs::write(place("conf.d/b.yaml"), route("b")).unwrap();
    until("2");
    assert_eq!((status("/a"), status("/b")), (200, 200));
    fs::remove_file(place("conf.d/a.yaml")).unwrap();
    until("3");
    assert_eq!((status("/a"), status("/b")), (404, 200));
}
