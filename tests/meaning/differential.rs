//! The corpus in front of origins that others wrote, strict and lenient: each must see the requests that the cases say, no more and
//! no others.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use libtest_mimic::{Failed, Trial};

use super::case::{Case, Request, Verdict, shown};
use super::stage::{config, listener};
use super::{LANES, h2, stage};
use crate::support::{Connection, Deadline, Outgoing, Ravelin, Reserved};

const ORIGINS: [(&str, &str, &[&str]); 4] = [
    ("python's http.server", "python3", &["lenient.py"]),
    ("node's http", "node", &["strict.js"]),
    ("node's http, lenient", "node", &["strict.js", "lenient"]),
    ("nginx", "nginx", &[]),
];

/// A trial for each origin that is installed.
pub(crate) fn trials(cases: &Arc<[Case]>) -> Vec<Trial> {
    let trials = |(name, program, arguments): (&str, &'static str, &'static [&'static str])| {
        let missing = Command::new(found(program)).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err();
        LANES.map(|lane| {
            let cases = cases.clone();
            let trial = Trial::test(format!("{lane}: differential: {name}"), move || run(lane, program, arguments, &cases));
            // Where all must be there, it fails.
            trial.with_ignored_flag(missing && std::env::var_os("RAVELIN_TEST_PEERS").is_none())
        })
    };
    ORIGINS.into_iter().flat_map(trials).collect()
}

/// Where a program is that not everybody's path leads to.
fn found(program: &str) -> PathBuf {
    let of_root = Path::new("/usr/sbin").join(program);
    if of_root.exists() { of_root } else { program.into() }
}

/// A request as an origin saw it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
struct Seen {
    method: String,
    target: String,
    host: Option<String>,
    body: String,
}

struct Origin {
    child: Child,
    lines: Receiver<String>,
    address: String,
    /// Nobody else gets its port.
    _port: Option<Reserved>,
    /// Its files.
    _folder: Option<tempfile::TempDir>,
}

impl Origin {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meaning/origins");
        let mut command = Command::new(found(program));
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{program} is not there ({error}): scripts/setup --test"));
        let stdout = child.stdout.take().expect("its output is piped");
        let (send, lines) = mpsc::channel();
        thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let port = lines.recv_timeout(Deadline::standard().left()).expect("the origin says its port");
        Self { child, lines, address: format!("127.0.0.1:{port}"), _port: None, _folder: None }
    }

    /// nginx, which says what it passes on to a server of its own: only so does it read bodies.
    fn nginx() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = Reserved::v4().expect("a port");
        let (path, number) = (folder.path().display(), port.port());
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.iter().fold(String::new(), |mut all, kind| {
            let _ = write!(all, "{kind}_temp_path {path}/{kind}; ");
            all
        });
        let config = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/errors; events {{}}\n\
             http {{ {temporary} access_log off; keepalive_requests 100000; large_client_header_buffers 4 64k;\n\
             map $status $served {{ ~^2 1; default 0; }}\n\
             log_format seen escape=json '{{\"method\":\"$request_method\",\"target\":\"$request_uri\",\"host\":\"$http_host\",\"body\":\"$request_body\"}}';\n\
             server {{ listen unix:{path}/inner; location / {{ return 200 ok; }} }}\n\
             server {{ listen 127.0.0.1:{number}; location / {{ access_log /dev/stdout seen if=$served; client_body_buffer_size 1m;\n\
             proxy_pass http://unix:{path}/inner; }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).expect("its configuration");
        let mut command = Command::new(found("nginx"));
        command.arg("-p").arg(folder.path()).arg("-c").arg(&file).arg("-e").arg(folder.path().join("errors"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is not there: scripts/setup --test");
        let stdout = child.stdout.take().expect("its output is piped");
        let (send, lines) = mpsc::channel();
        // Bytes above ASCII come as they are: each is a character, as in what the others say.
        let latin1 = |line: Vec<u8>| line.into_iter().map(char::from).collect::<String>();
        thread::spawn(move || {
            BufReader::new(stdout).split(b'\n').map_while(Result::ok).try_for_each(|line| send.send(latin1(line)))
        });
        let address = format!("127.0.0.1:{number}");
        let deadline = Deadline::standard();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(
                !deadline.passed(),
                "nginx does not listen: {}",
                fs::read_to_string(folder.path().join("errors")).unwrap_or_default()
            );
            thread::yield_now();
        }
        Self { child, lines, address, _port: Some(port), _folder: Some(folder) }
    }

    /// What it saw until it saw this target, which it must.
    fn seen_before(&self, target: &str, deadline: Deadline) -> Result<Vec<Seen>, String> {
        let mut all = Vec::new();
        loop {
            let line = self.lines.recv_timeout(deadline.left()).map_err(|_| format!("{target} did not arrive, but {all:?}"))?;
            let seen: Seen = serde_json::from_str(&line).map_err(|error| error.to_string())?;
            if seen.target == target {
                return Ok(all);
            }
            all.push(seen);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(lane: &str, program: &str, arguments: &[&str], cases: &[Case]) -> Result<(), Failed> {
    let origin = if program == "nginx" { Origin::nginx() } else { Origin::start(program, arguments) };
    let ravelin = Ravelin::start_in(lane, &config(&origin.address));
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| case.answer.is_none() && case.frames.is_none()) {
        if let Err(why) = play(case, number, &ravelin, &origin) {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn play(case: &Case, number: usize, ravelin: &Ravelin, origin: &Origin) -> Result<(), String> {
    let (wanted, some) = match (&case.verdict, &case.request) {
        (Verdict::Arrives(wanted), _) => (requests(wanted, &origin.address)?, false),
        (Verdict::Refused(_) | Verdict::Aborted(_), _) => (Vec::new(), false),
        // It may arrive, without what was behind it.
        (Verdict::Harmless, Request::Http2(_)) => (Vec::new(), true),
        _ => return Ok(()),
    };
    let deadline = Deadline::standard();
    let address = listener(ravelin, &case.listener);
    match &case.request {
        Request::Http2(frames) => drop(h2::exchange(&address, frames, deadline).map_err(|error| error.to_string())?),
        Request::Http1(bytes) => {
            let mut client = Connection::open(&address, deadline).map_err(|error| error.to_string())?;
            client.send(bytes).map_err(|error| error.to_string())?;
            if case.half_closes {
                client.half_close();
            }
            for seen in &wanted {
                client.response(&seen.method, deadline).map_err(|error| error.to_string())?;
            }
            if wanted.is_empty() {
                client.closed(deadline).map_err(|error| error.to_string())?;
            }
        }
    }
    let next = format!("/next-{number}");
    let mut other = Connection::open(&ravelin.addresses()[0], deadline).map_err(|error| error.to_string())?;
    other.request(&Outgoing::get(&next, "next"), deadline).map_err(|error| error.to_string())?;
    other.next_response(deadline).map_err(|error| error.to_string())?;
    let seen = origin.seen_before(&next, deadline)?;
    // An origin may refuse what it does not like, methods that it does not know say, or a server-wide OPTIONS; what it takes it must take so.
    let odd = |wanted: &Seen| !KNOWN.contains(&wanted.method.as_str()) || wanted.target == "*";
    if some && seen.len() < 2 && seen.iter().all(|seen| seen.target == "/case") {
        return Ok(());
    }
    if seen == wanted || seen.is_empty() && wanted.iter().all(odd) {
        return Ok(());
    }
    Err(format!("the origin saw {seen:?} in place of {wanted:?}"))
}

/// Methods that every origin takes.
const KNOWN: [&str; 5] = ["GET", "HEAD", "POST", "DELETE", "OPTIONS"];

/// The requests of a verdict.
fn requests(bytes: &[u8], address: &str) -> Result<Vec<Seen>, String> {
    let latin1 = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    stage::split(bytes)?
        .iter()
        .map(|request| {
            let (head, body) = crate::support::request_parts(request).ok_or_else(|| format!("no request: {}", shown(request)))?;
            let host = head.values("host").first().map(|host| latin1(host).replace("{origin}", address));
            Ok(Seen { method: latin1(head.method()), target: latin1(head.target()), host, body: latin1(&body) })
        })
        .collect()
}
