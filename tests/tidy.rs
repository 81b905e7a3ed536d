//! The house keeps its order: floors import upwards only, and what is unfinished does not hide.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors of `docs/ARCHITECTURE.md`, from the top of its page to the bottom: each may use those above it.
const FLOORS: [&[&str]; 9] = [
    &["types"],
    &["config"],
    &["router", "upstream", "tls", "observe"],
    &["filter"],
    &["filters"],
    &["runtime"],
    &["proxy"],
    &["server", "admin"],
    &["cli"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Each source of `src/`, with its path below it.
fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// The modules that a source names by `crate::…`, apart from its tests: `use crate::{a, b::c}` names both.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].rsplit('\n').next().unwrap();
        if line.trim_start().starts_with("//") {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn imports_point_up_only() {
    let mut wrong = Vec::new();
    for (path, text) in all() {
        let Some(own) = path.split('/').next().and_then(floor) else { continue };
        for name in uses(&text) {
            // `crate::testing` is the public name of a part of `filter`.
            if floor(&name).is_some_and(|other| other > own) {
                wrong.push(format!("src/{path} (floor {own}) uses `crate::{name}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    for (path, _) in all() {
        let module = path.split('/').next().unwrap();
        assert!(module.ends_with(".rs") || floor(module).is_some(), "src/{module} is on no floor");
    }
}

#[test]
fn pingoras_error_stays_in_the_proxy_and_the_server() {
    // Where an interface of Pingora's is implemented, its result type is part of the signature.
    let allowed = ["proxy/", "server/", "upstream/directory.rs"];
    for (path, text) in all() {
        let names =
            text.contains("pingora_core::Error") || text.contains("pingora::Error") || text.contains("pingora_core::Result");
        assert!(!names || allowed.iter().any(|place| path.starts_with(place)), "src/{path} knows Pingora's errors");
    }
}

#[test]
fn hooks_and_records_know_no_pingora_type() {
    for (path, text) in all() {
        if path.starts_with("filter/") || path.starts_with("filters/") || path.starts_with("router/") {
            let code: Vec<&str> =
                text.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains("pingora")).collect();
            let hatch = |line: &str| line.contains("fn session(&mut self) -> Option<&mut pingora_proxy::Session>");
            assert!(code.iter().all(|line| hatch(line)), "src/{path}: {code:?}");
        }
    }
}

#[test]
fn nothing_unfinished_hides() {
    for (path, text) in all() {
        for word in ["todo!", "unimplemented!", "FIXME", "XXX", "#[ignore", "allow(dead_code"] {
            assert!(!text.contains(word), "src/{path} holds {word}");
        }
    }
}

#[test]
fn the_rule_sees_what_it_should() {
    assert_eq!(
        uses("use crate::{types::Name, config};\nfn f() { crate::proxy::x(); }\n// crate::cli\n"),
        ["types", "config", "proxy"]
    );
}
