//! Probes reach endpoints as requests do: over TLS, HTTP/2 and after a PROXY header, with the same certificates; and what they find outlives
//! a reload, whoever found the endpoints.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use support::{
    Authority, Connection, Deadline, Endpoint, Launch, NameServer, Outgoing, Pair, Ravelin, Reached, Says, Signal, metric,
    until_metric,
};

fn ravelin(directory: &Path, upstream: &str) -> Ravelin {
    write(directory, upstream);
    let mut ravelin = Launch::new(directory).spawn().unwrap();
    if let Err(problem) = ravelin.ready(1, Deadline::standard()) {
        panic!("{problem}\n{}", ravelin.log().text());
    }
    ravelin
}

fn write(directory: &Path, upstream: &str) {
    let yaml = format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{a: {{retry: {{retries: 0}}, {upstream}}}}}\nroutes: {{all: {{upstream: a}}}}\n"
    );
    fs::write(directory.join("ravelin.yaml"), yaml).unwrap();
}

fn get(ravelin: &Ravelin) -> (u16, String) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    (response.head.status().unwrap(), String::from_utf8_lossy(&response.body).into_owned())
}

/// Waits until the endpoint is given requests, or is not.
fn until_healthy(ravelin: &Ravelin, endpoint: &Endpoint, healthy: bool) {
    let sample = format!("ravelin_endpoint_healthy{{upstream=\"a\",endpoint=\"{}\"}}", endpoint.address);
    until(ravelin, &sample, || metric(ravelin, &sample) == f64::from(u8::from(healthy)));
}

fn until(ravelin: &Ravelin, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::standard();
    while !holds() {
        assert!(!deadline.passed(), "{what}\n{}", ravelin.log().text());
        thread::sleep(Duration::from_millis(5));
    }
}

fn over_tls(pair: &Pair, alpn: &[&'static str], authority: &Authority) -> Endpoint {
    Endpoint::start(Reached {
        tls: Some((pair.clone(), alpn.to_vec())),
        clients: Some(authority.pem().into()),
        ..Reached::default()
    })
}

#[test]
fn over_tls_an_endpoint_is_as_healthy_as_it_proves_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(directory.path(), "ca"), Authority::new(directory.path(), "other"));
    let (sound, forged) = (authority.issue("api.internal"), other.issue_as("forged", "api.internal", |_| ()));
    authority.issue("edge");
    let tls = "tls: {sni: api.internal, ca: ca.pem, client_cert: edge.pem, client_key: edge.key}";
    for (protocol, alpn, check, spoken) in [
        ("http1", vec!["h2", "http/1.1"], "tcp", None),
        ("http1", vec!["h2", "http/1.1"], "http", Some("http=1")),
        ("http2", vec!["h2", "http/1.1"], "http", Some("http=2")),
        ("auto", vec!["h2", "http/1.1"], "http", Some("http=2")),
        ("auto", vec!["http/1.1"], "http", Some("http=1")),
        ("http2", vec!["h2"], "tcp", None),
        ("http2", vec!["h2"], "grpc", Some("http=2")),
    ] {
        let (good, bad) = (over_tls(&sound, &alpn, &authority), over_tls(&forged, &alpn, &authority));
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{}', '{}'], {tls}, protocol: {protocol}, health_check: {{{check}: {{interval: 30ms, timeout: 10s, unhealthy_after: 1}}}}",
                good.address, bad.address
            ),
        );
        let line = ravelin.wait_for_log(&format!("endpoint={} check={check}", bad.address), Deadline::standard()).unwrap();
        assert!(line.contains("TLS") && line.contains("certificate"), "{line}");
        for _ in 0..4 {
            let (status, facts) = get(&ravelin);
            assert_eq!(status, 200, "{protocol} {check}: {facts}\n{}", ravelin.log().text());
        }
        if let Some(spoken) = spoken {
            until(&ravelin, "it is probed", || good.probes().len() > 2);
            let probes = good.probes();
            assert!(
                probes.iter().all(|facts| facts.contains(spoken)
                    && facts.contains("sni=api.internal")
                    && facts.contains("certificate=true")),
                "{probes:?}"
            );
            // A probe costs an endpoint no more than it must. (What it may resume is offered to whoever has its name, so nobody else may.)
            assert!(bad.probes().is_empty(), "it was told something");
            drop(bad);
            until(&ravelin, "a session is resumed", || good.probes().iter().any(|facts| facts.contains("handshake=resumed")));
            assert!(spoken == "http=1" || probes.iter().all(|facts| facts.contains("scheme=https")), "{probes:?}");
            good.fall_ill(true);
            until_healthy(&ravelin, &good, false);
            assert_eq!(get(&ravelin).0, 503);
            good.fall_ill(false);
            until_healthy(&ravelin, &good, true);
        }
    }
}

/// A connection carries ten probes, so that both are found out: who hangs on an old one, and who lets in no new one.
#[test]
fn probes_share_connections() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.issue("api.internal");
    for (check, protocol, secure) in [
        ("http", "http1", false),
        ("http", "http1", true),
        ("http", "http2", false),
        ("http", "http2", true),
        ("grpc", "http2", false),
        ("grpc", "http1", true),
    ] {
        let streams = protocol == "http2" || check == "grpc";
        let alpn = if protocol == "http1" && check == "http" { "http/1.1" } else { "h2" };
        let tls = secure.then(|| (pair.clone(), vec![alpn]));
        let endpoint = Endpoint::start(Reached { h2c: streams && !secure, tls, ..Reached::default() });
        let tls = if secure { ", tls: {sni: api.internal, ca: ca.pem}" } else { "" };
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{}'], protocol: {protocol}{tls}, health_check: {{{check}: {{interval: 20ms, timeout: 10s, unhealthy_after: 1}}}}",
                endpoint.address
            ),
        );
        until(&ravelin, "it is probed", || endpoint.probes().len() > 30);
        let probes = endpoint.probes();
        let on = |number: usize| probes.iter().filter(|facts| facts.contains(&format!("connection={number} "))).count();
        assert_eq!([on(1), on(2), on(3)], [10; 3], "{check} over {protocol}: {probes:?}");
        endpoint.fall_ill(true);
        until_healthy(&ravelin, &endpoint, false);
        endpoint.fall_ill(false);
        until_healthy(&ravelin, &endpoint, true);
    }
}

/// Nobody is trusted for the sake of a connection that was good: who goes away in the middle of it, and is not there any more, is ill; and
/// who merely ends connections is well.
#[test]
fn a_connection_that_ends_is_no_illness_and_no_health() {
    let directory = tempfile::tempdir().unwrap();
    for (check, protocol) in [("http", "http1"), ("http", "http2"), ("grpc", "http2")] {
        let endpoint = Endpoint::start(Reached { h2c: protocol == "http2", probes: 3, ..Reached::default() });
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{}'], protocol: {protocol}, health_check: {{{check}: {{interval: 20ms, timeout: 10s, unhealthy_after: 1}}}}",
                endpoint.address
            ),
        );
        until(&ravelin, "it is probed", || endpoint.connections() > 4);
        assert!(!ravelin.log().text().contains("unhealthy"), "{check} over {protocol}\n{}", ravelin.log().text());
        drop(endpoint);
        let line = ravelin.wait_for_log("endpoint is unhealthy", Deadline::standard()).unwrap();
        assert!(line.contains(&format!("check={check}")), "{line}");
    }
}

/// An answer counts though the connection breaks right behind it.
#[test]
fn who_answers_and_hangs_up_is_well() {
    let headers = |flags: u8, block: &[u8]| frame(1, flags, 1, block);
    let directory = tempfile::tempdir().unwrap();
    for (check, protocol, answer) in [
        ("http", "http2", headers(END_HEADERS | END_STREAM, b"\x88")),
        ("grpc", "http2", {
            let trailers = headers(END_HEADERS | END_STREAM, b"\0\x0bgrpc-status\x010");
            [headers(END_HEADERS, b"\x88"), frame(0, 0, 1, &[0, 0, 0, 0, 2, 8, 1]), trailers].concat()
        }),
    ] {
        let settings = frame(4, 0, 0, b"");
        let goaway = frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]);
        let (address, connections) = hangs_up([settings, answer, goaway].concat());
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{address}'], protocol: {protocol}, health_check: {{{check}: {{interval: 20ms, timeout: 10s, unhealthy_after: 1}}}}"
            ),
        );
        until(&ravelin, "it is probed", || connections.load(Ordering::SeqCst) > 10);
        assert!(!ravelin.log().text().contains("unhealthy"), "{check} over {protocol}\n{}", ravelin.log().text());
    }
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// Says one thing in one piece, once a question over HTTP/2 has come whole, and closes.
fn hangs_up(answer: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut asked = || {
                stream.read_exact(&mut [0; 24]).ok()?;
                loop {
                    let mut head = [0; 9];
                    stream.read_exact(&mut head).ok()?;
                    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                    stream.read_exact(&mut vec![0; length]).ok()?;
                    if head[8] == 1 && head[4] & END_STREAM != 0 {
                        return Some(());
                    }
                }
            };
            if asked().is_some() && stream.write_all(&answer).is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (address, connections)
}

/// However many probes find the same: a change is a line and a count, and so is the way back, on which it starts slowly.
#[test]
fn a_change_is_said_and_counted_once() {
    let directory = tempfile::tempdir().unwrap();
    let (ill, other) = (Endpoint::start(Reached::default()), Endpoint::start(Reached::default()));
    let ravelin = ravelin(
        directory.path(),
        &format!(
            "endpoints: ['{}', '{}'], slow_start: 300ms, health_check: {{http: {{interval: 20ms, timeout: 10s}}}}",
            ill.address, other.address
        ),
    );
    let of = |name: &str, endpoint: &Endpoint| {
        metric(&ravelin, &format!("ravelin_endpoint_{name}{{upstream=\"a\",endpoint=\"{}\"}}", endpoint.address))
    };
    let said = |what: &str| ravelin.log().text().lines().filter(|line| line.contains(what)).count();
    let ten_more = || {
        let before = ill.probes().len();
        until(&ravelin, "it is probed", || ill.probes().len() > before + 10);
    };
    ten_more();
    assert_eq!((of("health_changes_total", &ill), said("endpoint is ")), (0.0, 0), "{}", ravelin.log().text());
    ill.fall_ill(true);
    until_healthy(&ravelin, &ill, false);
    ten_more();
    assert_eq!((of("health_changes_total", &ill), said("endpoint is unhealthy")), (1.0, 1), "{}", ravelin.log().text());
    ill.fall_ill(false);
    until_healthy(&ravelin, &ill, true);
    ten_more();
    assert_eq!((of("health_changes_total", &ill), said("endpoint is healthy again")), (2.0, 1), "{}", ravelin.log().text());
    assert_eq!((of("health_changes_total", &other), said("endpoint is unhealthy")), (0.0, 1));
    until(&ravelin, "it has its whole share", || of("share_percent", &ill) == 100.0);
}

#[test]
fn who_agrees_on_no_http2_is_ill_where_requests_need_it() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.issue("api.internal");
    for (protocol, check) in [("http2", "tcp"), ("http2", "http"), ("http1", "grpc")] {
        let endpoint = Endpoint::start(Reached { tls: Some((pair.clone(), vec!["http/1.1"])), ..Reached::default() });
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{}'], tls: {{sni: api.internal, ca: ca.pem}}, protocol: {protocol}, health_check: {{{check}: {{interval: 30ms}}}}",
                endpoint.address
            ),
        );
        // TLS names it by an alert of its own, where the endpoint has a list and nothing of it fits.
        assert!(ravelin.wait_for_log("endpoint is unhealthy", Deadline::standard()).is_some());
    }
}

#[test]
fn http2_without_tls_is_probed_over_http2() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::start(Reached { h2c: true, ..Reached::default() });
    let ravelin = ravelin(
        directory.path(),
        &format!(
            "endpoints: ['{}'], protocol: http2, health_check: {{http: {{interval: 30ms, timeout: 10s, unhealthy_after: 1}}}}",
            endpoint.address
        ),
    );
    until(&ravelin, "it is probed", || endpoint.probes().len() > 1);
    assert!(endpoint.probes().iter().all(|facts| facts.contains("http=2") && facts.contains("scheme=http")));
    assert_eq!(get(&ravelin).0, 200);
    endpoint.fall_ill(true);
    until_healthy(&ravelin, &endpoint, false);
    let line = ravelin.wait_for_log("endpoint is unhealthy", Deadline::standard()).unwrap();
    assert!(line.contains("status 503"), "{line}");
}

// covers: upstreams.health_check.tcp.tls, upstreams.health_check.http.tls, upstreams.health_check.grpc.tls
#[test]
fn another_port_may_be_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "ca");
    let pair = authority.issue("api.internal");
    for (check, h2c) in [("tcp", false), ("http", false), ("grpc", true)] {
        let serving = Endpoint::start(Reached { tls: Some((pair.clone(), vec!["http/1.1"])), ..Reached::default() });
        let health = Endpoint::start(Reached { h2c, ..Reached::default() });
        let section = |tls: &str| {
            format!(
                "endpoints: ['{}'], tls: {{sni: api.internal, ca: ca.pem}}, \
                 health_check: {{{check}: {{port: {}, interval: 30ms, timeout: 10s, unhealthy_after: 1{tls}}}}}",
                serving.address,
                health.address.port()
            )
        };
        let ravelin = ravelin(directory.path(), &section(", tls: false"));
        // One that only knocks is not noticed by who is behind the door.
        until(&ravelin, "it is probed", || check == "tcp" || health.connections() > 3);
        assert_eq!(get(&ravelin).0, 200);
        assert!(!ravelin.log().text().contains("unhealthy"), "{check}\n{}", ravelin.log().text());
        // By itself a probe goes the way of requests.
        write(directory.path(), &section(""));
        ravelin.signal(Signal::HUP).unwrap();
        let line = ravelin.wait_for_log("endpoint is unhealthy", Deadline::standard()).unwrap();
        assert!(line.contains("TLS"), "{line}");
    }
}

#[test]
fn a_probe_is_introduced_as_for_nobody() {
    let directory = tempfile::tempdir().unwrap();
    for (version, said) in [("v1", "v1 PROXY UNKNOWN"), ("v2", "v2 Unspecified")] {
        let endpoint = Endpoint::start(Reached { introduced: true, ..Reached::default() });
        let ravelin = ravelin(
            directory.path(),
            &format!(
                "endpoints: ['{}'], proxy_protocol: {version}, health_check: {{http: {{interval: 30ms, timeout: 10s}}}}",
                endpoint.address
            ),
        );
        until(&ravelin, "it is probed", || !endpoint.probes().is_empty());
        assert!(endpoint.probes()[0].contains(said), "{:?}", endpoint.probes());
        assert_eq!(get(&ravelin).0, 200);
    }
}

/// A reload asks a resolver that says nothing: the endpoints that were known, and how they fare, are known still.
#[test]
fn what_was_found_of_endpoints_that_were_found_goes_on_over_a_reload() {
    let directory = tempfile::tempdir().unwrap();
    let (well, ill, names) = (Endpoint::start(Reached::default()), Endpoint::start(Reached::default()), NameServer::start());
    let services = [&well, &ill].map(|endpoint| (1, 1, endpoint.address.port(), "host.test".to_owned()));
    names.say("_http._tcp.web.test", Says::Services(services.into()));
    names.say("host.test", Says::Addresses(vec![IpAddr::from([127, 0, 0, 1])], 0));
    let section = |balance: &str| {
        format!(
            "balance: {balance}, health_check: {{http: {{interval: 30ms, timeout: 10s, unhealthy_after: 1}}}}, \
             discover: {{dns_srv: {{name: _http._tcp.web.test, refresh: 20ms, resolver: '{}'}}}}",
            names.address
        )
    };
    let ravelin = ravelin(directory.path(), &section("round_robin"));
    ill.fall_ill(true);
    until_healthy(&ravelin, &ill, false);
    let changes = format!("ravelin_endpoint_health_changes_total{{upstream=\"a\",endpoint=\"{}\"}}", ill.address);
    let given = format!("ravelin_endpoint_selections_total{{upstream=\"a\",endpoint=\"{}\"}}", ill.address);
    let before = metric(&ravelin, &given);
    for (number, says) in [Says::Silence, Says::Failure, Says::Nothing].into_iter().enumerate() {
        names.say("_http._tcp.web.test", says.clone());
        write(directory.path(), &section(if number % 2 == 0 { "random" } else { "round_robin" }));
        ravelin.signal(Signal::HUP).unwrap();
        until_metric(&ravelin, "ravelin_config_generation", |value| value == number as f64 + 2.0);
        for _ in 0..8 {
            assert_eq!(get(&ravelin).0, 200, "{says:?}\n{}", ravelin.log().text());
        }
        assert_eq!(metric(&ravelin, "ravelin_upstream_endpoints{upstream=\"a\"}"), 2.0, "{says:?}");
    }
    assert_eq!((metric(&ravelin, &changes), metric(&ravelin, &given)), (1.0, before));
    ill.fall_ill(false);
    until_healthy(&ravelin, &ill, true);
}
