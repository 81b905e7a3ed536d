//! The runner's own tests: the parser's messages, and steps played against an origin without a proxy.

use libtest_mimic::{Failed, Trial};

use super::text::{Expression, Known, Style, Text, Variables};
use super::{Against, parse, play};
use crate::support::{Deadline, H2Connection, Outgoing, runtime};

type Test = fn() -> Result<(), Failed>;

/// All of them, as tests named `runner: …`.
pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, Test); 13] = [
        ("mistakes in a case name file and line", mistakes_name_file_and_line),
        ("text knows escapes and placeholders", text_knows_escapes_and_placeholders),
        ("patterns match with wildcards", patterns_match_with_wildcards),
        ("expressions capture", expressions_capture),
        ("requests and answers in turn", || passes(IN_TURN)),
        ("raw bytes, pipelining and echo", || passes(RAW)),
        ("broken answers are seen as broken", || passes(BROKEN)),
        ("events hold an answer", || passes(EVENTS)),
        ("origins stop and start", || passes(STOP)),
        ("what is refused is refused", || passes(REFUSED)),
        ("streams of HTTP/2 are answered in turn", streams_are_answered_in_turn),
        ("a failure shows expectation and exchange", failure_shows_exchange),
        ("listeners get their addresses", listeners_get_their_addresses),
    ];
    tests.into_iter().map(|(name, test)| Trial::test(format!("runner: {name}"), test)).collect()
}

fn passes(text: &str) -> Result<(), Failed> {
    let case = parse("self.case", text)?;
    play(&case, Against::Origin).map_err(Failed::from)
}

fn same<T: PartialEq + std::fmt::Debug>(came: &T, expected: &T) -> Result<(), Failed> {
    if came == expected { Ok(()) } else { Err(format!("expected {expected:?}\n    came {came:?}").into()) }
}

fn mistakes_name_file_and_line() -> Result<(), Failed> {
    let table = [
        ("config\n", "x.case:1: begin with a comment"),
        ("# t\norigin a\n", "x.case:2: the case has no step"),
        ("# t\nrequest\n  GET / \n", "x.case:3: the line ends in blank space"),
        ("# t\n\nreqest\n", "x.case:3: `reqest` is no section"),
        ("# t\nrequest\nresponse\n", "x.case:3: a response has at least a status"),
        ("# t\nrequest\nresponse\n  200\n  x-a 1\n", "x.case:5: `x-a 1` expects nothing"),
        ("# t\nrequest\nresponse\n  200\n  x-a ~ (\n", "x.case:5: regex parse error"),
        ("# t\nrequest\nresponse\n  200\n  x-a: {orgin}\n", "x.case:5: unknown placeholder `{orgin}`"),
        ("# t\norigin a\norigin b\nrequest\n  GET {origin} HTTP/1.1\n", "x.case:5: unknown placeholder `{origin}`"),
        ("# t\norigin a\norigin b\norigin received\n  !x\n", "x.case:4: which origin?"),
        ("# t\norigin a\norigin c saw 1 request\n", "x.case:3: there is no `origin c`"),
        ("# t\nrequest\nconfig\n", "x.case:3: `config` belongs before the first step (line 2)"),
        ("# t\ncovers: routes.timeout\nrequest\n", "x.case:2: covers `routes.timeout`, but `timeout` does not occur"),
        ("# t\nsend\n  a\\q\n", "x.case:3: unknown escape `\\q`"),
        ("# t\norigin a\nanswer then sing\nrequest\n", "x.case:3: write `answer` or `script`"),
        ("# t\norigin a\nscript\n  dance\nrequest\n", "x.case:4: `dance` is nothing that an origin does"),
        ("# t\nrequest three times\n", "x.case:2: `three`?"),
        ("# t\nforget\n  x\n", "x.case:3: `forget` takes no indented lines"),
        ("# t\nlog says x\n", "x.case:2: write `contains TEXT`"),
        ("# t\nrequest\nresponse\n  200\n  within soon\n", "x.case:5: `soon` is no time"),
    ];
    for (text, expected) in table {
        match parse("x.case", text) {
            Ok(_) => return Err(format!("{text:?} is read, but should give {expected:?}").into()),
            Err(message) if message.starts_with(expected) => {}
            Err(message) => return Err(format!("{text:?}\nexpected {expected:?}\n    came {message:?}").into()),
        }
    }
    Ok(())
}

fn text_knows_escapes_and_placeholders() -> Result<(), Failed> {
    let known = Known::with(["a".to_owned()].into());
    let variables: Variables = [("origin.a".to_owned(), "127.0.0.1:1".to_owned())].into();
    let bytes = |raw: &str, style| Text::parse(raw, style, &known)?.bytes(&variables);
    same(&bytes(r"a\r\n\x00\\", Style::Escaped)?, &b"a\r\n\0\\".to_vec())?;
    same(&bytes(r"a\r\n", Style::Literal)?, &br"a\r\n".to_vec())?;
    same(&bytes("http://{origin.a}/", Style::Literal)?, &b"http://127.0.0.1:1/".to_vec())?;
    same(
        &bytes("{{ request.path }} ${HOME} {\"a\":{}} {x: y}", Style::Literal)?,
        &b"{{ request.path }} ${HOME} {\"a\":{}} {x: y}".to_vec(),
    )?;
    same(&bytes("<{repeat 3 ab}>", Style::Escaped)?, &b"<ababab>".to_vec())
}

fn patterns_match_with_wildcards() -> Result<(), Failed> {
    let table = [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("a*c", "abbc", true),
        ("a*c", "abbcd", false),
        ("*", "", true),
        ("a*a", "a", false),
        ("*x*", "axb", true),
        (r"a\*", "a*", true),
        (r"a\*", "ab", false),
    ];
    let known = Known::default();
    for (pattern, text, expected) in table {
        let matches = Text::parse(pattern, Style::Pattern, &known)?.pattern(&Variables::new())?.matches(text.as_bytes());
        same(&(pattern, text, matches), &(pattern, text, expected))?;
    }
    Ok(())
}

fn expressions_capture() -> Result<(), Failed> {
    let known = Known::default();
    let mut variables = Variables::new();
    let first = Expression::parse("^id=(?<id>[0-9.]{3})$", &known)?;
    let second = Expression::parse("^<{id}>$", &known)?;
    same(&first.matches(b"id=1.2", &mut variables)?, &true)?;
    same(&second.matches(b"<1.2>", &mut variables)?, &true)?;
    same(&second.matches(b"<1x2>", &mut variables)?, &false)
}

fn listeners_get_their_addresses() -> Result<(), Failed> {
    let config = "listeners:\n  b: {address: \"127.0.0.1:0\"}\n  a: {address: localhost:0}\n  c: {address: unix:/x}\n";
    let written = crate::support::listeners(config);
    let names: Vec<&str> = written.iter().map(|(name, _)| name.as_str()).collect();
    same(&names, &vec!["b", "a", "c"])?;
    let reported = ["127.0.0.1:7", "unix:/x", "127.0.0.1:8"].map(str::to_owned);
    let mut actual = super::config::actual(&written, &reported);
    actual.sort();
    let expected = [("a", "127.0.0.1:8"), ("b", "127.0.0.1:7"), ("c", "unix:/x")];
    same(&actual, &expected.map(|(name, address)| (name.to_owned(), address.to_owned())).to_vec())
}

fn streams_are_answered_in_turn() -> Result<(), Failed> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?.to_string();
    runtime().spawn(async move {
        let accepted = tokio::net::TcpListener::from_std(listener).ok()?.accept().await.ok()?.0;
        let mut connection = h2::server::handshake(accepted).await.ok()?;
        while let Some(Ok((request, mut answer))) = connection.accept().await {
            let head = http::Response::builder().header("x-path", request.uri().path()).body(()).ok()?;
            let mut body = answer.send_response(head, false).ok()?;
            body.send_data(request.uri().path().to_owned().into(), false).ok()?;
            if request.uri().path() == "/cut" {
                body.send_reset(h2::Reason::INTERNAL_ERROR);
            } else {
                body.send_trailers([("x-end".parse().ok()?, "1".parse().ok()?)].into_iter().collect()).ok()?;
            }
        }
        Some(())
    });
    let deadline = Deadline::standard();
    let mut connection = H2Connection::open(&address, deadline)?;
    for path in ["/a", "/b", "/cut"] {
        connection.request(&Outgoing::get(path, "a.test"), deadline)?;
    }
    for path in ["/a", "/b"] {
        let response = connection.next_response(deadline)?;
        same(&response.head.first, &b"HTTP/2 200".to_vec())?;
        same(&response.head.values("x-path"), &vec![path.as_bytes()])?;
        same(&response.body, &path.as_bytes().to_vec())?;
        same(&(response.cut, response.trailers.len()), &(None, 1))?;
    }
    match connection.next_response(deadline) {
        Ok(response) if response.cut.is_none() => Err("a stream that was reset looks whole".into()),
        _ => Ok(()),
    }
}

const IN_TURN: &str = "# Answers come in turn, and what arrived is kept.
origin a
answer
  201 Made
  x-one: 1
  x-one: 2

  first
answer
  503

  {\"error\":{\"status\":503}}
answer for /special
  204
request on c
  POST /x?y HTTP/1.1
  x-test: yes

  body
response
  HTTP/1.1 201 Made
  x-one: 1
  x-one: 2
  !x-two
  body = fi*st
request again
response
  503
  json /error/status = 503
  body contains {\"error\"
  body lacks first
request again
  GET /special HTTP/1.1
response
  204
  !content-length
request 2 times
response
  ~ ^HTTP/1.1 50[0-9]
origin received
  POST /x?y HTTP/1.1
  host: ravelin.test
  content-length: 4
  x-test ~ ^y.s$
  body = body
  connection 1
origin a received 4
  connection 2
origin saw 5 requests
origin saw 3 connections
";

const FAILING: &str = "# A case that fails.
origin a
answer
  x

  first
request on c
  POST /x?y HTTP/1.1
  x-test: yes

  body
response
  200
  x-one: *
";

const RAW: &str = r"# Bytes go out as they are written; two requests may go at once; an upgrade echoes.
origin a
answer
  200

  one
script
  send HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n
  send HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\nx-sum: 7\r\n\r\n
script
  send HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n
  echo
send on c
  GET /1 HTTP/1.1\r\nhost: a\r\n\r\n
  POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n
response
  200
  content-length: 3
  kept

  one
response on c
  103
  link: </x>
response on c
  200
  trailer x-sum: 7
  body = two
origin received
  GET /1 HTTP/1.1
  host: a
origin received bytes
  POST /2 HTTP/1.1\r\n
  *\r\n\r\n
  4\r\nbody\r\n0\r\n\r\n
origin received 2 exactly
  POST /2 HTTP/1.1
  host: a
  transfer-encoding: chunked

  body
request again
  GET /3 HTTP/1.1
  connection: upgrade
response
  101
send again
  ping
receive
  pi*
send again
  pong
receive
  pong
close
origin disconnected
origin a saw 3 requests
origin a saw 1 connection
";

const BROKEN: &str = r"# Cut, reset, lying and missing answers are told from whole ones.
origin a
answer for /short then close
  200
  content-length: 10

  abc
answer for /reset then reset
  200
  content-length: 10

  abc
script for /nothing
  close
script for /silent
  reset
script for /chunks
  send HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc
  close
answer for /to-the-end then close
  200
  !content-length

  whole
answer for /head
  200

  not for HEAD
request
  GET /short HTTP/1.1
response
  200
  incomplete
  body = abc
request
  GET /reset HTTP/1.1
response so far
  200
request
  GET /nothing HTTP/1.1
closed
request
  GET /nothing HTTP/1.1
aborted
request
  GET /short HTTP/1.1
aborted
request
  GET /silent HTTP/1.1
closed
request
  GET /chunks HTTP/1.1
response
  200
  incomplete
request
  GET /to-the-end HTTP/1.1
response
  200
  !content-length
  closed

  whole
request
  HEAD /head HTTP/1.1
response
  200
  content-length: 12
  body =
";

const EVENTS: &str = r"# An origin waits for the case, and the case looks at what is there so far.
origin a
script
  send HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf
  wait go
  send full
request
response so far
  200
  body = half
release go
response
  200
  body ~ ^half(?<rest>f.*)$
request
  GET /{rest} HTTP/1.1
origin received 2
  GET /full HTTP/1.1
response
  200
  after 0ms
  within 20s
";

const STOP: &str = r"# A stopped origin refuses connections; started again it has the same address.
origin a stopped
origin b
answer
  200

  b
  more
origin c unix
start origin a
request 2 times
response
  200
  body = a
spread a=2
stop origin a
request to {origin.b}
response
  200

  b
  more
request to {origin.c}
response
  200
  body = c
order a a b c
forget
start origin a
wait until 200 from a
";

const REFUSED: &str = r"# Nothing listens on the dead address, which stays nobody's.
origin a
origin d per connection
script on connect
  send hello
answer
  404
request
  GET http://{dead}/ HTTP/1.1
  !host
  content-length: 0
response
  200
  !x
  body = a
origin a received exactly
  GET http://127.0.0.1:* HTTP/1.1
  content-length: 0
send to {origin.d}
  GET / HTTP/1.1\r\n\r\n
receive
  helloHTTP/1.1 404 *
";

fn failure_shows_exchange() -> Result<(), Failed> {
    let case = parse("tests/cases/self.case", FAILING)?;
    let Err(report) = play(&case, Against::Origin) else { return Err("the case passes, but must not".into()) };
    let expected = [
        "tests/cases/self.case:13:\n  expected  200\n      came  HTTP/1.1 x \n",
        "tests/cases/self.case:14:\n  expected  x-one: *\n      came  no `x-one`\n",
        "> POST /x?y HTTP/1.1\\r\\n\n> Host: ravelin.test\\r\\n\n> x-test: yes\\r\\n\n> Content-Length: 4\\r\\n\n> \\r\\n\n> body\n",
        "< HTTP/1.1 x \\r\\n\n< Content-Length: 5\\r\\n\n< \\r\\n\n< first\n",
        "· request 1 on connection 1\nPOST /x?y HTTP/1.1\\r\\n\n",
    ];
    for part in expected {
        if !report.contains(part) {
            return Err(format!("the report lacks\n{part}\nin\n{report}").into());
        }
    }
    Ok(())
}
