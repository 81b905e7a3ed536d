//! Programs that others wrote, as clients of a listener with TLS: openssl, curl, nghttp, Python's websockets, haproxy, sslscan.
//!
//! What is not installed is not tested, unless `RAVELIN_TEST_PEERS` says that all of it must be there (`scripts/setup --test` sees to that).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::tls::{Authority, Client, put};
use support::{Action, Answer, Deadline, Launch, Origin, Ravelin, free_port};
use tempfile::TempDir;

/// A program; `None`: it is not there, and need not be.
fn peer(name: &str) -> Option<PathBuf> {
    let found = support::tls::program(name);
    missing(found, name)
}

fn missing(found: Option<PathBuf>, name: &str) -> Option<PathBuf> {
    if found.is_none() {
        assert!(std::env::var_os("RAVELIN_TEST_PEERS").is_none(), "{name} is not installed: scripts/setup --test");
        eprintln!("{name} is not installed: nothing was tested");
    }
    found
}

/// A Python that has `websockets`: `scripts/setup --test` makes it.
fn python() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
    missing(Some(path).filter(|path| path.exists()), "target/peers")
}

/// It ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program wrote, and whether it was content. It is given what there is on its standard input.
fn run(command: &mut Command, input: &str) -> (bool, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever reads nothing has ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A proxy with a listener that speaks TLS, one that asks for certificates, and one in the clear.
struct Edge {
    ravelin: Ravelin,
    directory: TempDir,
}

impl Edge {
    fn start(endpoint: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
        authority.issue(&["a.example"]).write(directory.path(), "a");
        clients.client("ann").write(directory.path(), "ann");
        put(&directory.path().join("ca.pem"), authority.pem());
        put(&directory.path().join("clients.pem"), clients.pem());
        let pair = "certificates: [{cert: a.pem, key: a.key}]";
        let configuration = format!(
            "listeners:\n  main: {{address: 127.0.0.1:0, tls: {{{pair}}}, limits: {{websocket_idle_timeout: 2s}}}}\n  \
             known: {{address: 127.0.0.1:0, tls: {{{pair}, client_auth: {{ca: clients.pem}}}}}}\n  \
             plain: {{address: 127.0.0.1:0, http2: true}}\n  \
             proxied: {{address: 127.0.0.1:0, tls: {{{pair}}}, proxy_protocol: {{trust: [127.0.0.2]}}}}\n\
             upstreams: {{a: {{endpoints: [\"{endpoint}\"], health_check: none}}}}\n\
             routes:\n  all: {{upstream: a}}\n  \
             facts: {{match: {{paths: [/facts]}}, respond: {{body: \"{{{{ request.scheme }}}} {{{{ client.ip }}}} {{{{ client.cert.subject }}}}\"}}}}\n  \
             empty: {{match: {{paths: [/204]}}, respond: {{status: 204}}}}\n  old: {{match: {{paths: [/304]}}, respond: {{status: 304}}}}\n"
        );
        fs::write(directory.path().join("ravelin.yaml"), &configuration).unwrap();
        let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
        if let Err(problem) = ravelin.ready(4, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        Self { ravelin, directory }
    }

    fn port(&self, listener: usize) -> &str {
        self.ravelin.addresses()[listener].rsplit_once(':').unwrap().1
    }

    fn curl(&self, curl: &Path, listener: usize, arguments: &[&str], target: &str) -> (bool, String) {
        let port = self.port(listener);
        let scheme = if listener == 2 { "http" } else { "https" };
        let mut command = Command::new(curl);
        command.current_dir(self.directory.path()).args([
            "-sS",
            "-i",
            "--max-time",
            "20",
            "--cacert",
            "ca.pem",
            "--noproxy",
            "*",
        ]);
        command.args(["--resolve", &format!("a.example:{port}:127.0.0.1")]).args(arguments);
        run(command.arg(format!("{scheme}://a.example:{port}{target}")), "")
    }

    fn s_client(&self, openssl: &Path, arguments: &[&str], input: &str) -> (bool, String) {
        let mut command = Command::new(openssl);
        command.current_dir(self.directory.path()).args(["s_client", "-connect", &format!("127.0.0.1:{}", self.port(0))]);
        command.args(["-servername", "a.example", "-CAfile", "ca.pem", "-verify_return_error"]);
        run(command.args(arguments), input)
    }
}

const MAIN: usize = 0;
const KNOWN: usize = 1;
const PLAIN: usize = 2;
const PROXIED: usize = 3;

#[test]
fn openssl_agrees() {
    let Some(openssl) = peer("openssl") else { return };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    let get = "GET /facts HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let (_, said) = edge.s_client(&openssl, &[version, "-ign_eof"], get);
        assert!(said.contains("Verify return code: 0 (ok)") && said.contains("https 127.0.0.1"), "{said}");
        assert!(said.contains("Compression: NONE") && !said.contains("Early data was accepted"), "{said}");
    }
    // OpenSSL lets itself be talked into the old ones; nobody answers.
    for version in ["-tls1", "-tls1_1"] {
        let (content, said) = edge.s_client(&openssl, &[version, "-cipher", "ALL:@SECLEVEL=0"], "");
        assert!(!content && said.contains("Cipher is (NONE)"), "{said}");
    }
    for weak in ["NULL", "aNULL", "RC4", "3DES", "AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "DHE"] {
        let (_, said) = edge.s_client(&openssl, &["-tls1_2", "-cipher", &format!("{weak}:@SECLEVEL=0")], "");
        assert!(said.contains("Cipher is (NONE)") || said.contains("no cipher match"), "{weak}: {said}");
    }
    let (_, said) = edge.s_client(&openssl, &["-alpn", "h2,http/1.1"], "");
    assert!(said.contains("ALPN protocol: h2"), "{said}");
    // Longer than any name may be (RFC 1035 §2.3.4), by labels that may be.
    let long = format!("{}{}", format!("{}.", "a".repeat(62)).repeat(4), "bcd");
    assert_eq!(long.len(), 255);
    let began = Instant::now();
    let (_, said) = edge.s_client(&openssl, &["-servername", &long], "");
    assert!(said.contains("alert") && said.contains("Cipher is (NONE)"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let session = edge.directory.path().join("session");
    for version in ["-tls1_2", "-tls1_3"] {
        let (_, said) = edge.s_client(&openssl, &[version, "-sess_out", "session", "-ign_eof"], get);
        assert!(said.contains("New, TLS"), "{said}");
        let (_, said) = edge.s_client(&openssl, &[version, "-sess_in", "session", "-ign_eof"], get);
        assert!(said.contains("Reused, TLS"), "{said}");
        fs::remove_file(&session).unwrap();
    }
}

#[test]
fn curl_gets_the_same_by_every_protocol() {
    let Some(curl) = peer("curl") else { return };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    for (listener, arguments, first) in [
        (MAIN, &["--http1.0"][..], "HTTP/1.1 200"),
        (MAIN, &["--http1.1"], "HTTP/1.1 200"),
        (MAIN, &["--http2"], "HTTP/2 200"),
        (MAIN, &["--http2", "--tls-max", "1.2"], "HTTP/2 200"),
        (PLAIN, &["--http1.0"], "HTTP/1.1 200"),
        (PLAIN, &["--http1.1"], "HTTP/1.1 200"),
        (PLAIN, &["--http2-prior-knowledge"], "HTTP/2 200"),
    ] {
        let get = |more: &[&str], target: &str| edge.curl(&curl, listener, &[arguments, more].concat(), target);
        let (content, said) = get(&[], "/");
        assert!(content && said.starts_with(first) && said.ends_with("hello"), "{arguments:?}: {said}");
        let (content, said) = get(&["-I"], "/");
        assert!(
            content
                && said.starts_with(first)
                && said.to_ascii_lowercase().contains("content-length: 5")
                && !said.contains("hello"),
            "{said}"
        );
        for status in ["204", "304"] {
            let (content, said) = get(&[], &format!("/{status}"));
            let field = said.to_ascii_lowercase();
            assert!(content && said.contains(status) && !field.contains("transfer-encoding"), "{said}");
        }
        let (content, said) = get(&["-H", "Expect: 100-continue", "-d", "sent"], "/");
        assert!(content && said.ends_with("hello"), "{said}");
        assert_eq!(origin.requests().last().unwrap().body, b"sent");
    }
    let (content, said) = edge.curl(&curl, MAIN, &["--tls-max", "1.1"], "/");
    assert!(!content, "{said}");
    let own = ["--cert", "ann.pem", "--key", "ann.key"];
    for protocol in ["--http1.1", "--http2"] {
        let (content, said) = edge.curl(&curl, KNOWN, &[&own[..], &[protocol]].concat(), "/facts");
        assert!(content && said.ends_with("https 127.0.0.1 CN=ann,O=Example"), "{said}");
        // Who was let in for one name is not let in for another, whether that is in `Host` or in `:authority`.
        let other = [&own[..], &[protocol, "-H", "Host: b.example"]].concat();
        let (_, said) = edge.curl(&curl, KNOWN, &other, "/facts");
        assert!(said.lines().next().is_some_and(|line| line.contains(" 421")), "{said}");
        assert!(!edge.curl(&curl, KNOWN, &[protocol], "/facts").0);
    }
}

#[test]
fn nghttp_speaks_http2_over_tls() {
    let Some(nghttp) = peer("nghttp") else { return };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", edge.port(MAIN));
    let (content, said) = run(Command::new(nghttp).args(["-v", "--no-verify-peer", &url("/"), &url("/facts")]), "");
    assert!(content && said.contains("The negotiated protocol: h2") && said.matches(":status: 200").count() == 2, "{said}");
}

/// The first `count` events of a stream, one by one as the endpoint sends them.
#[test]
fn events_are_sent_on_at_once_over_each_protocol() {
    let Some(curl) = peer("curl") else { return };
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    for (listener, protocol) in [(MAIN, "--http1.1"), (MAIN, "--http2"), (PLAIN, "--http1.1"), (PLAIN, "--http2-prior-knowledge")]
    {
        let events = support::Events::new();
        let origin = Origin::prepare("a", support::Bind::V4, false, events.clone()).unwrap();
        origin.script(vec![Answer::of(vec![
            Action::Send(head.to_vec()),
            Action::Send(b"9\r\ndata: 1\n\n\r\n".to_vec()),
            Action::Wait("second".into()),
            Action::Send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n".to_vec()),
        ])]);
        origin.resume().unwrap();
        let edge = Edge::start(origin.address());
        let port = edge.port(listener);
        let scheme = if listener == PLAIN { "http" } else { "https" };
        let mut child = Command::new(&curl)
            .current_dir(edge.directory.path())
            .args(["-sSN", "--max-time", "20", "--cacert", "ca.pem", protocol, "--noproxy", "*"])
            .args(["--resolve", &format!("a.example:{port}:127.0.0.1"), &format!("{scheme}://a.example:{port}/")])
            .stdout(Stdio::piped())
            .spawn()
            .map(Running)
            .unwrap();
        let mut output = child.0.stdout.take().unwrap();
        let mut first = [0; 9];
        // The second is not sent before this one has come.
        output.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"data: 1\n\n", "{protocol}");
        events.release("second");
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "data: 2\n\n", "{protocol}");
    }
}

#[test]
fn informational_answers_and_tunnels_pass_through_tls() {
    let authority_free = |edge: &Edge| fs::read_to_string(edge.directory.path().join("ca.pem")).unwrap();
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    let origin = Origin::start(
        "a",
        vec![
            Answer::of(vec![
                Action::Send(hints.to_vec()),
                Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
            ]),
            Answer::of(vec![
                Action::Send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n".to_vec()),
                Action::Echo,
            ]),
        ],
    );
    let edge = Edge::start(origin.address());
    let client = Client::of_pem(&authority_free(&edge));
    let deadline = Deadline::standard();
    let mut connection = client.connect(edge.ravelin.address(), "a.example", deadline).unwrap();
    connection.send(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").unwrap();
    let mut text = String::new();
    while !text.ends_with("\r\n\r\nok") {
        let mut piece = [0; 1024];
        let read = connection.0.read(&mut piece).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    assert!(text.starts_with("HTTP/1.1 103 ") && text.contains("rel=preload") && text.contains("HTTP/1.1 200 OK"), "{text}");
    connection.send(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").unwrap();
    assert_eq!(connection.response().unwrap().0, 101);
    let mut echoed = [0; 4];
    connection.send(b"ping").unwrap();
    connection.0.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"ping");
    // Nothing passes any more: the tunnel has a time of its own (2 s here), after which it is cut.
    let began = Instant::now();
    assert_eq!(connection.0.read(&mut echoed).unwrap_or(0), 0);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[test]
fn websockets_of_python_talk_through_tls() {
    let Some(python) = python() else { return };
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let server = directory.path().join("server.py");
    fs::write(&server, SERVER).unwrap();
    let serving = Command::new(&python).arg(&server).arg(port.port().to_string()).spawn().map(Running).unwrap();
    let deadline = Deadline::standard();
    while TcpStream::connect(port.address()).is_err() {
        assert!(!deadline.passed(), "the server does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    let edge = Edge::start(&port.address().to_string());
    let client = edge.directory.path().join("client.py");
    fs::write(&client, CLIENT).unwrap();
    for (listener, scheme) in [(MAIN, "wss"), (PLAIN, "ws")] {
        let mut command = Command::new(&python);
        command.arg(&client).current_dir(edge.directory.path()).args([scheme, edge.port(listener)]);
        let (content, said) = run(&mut command, "");
        assert!(content && said.contains("done"), "{scheme}: {said}\n{}", edge.ravelin.log().text());
    }
    drop(serving);
}

const SERVER: &str = r#"
import sys
from websockets.sync.server import serve

def echo(connection):
    for message in connection:
        connection.send(message)

with serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=None) as server:
    server.serve_forever()
"#;

const CLIENT: &str = r#"
import socket, ssl, sys
from websockets.sync.client import connect

scheme, port = sys.argv[1:3]
context = None
if scheme == "wss":
    context = ssl.create_default_context(cafile="ca.pem")
    # Made for a test, it lacks what strict readers ask of an issuer.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
plain = socket.create_connection(("127.0.0.1", int(port)), timeout=15)
options = {"ssl": context, "server_hostname": "a.example"} if context else {}
with connect(f"{scheme}://a.example:{port}/chat", sock=plain, max_size=None, open_timeout=15, proxy=None, **options) as connection:
    for message in ["hello", "x" * 70_000, b"\x00\xff" * 50_000, "bye"]:
        connection.send(message)
        assert connection.recv(timeout=15) == message
print("done")
"#;

#[test]
fn haproxy_names_the_client_in_front_of_tls() {
    let Some(haproxy) = peer("haproxy") else { return };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    let (v1, v2) = (free_port(), free_port());
    let target = &edge.ravelin.addresses()[PROXIED];
    let configuration = format!(
        "global\n  maxconn 100\n\
         defaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n  source 127.0.0.2\n\
         listen v1\n  mode tcp\n  bind {}\n  server a {target} send-proxy\n\
         listen v2\n  mode tcp\n  bind {}\n  server a {target} send-proxy-v2\n",
        v1.address(),
        v2.address(),
    );
    let file = edge.directory.path().join("haproxy.cfg");
    fs::write(&file, configuration).unwrap();
    let balancing = Command::new(haproxy).arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _balancing = Running(balancing.unwrap());
    let deadline = Deadline::standard();
    let client = Client::of_pem(&fs::read_to_string(edge.directory.path().join("ca.pem")).unwrap());
    for port in [v1, v2] {
        let mut connection = loop {
            match client.connect(&port.address().to_string(), "a.example", deadline) {
                Ok(connection) => break connection,
                Err(error) => assert!(!deadline.passed(), "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let (status, text) = connection.get("/facts", "a.example").unwrap();
        // haproxy itself comes from 127.0.0.2.
        assert!(status == 200 && text.contains("https 127.0.0.1 "), "{text}");
    }
    // From elsewhere there is no such header, and none is expected.
    assert!(client.connect(target, "a.example", deadline).unwrap().get("/facts", "a.example").is_ok());
}

#[test]
fn sslscan_finds_no_weakness() {
    let Some(sslscan) = peer("sslscan") else { return };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    let mut command = Command::new(sslscan);
    let (content, said) =
        run(command.args(["--no-colour", "--sni-name=a.example", &format!("127.0.0.1:{}", edge.port(MAIN))]), "");
    assert!(content, "{said}");
    for finding in [
        "SSLv2     disabled",
        "SSLv3     disabled",
        "TLSv1.0   disabled",
        "TLSv1.1   disabled",
        "TLSv1.2   enabled",
        "TLSv1.3   enabled",
        "Session renegotiation not supported",
    ] {
        assert!(said.contains(finding), "{finding} is not in\n{said}");
    }
    for line in said.lines().filter(|line| line.starts_with("Preferred") || line.starts_with("Accepted")) {
        let modern = line.contains("GCM") || line.contains("CHACHA20");
        assert!(modern && (line.contains("ECDHE") || line.contains("TLSv1.3")), "{line}");
    }
    assert!(!said.contains("vulnerable to heartbleed") || said.contains("not vulnerable to heartbleed"), "{said}");
}

/// Minutes long: only when everything is tested.
#[test]
fn testssl_finds_no_weakness() {
    if std::env::var_os("RAVELIN_TEST_ALL").is_none() {
        return;
    }
    let Some(testssl) = support::tls::program("testssl").or_else(|| support::tls::program("testssl.sh")) else {
        return eprintln!("testssl is not installed: nothing was tested");
    };
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = Edge::start(origin.address());
    let json = edge.directory.path().join("findings.json");
    let mut command = Command::new(testssl);
    command.args(["--quiet", "--color", "0", "--warnings", "off", "--protocols", "--std", "--fs", "--vulnerable", "--jsonfile"]);
    command.arg(&json).args(["--add-ca"]).arg(edge.directory.path().join("ca.pem"));
    let (_, said) = run(command.arg(format!("127.0.0.1:{}", edge.port(MAIN))), "");
    let findings: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).expect(&said);
    let findings = findings.as_array().unwrap();
    assert!(findings.len() > 20, "{said}");
    for finding in findings {
        let (id, severity) = (finding["id"].as_str().unwrap(), finding["severity"].as_str().unwrap());
        let bad = matches!(severity, "LOW" | "MEDIUM" | "HIGH" | "CRITICAL");
        assert!(!bad, "{id}: {severity}: {}", finding["finding"]);
    }
}
