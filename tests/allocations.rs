//! What is done for each request allocates nothing where it need not: picking an endpoint.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fmt::Write as _;
use std::path::Path;

use ravelin::config::{NoFilters, parse};
use ravelin::upstream::Upstream;

fn upstream(balance: &str, more: &str, count: usize) -> Upstream {
    let mut yaml = format!(
        "listeners: {{http: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{upstream: api}}}}\n\
         upstreams:\n  api:\n    balance: {balance}\n    health_check: none\n{more}    endpoints:\n"
    );
    for number in 0..count {
        writeln!(yaml, "      - {{address: 10.0.{}.{}:80, weight: {}}}", number / 250, number % 250 + 1, number % 3 + 1).unwrap();
    }
    let (config, report) = parse(&yaml, Path::new("ravelin.yaml"), &NoFilters, &|_| None);
    let section = config.unwrap_or_else(|| panic!("{report}")).upstreams.remove(0).value;
    Upstream::new("api", section, None).unwrap()
}

#[test]
fn a_pick_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let more = "    outlier_detection: {}\n    limits: {requests: 9}\n    sticky: {key: correct horse battery}\n";
    for balance in ["round_robin", "random", "least_requests", "peak_ewma", "{hash: {key: uri}}"] {
        for (more, count) in [("", 3), (more, 3), ("", 1_000), (more, 1_000)] {
            let upstream = upstream(balance, more, count);
            runtime.block_on(upstream.prepare(false));
            let key = || upstream.hash_key().map(|_| upstream.key_of(&[b"/orders/7"]));
            let failed = upstream.select(&[], key()).unwrap().address().clone();
            let pick = || {
                assert!(upstream.select(&[], key()).is_some());
                // Nor where it is tried again, at another endpoint.
                let tried = std::slice::from_ref(&failed);
                assert!(upstream.has_other(tried) && upstream.select(tried, key()).is_some_and(|next| *next.address() != failed));
            };
            // The first one makes what the thread keeps: its random numbers, its share of numbers.
            pick();
            let counted = allocation_counter::measure(|| (0..100).for_each(|_| pick()));
            assert_eq!(counted.count_total, 0, "{balance} of {count}: {counted:?}");
        }
    }
}
