//! What a start meets: another process with the same file, what a dead one left behind, and what can't be read as another user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Deadline, Launch, Ravelin, Signal, free_port, get};

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Starts one that is to serve.
fn serving(directory: &Path) -> Ravelin {
    let mut ravelin = Launch::new(directory).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    ravelin
}

/// Starts one that is to end with a message, which it gives.
fn refused(directory: &Path) -> String {
    let mut ravelin = Launch::new(directory).spawn().unwrap();
    let status = ravelin.wait_for_exit(Deadline::standard()).unwrap_or_else(|| panic!("it lives\n{}", ravelin.log().text()));
    assert_eq!(status.code(), Some(1), "{}", ravelin.log().text());
    ravelin.log().text()
}

#[test]
fn a_second_process_with_the_same_file_ends_and_the_first_goes_on() {
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("edge.sock");
    let write = |listeners: &str, admin: &str| {
        let file =
            format!("listeners: {{{listeners}}}\nadmin: {{address: \"{admin}\"}}\nroutes: {{all: {{respond: {{body: ok}}}}}}\n");
        fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    };
    let (tcp, unix) = (port.address().to_string(), format!("unix:{}", socket.display()));

    write(&format!("main: {{address: \"{tcp}\"}}"), &unix);
    let first = serving(directory.path());
    let message = refused(directory.path());
    assert!(message.contains(&format!("listener `main`: can't listen on {tcp}: the address is in use")), "{message}");
    assert!(message.contains(&format!("ss -tanp 'sport = :{}'", port.port())), "{message}");
    // The second has taken nothing away: not the address, not the file of the socket.
    assert_eq!((get(&tcp, "/"), get(&unix, "/healthz")), (200, 200));
    drop(first);

    // The same with the sockets the other way round. The first one was killed: what it left behind is taken over.
    assert!(socket.exists(), "a killed process removes nothing");
    write(&format!("main: {{address: \"{unix}\"}}"), &tcp);
    let first = serving(directory.path());
    let message = refused(directory.path());
    assert!(message.contains(&format!("listener `main`: can't listen on {unix}: another process listens there")), "{message}");
    assert!(message.contains("ss -lxp"), "{message}");
    assert_eq!((get(&unix, "/"), get(&tcp, "/healthz")), (200, 200));
    drop(first);

    // A file that is no socket belongs to somebody.
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "precious").unwrap();
    let message = refused(directory.path());
    assert!(message.contains("there is a file that is no socket"), "{message}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

/// A directory that everybody may read and nobody but root may write to; `None` if this is not root.
fn roots_own() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    set_mode(directory.path(), 0o755);
    Some(directory)
}

const AS_NOBODY: &str = "user: nobody\nlisteners: {main: {address: 127.0.0.1:0}}\nadmin: {address: 127.0.0.1:0}\n";

#[test]
fn a_log_that_the_user_may_not_write_is_refused_at_the_start() {
    let Some(directory) = roots_own() else { return };
    let logs = directory.path().join("logs");
    fs::create_dir(&logs).unwrap();
    set_mode(&logs, 0o755);
    let file =
        format!("{AS_NOBODY}access_log: {{output: {{file: logs/access.log}}}}\nroutes: {{all: {{respond: {{body: ok}}}}}}\n");
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let message = refused(directory.path());
    let expected = format!("the access log `{}` can't be opened", logs.join("access.log").display());
    assert!(message.contains(&expected) && message.contains("ermission denied"), "{message}");
    assert!(message.contains("as user id 65534"), "it says who may not: {message}");
    set_mode(&logs, 0o777);
    assert_eq!(get(serving(directory.path()).address(), "/"), 200);
}

#[test]
fn a_file_that_the_user_may_not_read_changes_nothing() {
    let Some(directory) = roots_own() else { return };
    let path = directory.path().join("ravelin.yaml");
    let write = |body: &str| fs::write(&path, format!("{AS_NOBODY}routes: {{all: {{respond: {{body: {body}}}}}}}\n")).unwrap();
    write("one");
    set_mode(&path, 0o644);
    let ravelin = serving(directory.path());
    assert!(ravelin.log().text().contains("privileges dropped uid=65534"), "{}", ravelin.log().text());
    set_mode(&path, 0o600);
    write("two");
    ravelin.signal(Signal::HUP).unwrap();
    ravelin.wait_for_log("reload refused, nothing has changed", Deadline::standard()).expect("it says so");
    ravelin.wait_for_log("ermission denied", Deadline::standard()).expect("and why");
    assert_eq!(get(ravelin.address(), "/"), 200);
    set_mode(&path, 0o644);
    ravelin.signal(Signal::HUP).unwrap();
    let taken = ravelin.wait_for_log("generation=2 ", Deadline::standard());
    assert!(taken.is_some(), "once it may be read it is taken\n{}", ravelin.log().text());
}

/// A kernel without Landlock and without seccomp's call: the process says what is missing, and serves.
#[test]
fn an_old_kernel_is_served_on_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let file = "listeners: {a: {address: \"127.0.0.1:0\"}}\nroutes: {all: {respond: {body: ok}}}\n";
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/old_kernel.py");
    let seccomp = if cfg!(target_arch = "x86_64") { 317 } else { 277 };
    let mut child = Command::new("timeout")
        .args(["30", "python3"])
        .arg(script)
        .arg(format!("444,445,446,{seccomp}"))
        .args([env!("CARGO_BIN_EXE_ravelin"), "run", "-c", "ravelin.yaml"])
        .current_dir(directory.path())
        .env("RAVELIN_RUNTIME_DIR", directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        said.push_str(&line);
        said.push('\n');
        if let Some((_, rest)) = line.split_once("listening on ") {
            let address = rest.split(' ').next().unwrap();
            assert_eq!(get(address, "/"), 200);
            break;
        }
    }
    // `timeout` passes it on.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    for words in ["this kernel has no Landlock", "seccomp can't be used", "landlock=missing seccomp=missing", "listening on"] {
        assert!(said.contains(words), "{words}\n{said}");
    }
}

/// Whoever finds the process may signal it at once: no moment of its start leaves that to the system, which would end it.
#[test]
fn signals_that_come_before_the_first_request_are_kept() {
    for signal in [Signal::HUP, Signal::USR1, Signal::TERM] {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("ravelin.pid");
        let file = format!(
            "pid_file: {}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{respond: {{}}}}}}\n",
            pid_file.display()
        );
        fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
        let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
        let deadline = Deadline::standard();
        while fs::read(&pid_file).unwrap_or_default().is_empty() {
            assert!(!deadline.passed(), "{}", ravelin.log().text());
            std::thread::yield_now();
        }
        ravelin.signal(signal).unwrap();
        if signal == Signal::TERM {
            let status = ravelin.wait_for_exit(Deadline::standard()).unwrap();
            assert!(status.success(), "{status}\n{}", ravelin.log().text());
        } else {
            ravelin.ready(1, deadline).unwrap_or_else(|problem| panic!("{signal:?}: {problem}\n{}", ravelin.log().text()));
            assert_eq!(get(ravelin.address(), "/"), 200);
        }
    }
}
