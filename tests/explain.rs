//! `ravelin explain` and `ravelin test` as a newcomer sees them who wonders where a request went.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

use std::path::Path;
use std::process::{Command, Output};

mod support;

use support::{Connection, Deadline, Ravelin};

const FILE: &str = r#"
listeners:
  public: {address: "0.0.0.0:80", trust_forwarded: {from: [10.0.0.0/8], header: x_forwarded_for}}
  inside: {address: "127.0.0.1:8081"}
upstreams:
  api: {endpoints: [10.0.0.1:8080, {address: "app.internal:8080", weight: 2}], host: endpoint}
  web: {endpoints: [10.0.1.1:8080]}
routes:
  api:
    match: {hosts: [api.example.com], paths: [/v1/*]}
    timeout: 10s
    filters:
      - rewrite: {strip_prefix: /v1}
      - headers: {request: {set: {x-route: "{{ route.name }}", authorization: Bearer hunter2}}, response: {remove: [server]}}
    upstream: api
  canary:
    match: {hosts: [api.example.com], paths: [/v1/*], headers: {x-env: canary}}
    upstream: web
  site:
    match: {hosts: ["*.example.com"]}
    upstream: web
  shop:
    match: {hosts: [shop.example.com]}
    split: [{upstream: web, weight: 95}, {upstream: api, weight: 5}]
    sticky_split: {cookie: group}
  old:
    match: {hosts: [old.example.com]}
    redirect: {to: "https://www.example.com{{ request.target }}"}
  health:
    match: {hosts: [www.example.com], paths: [/edge/health]}
    respond: {body: ok}
  admin:
    listeners: [inside]
    match: {hosts: [admin.example.com], client_ips: [10.0.0.0/8]}
    upstream: web
  books:
    match: {hosts: [bücher.example]}
    upstream: web
"#;

const SECRETS: &str = r#"
listeners: {public: {address: "0.0.0.0:80"}}
upstreams: {web: {endpoints: [10.0.1.1:8080]}}
routes:
  header: {match: {paths: [/vault], headers: {authorization: Bearer hunter2}}, upstream: web}
  expression: {match: {paths: [/vault], headers: {x-api-key: {regex: "^hunter2.*"}}}, upstream: web}
  parameter: {match: {paths: [/vault], query: {token: hunter2}}, upstream: web}
  cookie: {match: {paths: [/vault], cookies: {session: hunter2}}, upstream: web}
  query: {match: {paths: [/query]}, filters: [{rewrite: {query: {set: {api_key: hunter2}}}}], upstream: web}
"#;

fn ravelin(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ravelin")).args(arguments).current_dir(directory).output().unwrap()
}

/// What a command says of a file, and its exit status.
fn said(command: &str, file: &str, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), file).unwrap();
    let output = ravelin(directory.path(), &[&[command, "-c", "edge.yaml"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    format!("{}{}exit {}", text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn explained(arguments: &[&str]) -> String {
    said("explain", FILE, arguments)
}

#[test]
fn a_winner_among_several() {
    insta::assert_snapshot!(explained(&["https://api.example.com/v1/orders?page=2"]));
}

#[test]
fn a_condition_on_a_header() {
    insta::assert_snapshot!(explained(&["POST", "http://api.example.com/v1/orders", "-H", "x-env: canary"]));
}

#[test]
fn a_near_miss() {
    insta::assert_snapshot!(explained(&["http://admin.example.com/users", "--listener", "inside"]));
}

#[test]
fn no_route() {
    insta::assert_snapshot!(explained(&["http://example.org/v1/orders"]));
    insta::assert_snapshot!(explained(&["http://example.org/v1/orders", "--all"]));
}

#[test]
fn a_refused_path() {
    insta::assert_snapshot!(explained(&["http://api.example.com/v1/%2e%2e/../../etc/passwd"]));
}

#[test]
fn a_split() {
    insta::assert_snapshot!(explained(&["http://shop.example.com/cart"]));
    insta::assert_snapshot!(explained(&["http://shop.example.com/cart", "-H", "cookie: group=api"]));
}

#[test]
fn a_redirect() {
    insta::assert_snapshot!(explained(&["http://old.example.com/a?b=c"]));
}

#[test]
fn a_fixed_answer() {
    insta::assert_snapshot!(explained(&["http://www.example.com/edge/health"]));
}

#[test]
fn who_asks_and_by_which_listener() {
    let arguments = ["http://admin.example.com/", "--client", "10.1.2.3", "-H", "x-forwarded-for: 6.6.6.6, 10.9.9.9"];
    insta::assert_snapshot!(explained(&[&arguments[..], &["--listener", "public"]].concat()));
    insta::assert_snapshot!(explained(&[&arguments[..], &["--listener", "inside"]].concat()));
}

#[test]
fn a_host_in_unicode() {
    insta::assert_snapshot!(explained(&["http://BÜCHER.example/a/./b"]));
}

#[test]
fn as_json() {
    insta::assert_snapshot!(explained(&["--json", "https://api.example.com/v1/orders"]));
}

#[test]
fn questions_that_are_none() {
    for arguments in [
        &["/path"][..],
        &["get", "http://a/"],
        &["http://a/", "--listener", "nobody"],
        &["http://a/", "-H", "a b: c"],
        &["ftp://a/"],
    ] {
        let said = explained(arguments);
        assert!(said.contains("error: ") && said.ends_with("exit 1"), "{said}");
    }
}

#[test]
fn no_secret_of_the_file_is_shown() {
    for arguments in [&["https://api.example.com/v1/orders"][..], &["--json", "https://api.example.com/v1/orders"]] {
        let said = explained(arguments);
        assert!(said.contains("***") && !said.contains("hunter2"), "{said}");
    }
    // Nor what a route wants to see, or puts into a query.
    for url in ["http://vault.example.com/vault", "http://vault.example.com/query?token=typed"] {
        for json in [&[][..], &["--json"]] {
            let said = said("explain", SECRETS, &[json, &[url]].concat());
            assert!(said.contains("***") && !said.contains("hunter2"), "{said}");
            assert_eq!(said.contains("token=typed"), url.contains("typed"), "{said}");
        }
    }
    let tests =
        "tests:\n  - name: query\n    request: {url: \"http://a/query\"}\n    expect: {upstream_request: {query: none}}\n";
    let failed = said("test", &format!("{SECRETS}{tests}"), &[]);
    assert!(failed.contains("api_key=***") && !failed.contains("hunter2"), "{failed}");
    // What was typed is no secret to who typed it.
    assert!(explained(&["http://www.example.com/", "-H", "authorization: Basic YTpi"]).contains("Basic YTpi"));
}

// covers: tests.name, tests.request.method, tests.request.url, tests.request.headers, tests.request.client, tests.request.listener
// covers: tests.request.body, tests.upstream_reply.status, tests.upstream_reply.headers, tests.upstream_reply.body
const PASSING: &str = r#"
tests:
  - name: everything that a request and a reply can hold
    request:
      method: POST
      url: "http://api.example.com/v1/orders?page=2"
      headers: {x-env: prod, X-Forwarded-For: 192.0.2.7}
      client: 10.1.2.3
      body: "{}"
    upstream_reply: {status: 201, headers: {server: origin, x-own: "1"}, body: made}
    expect:
      route: api
      upstream: api
      endpoint: app.internal:8080
      upstream_request:
        method: POST
        path: /orders
        query: page=2
        host: app.internal:8080
        headers: {x-route: api, x-env: prod, x-forwarded-for: "192.0.2.7, 10.1.2.3", x-none: null}
        body: "{}"
      status: 201
      headers: {server: null, x-own: "1"}
      body: made
  - name: a listener of its own
    request: {url: "http://admin.example.com/", client: 10.1.2.3, listener: inside}
    expect: {route: admin}
  - name: nobody takes what is for nobody
    request: {url: "http://nobody.example.net/"}
    expect: {route: null, upstream: null, status: 404}
  - name: nor what is refused
    request: {method: TRACE, url: "http://old.example.com/"}
    expect: {route: null, status: 405}
"#;

// covers: tests.expect.route, tests.expect.upstream, tests.expect.endpoint, tests.expect.status, tests.expect.headers, tests.expect.body
// covers: tests.expect.upstream_request.method, tests.expect.upstream_request.path, tests.expect.upstream_request.query
// covers: tests.expect.upstream_request.host, tests.expect.upstream_request.headers, tests.expect.upstream_request.body
const FAILING: &str = r#"
tests:
  - name: nothing is as it was expected
    request: {url: "http://api.example.com/v1/orders"}
    expect:
      route: canary
      upstream: web
      endpoint: 10.0.1.1:8080
      upstream_request:
        method: POST
        path: /v1/orders
        query: page=2
        host: api.example.com
        headers: {x-route: null, authorization: none}
        body: "{}"
      status: 404
      headers: {x-own: "1"}
      body: made
  - name: nothing is forwarded
    request: {url: "http://old.example.com/"}
    expect: {upstream: web, upstream_request: {path: /}}
  - name: somebody takes it
    request: {url: "http://api.example.com/v1/orders"}
    expect: {route: null, upstream: null}
"#;

/// How long it took is not the same twice.
fn timeless(text: &str) -> String {
    let line = |line: &str| line.split(", in ").next().unwrap().to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn tests_that_pass() {
    insta::assert_snapshot!(timeless(&said("test", &format!("{FILE}{PASSING}"), &[])));
}

#[test]
fn tests_that_fail() {
    let said = said("test", &format!("{FILE}{FAILING}"), &[]);
    assert!(!said.contains("hunter2"));
    insta::assert_snapshot!(timeless(&said));
}

#[test]
fn tests_of_further_files_and_results_for_ci() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    file("edge.yaml", &format!("include: [part.yaml]\n{FILE}{PASSING}"));
    file("part.yaml", "tests: [{name: <included>, request: {url: 'http://old.example.com/'}, expect: {status: 308}}]\n");
    file("more.yaml", "tests: [{name: further, request: {url: 'http://old.example.com/'}, expect: {status: 301}}]\n");
    let output = ravelin(directory.path(), &["test", "-c", "edge.yaml", "--tests", "more.yaml", "--junit", "out.xml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("5 passed, 1 failed"));
    let xml = std::fs::read_to_string(directory.path().join("out.xml")).unwrap();
    for part in ["tests=\"6\" failures=\"1\"", "name=\"&lt;included&gt;\"", "message=\"status: expected 301, got 308\""] {
        assert!(xml.contains(part), "{part}: {xml}");
    }
}

#[test]
fn a_file_without_tests_does_not_pass() {
    let said = said("test", FILE, &[]);
    assert!(said.contains("has no `tests`") && said.ends_with("exit 1"), "{said}");
}

#[test]
fn mistakes_in_tests_have_their_places() {
    insta::assert_snapshot!(said(
        "check",
        r#"
listeners: {a: {address: "127.0.0.1:8080"}}
routes: {all: {respond: {body: ok}}}
tests:
  - name: a URL and unknown keys
    request: {url: "/path", cleint: 10.0.0.1}
    expect: {rout: all}
  - name: names
    request: {url: "http://a/", listener: b}
    expect: {route: al, upstream: z, status: null}
  - name: twice
    request: {url: "http://a/"}
    expect: {}
  - name: twice
    request: {url: "http://a/", method: get, headers: {"a b": c}}
    expect: {status: 99}
"#,
        &[]
    ));
}

/// For those who embed it.
#[test]
fn embedded_it_says_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("edge.yaml");
    std::fs::write(&path, FILE).unwrap();
    let offline = ravelin::App::new().offline(&path).unwrap();
    let question = ravelin::offline::Question {
        method: "GET".parse().unwrap(),
        url: "http://old.example.com/".parse().unwrap(),
        headers: Vec::new(),
        body: Default::default(),
        client: None,
        listener: None,
    };
    assert_eq!(offline.explain(&question, 0).unwrap().route.unwrap().name, "old");
}

mod a_filter_of_ones_own {
    use std::sync::atomic::{AtomicU32, Ordering};

    use ravelin::prelude::*;

    static RUNS: AtomicU32 = AtomicU32::new(0);

    struct Count;

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct CountConfig {}

    impl Filter for Count {
        const NAME: &'static str = "count";
        type Config = CountConfig;
        type State = ();
        fn build(_: CountConfig, _: &mut BuildCx<'_>) -> Result<Self, BuildError> {
            Ok(Self)
        }
        async fn request(&self, _: &mut RequestCx<'_>, (): &mut ()) -> Result<Flow, Error> {
            RUNS.fetch_add(1, Ordering::Relaxed);
            Err(Error::status(403))
        }
        fn explain(&self, _: &RequestView<'_>) -> Option<String> {
            Some("counts".to_owned())
        }
    }

    #[test]
    fn is_asked_and_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.yaml");
        let filters = "[{count: {}}, {headers: {request: {set: {x-later: \"1\"}}}}]";
        let text = format!(
            "listeners: {{a: {{address: \"127.0.0.1:80\"}}}}\nupstreams: {{a: {{endpoints: [127.0.0.1:1]}}}}\nroutes: {{all: {{filters: {filters}, upstream: a}}}}\n"
        );
        std::fs::write(&path, text).unwrap();
        let offline = ravelin::App::new().filter::<Count>().offline(&path).unwrap();
        let question = ravelin::offline::Question {
            method: "GET".parse().unwrap(),
            url: "http://a/".parse().unwrap(),
            headers: Vec::new(),
            body: Default::default(),
            client: None,
            listener: None,
        };
        let trace = offline.explain(&question, 5).unwrap();
        assert_eq!(RUNS.load(Ordering::Relaxed), 0);
        assert_eq!((trace.filters[0].does.as_deref(), trace.filters[0].unseen), (Some("counts"), true));
        let sent = trace.sent.unwrap();
        assert_eq!(sent.without, ["count"]);
        assert!(sent.headers.iter().any(|(name, _)| name == "x-later"));
    }
}

#[test]
fn what_is_missing_is_the_url() {
    let said = explained(&[]);
    assert!(said.contains("error: there is no URL to explain") && said.contains("[METHOD] <URL>"), "{said}");
    assert!(said.ends_with("exit 2") && !said.contains("<METHOD>"), "{said}");
    // A method may stand apart from its URL.
    let said = said_apart();
    assert!(said.starts_with("POST "), "{said}");
}

fn said_apart() -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), FILE).unwrap();
    let output = ravelin(directory.path(), &["explain", "POST", "-c", "edge.yaml", "https://api.example.com/v1/orders"]);
    String::from_utf8(output.stdout).unwrap()
}

/// Offline, a head is read as a connection reads it, by the limits of its listener.
#[test]
fn heads_that_no_connection_takes_are_refused_offline_with_the_same_status() {
    let file = "listeners: {main: {address: 127.0.0.1:0, limits: {header_size: 2KiB, headers: 10, uri_size: 100B, body_size: 10B}}}\n\
                routes: {all: {respond: {}}}\n";
    let ravelin = Ravelin::start(file);
    let (long, path) = (format!("x-a: {}", "a".repeat(3000)), format!("/{}", "a".repeat(200)));
    let many: Vec<String> = (0..12).map(|number| format!("x-{number}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: [(&str, &[&str], u16); 8] = [
        ("/", &[], 200),
        ("/", &[&long], 431),
        ("/", &many, 431),
        (&path, &[], 414),
        ("/", &["content-length: 11"], 413),
        ("/", &["content-length: 1", "transfer-encoding: chunked"], 400),
        ("/", &["transfer-encoding: gzip, chunked"], 400),
        ("/", &["expect: bogus", "content-length: 1"], 417),
    ];
    for (path, fields, expected) in cases {
        let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
        let head: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\n{head}\r\n").as_bytes()).unwrap();
        let live = client.next_response(Deadline::standard()).unwrap().head.status();
        let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
        let url = format!("http://a{path}");
        let told = said("explain", file, &[&["--json", "POST", &url], &*fields].concat());
        let (json, _) = told.rsplit_once("exit ").unwrap();
        let trace: serde_json::Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {told}"));
        assert_eq!(
            (live, trace["outcome"]["status"].as_u64()),
            (Some(expected), Some(u64::from(expected))),
            "{path} {fields:?}\n{told}"
        );
    }
}
