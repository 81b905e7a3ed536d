//! Secrets are planted wherever a configuration may hold one, and in what clients send; nothing that Ravelin says holds them.
//!
//! A key whose type is `Secret` must be planted: the schema tells which there are. Add its line to [`CONFIG`], as `<path.of.the.key>`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use ravelin::config::parse;
use ravelin::filter::Registry;
use serde_json::Value;
use support::{Answer, Connection, Deadline, Launch, Origin, Outgoing, Ravelin, Signal};

/// Each `<…>` is a secret.
const CONFIG: &str = r#"
admin: {address: "127.0.0.1:0", token: "<admin.token>", explain_token: "<admin.explain_token>"}
listeners:
  main: {address: "127.0.0.1:0"}
access_log: {}
upstreams:
  a:
    endpoints: ["ORIGIN"]
    health_check: none
    sticky: {cookie: lb, key: "0123456789 <upstreams.sticky.key>"}
routes:
  all:
    match: {paths: [/*]}
    filters:
      - headers:
          request: {set: {authorization: "Bearer <header>", x-api-key: "<key>"}}
          response: {set: {x-upstream-token: "<token>"}}
    upstream: a
tests:
  - name: fails
    request: {url: "http://a/", headers: {authorization: "Bearer <of a client>"}}
    expect: {status: 201, upstream_request: {path: /other}}
"#;

const PLANTED: &str = "planted7f3a";

/// With each secret in place, none like another.
fn planted(origin: &str) -> String {
    let mut parts = CONFIG.split('<');
    let mut text = parts.next().unwrap().to_owned();
    for (number, part) in parts.enumerate() {
        let (_, rest) = part.split_once('>').unwrap();
        text.push_str(&format!("{PLANTED}{number}{rest}"));
    }
    text.replace("ORIGIN", origin)
}

/// What was planted under this name.
fn secret(name: &str) -> String {
    let number = CONFIG[..CONFIG.find(&format!("<{name}>")).unwrap()].matches('<').count();
    format!("{PLANTED}{number}")
}

fn shows_nothing(what: &str, shown: &str) {
    if let Some(at) = shown.find(PLANTED) {
        let begin = shown[..at].rfind('\n').map_or(0, |line| line + 1);
        panic!("{what} shows a secret: {}", &shown[begin..].lines().next().unwrap_or_default());
    }
}

fn ravelin(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ravelin"));
    let output = command.args(arguments).env("RUST_LOG", "trace").current_dir(directory).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_secret_of_the_format_is_planted() {
    let directory = tempfile::tempdir().unwrap();
    let schema: Value = serde_json::from_str(&ravelin(directory.path(), &["schema"])).unwrap();
    let mut found = Vec::new();
    secrets(&schema, &schema["properties"], "", &mut found);
    assert!(found.contains(&"admin.token".to_owned()), "{found:?}");
    for path in found {
        assert!(CONFIG.contains(&format!("<{path}>")), "`{path}` is a secret that is not in CONFIG");
    }
}

/// The paths of all properties that are secrets, without names of upstreams and the like.
fn secrets(schema: &Value, node: &Value, path: &str, found: &mut Vec<String>) {
    // Deeper than any key is, and no schema refers to itself for long.
    if path.matches('.').count() > 8 {
        return;
    }
    match node {
        Value::Object(map) => {
            if map.get("writeOnly") == Some(&Value::Bool(true)) && !found.iter().any(|other| other == path) {
                found.push(path.to_owned());
            }
            for (key, value) in map {
                match key.as_str() {
                    "$ref" => {
                        let name = value.as_str().unwrap().rsplit('/').next().unwrap();
                        secrets(schema, &schema["$defs"][name], path, found);
                    }
                    "properties" => properties(schema, value, path, found),
                    "$defs" => {}
                    _ if path.is_empty() => secrets(schema, value, key, found),
                    _ => secrets(schema, value, path, found),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|one| secrets(schema, one, path, found)),
        _ => {}
    }
}

fn properties(schema: &Value, node: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in node.as_object().unwrap() {
        secrets(schema, value, &format!("{path}.{key}"), found);
    }
}

/// Whatever is wrong with a file, and wherever.
#[test]
fn no_report_shows_a_secret() {
    let text = planted("127.0.0.1:9");
    let mut filters = Registry::default();
    ravelin::filters::register(&mut filters).unwrap();
    let shown = |text: &str| parse(text, Path::new("ravelin.yaml"), &filters, &|_| None).1.to_string();
    shows_nothing("a report of nothing", &shown(&text));
    let mut wrong = Vec::new();
    let mut try_out = |text: String| {
        let shown = shown(&text);
        if let Some(line) = shown.lines().find(|line| line.contains(PLANTED)) {
            wrong.push(line.to_owned());
        }
    };
    (0..text.len()).for_each(|end| try_out(text[..end].to_owned()));
    for (at, _) in text.match_indices(['\n', ' ', ':', '{', '"', ',']) {
        for stray in ["[", "}", "\"", ": ", "\n", "x", "\t", "&a ", "!t "] {
            try_out(format!("{}{stray}{}", &text[..at], &text[at..]));
        }
        try_out(format!("{}{}", &text[..at], &text[at + 1..]));
    }
    assert!(
        wrong.is_empty(),
        "{} show a secret:
{}",
        wrong.len(),
        wrong.join(
            "
"
        )
    );
}

#[test]
fn no_command_shows_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ravelin.yaml"), planted("127.0.0.1:9")).unwrap();
    let file = ["-c", "ravelin.yaml"];
    shows_nothing("check", &ravelin(directory.path(), &[&["check"], &file[..]].concat()));
    let test = ravelin(directory.path(), &[&["test"], &file[..]].concat());
    assert!(test.contains("fails"), "{test}");
    shows_nothing("test", &test);
    let token = format!("authorization: Bearer {PLANTED}");
    for arguments in [&["GET", "http://a/x"][..], &["--json", "GET", "http://a/x"], &["GET", "http://a/x", "-H", &token]] {
        let explained = ravelin(directory.path(), &[&["explain"], &file[..], arguments].concat());
        assert!(explained.contains("all"), "{explained}");
        shows_nothing("explain", &explained);
    }
}

#[test]
fn no_running_process_shows_a_secret() {
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ravelin.yaml");
    fs::write(&file, planted(origin.address())).unwrap();
    let deadline = Deadline::standard();
    let mut ravelin = Launch::new(directory.path()).env("RUST_LOG", "trace").spawn().unwrap();
    ravelin.ready(1, deadline).unwrap();
    let mut said = Vec::new();

    // Requests that are right, and wrong, with secrets of a client's own.
    let mut request = Outgoing::get("/x", "a");
    for name in ["authorization", "proxy-authorization", "cookie", "x-api-key"] {
        request.fields.push((name.to_owned(), PLANTED.into()));
    }
    assert_eq!(ask(ravelin.address(), &request, deadline).0, 200);
    request.fields.push(("expect".to_owned(), b"nonsense".to_vec()));
    said.push(ask(ravelin.address(), &request, deadline).1);
    // Its own trace, by the right token, which the answer must not show; and by a wrong one.
    let mut curious = Outgoing::get("/x", "a");
    curious.fields.push(("x-ravelin-explain".to_owned(), secret("admin.explain_token").into_bytes()));
    let (_, trace) = ask(ravelin.address(), &curious, deadline);
    assert!(trace.contains("\"route\""), "{trace}");
    said.push(trace);

    let admin = ravelin.admin().unwrap();
    for token in [secret("admin.token"), format!("{PLANTED}wrong")] {
        for path in ["/metrics", "/readyz", "/healthz", "/state", "/config", "/upstreams", "/nothing"] {
            let mut question = Outgoing::get(path, "a");
            question.fields.push(("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
            said.push(ask(&admin, &question, deadline).1);
        }
    }

    // A reload that is refused, and one that is not.
    fs::write(&file, planted(origin.address()).replace("endpoints", "endpoint")).unwrap();
    ravelin.signal(Signal::HUP).unwrap();
    assert!(ravelin.wait_for_log("endpoint", deadline).is_some());
    fs::write(&file, planted(origin.address())).unwrap();
    ravelin.signal(Signal::HUP).unwrap();
    let again = ravelin
        .stdout()
        .wait_for(deadline, |_| (ask(ravelin.address(), &Outgoing::get("/y", "a"), deadline).0 == 200).then_some(()));
    assert!(again.is_some());
    end(&mut ravelin, deadline);

    for what in said {
        shows_nothing("an answer", &what);
    }
    shows_nothing("the log", &ravelin.log().text());
    shows_nothing("the access log", &ravelin.stdout().text());
}

/// The status and everything that was said, but for what the configuration tells clients on purpose.
fn ask(address: &str, request: &Outgoing, deadline: Deadline) -> (u16, String) {
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(request, deadline).unwrap();
    let answer = client.next_response(deadline).unwrap();
    let head: Vec<String> = String::from_utf8_lossy(&answer.head.raw)
        .lines()
        .filter(|line| !line.starts_with("x-upstream-token"))
        .map(str::to_owned)
        .collect();
    (answer.head.status().unwrap(), format!("{}\n{}", head.join("\n"), String::from_utf8_lossy(&answer.body)))
}

fn end(ravelin: &mut Ravelin, deadline: Deadline) {
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(deadline).is_some());
}
