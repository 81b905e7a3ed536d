//! The access log and what can go wrong around it: a reader that stalls, a file that is rotated, a directory that vanishes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{BufRead, BufReader, PipeReader};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use support::{Connection, Deadline, Launch, Outgoing, Ravelin, Signal, free_port, until_metric};

const ROUTES: &str = "listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {body: ok}}}\n";

/// With lines of this length the queue, the writer's hands and the pipe hold about 260.
const LONG: usize = 16 * 1024;
const REQUESTS: usize = 600;

/// One whose standard output nobody reads.
fn stalled(directory: &Path) -> (Ravelin, PipeReader) {
    fs::write(directory.join("ravelin.yaml"), format!("{ROUTES}access_log: {{}}\n")).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    let mut ravelin = Launch::new(directory).stdout(writer).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    (ravelin, reader)
}

/// Sends requests with long lines, one after the other; how long the slowest took.
fn send(ravelin: &Ravelin, count: usize) -> Duration {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    let agent = "a".repeat(LONG);
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let begun = Instant::now();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(client.response("GET", deadline).unwrap().body, b"ok");
        slowest = slowest.max(begun.elapsed());
    }
    slowest
}

/// The number after `in_all=` on the last line that reports losses.
fn lost_in_all(ravelin: &Ravelin) -> usize {
    let lines = ravelin.log().lines();
    let last = lines.iter().rfind(|line| line.contains("access log lost lines"));
    let number = last.and_then(|line| line.split("in_all=").nth(1)?.split(' ').next()?.parse().ok());
    number.unwrap_or(0)
}

#[test]
fn a_stalled_reader_slows_no_request_and_losses_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ravelin, reader) = stalled(directory.path());
    let slowest = send(&ravelin, REQUESTS);
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
    ravelin.wait_for_log("access log lost lines", Deadline::standard()).expect("losses are reported while the reader stalls");

    let reading = thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>());
    ravelin.signal(Signal::TERM).unwrap();
    let status = ravelin.wait_for_exit(Deadline::standard()).expect("it ends");
    assert!(status.success(), "{status}");
    let lines = reading.join().unwrap();
    for line in &lines {
        let line: serde_json::Value = serde_json::from_str(line).expect("every line is whole");
        assert_eq!(line["reason"], "respond");
    }
    let lost = lost_in_all(&ravelin);
    assert!(lines.len() > 100 && lost > 100, "{} written, {lost} lost", lines.len());
    assert_eq!(lines.len() + lost, REQUESTS, "each line is either written or counted");
}

#[test]
fn a_reader_that_never_reads_does_not_hold_up_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut ravelin, _reader) = stalled(directory.path());
    send(&ravelin, 20);
    let begun = Instant::now();
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(Deadline::standard()).expect("it ends").success());
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    let log = ravelin.log().text();
    assert!(log.contains("the process ended before they were written"), "{log}");
    assert!((1..=20).contains(&lost_in_all(&ravelin)), "{log}");
}

/// The process log goes to standard error, which nobody may read either.
#[test]
fn a_process_log_that_nobody_reads_holds_up_neither_requests_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let address = free_port();
    let file = format!(
        "listeners: {{main: {{address: \"{}\"}}}}\nroutes: {{all: {{match: {{paths: [/x]}}, respond: {{body: ok}}}}}}\n",
        address.address()
    );
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    // As small as a pipe can be: the lines of a start and some failures fill it.
    rustix::pipe::fcntl_setpipe_size(&writer, 8192).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"));
    command.args(["run", "-c", "ravelin.yaml"]).current_dir(directory.path()).stderr(writer);
    command.env("RUST_LOG", "trace").env("RAVELIN_RUNTIME_DIR", directory.path());
    let mut child = command.spawn().unwrap();
    drop(command);
    let deadline = Deadline::standard();
    let mut client = loop {
        match Connection::open(&address.address().to_string(), deadline) {
            Ok(client) => break client,
            Err(error) => assert!(!deadline.passed(), "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    };
    for _ in 0..300 {
        client.request(&Outgoing::get("/none", "a"), deadline).unwrap();
        assert_eq!(client.response("GET", deadline).unwrap().head.status(), Some(404));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(!deadline.passed(), "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
    let mut log = String::new();
    io::Read::read_to_string(&mut reader, &mut log).unwrap();
    assert!((4000..=8192).contains(&log.len()), "the pipe was never full: {}", log.len());
}

fn with_file(directory: &Path, more: &str) -> Ravelin {
    let log = "access_log: {format: {template: '{{ request.path }}'}, output: {file: logs/access.log}}\n";
    fs::create_dir(directory.join("logs")).unwrap();
    fs::write(directory.join("ravelin.yaml"), format!("{ROUTES}{log}{more}")).unwrap();
    let mut ravelin = Launch::new(directory).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    ravelin
}

fn get(ravelin: &Ravelin, path: &str) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get(path, "a"), deadline).unwrap();
    assert_eq!(client.next_response(deadline).unwrap().head.status(), Some(200));
}

/// Waits until a file holds exactly this.
fn holds(path: &Path, expected: &str) {
    let deadline = Deadline::standard();
    while fs::read_to_string(path).unwrap_or_default() != expected {
        assert!(!deadline.passed(), "{path:?} holds {:?} in place of {expected:?}", fs::read_to_string(path));
        thread::sleep(Duration::from_millis(1));
    }
}

// covers: access_log.format.template, access_log.output.file
#[test]
fn a_rotated_file_is_opened_anew_on_sigusr1() {
    let directory = tempfile::tempdir().unwrap();
    let ravelin = with_file(directory.path(), "");
    let (path, old) = (directory.path().join("logs/access.log"), directory.path().join("logs/access.log.1"));
    get(&ravelin, "/one");
    holds(&path, "/one\n");
    fs::rename(&path, &old).unwrap();
    get(&ravelin, "/two");
    holds(&old, "/one\n/two\n");
    ravelin.signal(Signal::USR1).unwrap();
    ravelin.wait_for_log("access log opened anew", Deadline::standard()).expect("it says so");
    get(&ravelin, "/three");
    holds(&path, "/three\n");
    holds(&old, "/one\n/two\n");
}

// Landlock knows a directory itself, and not its name.
#[test]
fn a_directory_that_vanishes_and_comes_back_has_the_log_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut ravelin = with_file(directory.path(), "hardening: {landlock: false}\n");
    let logs = directory.path().join("logs");
    get(&ravelin, "/one");
    holds(&logs.join("access.log"), "/one\n");
    fs::remove_dir_all(&logs).unwrap();
    let deadline = Deadline::standard();
    while !ravelin.log().text().contains("access log can't be opened anew") {
        assert!(!deadline.passed(), "{}", ravelin.log().text());
        get(&ravelin, "/lost");
    }
    fs::create_dir(&logs).unwrap();
    while !logs.join("access.log").exists() {
        assert!(!deadline.passed(), "{}", ravelin.log().text());
        get(&ravelin, "/again");
    }
    get(&ravelin, "/last");
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(deadline).expect("it ends").success());
    let text = fs::read_to_string(logs.join("access.log")).unwrap();
    // A client has its answer a moment before its request is recorded: the last lines may have changed places.
    assert!(text.starts_with("/") && text.contains("/last\n"), "{text}");
}

/// With Landlock the folder that is made anew is another: its lines are counted as lost, whoever asks is told what helps, and a new
/// process has the log again.
#[test]
fn a_directory_made_anew_is_another_and_what_it_would_hold_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut ravelin = with_file(directory.path(), "admin: {address: 127.0.0.1:0}\n");
    if !ravelin.log().text().contains("landlock=enforced") && !ravelin.log().text().contains("landlock=partly") {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    let logs = directory.path().join("logs");
    get(&ravelin, "/one");
    holds(&logs.join("access.log"), "/one\n");
    fs::remove_dir_all(&logs).unwrap();
    fs::create_dir(&logs).unwrap();
    ravelin.signal(Signal::USR1).unwrap();
    let refused =
        "access log can't be opened anew, its lines are lost; if the folder is another than at the start: `ravelin run -u`";
    let line = ravelin.wait_for_log(refused, Deadline::standard()).expect("who asks is told");
    assert!(line.contains(&format!("path={:?}", logs.join("access.log"))) && line.contains("ermission denied"), "{line}");
    for _ in 0..3 {
        get(&ravelin, "/lost");
    }
    until_metric(&ravelin, "ravelin_log_lines_lost_total", |lost| lost == 3.0);
    let reported = "reason=\"the file was removed, and can't be opened anew\"";
    ravelin.wait_for_log(reported, Deadline::standard()).expect("the loss is reported");
    assert!(!logs.join("access.log").exists());

    let mut new = Launch::new(directory.path()).arguments(["run", "-c", "ravelin.yaml", "-u"]).spawn().unwrap();
    new.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", new.log().text()));
    ravelin.signal(Signal::QUIT).unwrap();
    assert!(ravelin.wait_for_exit(Deadline::standard()).expect("it ends").success());
    get(&new, "/again");
    holds(&logs.join("access.log"), "/again\n");
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ravelin.yaml"), format!("{ROUTES}access_log: {{output: {{file: /dev/full}}}}\n")).unwrap();
    let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap();
    get(&ravelin, "/one");
    let line = ravelin.wait_for_log("access log lost lines", Deadline::standard()).expect("the loss is reported");
    assert!(line.contains("lines=1 in_all=1 reason=\"No space left on device"), "{line}");
    get(&ravelin, "/two");
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(Deadline::standard()).expect("it ends").success());
    assert_eq!(lost_in_all(&ravelin), 2);
}

#[test]
fn a_fifo_whose_reader_stalls_slows_no_request() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    fs::write(directory.path().join("ravelin.yaml"), format!("{ROUTES}access_log: {{output: {{file: fifo}}}}\n")).unwrap();
    // Without a reader it can't be opened: a message, and no wait.
    let mut early = Launch::new(directory.path()).spawn().unwrap();
    let status = early.wait_for_exit(Deadline::standard()).expect("it does not wait for a reader");
    assert_eq!(status.code(), Some(1));
    assert!(early.log().text().contains("fifo` can't be opened"), "{}", early.log().text());

    // One that holds it open and reads nothing.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    let slowest = send(&ravelin, REQUESTS);
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
    ravelin.wait_for_log("access log lost lines", Deadline::standard()).expect("losses are reported");
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(Deadline::standard()).expect("it ends").success());
    drop(reader);
}
