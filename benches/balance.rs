//! What picking an endpoint costs, with 3 and with 1,000 of them, by each algorithm.
//!
//! `cargo bench --bench balance` prints it as a table: the time of a pick as a request pays for it, with a key of its own where one is
//! asked for; and what laying out the table costs when an endpoint falls ill or returns.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may fail loudly, and speaks to a person")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use ravelin::config::{NoFilters, parse};
use ravelin::upstream::Upstream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many picks are timed at once, and how often; the median counts.
const BATCH: usize = 50_000;
const ROUNDS: usize = 15;

const BALANCES: [&str; 5] = ["round_robin", "random", "least_requests", "peak_ewma", "{hash: {key: uri}}"];

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    println!("\n{:<22}{:>10}{:>12}{:>14}", "balance", "endpoints", "ns/pick", "ms/lay out");
    for balance in BALANCES {
        for count in [3, 1_000] {
            let upstream = upstream(balance, count);
            runtime.block_on(upstream.prepare(false));
            let before = Instant::now();
            runtime.block_on(upstream.prepare(false));
            let laid_out = before.elapsed().as_secs_f64() * 1e3;
            println!("{balance:<22}{count:>10}{:>12.0}{laid_out:>14.2}", pick_time(&upstream));
        }
    }
}

fn pick_time(upstream: &Upstream) -> f64 {
    let paths: Vec<String> = (0..BATCH).map(|number| format!("/orders/{number}?a=b")).collect();
    let mut times: Vec<f64> = Vec::new();
    for _ in 0..ROUNDS {
        let before = Instant::now();
        for path in &paths {
            let key = upstream.hash_key().map(|_| upstream.key_of(&[path.as_bytes()]));
            assert!(black_box(upstream.select(black_box(&[]), key)).is_some());
        }
        times.push(before.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
    }
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
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
