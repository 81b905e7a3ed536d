//! The two ways in which Ravelin carries requests, fed with the same bytes: what the origin gets, and what the client gets, is the same.
//!
//! Requests and responses are put together at random from sound and odd parts, and some lose, gain or change a byte. The seed is
//! printed with what differs; `RAVELIN_TEST_ALL=1` tries many more.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fmt::Write as _;

use fastrand::Rng;
use support::{Action, Answer, Connection, Deadline, H2Connection, Origin, Outgoing, Ravelin, Response, Trouble, visible};

const FEW: u64 = 150;
const MANY: u64 = 5000;

/// One lane, and an origin of its own.
struct Lane {
    ravelin: Ravelin,
    origin: Origin,
}

/// What was to be seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    client: String,
    origin: Vec<String>,
}

impl Lane {
    fn start(lane: &str) -> Self {
        let origin = Origin::start("origin", Vec::new());
        let ravelin = Ravelin::start_in(
            lane,
            &format!(
                "listeners: {{main: {{address: \"127.0.0.1:0\", http2: true, trust_forwarded: {{from: [127.0.0.1]}}}}}}\n\
                 upstreams: {{a: {{endpoints: [\"{}\"], health_check: none, retry: {{retries: 0}}}}}}\n\
                 routes:\n  \
                   own: {{match: {{paths: [/own]}}, respond: {{status: 403, body: no}}}}\n  \
                   all: {{upstream: a, filters: [{{request_id: {{}}}}, {{headers: {{response: {{set: {{x-edge: '1'}}}}}}}}]}}\n",
                origin.address()
            ),
        );
        Self { ravelin, origin }
    }

    fn prepare(&self, response: &[u8]) {
        self.origin.forget();
        let answer = Answer::of(vec![Action::Send(response.to_vec()), Action::Close]);
        self.origin.script(vec![answer]);
    }

    fn play(&self, request: &[u8], response: &[u8]) -> Seen {
        self.prepare(response);
        let deadline = Deadline::standard();
        let mut client = Connection::open(self.ravelin.address(), deadline).unwrap();
        client.send(request).unwrap();
        let method = String::from_utf8_lossy(request.split(|byte| *byte == b' ').next().unwrap()).into_owned();
        self.seen(client.response(&method, deadline))
    }

    fn play_stream(&self, request: &Outgoing, response: &[u8]) -> Seen {
        self.prepare(response);
        let deadline = Deadline::standard();
        let mut client = H2Connection::open(self.ravelin.address(), deadline).unwrap();
        client.request(request, deadline).unwrap();
        let mut answer = client.next_response(deadline);
        if let Ok(Response { cut: Some(_), body, .. }) = &mut answer {
            // How much of it comes before a stream is given up is a matter of time.
            body.clear();
        }
        self.seen(answer)
    }

    fn seen(&self, answer: Result<Response, Trouble>) -> Seen {
        let mut seen = String::new();
        match answer {
            Ok(answer) => {
                // Pingora forgets an informational answer that came together with one that is refused.
                let interim = answer.interim.iter().filter(|_| answer.head.status() != Some(502));
                for head in interim.chain([&answer.head]) {
                    writeln!(seen, "{}\n{}", visible(&head.first), fields(&head.fields)).unwrap();
                }
                let body = without_id(&visible(&answer.body));
                write!(seen, "{body} cut: {}", answer.cut.is_some()).unwrap();
            }
            Err(trouble) => write!(seen, "nothing whole: {}", matches!(trouble, Trouble::Deadline(_))).unwrap(),
        }
        let origin = self.origin.requests();
        let shown = |request: &support::Received| {
            format!("{}\n{}{}", visible(&request.head.first), fields(&request.head.fields), visible(&request.body))
        };
        // Of a request that broke off its origin may have seen more or less.
        Seen { client: seen, origin: origin.iter().filter(|request| request.complete).map(shown).collect() }
    }
}

/// In the order of names: that of different names means nothing.
fn fields(fields: &[support::Field]) -> String {
    let mut lines: Vec<(String, String)> =
        fields.iter().map(|(name, value)| (visible(name).to_lowercase(), visible(value))).collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    let own = |name: &str| matches!(name, "via" | "date" | "x-request-id" | "grpc-message");
    lines.into_iter().fold(
        String::new(),
        |text, (name, value)| {
            if own(&name) { format!("{text}{name}\n") } else { format!("{text}{name}: {value}\n") }
        },
    )
}

fn without_id(body: &str) -> String {
    let text = body.split("request id: ").next().unwrap();
    text.split("\"request_id\":").next().unwrap().to_owned()
}

fn some<'a>(random: &mut Rng, of: &[&'a str], most: usize) -> String {
    (0..random.usize(..=most)).map(|_| *random.choice(of).unwrap()).collect::<Vec<&'a str>>().concat()
}

fn request(random: &mut Rng) -> Vec<u8> {
    let method = *random.choice(&["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]).unwrap();
    let target =
        *random.choice(&["/", "/a/../b?c=%20", "/a%2e/./x", "//a", "/own", "/ä", "/a?b?c", "/%61", "*", "http://h/x"]).unwrap();
    let fields = some(
        random,
        &[
            "X-A: 1\r\n",
            "x-a: 2\r\n",
            "Connection: x-a\r\n",
            "Connection: keep-alive, X-B\r\n",
            "X-B:3\r\n",
            "TE: trailers\r\n",
            "Via: 1.0 other\r\n",
            "X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n",
            "X-Forwarded-Proto: https\r\n",
            "Forwarded: for=1.2.3.4\r\n",
            "X_Forwarded_For: 9.9.9.9\r\n",
            "Cookie: a=1\r\n",
            "Keep-Alive: 5\r\n",
            "Trailer: x\r\n",
            "X-Request-Id: mine\r\n",
            "Accept: application/json\r\n",
            "X-Empty:\r\n",
            "X-Blank: \t a \t\r\n",
            "Proxy-Authorization: x\r\n",
            "Connection: close\r\n",
        ],
        8,
    );
    let body = *random
        .choice(&[
            "\r\n",
            "\r\n",
            "\r\n",
            "Content-Length: 0\r\n\r\n",
            "Content-Length: 5\r\n\r\nhello",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "Transfer-Encoding: chunked\r\n\r\nx\r\n",
        ])
        .unwrap();
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}{body}").into_bytes()
}

fn stream(random: &mut Rng) -> Outgoing {
    let method = *random.choice(&["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]).unwrap();
    let target = *random.choice(&["/", "/a/../b?c=%20", "/a%2e/./x", "//a", "/own", "/a?b?c", "/%61", "/%zz"]).unwrap();
    let fields = [
        ("x-a", "1"),
        ("x-a", "2"),
        ("te", "trailers"),
        ("via", "1.0 other"),
        ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=1.2.3.4"),
        ("x_forwarded_for", "9.9.9.9"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("trailer", "x"),
        ("x-request-id", "mine"),
        ("accept", "application/json"),
        ("content-type", "application/grpc"),
        ("expect", "100-continue"),
        ("x-empty", ""),
        ("x-blank", " a"),
        ("proxy-authorization", "x"),
        ("content-length", "5"),
    ];
    let fields: Vec<_> = (0..random.usize(..=8)).map(|_| *random.choice(&fields).unwrap()).collect();
    let mut all = vec![("Host".to_owned(), random.choice(&["h", "H:80", "h.", "[::1]", "h_1"]).unwrap().as_bytes().to_vec())];
    all.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())));
    // When the framing sees that a length is a lie, is a matter of time.
    let told = all.iter().any(|(name, _)| name == "content-length");
    let body = if told { "hello" } else { *random.choice(&["", "", "hello", "hello hello"]).unwrap() };
    let body = body.as_bytes().to_vec();
    Outgoing { method: method.into(), target: target.into(), version: "HTTP/2".into(), fields: all, body }
}

fn response(random: &mut Rng) -> Vec<u8> {
    let early = *random.choice(&["", "", "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-A: 1\r\n\r\n"]).unwrap();
    let status =
        *random.choice(&["200 OK", "200 OK", "404 Nope", "204 No Content", "304 Not Modified", "500", "302 Found"]).unwrap();
    let version = *random.choice(&["1.1", "1.1", "1.1", "1.0"]).unwrap();
    let fields = some(
        random,
        &[
            "X-A: 1\r\n",
            "x-a: 2\r\n",
            "Set-Cookie: a\r\n",
            "Set-Cookie: b\r\n",
            "Connection: x-a\r\n",
            "Connection: close\r\n",
            "Keep-Alive: timeout=5\r\n",
            "Upgrade: h2c\r\n",
            "Server: s\r\n",
            "Date: now\r\n",
            "Via: 1.1 x\r\n",
            "X-Fold: a\r\n b\r\n",
            "X-Edge: theirs\r\n",
            "Trailer: x\r\n",
            "Proxy-Connection: x\r\n",
            "Location: /x\r\n",
        ],
        6,
    );
    let body = *random
        .choice(&[
            "Content-Length: 5\r\n\r\nhello",
            "Content-Length: 5\r\n\r\nhello",
            "Content-Length: 0\r\n\r\n",
            "\r\nuntil the end",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n2;a\r\nhe\r\n0\r\nX: 1\r\n\r\n",
            "Content-Length: 9\r\n\r\nhello",
            "Content-Length: 2\r\n\r\nhello",
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "Transfer-Encoding: gzip\r\n\r\nx",
            "Content-Length: x\r\n\r\nhello",
        ])
        .unwrap();
    format!("{early}HTTP/{version} {status}\r\n{fields}{body}").into_bytes()
}

#[test]
fn both_lanes_do_the_same_with_streams() {
    let lanes = ["general", "express"].map(Lane::start);
    let seeds = if std::env::var_os("RAVELIN_TEST_ALL").is_some() { MANY } else { FEW };
    let mut differ = Vec::new();
    for seed in 0..seeds {
        let mut random = Rng::with_seed(seed);
        let (request, response) = (stream(&mut random), response(&mut random));
        let [general, express] = [&lanes[0], &lanes[1]].map(|lane| lane.play_stream(&request, &response));
        if general != express {
            let (request, response) = (visible(&request.bytes()), visible(&response));
            differ.push(format!("seed {seed}\n{request}\n{response}\ngeneral: {general:#?}\nexpress: {express:#?}"));
        }
    }
    assert!(differ.is_empty(), "{} of {seeds} differ:\n{}", differ.len(), differ[..differ.len().min(5)].join("\n\n"));
}

#[test]
fn both_lanes_do_the_same() {
    let lanes = ["general", "express"].map(Lane::start);
    let seeds = if std::env::var_os("RAVELIN_TEST_ALL").is_some() { MANY } else { FEW };
    let mut differ = Vec::new();
    for seed in 0..seeds {
        let mut random = Rng::with_seed(seed);
        let (request, response) = (request(&mut random), response(&mut random));
        if String::from_utf8_lossy(&request).matches("\nConnection:").count() > 1 {
            // Of several such fields Pingora looks at the first when it decides whether the client stays.
            continue;
        }
        let [general, express] = [&lanes[0], &lanes[1]].map(|lane| lane.play(&request, &response));
        if general != express {
            differ.push(format!(
                "seed {seed}\n{}\n{}\ngeneral: {general:#?}\nexpress: {express:#?}",
                visible(&request),
                visible(&response)
            ));
        }
    }
    assert!(differ.is_empty(), "{} of {seeds} differ:\n{}", differ.len(), differ[..differ.len().min(5)].join("\n\n"));
}
