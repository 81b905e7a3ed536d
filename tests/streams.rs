//! Streams of HTTP/2, in both lanes: what one of them does is no matter of the others.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{Action, Answer, Bind, Deadline, Endpoint, Events, H2Connection, Origin, Outgoing, Ravelin, Reached, metric};

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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /` of `a`, by the static table (RFC 7541, appendix A).
const HEAD: [u8; 6] = [0x82, 0x86, 0x84, 0x01, 0x01, b'a'];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn connect(ravelin: &Ravelin) -> TcpStream {
    let mut stream = TcpStream::connect(ravelin.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).unwrap();
    stream
}

/// Whether the other side closes before we lose patience.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

#[test]
fn a_head_has_its_time_whatever_else_is_open() {
    let origin = origin();
    let config = format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true, limits: {{header_timeout: 500ms, idle_timeout: 5m}}}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address()
    );
    let ravelin = Ravelin::start(&config);
    for open in [false, true] {
        let mut stream = connect(&ravelin);
        if open {
            // `/held` by name: its answer never comes.
            let held = [&HEAD[..2], &[0x04, 5], b"/held", &HEAD[3..]].concat();
            stream.write_all(&frame(1, 5, 1, &held)).unwrap();
            until(&origin, |origin| origin.open() == 1);
        }
        // Without END_HEADERS: the rest never comes.
        stream.write_all(&frame(1, 1, 3, &HEAD)).unwrap();
        assert!(is_closed(&mut stream), "open stream: {open}");
    }
    ravelin.wait_for_log("reason=head_timeout", Deadline::standard()).unwrap();
    until(&origin, |origin| origin.open() == 0);
    // A connection that owes nothing stays.
    let deadline = Deadline::standard();
    let mut client = H2Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    assert_eq!(client.next_response(deadline).unwrap().body, b"a");
}

#[test]
fn who_does_not_hear_that_no_more_are_wanted_is_cut_off() {
    let ravelin = Ravelin::start(
        "listeners: {main: {address: 127.0.0.1:0, http2: true, limits: {requests_per_connection: 3, concurrent_streams: 10}}}\n\
         admin: {address: 127.0.0.1:0}\nroutes: {all: {respond: {body: a}}}\n",
    );
    let mut stream = connect(&ravelin);
    for request in 0..2000 {
        // It never reads, and so never hears of a GOAWAY.
        if stream.write_all(&frame(1, 5, 2 * request + 1, &HEAD)).is_err() {
            break;
        }
    }
    assert!(is_closed(&mut stream));
    let answered = metric(&ravelin, "ravelin_requests_total{route=\"all\",upstream=\"-\",code=\"200\"}");
    assert!(answered <= 13.0, "{answered}");
}

/// `POST /` of `a`, with a length (RFC 7541, appendix A: `content-length` is 28).
fn post(length: u8) -> Vec<u8> {
    [&[0x83][..], &HEAD[1..], &[0x0f, 0x0d, 1, length]].concat()
}

/// The frame that ends this stream, by its kind, and the data that came on it.
fn rest_of_stream(stream: &mut TcpStream, number: u32) -> (u8, Vec<u8>) {
    let mut data = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        let (kind, flags) = (head[3], head[4]);
        if head[5..] != number.to_be_bytes() {
            continue;
        }
        if kind == 0 {
            data.extend(payload);
        }
        if kind == 3 || (kind <= 1 && flags & 1 != 0) {
            return (kind, data);
        }
    }
}

fn end_of_stream(stream: &mut TcpStream, number: u32) -> u8 {
    rest_of_stream(stream, number).0
}

/// Bytes behind a body that seemed whole: the endpoint has not taken it for one.
#[test]
fn a_body_is_whole_when_its_stream_has_ended() {
    for lane in ["general", "express"] {
        let origin = origin();
        let ravelin = start(lane, &origin, "");
        for (length, body, more) in [(b'3', &b"abc"[..], &b"de"[..]), (b'0', b"", b"x")] {
            let mut stream = connect(&ravelin);
            let begun = |number| [frame(1, 4, number, &post(length)), frame(0, 0, number, body)].concat();
            // Meanwhile another stream has been there and back.
            stream.write_all(&[begun(1), frame(1, 5, 3, &HEAD)].concat()).unwrap();
            assert_eq!(end_of_stream(&mut stream, 3), 0, "{lane}");
            stream.write_all(&frame(0, 1, 1, more)).unwrap();
            assert_eq!(end_of_stream(&mut stream, 1), 3, "{lane}: it is reset");
            until(&origin, |origin| origin.open() <= 1);
            let whole = || -> Vec<Vec<u8>> {
                let posts =
                    origin.requests().into_iter().filter(|request| request.complete && request.head.first.starts_with(b"POST"));
                posts.map(|request| request.body).collect()
            };
            assert!(whole().is_empty(), "{lane}: {:?}", origin.requests());
            // It is as good as any other if nothing comes.
            stream.write_all(&begun(5)).unwrap();
            stream.write_all(&frame(0, 1, 5, b"")).unwrap();
            assert_eq!(end_of_stream(&mut stream, 5), 0, "{lane}");
            assert_eq!(whole(), [body], "{lane}");
            origin.forget();
        }
    }
}

/// However a body ends, by its last piece, by an empty one, or by trailers: an endpoint on HTTP/2 gets all of it.
#[test]
fn a_body_reaches_an_endpoint_on_http2_however_it_ends() {
    let endpoint = Endpoint::start(Reached { h2c: true, ..Reached::default() });
    let config = format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], protocol: http2, health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        endpoint.address
    );
    let ravelin = Ravelin::start(&config);
    let head = [&[0x83, 0x86, 0x04, 5][..], b"/body", &HEAD[3..], &[0x0f, 0x0d, 1, b'5']].concat();
    let trailers = b"\0\x03x-t\x011";
    let began = std::time::Instant::now();
    for ending in [
        frame(0, 1, 1, b"lo"),
        [frame(0, 0, 1, b"lo"), frame(0, 1, 1, b"")].concat(),
        [frame(0, 0, 1, b"lo"), frame(1, 5, 1, trailers)].concat(),
    ] {
        let mut stream = connect(&ravelin);
        stream.write_all(&[frame(1, 4, 1, &head), frame(0, 0, 1, b"hel"), ending].concat()).unwrap();
        let (_, said) = rest_of_stream(&mut stream, 1);
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.ends_with("body=hello"), "{said:?}\n{}", ravelin.log().text());
    }
    // Nobody has waited for `body_timeout`.
    assert!(began.elapsed() < Duration::from_secs(30));
}
