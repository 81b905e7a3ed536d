//! What `/metrics` says after a mix of requests is what happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::time::Duration;

use support::{Answer, Connection, Deadline, Origin, Outgoing, Ravelin, Reserved, Signal};

/// Sends a request; its status.
fn get(address: &str, target: &str) -> u16 {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(&Outgoing::get(target, "a"), deadline).unwrap();
    client.next_response(deadline).unwrap().head.status().unwrap()
}

fn metrics(admin: &str) -> String {
    let deadline = Deadline::standard();
    let mut client = Connection::open(admin, deadline).unwrap();
    client.request(&Outgoing::get("/metrics", "a"), deadline).unwrap();
    String::from_utf8(client.next_response(deadline).unwrap().body).unwrap()
}

/// Waits until all of these lines are there: a request is counted once it is over, which a client may see before.
fn expect(admin: &str, lines: &[String]) -> String {
    let deadline = Deadline::standard();
    loop {
        let text = metrics(admin);
        let missing: Vec<&String> = lines.iter().filter(|line| !text.lines().any(|other| other == line.as_str())).collect();
        if missing.is_empty() {
            return text;
        }
        assert!(!deadline.passed(), "missing: {missing:#?} in\n{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Each sample has a value that is a number, and each family its type, said once, before its samples.
fn well_formed(text: &str) {
    let mut family = "";
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(seen.insert(family), "{family} twice");
        } else if !line.starts_with("# HELP ") {
            assert!(line.starts_with(family), "{line} within {family}");
            let value = line.rsplit(' ').next().unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}

#[test]
fn counts_are_what_happened() {
    let one = Origin::start("one", vec![Answer::text(200, "one")]);
    let broken = Origin::start("broken", vec![Answer::text(500, "broken")]);
    let [refusing, gone, also_gone] = [(); 3].map(|()| Reserved::v4().unwrap());
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         admin: {{address: 127.0.0.1:0}}\n\
         upstreams:\n\
         \x20 good: {{endpoints: [\"{one}\"], health_check: none}}\n\
         \x20 mixed: {{endpoints: [\"{one}\", \"{refusing}\"], health_check: none}}\n\
         \x20 bad: {{endpoints: [\"{gone}\"], health_check: none, retry: {{retries: 0}}}}\n\
         \x20 broken: {{endpoints: [\"{broken}\"], health_check: none}}\n\
         \x20 down: {{endpoints: [\"{also_gone}\"], health_check: {{tcp: {{interval: 20ms, unhealthy_after: 1}}}}}}\n\
         routes:\n\
         \x20 good: {{match: {{paths: [/good]}}, upstream: good}}\n\
         \x20 mixed: {{match: {{paths: [/mixed]}}, upstream: mixed}}\n\
         \x20 bad: {{match: {{paths: [/bad]}}, upstream: bad}}\n\
         \x20 broken: {{match: {{paths: [/broken]}}, upstream: broken}}\n\
         \x20 down: {{match: {{paths: [/down]}}, upstream: down}}\n\
         \x20 own: {{match: {{paths: [/own]}}, respond: {{status: 204}}}}\n",
        one = one.address(),
        broken = broken.address(),
        refusing = refusing.address(),
        gone = gone.address(),
        also_gone = also_gone.address(),
    ));
    let (address, admin) = (ravelin.address(), ravelin.admin().unwrap());

    // A failed health check is what makes the last one a 503.
    let down = format!("ravelin_endpoint_healthy{{upstream=\"down\",endpoint=\"{}\"}} 0", also_gone.address());
    expect(&admin, &[down]);
    assert_eq!([(); 3].map(|()| get(address, "/good")), [200; 3]);
    assert_eq!([(); 4].map(|()| get(address, "/mixed")), [200; 4]);
    assert_eq!(get(address, "/bad"), 502);
    assert_eq!([(); 2].map(|()| get(address, "/broken")), [500; 2]);
    assert_eq!(get(address, "/down"), 503);
    assert_eq!(get(address, "/own"), 204);
    assert_eq!([(); 2].map(|()| get(address, "/nowhere")), [404; 2]);
    let mut client = Connection::open(address, Deadline::standard()).unwrap();
    client.send(b"\x16\x03\x01").unwrap();
    client.closed(Deadline::standard()).unwrap();

    let requests = |route: &str, upstream: &str, code: &str, count: u32| {
        format!("ravelin_requests_total{{route=\"{route}\",upstream=\"{upstream}\",code=\"{code}\"}} {count}")
    };
    let failures = |party: &str, reason: &str, count: u32| {
        format!("ravelin_failures_total{{party=\"{party}\",reason=\"{reason}\"}} {count}")
    };
    let endpoint = |what: &str, upstream: &str, address: &dyn std::fmt::Display, count: u32| {
        format!("ravelin_endpoint_{what}{{upstream=\"{upstream}\",endpoint=\"{address}\"}} {count}")
    };
    let text = expect(
        &admin,
        &[
            requests("good", "good", "200", 3),
            requests("mixed", "mixed", "200", 4),
            requests("bad", "bad", "502", 1),
            requests("broken", "broken", "500", 2),
            requests("down", "down", "503", 1),
            requests("own", "-", "204", 1),
            requests("-", "-", "404", 2),
            requests("-", "-", "400", 1),
            failures("client", "no_route", 2),
            failures("client", "bad_request_line", 1),
            failures("upstream", "connect_refused", 1),
            failures("upstream", "no_healthy_endpoint", 1),
            "ravelin_request_duration_seconds_count{route=\"good\"} 3".to_owned(),
            "ravelin_request_duration_seconds_bucket{route=\"good\",le=\"+Inf\"} 3".to_owned(),
            // Refused before it was a request: it took no time.
            "ravelin_request_duration_seconds_count{route=\"-\"} 2".to_owned(),
            "ravelin_upstream_response_seconds_count{upstream=\"good\"} 3".to_owned(),
            "ravelin_upstream_response_seconds_count{upstream=\"bad\"} 0".to_owned(),
            "ravelin_upstream_retry_budget_exhausted_total{upstream=\"good\"} 0".to_owned(),
            endpoint("selections_total", "good", &one.address(), 3),
            endpoint("selections_total", "bad", &gone.address(), 1),
            endpoint("selections_total", "down", &also_gone.address(), 0),
            endpoint("connect_failures_total", "bad", &gone.address(), 1),
            endpoint("failures_total", "bad", &gone.address(), 1),
            endpoint("healthy", "good", &one.address(), 1),
            endpoint("healthy", "bad", &gone.address(), 1),
            "ravelin_requests_in_flight 0".to_owned(),
            "ravelin_connections_accepted_total{listener=\"main\"} 15".to_owned(),
            "ravelin_connections_open{listener=\"main\"} 0".to_owned(),
            "ravelin_config_generation 1".to_owned(),
            "ravelin_config_snapshots 1".to_owned(),
            "ravelin_config_last_reload_successful 1".to_owned(),
            format!("ravelin_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        ],
    );
    well_formed(&text);
    // The endpoint that refuses had its turns: each is a failure and a retry.
    let value = |line: &str| -> u32 {
        let sample = text.lines().find_map(|sample| sample.strip_prefix(line)).unwrap_or_else(|| panic!("{line}\n{text}"));
        sample.trim().parse().unwrap()
    };
    let retries = value("ravelin_upstream_retries_total{upstream=\"mixed\",reason=\"connect_error\"}");
    let failed = format!("ravelin_endpoint_connect_failures_total{{upstream=\"mixed\",endpoint=\"{}\"}}", refusing.address());
    assert!(retries >= 1);
    assert_eq!(value(&failed), retries);
    assert_eq!(one.requests().len(), 7);
}

#[test]
fn the_admin_address_answers_while_the_process_stops() {
    let one = Origin::start("one", vec![Answer::text(200, "one")]);
    let mut ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         admin: {{address: 127.0.0.1:0}}\n\
         grace_period_seconds: 600\n\
         upstreams: {{one: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes: {{all: {{upstream: one}}}}\n",
        one.address(),
    ));
    let admin = ravelin.admin().unwrap();
    let deadline = Deadline::standard();
    let until = |status: u16| {
        while get(&admin, "/readyz") != status {
            assert!(!deadline.passed(), "/readyz never says {status}");
        }
    };
    until(200);
    ravelin.signal(Signal::TERM).unwrap();
    until(503);
    assert_eq!((get(&admin, "/readyz"), get(&admin, "/healthz"), get(&admin, "/metrics")), (503, 200, 200));
    assert_eq!(get(ravelin.address(), "/"), 200);
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(deadline).is_some());
}

#[test]
fn idle_and_slow_clients_do_not_keep_others_out() {
    let ravelin = Ravelin::start(
        "listeners: {main: {address: 127.0.0.1:0}}\nadmin: {address: 127.0.0.1:0}\nroutes: {all: {respond: {}}}\n",
    );
    let admin = ravelin.admin().unwrap();
    // More than may be open at once: they are closed for saying nothing, and whoever waits is answered.
    let idle: Vec<Connection> = (0..70).map(|_| Connection::open(&admin, Deadline::standard()).unwrap()).collect();
    assert_eq!(get(&admin, "/healthz"), 200);
    drop(idle);
}

#[test]
fn copies_for_a_mirror_are_counted_and_a_mirror_that_hangs_holds_up_nobody() {
    let one = Origin::start("one", vec![Answer::text(200, "one")]);
    let shadow = Origin::start("shadow", vec![Answer::text(404, "no")]);
    let hung = Origin::start("hung", vec![Answer::of(vec![support::Action::Stall])]);
    let gone = Reserved::v4().unwrap();
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\nupstreams:\n\
         \x20 one: {{endpoints: [\"{}\"], health_check: none}}\n\
         \x20 shadow: {{endpoints: [\"{}\"], health_check: none}}\n\
         \x20 hung: {{endpoints: [\"{}\"], health_check: none}}\n\
         \x20 gone: {{endpoints: [\"{}\"], health_check: none}}\n\
         routes:\n\
         \x20 copied: {{upstream: one, mirror: {{upstream: shadow}}}}\n\
         \x20 hung: {{match: {{paths: [/hung]}}, upstream: one, mirror: {{upstream: hung}}}}\n\
         \x20 lost: {{match: {{paths: [/lost]}}, upstream: one, mirror: {{upstream: gone}}}}\n",
        one.address(),
        shadow.address(),
        hung.address(),
        gone.address(),
    ));
    let admin = ravelin.admin().unwrap();
    let mirrored = |route: &str, result: &str, count: u32| {
        format!("ravelin_mirrored_requests_total{{route=\"{route}\",result=\"{result}\"}} {count}")
    };
    for _ in 0..3 {
        assert_eq!(get(ravelin.address(), "/"), 200);
    }
    assert_eq!(get(ravelin.address(), "/lost"), 200);
    // As many as may wait or be under way, and a few more.
    for _ in 0..260 {
        assert_eq!(get(ravelin.address(), "/hung"), 200);
    }
    expect(&admin, &[mirrored("copied", "sent", 3), mirrored("lost", "failed", 1), mirrored("hung", "dropped", 4)]);
    assert!(hung.requests().len() <= 32);
}

/// A copy for a mirror counts at the endpoint that it goes to, and may have it left out, as any other request.
#[test]
fn copies_count_at_their_endpoints() {
    let (origin, shadow) =
        (Origin::start("a", vec![Answer::text(200, "a")]), Origin::start("b", vec![Answer::text(500, "not well")]));
    let dead = support::free_port();
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams:\n  all: {{endpoints: ['{}'], health_check: none}}\n  \
         shadow:\n    endpoints: ['{}', '{}']\n    health_check: none\n    outlier_detection: {{consecutive_errors: 3, error_ratio: none}}\n\
         routes: {{all: {{upstream: all, mirror: {{upstream: shadow}}}}}}\n",
        origin.address(),
        shadow.address(),
        dead.address()
    ));
    for _ in 0..4 {
        assert_eq!(get(ravelin.address(), "/"), 200);
    }
    let deadline = Deadline::standard();
    let sample = |name: &str, address: &str| format!("ravelin_endpoint_{name}{{upstream=\"shadow\",endpoint=\"{address}\"}}");
    let (shadowed, dead) = (shadow.address().to_owned(), dead.address().to_string());
    for (name, address, value) in [
        ("selections_total", &shadowed, 2.0),
        ("failures_total", &shadowed, 2.0),
        ("connect_failures_total", &dead, 2.0),
        ("failures_total", &dead, 2.0),
        ("requests_in_flight", &shadowed, 0.0),
    ] {
        support::until_metric(&ravelin, &sample(name, address), |seen| seen == value);
    }
    for _ in 0..4 {
        assert_eq!(get(ravelin.address(), "/"), 200);
    }
    assert!(ravelin.wait_for_log("endpoint is left out upstream=shadow", deadline).is_some(), "{}", ravelin.log().text());
}
