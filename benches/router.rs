//! What finding a route costs with 1, 1,000 and 100,000 of them, and what loading them costs.
//!
//! `cargo bench --bench router` prints both as tables; `--match hosts 100000` behind a `--` times that alone, for profilers and for two builds
//! that take turns. A match is timed as a request pays for it: host and path as they were sent are brought into normal form, then looked
//! up. Requests come in random order over all routes, so that caches help as little as they would. Each table is loaded by a process of
//! its own, for its resident memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may fail loudly, and speaks to a person")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method};
use ravelin::{Asked, Routes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many requests are timed at once, and how often; the median counts.
const BATCH: usize = 50_000;
const ROUNDS: usize = 15;

/// A configuration, and the requests to it: host, path, header `x-env`.
struct Scene {
    yaml: String,
    requests: Vec<(String, String, Option<&'static str>)>,
}

const KINDS: [&str; 6] = ["hosts", "wildcards", "paths", "mixed", "regexes", "alike"];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, load, kind, count, ..] = args.as_slice()
        && load == "--load"
    {
        return load_one(kind, count.parse().unwrap());
    }
    if let [_, only, kind, count, ..] = args.as_slice()
        && only == "--match"
    {
        return println!("{:.0}", match_time(&scene(kind, count.parse().unwrap())));
    }
    println!("\n{:<12}{:>9}{:>12}", "routes", "", "ns/match");
    for kind in KINDS {
        let counts: &[usize] = if matches!(kind, "regexes" | "alike") { &[1, 100, 1_000] } else { &[1, 1_000, 100_000] };
        for count in counts {
            println!("{kind:<12}{count:>9}{:>12.0}", match_time(&scene(kind, *count)));
        }
    }
    println!("\n{:<12}{:>9}{:>12}{:>12}{:>12}", "loading", "", "ms", "MiB at end", "MiB at peak");
    for (kind, count) in [("hosts", 1), ("hosts", 10_000), ("hosts", 100_000), ("paths", 100_000), ("mixed", 100_000)] {
        let own = std::env::current_exe().unwrap();
        let output = Command::new(own).args(["--load", kind, &count.to_string()]).output().unwrap();
        println!("{kind:<12}{count:>9}{}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
}

fn load_one(kind: &str, count: usize) {
    let scene = scene(kind, count);
    drop(scene.requests);
    let before = Instant::now();
    let routes = Routes::parse(&scene.yaml).unwrap();
    let took = before.elapsed();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    };
    println!("{:>12.0}{:>12.1}{:>12.1}", took.as_secs_f64() * 1e3, mib("VmRSS:"), mib("VmHWM:"));
    drop(routes);
}

fn match_time(scene: &Scene) -> f64 {
    let routes = Routes::parse(&scene.yaml).unwrap_or_else(|report| panic!("{report}"));
    let headers = |env: &Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", HeaderValue::from_static("bench"));
        headers.insert("accept", HeaderValue::from_static("*/*"));
        if let Some(env) = env {
            headers.insert("x-env", HeaderValue::from_static(env));
        }
        headers
    };
    let maps: Vec<HeaderMap> = [None, Some("canary")].iter().map(headers).collect();
    let mut times: Vec<f64> = Vec::new();
    for round in 0..ROUNDS {
        let start = round * BATCH;
        let before = Instant::now();
        for nth in start..start + BATCH {
            let (host, path, env) = &scene.requests[nth % scene.requests.len()];
            let headers = &maps[usize::from(env.is_some())];
            let client = Some([10, 0, 0, 1].into());
            let asked = Asked { method: &Method::GET, host, path, query: None, headers, client, listener: None };
            assert!(black_box(routes.find(black_box(&asked))).is_some());
        }
        times.push(before.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn scene(kind: &str, count: usize) -> Scene {
    let mut random = fastrand::Rng::with_seed(7);
    let mut yaml = String::from(
        "listeners: {http: {address: 127.0.0.1:0}}\nupstreams: {api: {endpoints: [127.0.0.1:9], health_check: none}}\nroutes:\n",
    );
    let mut requests = Vec::with_capacity(count);
    for index in 0..count {
        let word: String = (0..10).map(|_| random.lowercase()).collect();
        let domain = format!("{word}{index}.example.com");
        let kind = match (kind, index % 4) {
            ("mixed", 0) => "prefix",
            ("mixed", 1) => "wildcards",
            ("mixed", 2) => "paths",
            ("mixed", _) => "header",
            (kind, _) => kind,
        };
        let (matches, request) = match kind {
            "hosts" => (format!("hosts: [{domain}]"), (domain, "/index.html".to_owned(), None)),
            "wildcards" => (format!("hosts: ['*.{domain}']"), (format!("a.b.{domain}"), "/index.html".to_owned(), None)),
            "paths" => (format!("paths: [/v1/{word}{index}/*]"), ("a.test".to_owned(), format!("/v1/{word}{index}/x"), None)),
            "prefix" => (
                format!("hosts: [{domain}], paths: [/v1/{word}/*, /v1/{word}], methods: [GET]"),
                (domain, format!("/v1/{word}/orders/7"), None),
            ),
            "header" => (
                format!("hosts: [{domain}], headers: {{x-env: canary}}, client_ips: [10.0.0.0/8]"),
                (domain, "/".to_owned(), Some("canary")),
            ),
            // Each begins otherwise.
            "regexes" => {
                (format!("paths: [{{regex: '^/{word}/[0-9]+$'}}]"), ("a.test".to_owned(), format!("/{word}/{index}"), None))
            }
            // All begin alike, which nobody should write.
            "alike" => {
                (format!("paths: [{{regex: '^/u/[0-9]+/{word}$'}}]"), ("a.test".to_owned(), format!("/u/{index}/{word}"), None))
            }
            other => panic!("no scene `{other}`"),
        };
        writeln!(yaml, "  r{index}: {{match: {{{matches}}}, upstream: api}}").unwrap();
        requests.push(request);
    }
    random.shuffle(&mut requests);
    // Copied in this order: what a request brings along is at hand, since it has just been read.
    let requests = requests.iter().map(|(host, path, env)| (host.clone(), path.clone(), *env)).collect();
    Scene { yaml, requests }
}
