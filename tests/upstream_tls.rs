//! TLS towards endpoints: who is believed, what is shown, and whose connections are used again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use support::{Authority, Connection, Deadline, Endpoint, Launch, Outgoing, Ravelin, Reached, Signal};

/// Its directory holds the files of authorities, and goes with it.
struct Stage {
    directory: tempfile::TempDir,
    lane: &'static str,
}

/// Tests of what is the same in both lanes.
macro_rules! in_both_lanes {
    ($($test:ident)*) => {
        mod express {
            $(#[test]
            fn $test() {
                super::$test(&super::Stage::in_lane("express"));
            })*
        }
        mod general {
            $(#[test]
            fn $test() {
                super::$test(&super::Stage::in_lane("general"));
            })*
        }
    };
}

in_both_lanes! {
    connections_are_kept_and_resumed_although_the_authority_is_private
    upstreams_share_no_connection_whatever_they_differ_in
    a_file_that_holds_another_certificate_is_shown_after_a_reload_on_connections_of_its_own
    an_endpoint_is_told_whom_a_connection_is_for
    copies_tell_an_endpoint_for_whom_they_are
    a_handshake_has_its_time
    an_endpoint_that_does_not_prove_its_name_is_told_nothing
}

impl Stage {
    fn new() -> Self {
        Self::in_lane("auto")
    }

    fn in_lane(lane: &'static str) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), lane }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a proxy whose upstreams are these, each with a route `/name`.
    fn ravelin(&self, upstreams: &[(&str, &str)]) -> Ravelin {
        self.write(upstreams);
        let mut ravelin = Launch::new(self.path()).env("RAVELIN_LANE", self.lane).spawn().unwrap();
        if let Err(problem) = ravelin.ready(1, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        ravelin
    }

    fn write(&self, upstreams: &[(&str, &str)]) {
        let mut yaml = "listeners: {main: {address: 127.0.0.1:0}}\nupstreams:\n".to_owned();
        for (name, section) in upstreams {
            yaml += &format!("  {name}: {{health_check: none, {section}}}\n");
        }
        yaml += "routes:\n";
        for (name, _) in upstreams {
            yaml += &format!("  {name}: {{match: {{paths: [/{name}, /{name}/*]}}, upstream: {name}}}\n");
        }
        fs::write(self.path().join("ravelin.yaml"), yaml).unwrap();
    }
}

/// Status and body of an answer on a connection of its own.
fn get(ravelin: &Ravelin, path: &str) -> (u16, String) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    ask(&mut client, path)
}

fn ask(client: &mut Connection, path: &str) -> (u16, String) {
    let deadline = Deadline::standard();
    client.request(&Outgoing::get(path, "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    (response.head.status().unwrap(), String::from_utf8(response.body).unwrap())
}

/// The body of a good answer.
fn told(ravelin: &Ravelin, path: &str) -> String {
    let (status, body) = get(ravelin, path);
    assert_eq!(status, 200, "{body}\n{}", ravelin.log().text());
    body
}

fn fact<'a>(facts: &'a str, name: &str) -> &'a str {
    let start = facts.find(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {facts}")) + name.len() + 1;
    facts[start..].split(' ').next().unwrap()
}

// covers: upstreams.tls.ca, upstreams.tls.sni, upstreams.tls.client_cert, upstreams.tls.client_key
fn connections_are_kept_and_resumed_although_the_authority_is_private(stage: &Stage) {
    let authority = Authority::new(stage.path(), "ca");
    let (pair, _) = (authority.issue("api.internal"), authority.issue("edge"));
    let tls = Some((pair, vec!["http/1.1"]));
    let endpoint = Endpoint::start(Reached { tls, clients: Some(authority.pem().into()), requests: 2, ..Reached::default() });
    let ravelin = stage.ravelin(&[(
        "a",
        &format!(
            "endpoints: ['{}'], tls: {{sni: api.internal, ca: ca.pem, client_cert: edge.pem, client_key: edge.key}}",
            endpoint.address
        ),
    )]);
    // One client: its next request begins once the endpoint's connection is back in the pool.
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    let answers: Vec<String> = (0..6).map(|_| ask(&mut client, "/a").1).collect();
    let column = |name| answers.iter().map(|facts| fact(facts, name)).collect::<Vec<_>>();
    assert_eq!(column("connection"), ["1", "1", "2", "2", "3", "3"]);
    assert_eq!(column("handshake"), ["full", "full", "resumed", "resumed", "resumed", "resumed"]);
    for facts in &answers {
        assert_eq!((fact(facts, "sni"), fact(facts, "certificate")), ("api.internal", "true"));
        assert_eq!(fact(facts, "alpn"), "http/1.1");
    }
    let pair = authority.issue("streams.internal");
    let endpoint = Endpoint::start(Reached {
        tls: Some((pair, vec!["h2"])),
        clients: Some(authority.pem().into()),
        requests: 2,
        ..Reached::default()
    });
    let ravelin = stage.ravelin(&[(
        "a",
        &format!(
            "endpoints: ['{}'], protocol: http2, tls: {{sni: streams.internal, ca: ca.pem, client_cert: edge.pem, client_key: edge.key}}",
            endpoint.address
        ),
    )]);
    for _ in 0..6 {
        let facts = told(&ravelin, "/a");
        let handshake = if fact(&facts, "connection") == "1" { "full" } else { "resumed" };
        assert_eq!((fact(&facts, "handshake"), fact(&facts, "certificate")), (handshake, "true"), "{facts}");
    }
    assert!(endpoint.connections() > 1);
}

// covers: upstreams.tls.verify
fn an_endpoint_that_does_not_prove_its_name_is_told_nothing(stage: &Stage) {
    let (authority, other) = (Authority::new(stage.path(), "ca"), Authority::new(stage.path(), "other"));
    let late = authority.issue_as("late", "api.internal", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
    let endpoint = |pair| Endpoint::start(Reached { tls: Some((pair, vec!["h2", "http/1.1"])), ..Reached::default() });
    let (good, forged, late) = (endpoint(authority.issue("api.internal")), endpoint(other.issue("api.internal")), endpoint(late));
    let to = |endpoint: &Endpoint, rest: &str| format!("endpoints: ['{}'], {rest}", endpoint.address);
    let mut upstreams = vec![
        ("good", to(&good, "tls: {sni: api.internal, ca: ca.pem}")),
        ("system", to(&good, "tls: {sni: api.internal}")),
        ("unverified", to(&forged, "tls: {sni: else.internal, verify: false}")),
    ];
    let refused = ["name", "forged", "late"];
    let bad = [
        to(&good, "tls: {sni: else.internal, ca: ca.pem}"),
        to(&forged, "tls: {sni: api.internal, ca: ca.pem}"),
        to(&late, "tls: {sni: api.internal, ca: ca.pem}"),
    ];
    // Whoever connects: our own connector and Pingora's.
    let names: Vec<(String, String)> = refused
        .iter()
        .zip(&bad)
        .flat_map(|(name, section)| {
            ["http1", "http2", "auto"].map(|protocol| (format!("{name}-{protocol}"), format!("{section}, protocol: {protocol}")))
        })
        .collect();
    upstreams.extend(names.iter().map(|(name, section)| (name.as_str(), section.clone())));
    upstreams.push(("unverified-http2", to(&forged, "tls: {sni: else.internal, verify: false}, protocol: http2")));
    let listed: Vec<(&str, &str)> = upstreams.iter().map(|(name, section)| (*name, section.as_str())).collect();
    let ravelin = stage.ravelin(&listed);
    assert_eq!(get(&ravelin, "/good").0, 200);
    assert_eq!(get(&ravelin, "/unverified").0, 200);
    assert_eq!(fact(&told(&ravelin, "/unverified-http2"), "http"), "2");
    assert_eq!(get(&ravelin, "/system").0, 502, "the system believes in nobody here");
    for (name, _) in &names {
        assert_eq!(get(&ravelin, &format!("/{name}")).0, 502, "{name}");
    }
    let line = ravelin.wait_for_log("reason=connect_failed", Deadline::standard()).unwrap();
    assert!(line.contains("certificate"), "{line}");
}

// covers: ca_file
#[test]
fn the_authorities_of_the_process_are_believed_where_an_upstream_names_none() {
    let stage = Stage::new();
    let (authority, other) = (Authority::new(stage.path(), "ca"), Authority::new(stage.path(), "other"));
    let endpoint = |pair| Endpoint::start(Reached { tls: Some((pair, vec!["h2", "http/1.1"])), ..Reached::default() });
    let (good, forged) = (endpoint(authority.issue("api.internal")), endpoint(other.issue("api.internal")));
    let section = |endpoint: &Endpoint, protocol: &str| {
        format!("endpoints: ['{}'], protocol: {protocol}, tls: {{sni: api.internal}}", endpoint.address)
    };
    let sections = [
        ("a", section(&good, "http1")),
        ("b", section(&good, "http2")),
        ("c", section(&forged, "http1")),
        ("d", section(&forged, "http2")),
    ];
    stage.write(&sections.each_ref().map(|(name, section)| (*name, section.as_str())));
    let file = stage.path().join("ravelin.yaml");
    let yaml = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("ca_file: {}\n{yaml}", stage.path().join("ca.pem").display())).unwrap();
    let mut ravelin = Launch::new(stage.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap();
    assert_eq!(["/a", "/b", "/c", "/d"].map(|path| get(&ravelin, path).0), [200, 200, 502, 502]);
}

/// What `check` says of an upstream with this `tls`.
fn checked(stage: &Stage, tls: &str) -> (bool, String) {
    stage.write(&[("a", &format!("endpoints: [a:443], tls: {tls}"))]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(["check", "-c", "ravelin.yaml"])
        .current_dir(stage.path())
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn files_are_looked_at_when_they_are_read() {
    let stage = Stage::new();
    let authority = Authority::new(stage.path(), "ca");
    let (_, _, late) = (
        authority.issue("edge"),
        authority.issue("other"),
        authority.issue_as("late", "edge", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1)),
    );
    fs::write(stage.path().join("json.pem"), "{\"certificate\": 1}").unwrap();
    for (tls, said) in [
        ("{ca: nothing.pem}", "nothing.pem: no such file or directory"),
        ("{ca: json.pem}", "json.pem: it holds no certificate in PEM"),
        ("{ca: edge.key}", "edge.key: it holds no certificate in PEM"),
        ("{ca: '.'}", "this is no file"),
        ("{client_cert: edge.pem, client_key: other.key}", "other.key: the key is not that of the certificate"),
        ("{client_cert: edge.pem, client_key: json.pem}", "json.pem: it holds no private key in PEM"),
        ("{client_cert: json.pem, client_key: edge.key}", "json.pem: it holds no certificate in PEM"),
    ] {
        let (good, report) = checked(&stage, tls);
        assert!(!good && report.contains("error: ") && report.contains(said), "{tls}: {report}");
        assert!(report.contains("ravelin.yaml:3:"), "its place is shown: {report}");
    }
    let (good, report) = checked(&stage, "{ca: ca.pem, client_cert: late.pem, client_key: late.key}");
    assert!(good && report.contains("late.pem: a certificate in it expired on"), "{report}");
    fs::set_permissions(&late.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (good, report) = checked(&stage, "{ca: ca.pem, client_cert: late.pem, client_key: late.key}");
    assert!(good && report.contains("late.key: others than its owner may read the key"), "{report}");
    assert_eq!(checked(&stage, "{ca: ca.pem, client_cert: edge.pem, client_key: edge.key}"), (true, String::new()));
}

// covers: upstreams.protocol
#[test]
fn both_sides_agree_on_a_protocol() {
    let stage = Stage::new();
    let authority = Authority::new(stage.path(), "ca");
    let pair = authority.issue("api.internal");
    let endpoint =
        |alpn: &[&'static str]| Endpoint::start(Reached { tls: Some((pair.clone(), alpn.to_vec())), ..Reached::default() });
    let (both, first, none) = (endpoint(&["h2", "http/1.1"]), endpoint(&["http/1.1"]), endpoint(&[]));
    let h2c = Endpoint::start(Reached { h2c: true, ..Reached::default() });
    let tls = |endpoint: &Endpoint, protocol: &str| {
        format!("endpoints: ['{}'], protocol: {protocol}, tls: {{sni: api.internal, ca: ca.pem}}", endpoint.address)
    };
    let sections = [
        ("auto", tls(&both, "auto")),
        ("auto-first", tls(&first, "auto")),
        ("auto-none", tls(&none, "auto")),
        ("first", tls(&both, "http1")),
        ("second", tls(&both, "http2")),
        ("refused", tls(&first, "http2")),
        ("refused-none", tls(&none, "http2")),
        ("plain", format!("endpoints: ['{}'], protocol: http2", h2c.address)),
    ];
    let ravelin = stage.ravelin(&sections.each_ref().map(|(name, section)| (*name, section.as_str())));
    for _ in 0..2 {
        for (path, http) in
            [("/auto", "2"), ("/auto-first", "1"), ("/auto-none", "1"), ("/first", "1"), ("/second", "2"), ("/plain", "2")]
        {
            assert_eq!(fact(&told(&ravelin, path), "http"), http, "{path}");
        }
        for path in ["/refused", "/refused-none"] {
            assert_eq!(get(&ravelin, path).0, 502, "{path}");
        }
    }
    let line = ravelin.wait_for_log("reason=no_http2", Deadline::standard()).unwrap();
    assert!(line.contains("agreed on no HTTP/2"), "{line}");
    // Streams share a connection: asked one after the other, there is one, and `auto` goes on with the one on which it was chosen.
    assert_eq!(h2c.connections(), 1);
    assert_eq!(both.connections(), 3);
}

fn upstreams_share_no_connection_whatever_they_differ_in(stage: &Stage) {
    let (authority, other) = (Authority::new(stage.path(), "ca"), Authority::new(stage.path(), "other"));
    let pair = authority.issue("api.internal");
    authority.issue("edge");
    fs::write(stage.path().join("both.pem"), format!("{}{}", authority.pem(), other.pem())).unwrap();
    let endpoint = Endpoint::start(Reached { tls: Some((pair, vec!["h2", "http/1.1"])), ..Reached::default() });
    let section = |tls: &str, protocol: &str| {
        format!("endpoints: ['{}'], protocol: {protocol}, tls: {{sni: api.internal, {tls}}}", endpoint.address)
    };
    let sections = [
        ("a", section("ca: ca.pem", "http1")),
        ("same", section("ca: ca.pem", "http1")),
        ("ca", section("ca: both.pem", "http1")),
        ("certificate", section("ca: ca.pem, client_cert: edge.pem, client_key: edge.key", "http1")),
        ("http2", section("ca: ca.pem", "http2")),
        ("http2-ca", section("ca: both.pem", "http2")),
    ];
    let ravelin = stage.ravelin(&sections.each_ref().map(|(name, section)| (*name, section.as_str())));
    let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
    for round in 0..2 {
        for (number, (name, _)) in sections.iter().enumerate() {
            let (_, facts) = ask(&mut client, &format!("/{name}"));
            assert_eq!(fact(&facts, "connection"), (number + 1).to_string(), "round {round}, {name}: {facts}");
            // Nor a session, although the endpoint and the name are the same: who was believed there is not believed here for that.
            assert_eq!(fact(&facts, "handshake"), "full", "{name}: {facts}");
        }
    }
}

fn a_file_that_holds_another_certificate_is_shown_after_a_reload_on_connections_of_its_own(stage: &Stage) {
    let authority = Authority::new(stage.path(), "ca");
    let endpoint = Endpoint::start(Reached { tls: Some((authority.issue("api.internal"), vec![])), ..Reached::default() });
    authority.issue("edge");
    let section = |more: &str| format!("endpoints: ['{}'], tls: {{sni: api.internal, ca: ca.pem{more}}}", endpoint.address);
    let with = section(", client_cert: edge.pem, client_key: edge.key");
    let ravelin = stage.ravelin(&[("a", &with), ("b", &section(""))]);
    assert_eq!(fact(&told(&ravelin, "/a"), "connection"), "1");
    assert_eq!(fact(&told(&ravelin, "/b"), "connection"), "2");
    let reload = |generation: usize| {
        ravelin.signal(Signal::HUP).unwrap();
        let told = ravelin.log().wait_for(Deadline::standard(), |lines| {
            (lines.iter().filter(|line| line.contains("configuration reloaded") || line.contains("reload refused")).count()
                >= generation)
                .then_some(())
        });
        assert!(told.is_some(), "{}", ravelin.log().text());
    };
    reload(1);
    assert_eq!(fact(&told(&ravelin, "/a"), "connection"), "1", "nothing has changed");
    authority.issue("edge");
    reload(2);
    let facts = told(&ravelin, "/a");
    assert_eq!((fact(&facts, "connection"), fact(&facts, "handshake")), ("3", "full"), "{facts}");
    assert_eq!(fact(&told(&ravelin, "/b"), "connection"), "2", "the other upstream is left alone");
    fs::write(stage.path().join("edge.key"), "{}").unwrap();
    reload(3);
    let told_why = ravelin.wait_for_log("edge.key: it holds no private key", Deadline::standard());
    assert!(told_why.is_some(), "{}", ravelin.log().text());
    assert_eq!(fact(&told(&ravelin, "/a"), "connection"), "3");
}

#[test]
fn a_web_socket_over_tls() {
    let stage = Stage::new();
    let authority = Authority::new(stage.path(), "ca");
    let tls = Some((authority.issue("api.internal"), vec!["h2", "http/1.1"]));
    let endpoint = Endpoint::start(Reached { tls, ..Reached::default() });
    let section = |protocol: &str| {
        format!("endpoints: ['{}'], protocol: {protocol}, tls: {{sni: api.internal, ca: ca.pem}}", endpoint.address)
    };
    let ravelin = stage.ravelin(&[("a", &section("http1")), ("auto", &section("auto"))]);
    // What it speaks is known by then: HTTP/2, over which there is no upgrade.
    assert_eq!(fact(&told(&ravelin, "/auto"), "http"), "2");
    for path in ["/a", "/auto"] {
        let mut client = std::net::TcpStream::connect(ravelin.address()).unwrap();
        client.set_read_timeout(Some(Deadline::standard().left())).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        client.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
        client.write_all(b"there and back").unwrap();
        let mut echo = [0; 14];
        client.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"there and back");
    }
}

fn a_handshake_has_its_time(stage: &Stage) {
    Authority::new(stage.path(), "ca");
    // It accepts, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let section = |protocol: &str| {
        format!(
            "endpoints: ['{}'], protocol: {protocol}, timeouts: {{connect: 100ms}}, retry: {{retries: 0}}, \
             tls: {{sni: api.internal, ca: ca.pem}}",
            silent.local_addr().unwrap()
        )
    };
    let ravelin = stage.ravelin(&[("a", &section("http1")), ("b", &section("http2")), ("c", &section("auto"))]);
    for path in ["/a", "/b", "/c"] {
        assert_eq!(get(&ravelin, path).0, 504, "{path}\n{}", ravelin.log().text());
    }
}

// covers: upstreams.proxy_protocol
fn an_endpoint_is_told_whom_a_connection_is_for(stage: &Stage) {
    let authority = Authority::new(stage.path(), "ca");
    let pair = authority.issue("api.internal");
    let reached = |tls: bool, h2c: bool| Reached {
        tls: tls.then(|| (pair.clone(), vec!["h2", "http/1.1"])),
        h2c,
        introduced: true,
        ..Reached::default()
    };
    let endpoints = [(false, false), (false, true), (true, false)].map(|(tls, h2c)| Endpoint::start(reached(tls, h2c)));
    let [plain, h2c, tls] = endpoints.each_ref().map(|endpoint| endpoint.address);
    let over = "tls: {sni: api.internal, ca: ca.pem}";
    let sections = [
        ("v1", format!("endpoints: ['{plain}'], proxy_protocol: v1")),
        ("v2", format!("endpoints: ['{plain}'], proxy_protocol: v2")),
        ("h2c", format!("endpoints: ['{h2c}'], proxy_protocol: v2, protocol: http2")),
        ("tls", format!("endpoints: ['{tls}'], proxy_protocol: v1, {over}")),
        ("auto", format!("endpoints: ['{tls}'], proxy_protocol: v2, protocol: auto, {over}")),
        ("second", format!("endpoints: ['{tls}'], proxy_protocol: v2, protocol: http2, {over}")),
    ];
    let ravelin = stage.ravelin(&sections.each_ref().map(|(name, section)| (*name, section.as_str())));
    let deadline = Deadline::standard();
    for (name, http) in [("v1", "1"), ("v2", "1"), ("h2c", "2"), ("tls", "1"), ("auto", "2"), ("second", "2")] {
        let path = format!("/{name}");
        let mut connections = Vec::new();
        for _ in 0..2 {
            // One client asks twice, on a connection of its own.
            let mut client = Connection::open(ravelin.address(), deadline).unwrap();
            let from = client.local_address().unwrap();
            let header = if name == "v1" || name == "tls" {
                format!("v1 PROXY TCP4 {} {} {} ", from.ip(), "127.0.0.1", from.port())
            } else {
                format!("v2 {from}")
            };
            for _ in 0..2 {
                let (status, facts) = ask(&mut client, &path);
                assert_eq!(status, 200, "{facts}\n{}", ravelin.log().text());
                assert!(facts.contains(&header), "{path}: {facts}, not {header}");
                assert_eq!(fact(&facts, "http"), http, "{path}: {facts}");
                connections.push(fact(&facts, "connection").to_owned());
            }
        }
        assert_eq!(connections[0], connections[1], "{path}: a client's connection serves its next request");
        assert_eq!(connections[2], connections[3], "{path}");
        assert_ne!(connections[1], connections[2], "{path}: it serves no other client");
    }
}

fn copies_tell_an_endpoint_for_whom_they_are(stage: &Stage) {
    let authority = Authority::new(stage.path(), "ca");
    let tls = Some((authority.issue("api.internal"), vec!["h2", "http/1.1"]));
    let endpoint = |reached| Endpoint::start(Reached { introduced: true, ..reached });
    let shadows = [
        ("v1", "", endpoint(Reached::default())),
        ("v2", ", protocol: http2", endpoint(Reached { h2c: true, ..Reached::default() })),
        ("v2", ", tls: {sni: api.internal, ca: ca.pem}", endpoint(Reached { tls: tls.clone(), ..Reached::default() })),
        ("v1", ", tls: {sni: api.internal, ca: ca.pem}, protocol: auto", endpoint(Reached { tls, ..Reached::default() })),
    ];
    let direct = Endpoint::start(Reached::default());
    let mut yaml = "listeners: {main: {address: 127.0.0.1:0}}\nadmin: {address: 127.0.0.1:0}\nupstreams:\n".to_owned();
    yaml += &format!("  direct: {{endpoints: ['{}'], health_check: none}}\n", direct.address);
    for (number, (version, more, shadow)) in shadows.iter().enumerate() {
        yaml += &format!(
            "  shadow{number}: {{endpoints: ['{}'], health_check: none, outlier_detection: {{}}, proxy_protocol: {version}{more}}}\n",
            shadow.address
        );
    }
    yaml += "routes:\n";
    for number in 0..shadows.len() {
        // By `/healthz` an endpoint notes how it was reached.
        let rewrite = "filters: [{rewrite: {path: /healthz}}]";
        yaml += &format!(
            "  r{number}: {{match: {{paths: [/{number}]}}, upstream: direct, mirror: {{upstream: shadow{number}}}, {rewrite}}}\n"
        );
    }
    fs::write(stage.path().join("ravelin.yaml"), yaml).unwrap();
    let mut ravelin = Launch::new(stage.path()).env("RAVELIN_LANE", stage.lane).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    for (number, (version, more, shadow)) in shadows.iter().enumerate() {
        let mut client = Connection::open(ravelin.address(), Deadline::standard()).unwrap();
        let header = match (*version, client.local_address().unwrap()) {
            ("v1", from) => format!("proxy=\"v1 PROXY TCP4 {} 127.0.0.1 {} ", from.ip(), from.port()),
            (_, from) => format!("proxy=\"v2 {from}\""),
        };
        let http = if *more == ", tls: {sni: api.internal, ca: ca.pem}" || more.is_empty() { "1" } else { "2" };
        for asked in 1..=7 {
            assert_eq!(ask(&mut client, &format!("/{number}")).0, 200);
            let deadline = Deadline::standard();
            while shadow.probes().len() < asked {
                assert!(!deadline.passed(), "{version}{more}: copy {asked} has not come\n{}", ravelin.log().text());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        for facts in shadow.probes() {
            assert!(facts.contains(&header), "{version}{more}: {facts}, not {header}");
            assert_eq!(fact(&facts, "http"), http, "{version}{more}: {facts}");
        }
    }
    let sent = |number: usize| {
        support::metric(&ravelin, &format!("ravelin_mirrored_requests_total{{route=\"r{number}\",result=\"sent\"}}"))
    };
    let deadline = Deadline::standard();
    while (0..shadows.len()).any(|number| sent(number) < 7.0) {
        assert!(!deadline.passed(), "a copy was not answered\n{}", ravelin.log().text());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
