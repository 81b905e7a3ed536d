//! HTTP/2 towards endpoints: streams share connections, time holds, and what was refused is tried again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::thread;

use support::{Connection, Deadline, Endpoint, H2Connection, Outgoing, Ravelin, Reached};

fn proxy(endpoint: &Endpoint, rest: &str) -> Ravelin {
    Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\n\
         upstreams: {{a: {{endpoints: ['{}'], protocol: http2, health_check: none{rest}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        endpoint.address
    ))
}

fn h2c() -> Reached {
    Reached { h2c: true, ..Reached::default() }
}

fn answer(ravelin: &Ravelin, request: &Outgoing) -> (u16, String) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(request, deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    (response.head.status().unwrap(), String::from_utf8(response.body).unwrap())
}

#[test]
fn requests_at_once_share_a_connection() {
    let endpoint = Endpoint::start(h2c());
    let ravelin = proxy(&endpoint, "");
    let deadline = Deadline::standard();
    assert_eq!(answer(&ravelin, &Outgoing::get("/", "a")).0, 200);
    // Answers that stay open, so that all of them are.
    let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
    for _ in 0..20 {
        client.request(&Outgoing::get("/half", "a"), deadline).unwrap();
    }
    for _ in 0..20 {
        let response = client.response_so_far(deadline, |response| !response.body.is_empty()).unwrap();
        assert_eq!(response.head.status(), Some(200));
        let _ = response;
        client.forget_oldest();
    }
    assert!(endpoint.connections() <= 10, "{} connections for 20 requests at once", endpoint.connections());
}

/// A connection carries 100 requests at once, or as many as the endpoint allows; for one more there is another connection.
#[test]
fn a_connection_carries_so_many_streams_and_no_more() {
    for (allowed, most) in [(250, 100), (7, 7)] {
        let endpoint = Endpoint::start(Reached { streams: allowed, ..h2c() });
        let ravelin = proxy(&endpoint, "");
        let deadline = Deadline::standard();
        // A listener allows as many streams itself: so there are two clients.
        let mut clients = [(); 2].map(|()| H2Connection::open(ravelin.address(), deadline).unwrap());
        // Answers that stay open. Each has begun before the next is asked for.
        let connections: Vec<String> = (0..most + most / 2)
            .map(|number| {
                let client = &mut clients[number % 2];
                client.request(&Outgoing::get("/half", "a"), deadline).unwrap();
                let response = client.response_so_far(deadline, |response| !response.body.is_empty()).unwrap();
                client.forget_oldest();
                String::from_utf8_lossy(&response.body).split(' ').next().unwrap().to_owned()
            })
            .collect();
        let on = |name: &str| connections.iter().filter(|connection| *connection == name).count();
        assert_eq!((on("connection=1"), on("connection=2")), (most, most / 2), "{allowed}: {connections:?}");
    }
}

#[test]
fn a_silent_endpoint_is_given_up_and_its_stream_is_reset() {
    let endpoint = Endpoint::start(h2c());
    let ravelin = proxy(&endpoint, ", timeouts: {response: 200ms, read: 200ms}, retry: {retries: 0}");
    assert_eq!(answer(&ravelin, &Outgoing::get("/stall", "a")).0, 504);
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/half", "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    assert!(response.cut.is_some(), "the body stalls, and the answer is broken off");
    reset(&endpoint, 2);
    assert_eq!(answer(&ravelin, &Outgoing::get("/", "a")).0, 200, "the next request has a connection");
}

/// A stream has no connection of its own that could keep the time: each deadline holds all the same, and is told as over HTTP/1.
#[test]
fn streams_to_streams_end_in_time_and_say_so() {
    let endpoint = Endpoint::start(h2c());
    let deadline = Deadline::standard();
    let told = |limits: &str, path: &str| {
        let ravelin = proxy(&endpoint, limits);
        let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
        client.request(&Outgoing::get(path, "a"), deadline).unwrap();
        let response = client.next_response(deadline).unwrap();
        (response.head.status().unwrap(), response.cut.is_some(), ravelin)
    };
    let resets = || endpoint.resets.lock().unwrap().len();
    // Each of them is far below the others.
    let (status, _, ravelin) = told(", timeouts: {response: 100ms, read: 50s}, retry: {retries: 0}", "/stall");
    assert_eq!(status, 504, "{}", ravelin.log().text());
    assert!(ravelin.wait_for_log("reason=response_timeout", deadline).is_some());
    reset(&endpoint, 1);
    let (status, ..) =
        told(", timeouts: {response: 50s, read: 50s}, retry: {try_timeout: 100ms, conditions: [timeout]}", "/stall");
    assert_eq!(status, 504);
    reset(&endpoint, 3);
    assert_eq!(resets(), 3, "it was tried twice");
    // The time of a try ends with the head.
    let limits = ", timeouts: {response: 50s, read: 500ms}, retry: {try_timeout: 400ms}";
    let began = std::time::Instant::now();
    let (status, cut, ravelin) = told(limits, "/half");
    assert!(status == 200 && cut && began.elapsed() >= std::time::Duration::from_millis(500));
    assert!(ravelin.wait_for_log("reason=read_timeout", deadline).is_some(), "{}", ravelin.log().text());
    reset(&endpoint, 4);
    // A call learns of it in its own words.
    let ravelin = proxy(&endpoint, ", timeouts: {response: 100ms, read: 50s}, retry: {retries: 0}");
    let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
    let mut call = Outgoing::get("/stall", "a");
    call.method = "POST".into();
    call.body = b"\0\0\0\0\0".to_vec();
    call.fields.push(("Content-Type".into(), b"application/grpc".to_vec()));
    client.request(&call, deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    assert_eq!(response.head.status(), Some(200));
    assert_eq!(response.head.values("grpc-status"), [b"14"]);
}

/// An endpoint may answer before it has the whole request, and want no more of it (RFC 9113 §8.1): that is an answer, and a whole one.
#[test]
fn an_answer_that_comes_before_the_request_is_whole_counts() {
    let endpoint = Endpoint::start(h2c());
    let ravelin = proxy(&endpoint, "");
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\non").unwrap();
    let response = client.response_so_far(deadline, |response| response.body.ends_with(b"path=/")).unwrap();
    assert_eq!(response.head.status(), Some(200));
    client.send(b"ce").unwrap();
    let response = client.response("POST", deadline).unwrap();
    assert!(response.cut.is_none() && response.body.ends_with(b"path=/"), "{response:?}\n{}", ravelin.log().text());
}

/// Waits until the endpoint has seen so many streams reset.
fn reset(endpoint: &Endpoint, count: usize) {
    let deadline = Deadline::standard();
    while endpoint.resets.lock().unwrap().len() < count {
        assert!(!deadline.passed(), "no reset: {:?}", endpoint.resets.lock().unwrap());
        thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_leaves_resets_the_stream() {
    let endpoint = Endpoint::start(h2c());
    let ravelin = proxy(&endpoint, "");
    let deadline = Deadline::standard();
    let mut first = Connection::open(ravelin.address(), deadline).unwrap();
    first.request(&Outgoing::get("/half", "a"), deadline).unwrap();
    first.response_so_far(deadline, |response| !response.body.is_empty()).unwrap();
    drop(first);
    reset(&endpoint, 1);
    let mut second = H2Connection::open(ravelin.address(), deadline).unwrap();
    second.request(&Outgoing::get("/half", "a"), deadline).unwrap();
    second.response_so_far(deadline, |response| !response.body.is_empty()).unwrap();
    drop(second);
    reset(&endpoint, 2);
}

#[test]
fn what_an_endpoint_refused_is_tried_again_whatever_the_method() {
    let endpoint = Endpoint::start(h2c());
    let ravelin = proxy(&endpoint, "");
    let mut post = Outgoing::get("/refuse", "a");
    post.method = "POST".into();
    post.body = b"once".to_vec();
    post.fields.push(("Content-Length".into(), b"4".to_vec()));
    let (status, body) = answer(&ravelin, &post);
    assert_eq!(status, 200, "{body}\n{}", ravelin.log().text());
    let strict = proxy(&endpoint, ", retry: {retries: 0}");
    assert_eq!(answer(&strict, &post).0, 502, "unless nothing is tried again");
}

#[test]
fn a_connection_that_goes_away_loses_no_request() {
    // Every third request: more than any budget has.
    let endpoint = Endpoint::start(Reached { requests: 3, ..h2c() });
    let ravelin = proxy(&endpoint, ", retry: {retries: 5, budget: none}");
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let address = ravelin.address().to_owned();
            thread::spawn(move || {
                let deadline = Deadline::standard();
                let mut client = Connection::open(&address, deadline).unwrap();
                (0..25)
                    .map(|_| {
                        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
                        client.next_response(deadline).unwrap().head.status()
                    })
                    .filter(|status| *status != Some(200))
                    .count()
            })
        })
        .collect();
    let failed: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(failed, 0, "{}", ravelin.log().text());
    assert!(endpoint.connections() > 10);
}
