//! What picking an endpoint costs, with 3 and with 1,000 of them, by each algorithm.
//!
//! `cargo bench --bench balance` prints both: `pick`, the time of a pick as a request pays for it, with a key of its own where one is
//! asked for; and `lay out`, what laying out the table costs when an endpoint falls ill or returns.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench may fail loudly; criterion's macros write functions without a document"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use ravelin::config::{NoFilters, parse};
use ravelin::upstream::Upstream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Requests that take turns: each has a key of its own.
const REQUESTS: usize = 50_000;

const COUNTS: [usize; 2] = [3, 1_000];

const BALANCES: [(&str, &str); 5] = [
    ("round_robin", "round_robin"),
    ("random", "random"),
    ("least_requests", "least_requests"),
    ("peak_ewma", "peak_ewma"),
    ("hash", "{hash: {key: uri}}"),
];

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = pick, lay_out
}
criterion_main!(benches);

fn pick(criterion: &mut Criterion) {
    let runtime = runtime();
    let paths: Vec<String> = (0..REQUESTS).map(|number| format!("/orders/{number}?a=b")).collect();
    let mut group = criterion.benchmark_group("pick");
    for (name, balance) in BALANCES {
        for count in COUNTS {
            let upstream = upstream(balance, count);
            runtime.block_on(upstream.prepare(false));
            let mut requests = paths.iter().cycle();
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let path = requests.next().unwrap();
                    let key = upstream.hash_key().map(|_| upstream.key_of(&[path.as_bytes()]));
                    upstream.select(&[], key).unwrap()
                });
            });
        }
    }
    group.finish();
}

fn lay_out(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("lay out");
    group.sampling_mode(SamplingMode::Flat);
    for (name, balance) in BALANCES {
        for count in COUNTS {
            let upstream = upstream(balance, count);
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| runtime.block_on(upstream.prepare(false)))
            });
        }
    }
    group.finish();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn upstream(balance: &str, count: usize) -> Upstream {
    let mut yaml = format!(
        "listeners: {{http: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{upstream: api}}}}\n\
         upstreams:\n  api:\n    balance: {balance}\n    health_check: none\n    endpoints:\n"
    );
    for number in 0..count {
        writeln!(yaml, "      - {{address: 10.0.{}.{}:80, weight: {}}}", number / 250, number % 250 + 1, number % 3 + 1).unwrap();
    }
    let (config, report) = parse(&yaml, Path::new("ravelin.yaml"), &NoFilters, &|_| None);
    let section = config.unwrap_or_else(|| panic!("{report}")).upstreams.remove(0).value;
    Upstream::new("api", section, None).unwrap()
}
