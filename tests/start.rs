//! What a start meets: another process with the same file, what a dead one left behind, and what can't be read as another user.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use support::tls::Authority;
use support::{Answer, Connection, Deadline, Launch, Origin, Outgoing, Ravelin, Signal, free_port, get};

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

/// What a cookie is sealed with comes from the file, and what it says does not depend on the order in which endpoints stand there.
#[test]
fn a_client_stays_at_its_endpoint_over_a_restart() {
    let origins = ["a", "b", "c"].map(|name| Origin::start(name, vec![Answer::text(200, name)]));
    let directory = tempfile::tempdir().unwrap();
    let started = |order: [usize; 3], balance: &str| {
        let endpoints = order.map(|place| format!("\"{}\"", origins[place].address())).join(", ");
        let file = format!(
            "listeners: {{main: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{upstream: all}}}}\nupstreams:\n  all: {{endpoints: \
             [{endpoints}], balance: {balance}, health_check: none, sticky: {{cookie: at, key: correct horse battery}}}}\n"
        );
        fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
        serving(directory.path())
    };
    // What the body says, and the cookie that is set, if one is.
    let ask = |ravelin: &Ravelin, cookie: Option<&str>| {
        let deadline = Deadline::standard();
        let mut client = Connection::open(ravelin.address(), deadline).unwrap();
        let mut request = Outgoing::get("/", "a");
        request.fields.extend(cookie.map(|cookie| ("Cookie".into(), cookie.into())));
        client.request(&request, deadline).unwrap();
        let response = client.next_response(deadline).unwrap();
        let set = response.head.values("set-cookie").first().map(|set| String::from_utf8_lossy(set).into_owned());
        (String::from_utf8(response.body).unwrap(), set.and_then(|set| Some(set.split_once(';')?.0.to_owned())))
    };
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let first = started(order, "round_robin");
        let (at, cookie) = ask(&first, None);
        drop(first);
        let second = started([order[1], order[2], order[0]], "random");
        for _ in 0..10 {
            assert_eq!(ask(&second, cookie.as_deref()), (at.clone(), None), "{order:?}");
        }
    }
}

/// Memory holds keys, tokens and what clients send.
#[test]
fn memory_is_never_dumped_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file =
        "listeners: {main: {address: 127.0.0.1:0}}\nhardening: {landlock: false, seccomp: false}\nroutes: {all: {respond: {}}}\n";
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let ravelin = serving(directory.path());
    let limits = fs::read_to_string(format!("/proc/{}/limits", ravelin.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    // Now, and for whatever it may raise.
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{limits}");
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

/// What was read as root and can't be read again is said at once, and not at the reload that needs it.
#[test]
fn files_that_the_user_may_not_read_are_named_at_the_start() {
    let Some(directory) = roots_own() else { return };
    let at = |name: &str| directory.path().join(name);
    let issued = Authority::new("ca").issue(&["a.example"]);
    issued.write(directory.path(), "a");
    fs::write(at("page.html"), "not here").unwrap();
    fs::create_dir(at("conf.d")).unwrap();
    fs::write(at("conf.d/routes.yaml"), "routes: {all: {respond: {}}}\n").unwrap();
    let tls = "{cert: a.pem, key: a.key}";
    let file = format!(
        "user: nobody\nlisteners: {{main: {{address: 127.0.0.1:0, tls: {{certificates: [{tls}]}}}}}}\ninclude: [conf.d/*.yaml]\n\
         errors: {{404: {{file: page.html}}}}\n"
    );
    fs::write(at("ravelin.yaml"), file).unwrap();
    let names = ["ravelin.yaml", "conf.d/routes.yaml", "page.html", "a.pem", "a.key"];
    let said = |readable: u32| {
        names.iter().for_each(|name| set_mode(&at(name), readable));
        set_mode(&at("conf.d"), 0o755);
        // The log before it listens: whoever has to wait for a reload has not been told.
        serving(directory.path()).log().text()
    };
    let line = |name: &str| format!("a reload would be refused path={} uid=65534", at(name).canonicalize().unwrap().display());
    let log = said(0o600);
    for name in names {
        assert_eq!(log.matches(&line(name)).count(), 1, "{name}\n{log}");
    }
    let log = said(0o644);
    assert!(!log.contains("a reload would be refused"), "{log}");
    // A folder that is closed to the user hides what is in it.
    set_mode(&at("conf.d"), 0o700);
    let log = serving(directory.path()).log().text();
    assert_eq!(log.matches("a reload would be refused").count(), 1, "{log}");
    assert!(log.contains(&line("conf.d/routes.yaml")), "{log}");
}

/// Unix sockets belong to whom the process becomes, and go with it, where that user may take them away. What must stay is said once for
/// each, and is in nobody's way at the next start.
#[test]
fn sockets_are_the_users_and_go_with_the_process() {
    let Some(directory) = roots_own() else { return };
    let folder = directory.path().join("run");
    fs::create_dir(&folder).unwrap();
    let at = |name: &str| folder.join(name);
    let names = ["edge.sock", "admin.sock", "up.sock", "edge.pid"];
    let [edge, admin, upgrade, pid] = names.map(|name| at(name).display().to_string());
    let file = format!(
        "user: nobody\nupgrade_sock: {upgrade}\npid_file: {pid}\nlisteners: {{main: {{address: \"unix:{edge}\"}}}}\n\
         admin: {{address: \"unix:{admin}\"}}\nroutes: {{all: {{respond: {{}}}}}}\n"
    );
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let stop = |mut ravelin: Ravelin| {
        ravelin.signal(Signal::TERM).unwrap();
        assert!(ravelin.wait_for_exit(Deadline::standard()).unwrap().success());
        ravelin.log().text()
    };
    let left = || {
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        left
    };
    // The user's own folder; one in which each may remove what is theirs, as in /tmp; and root's alone.
    let nobody = 65534;
    for (owner, mode) in [(nobody, 0o755), (0, 0o1777)] {
        chown(&folder, Some(owner), None).unwrap();
        set_mode(&folder, mode);
        let ravelin = serving(directory.path());
        for (name, mode) in [("edge.sock", 0o660), ("admin.sock", 0o660), ("up.sock", 0o600)] {
            let found = fs::metadata(at(name)).unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (nobody, nobody, mode), "{name}");
        }
        let said = stop(ravelin);
        // A pid file stays root's: whoever can write to it decides what root kills.
        let stays: &[&str] = if mode == 0o1777 { &["edge.pid"] } else { &[] };
        assert_eq!(left(), stays, "{said}");
        assert_eq!(said.matches("stays behind").count(), stays.len(), "{said}");
    }
    set_mode(&folder, 0o755);
    for _ in 0..2 {
        let said = stop(serving(directory.path()));
        assert_eq!(left(), ["admin.sock", "edge.pid", "edge.sock", "up.sock"]);
        for name in names {
            let line = format!("stays behind: the user of this process may not remove it path={} ", at(name).display());
            assert_eq!(said.matches(&line).count(), 1, "{name}\n{said}");
        }
        assert_eq!(fs::read_to_string(at("edge.pid")).unwrap(), "", "it names no process that is gone");
    }
}

/// A new process, which root starts, takes over from one that is somebody else by then; the sockets stay that user's, and serve.
#[test]
fn an_upgrade_leaves_the_sockets_to_the_user() {
    let Some(directory) = roots_own() else { return };
    let folder = directory.path().join("run");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(65534), None).unwrap();
    let edge = folder.join("edge.sock");
    let file = format!(
        "user: nobody\nupgrade_sock: {up}\npid_file: {pid}\nlisteners: {{main: {{address: \"unix:{edge}\"}}}}\n\
         routes: {{all: {{respond: {{}}}}}}\n",
        up = folder.join("up.sock").display(),
        pid = folder.join("edge.pid").display(),
        edge = edge.display(),
    );
    fs::write(directory.path().join("ravelin.yaml"), file).unwrap();
    let mut old = serving(directory.path());
    let mut new = Launch::new(directory.path()).arguments(["run", "ravelin.yaml", "-u"]).spawn().unwrap();
    new.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", new.log().text()));
    old.signal(Signal::QUIT).unwrap();
    assert!(old.wait_for_exit(Deadline::standard()).unwrap().success(), "{}", old.log().text());
    assert_eq!(fs::metadata(&edge).unwrap().uid(), 65534);
    assert_eq!(get(new.address(), "/"), 200);
    new.signal(Signal::TERM).unwrap();
    assert!(new.wait_for_exit(Deadline::standard()).unwrap().success());
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}\n{}\n{}", old.log().text(), new.log().text());
}

/// What the system lets it have, it takes, and says so.
#[test]
fn as_many_descriptors_are_asked_for_as_the_system_allows() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ravelin.yaml"), "listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {}}}\n")
        .unwrap();
    let mut ravelin = Launch::new(directory.path()).descriptors_up_to(100, 700).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", ravelin.log().text()));
    assert!(ravelin.log().text().contains("descriptors limit=700 before=100"), "{}", ravelin.log().text());
    let limits = fs::read_to_string(format!("/proc/{}/limits", ravelin.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>()[3..], ["700", "700", "files"]);
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

/// Each command line of the unit is one that this program takes, and systemd, where it is installed, finds nothing wrong with the file.
#[test]
fn the_unit_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("ravelin.yaml");
    fs::write(&config, "listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {}}}\n").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/ravelin.service");
    let unit = fs::read_to_string(path).unwrap();
    let mut lines = 0;
    // The alternatives too, which are comments.
    for line in unit.lines().map(|line| line.trim_start_matches('#')).filter(|line| line.starts_with("Exec")) {
        let Some((_, arguments)) = line.split_once("=/usr/local/bin/ravelin ") else {
            // A signal: it is sent to whom systemd, or the pid file, names.
            assert!(
                line.contains("/kill -HUP $MAINPID") || line.contains("kill -QUIT $(cat /run/ravelin/*/ravelin.pid.old)"),
                "{line}"
            );
            continue;
        };
        lines += 1;
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let named = arguments.contains(&"/etc/ravelin/ravelin.yaml");
        assert!(named, "{line}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ravelin"));
        for argument in arguments {
            if argument == "/etc/ravelin/ravelin.yaml" {
                command.arg(&config)
            } else {
                command.arg(argument)
            };
        }
        if line.contains(" run ") {
            // All that comes before it would serve.
            command.arg("--test");
        }
        let output = command.env("RAVELIN_RUNTIME_DIR", directory.path()).output().unwrap();
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(lines, 3);

    // With the program where this machine has it, for systemd looks whether it is there.
    let verified = directory.path().join("ravelin.service");
    fs::write(&verified, unit.replace("/usr/local/bin/ravelin", env!("CARGO_BIN_EXE_ravelin"))).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&verified).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let about_it: Vec<&str> = said.lines().filter(|line| line.contains("ravelin")).collect();
            assert!(about_it.is_empty(), "{said}");
            if !output.status.success() {
                // It does not work everywhere: then what it says is about something else.
                eprintln!("skipped: {said}");
            }
        }
        Err(_) => eprintln!("skipped: no systemd-analyze here"),
    }
}
