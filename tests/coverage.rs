//! Parsed means enforced: each key of the file has a test that shows its effect, on a live request or at start, with a value that is not
//! its default. The schema says which keys there are; `covers:` lines of cases, and `// covers:` lines of tests, say which are shown.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, process};

use serde_json::Value;
use support::covers;

/// Keys of Pingora's that Ravelin hands on as they are: that they are parsed into `ServerConf` is the evidence, which
/// `src/config/pingora.rs` tests. Those without effect are a warning, which is a snapshot.
const PINGORAS: &[&str] = &[
    "blocking_threads_ttl_seconds",
    "ca_file",
    "daemon_notify_timeout_seconds",
    "downstream_tls_offload_thread_per_pool",
    "downstream_tls_offload_threadpools",
    "fast_timeout_to_tokio_threshold_seconds",
    "listener_tasks_per_fd",
    "max_blocking_threads",
    "runtime_enable_alt_timer",
    "runtime_metrics_poll_time_histogram",
    "runtime_metrics_poll_time_histogram_buckets",
    "runtime_metrics_poll_time_histogram_resolution_micros",
    "runtime_metrics_poll_time_histogram_scale",
    "upstream_connect_offload_thread_per_pool",
    "upstream_connect_offload_threadpools",
    "upstream_debug_ssl_keylog",
    // Its only value is 1.
    "version",
    "work_stealing",
];

/// Where one type stands in two places: what is shown in the second holds in the first.
const SAME: &[(&str, &str)] =
    &[("defaults.limits.", "listeners.limits."), ("defaults.filters.", "routes.filters."), ("chains.", "routes.filters.")];

#[test]
fn every_key_has_a_test_that_shows_its_effect() {
    let covered = covered();
    let keys = keys();
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| !PINGORAS.contains(&key.as_str()) && is_leaf(key, &keys) && !covered.contains_key(*key))
        .collect();
    assert!(missing.is_empty(), "no test shows the effect of these keys: {missing:#?}");
}

#[test]
fn what_is_covered_exists() {
    let keys = keys();
    let sections: BTreeSet<&str> = keys.iter().flat_map(|key| key.match_indices('.').map(|(at, _)| &key[..at])).collect();
    let values = |key: &str| key.rsplit_once('.').is_some_and(|(of, _)| keys.contains(of) || sections.contains(of));
    for (key, tests) in covered() {
        let exists = keys.contains(&key) || sections.contains(key.as_str()) || values(&key);
        assert!(exists, "`{key}`, of {tests:?}, is no key");
    }
    for key in PINGORAS {
        assert!(keys.contains(*key), "`{key}` is no key");
    }
}

/// A section is shown by what is in it.
fn is_leaf(key: &str, keys: &BTreeSet<String>) -> bool {
    let section = format!("{key}.");
    !keys.iter().any(|other| other.starts_with(&section))
}

fn covered() -> BTreeMap<String, BTreeSet<String>> {
    let mut covered = covers::covered().unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in fs::read_dir(&tests).unwrap().chain(fs::read_dir(tests.join("hooks")).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs" || extension == "case") {
            for line in fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start();
                for key in covers::keys(line.strip_prefix("// ").unwrap_or(line)) {
                    covered.entry(key.to_owned()).or_default().insert(path.file_name().unwrap().to_string_lossy().into_owned());
                }
            }
        }
    }
    covered
}

/// Every key, with its sections in front of it, and without the names of listeners, upstreams, routes and chains.
fn keys() -> BTreeSet<String> {
    let output = process::Command::new(env!("CARGO_BIN_EXE_ravelin")).arg("schema").output().unwrap();
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut keys = BTreeSet::new();
    walk(&schema, &schema, "", &mut Vec::new(), &mut keys);
    keys.into_iter().filter(|key| !SAME.iter().any(|(prefix, _)| key.starts_with(prefix))).collect()
}

fn walk(root: &Value, schema: &Value, path: &str, open: &mut Vec<String>, keys: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        // A type within itself says nothing new.
        if !open.iter().any(|seen| seen == reference) {
            open.push(reference.to_owned());
            walk(root, root.pointer(reference.trim_start_matches('#')).unwrap(), path, open, keys);
            open.pop();
        }
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        walk(root, value, &path, open, keys);
        keys.insert(path);
    }
    for variants in ["anyOf", "oneOf", "allOf"] {
        for variant in schema[variants].as_array().into_iter().flatten() {
            walk(root, variant, path, open, keys);
        }
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            walk(root, &schema[below], path, open, keys);
        }
    }
}
