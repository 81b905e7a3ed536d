//! Streams of HTTP/2, in both lanes: what one of them does is no matter of the others.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod support;

use std::time::Duration;

use support::{Action, Answer, Bind, Deadline, Events, H2Connection, Origin, Outgoing, Ravelin};

/// Answers `/held` never, `/half` by half a body, and all else at once.
fn origin() -> Origin {
    let origin = Origin::prepare("a", Bind::V4, false, Events::new()).unwrap();
    let for_target = |target: &str, actions| Answer { target: Some(target.into()), ..Answer::of(actions) };
    let half = Action::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec());
    origin.script(vec![
        for_target("/held", vec![Action::Stall]),
        for_target("/half", vec![half, Action::Stall]),
        Answer::text(200, "a"),
    ]);
    origin.resume().unwrap();
    origin
}

fn start(lane: &str, origin: &Origin, more: &str) -> Ravelin {
    let config = format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none{more}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n",
        origin.address()
    );
    Ravelin::start_in(lane, &config)
}

fn until(origin: &Origin, what: impl Fn(&Origin) -> bool) {
    let deadline = Deadline::standard();
    while !what(origin) {
        assert!(!deadline.passed(), "it took too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_stream_that_is_reset_ends_its_request_and_no_other() {
    for lane in ["general", "express"] {
        let origin = origin();
        let ravelin = start(lane, &origin, "");
        let deadline = Deadline::standard();
        let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
        for target in ["/held", "/half"] {
            client.request(&Outgoing::get(target, "a"), deadline).unwrap();
            until(&origin, |origin| origin.requests().iter().any(|request| request.head.first.ends_with(b"HTTP/1.1")));
            if target == "/half" {
                let so_far = client.response_so_far(deadline, |response| response.body == b"half").unwrap();
                assert_eq!(so_far.head.status(), Some(200), "{lane}");
            }
            assert_eq!(origin.open(), 1, "{lane}");
            client.give_up();
            until(&origin, |origin| origin.open() == 0);
            client.request(&Outgoing::get("/", "a"), deadline).unwrap();
            assert_eq!(client.next_response(deadline).unwrap().body, b"a", "{lane}");
            client.forget_oldest();
            origin.forget();
            until(&origin, |origin| origin.open() <= 1);
            let told = ravelin.wait_for_log("reason=client_gone", Deadline::after(Duration::from_secs(20)));
            assert!(told.is_some(), "{lane}, {target}: {}", ravelin.log().text());
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_told_as_far_as_it_came() {
    for lane in ["general", "express"] {
        let origin = origin();
        let ravelin = start(lane, &origin, ", timeouts: {read: 200ms}");
        let deadline = Deadline::standard();
        let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
        client.request(&Outgoing::get("/half", "a"), deadline).unwrap();
        let answer = client.next_response(deadline).unwrap();
        assert_eq!(answer.head.status(), Some(200), "{lane}");
        assert_eq!(answer.body, b"half", "{lane}");
        assert!(answer.cut.is_some(), "{lane}: it was cut, and looks whole");
        ravelin.wait_for_log("reason=read_timeout", deadline).unwrap();
        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
        assert_eq!(client.next_response(deadline).unwrap().body, b"a", "{lane}");
    }
}
