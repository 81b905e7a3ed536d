//! Upgrades, the background and the supervisor: real processes that take each other's place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use support::tls::Authority;
use support::{
    Action, Answer, Connection, Deadline, Halfway, Launch, Load, Mirror, NAME, Origin, Outgoing, Ravelin, Signal, full,
};

/// A folder with a configuration, and the processes that run it one after the other.
struct Place(tempfile::TempDir);

impl Place {
    fn new(config: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write(config);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, config: &str) {
        fs::write(self.path().join("ravelin.yaml"), config).unwrap();
    }

    fn launch(&self, arguments: &[&str]) -> Launch {
        Launch::new(self.path()).arguments(["run", "-c", "ravelin.yaml"].iter().chain(arguments))
    }

    /// Starts a process and waits until it accepts on so many addresses.
    fn start(&self, arguments: &[&str], listeners: usize) -> Ravelin {
        let mut ravelin = self.launch(arguments).spawn().unwrap();
        if let Err(problem) = ravelin.ready(listeners, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        ravelin
    }

    /// What a process says that does not start.
    fn refused(&self, arguments: &[&str]) -> String {
        let mut ravelin = self.launch(arguments).spawn().unwrap();
        let status = ravelin.wait_for_exit(Deadline::standard()).expect("it ends");
        assert_eq!(status.code(), Some(1), "{}", ravelin.log().text());
        ravelin.log().text()
    }

    /// The files that processes left in the folder of their own.
    fn own_files(&self) -> Vec<String> {
        let is_own = |name: &str| name.starts_with("ravelin-");
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap());
        let folders = entries.filter(|entry| is_own(&entry.file_name().to_string_lossy()));
        let mut files: Vec<String> = folders
            .flat_map(|folder| fs::read_dir(folder.path()).unwrap())
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        files
    }

    /// The process whose id is in the pid file.
    fn pid(&self) -> Option<u32> {
        let folder = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let file = folder.filter(|path| path.is_dir()).find(|path| path.join("ravelin.pid").exists())?.join("ravelin.pid");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }
}

/// Replaces a process by a new one, and waits until the old one is gone.
fn upgrade(place: &Place, mut old: Ravelin, listeners: usize) -> Ravelin {
    let new = place.start(&["-u"], listeners);
    assert_eq!(new.addresses(), old.addresses());
    old.signal(Signal::QUIT).unwrap();
    let status = old.wait_for_exit(Deadline::standard()).unwrap_or_else(|| panic!("it ends\n{}", old.log().text()));
    assert!(status.success(), "{}", old.log().text());
    new
}

fn answer(address: &str) -> u16 {
    let deadline = Deadline::standard();
    let mut client = Connection::open(address, deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    client.next_response(deadline).unwrap().head.status().unwrap()
}

// covers: upgrade_sock
#[test]
fn an_upgrade_finds_its_socket_where_it_is_configured() {
    let place = Place::new("");
    let socket = place.path().join("up.sock");
    place.write(&format!(
        "upgrade_sock: {}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{respond: {{}}}}}}\n",
        socket.display()
    ));
    let old = place.start(&[], 1);
    assert!(socket.exists());
    let new = upgrade(&place, old, 1);
    assert!(socket.exists());
    drop(new);
    // A folder that is not there is an error only for who names one.
    place.write("upgrade_sock: /nonexistent/up.sock\nlisteners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {}}}\n");
    assert!(place.refused(&[]).contains("can't listen on `upgrade_sock: /nonexistent/up.sock`"));
}

#[test]
fn two_hundred_listeners_a_unix_socket_and_the_admin_address_are_handed_on() {
    let place = Place::new("");
    let listeners: String = (0..200).map(|n| format!("  l{n}: {{address: 127.0.0.1:0}}\n")).collect();
    let socket = place.path().join("http.sock");
    place.write(&format!(
        "listeners:\n{listeners}  file: {{address: \"unix:{}\", mode: \"0600\"}}\n\
         admin: {{address: 127.0.0.1:0}}\nroutes: {{all: {{respond: {{body: hi}}}}}}\n",
        socket.display()
    ));
    let old = place.start(&[], 201);
    let admin = old.admin();
    let mut new = upgrade(&place, old, 201);
    assert_eq!(new.admin(), admin);
    for address in new.addresses() {
        assert_eq!(answer(address), 200, "{address}");
    }
    assert_eq!(answer(&admin.unwrap()), 404);
    assert_eq!(place.own_files(), ["ravelin.pid", "upgrade.sock"]);
    assert_eq!(place.pid(), Some(new.pid()));

    new.signal(Signal::TERM).unwrap();
    assert!(new.wait_for_exit(Deadline::standard()).unwrap().success());
    assert!(!socket.exists(), "the last process removes its sockets");
    assert!(place.own_files().is_empty());
}

#[test]
fn no_request_fails_while_processes_take_each_others_place() {
    let origin = Mirror::start();
    let place = Place::new("");
    let authority = Authority::new("ca");
    authority.issue(&[NAME]).write(place.path(), "a");
    place.write(&format!(
        "threads: 2\nlisteners:\n  plain: {{address: 127.0.0.1:0, http2: true}}\n  \
         secure: {{address: 127.0.0.1:0, tls: {{certificates: [{{cert: a.pem, key: a.key}}]}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"]}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ));
    let mut ravelin = place.start(&[], 2);
    let [plain, secure] = ravelin.addresses() else { panic!("{:?}", ravelin.addresses()) };
    let load = Load::start(plain, secure, &authority);
    let upgrades = if full() { 5 } else { 2 };
    for _ in 0..upgrades {
        load.until_each_has(10);
        ravelin = upgrade(&place, ravelin, 2);
    }
    load.until_each_has(10);
    eprintln!("{upgrades} upgrades, and answers to clients of each kind: {}", load.end());
}

#[test]
fn what_is_in_flight_ends_with_the_old_process() {
    let downloads = Halfway::start(if full() { 1 << 10 } else { 1 << 6 });
    let tunnel = Answer::of(vec![
        Action::Send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec()),
        Action::Echo,
    ]);
    let tunnels = Origin::start("tunnels", vec![tunnel]);
    let place = Place::new(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{d: {{endpoints: [\"{}\"], health_check: none}}, t: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes: {{d: {{upstream: d}}, t: {{match: {{paths: [/t]}}, upstream: t}}}}\n",
        downloads.address(),
        tunnels.address()
    ));
    let mut old = place.start(&[], 1);
    let deadline = Deadline::standard();
    let download = downloads.begin(old.address());
    let mut tunnel = Connection::open(old.address(), deadline).unwrap();
    tunnel.send(b"GET /t HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").unwrap();
    tunnel.receive_until(deadline, |bytes| bytes.ends_with(b"\r\n\r\n")).unwrap();

    let new = place.start(&["-u"], 1);
    old.signal(Signal::QUIT).unwrap();
    assert!(new.wait_for_log("accepts no more", deadline).is_some(), "{}", old.log().text());
    assert_eq!(old.exited(), None);
    tunnel.send(b"still here").unwrap();
    assert_eq!(tunnel.receive(10, deadline).unwrap(), b"still here");
    downloads.end(download);
    assert_eq!(old.exited(), None, "the tunnel is still open");
    drop(tunnel);
    assert!(old.wait_for_exit(deadline).unwrap().success());
}

#[test]
fn a_new_process_that_fails_changes_nothing() {
    let place = Place::new("");
    let socket = place.path().join("http.sock");
    let config = |more: &str| {
        format!(
            "listeners: {{main: {{address: 127.0.0.1:0}}, file: {{address: \"unix:{}\"}}{more}}}\n\
             routes: {{all: {{respond: {{body: hi}}}}}}\n",
            socket.display()
        )
    };
    place.write(&config(""));
    let old = place.start(&[], 2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    place.write(&config(&format!(", more: {{address: \"{}\"}}", taken.local_addr().unwrap())));
    let said = place.refused(&["-u"]);
    assert!(said.contains("another process listens there"), "{said}");
    for address in old.addresses() {
        assert_eq!(answer(address), 200, "{address}");
    }
    assert_eq!(place.pid(), Some(old.pid()));
    assert_eq!(place.own_files(), ["ravelin.pid", "upgrade.sock"]);
    // It is found again by the next.
    place.write(&config(""));
    upgrade(&place, old, 2);
}

#[test]
fn a_new_process_that_dies_leaves_the_old_one_in_place() {
    let place = Place::new("listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {body: hi}}}\n");
    let old = place.start(&[], 1);
    let deadline = Deadline::standard();
    let new = place.start(&["-u"], 1);
    assert!(new.wait_for_log("ready to take over", deadline).is_some());
    drop(new);
    assert!(old.wait_for_log("the new process is gone, this one goes on", deadline).is_some(), "{}", old.log().text());
    assert_eq!(answer(old.address()), 200);
    upgrade(&place, old, 1);
}

#[test]
fn a_listener_that_is_configured_no_more_goes_with_the_old_process() {
    let place = Place::new("");
    let socket = place.path().join("http.sock");
    let config =
        |more: &str| format!("listeners: {{main: {{address: 127.0.0.1:0}}{more}}}\nroutes: {{all: {{respond: {{}}}}}}\n");
    place.write(&config(&format!(", file: {{address: \"unix:{}\"}}", socket.display())));
    let mut old = place.start(&[], 2);
    place.write(&config(""));
    let new = place.start(&["-u"], 1);
    assert_eq!(answer(&format!("unix:{}", socket.display())), 200, "the old process still accepts there");
    old.signal(Signal::QUIT).unwrap();
    let deadline = Deadline::standard();
    assert!(old.wait_for_exit(deadline).unwrap().success());
    assert!(new.wait_for_log("accepts no more", deadline).is_some());
    assert!(!socket.exists());
}

// covers: upgrade_sock_connect_accept_max_retries
#[test]
fn sigquit_alone_stops_nothing() {
    let place = Place::new(
        "upgrade_sock_connect_accept_max_retries: 0\n\
         listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {body: hi}}}\n",
    );
    let ravelin = place.start(&[], 1);
    ravelin.signal(Signal::QUIT).unwrap();
    assert!(ravelin.wait_for_log("no new process is there to take over", Deadline::standard()).is_some());
    assert_eq!(answer(ravelin.address()), 200);
}

#[test]
fn there_must_be_somebody_to_take_over_from() {
    let place = Place::new(
        "upgrade_sock_connect_accept_max_retries: 0\n\
         listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {body: hi}}}\n",
    );
    let said = place.refused(&["-u"]);
    assert!(said.contains("no running process to take over from at ") && said.contains("upgrade.sock"), "{said}");
}

/// What is in the place of the socket and is none of ours is named for what it is, and left alone.
#[test]
fn what_is_no_socket_of_upgrades_is_told_apart() {
    let place = Place::new("");
    let socket = place.path().join("up.sock");
    place.write(&format!(
        "upgrade_sock: {}\nupgrade_sock_connect_accept_max_retries: 0\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\n\
         routes: {{all: {{respond: {{}}}}}}\n",
        socket.display()
    ));
    let says = |arguments: &[&str], what: &str| {
        let said = place.refused(arguments);
        assert!(said.contains("upgrade_sock: ") && said.contains("up.sock`: ") && said.contains(what), "{said}");
    };
    fs::write(&socket, "precious").unwrap();
    says(&[], "there is a file that is no socket");
    says(&["-u"], "this is a file that is no socket");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");

    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    says(&[], "there is a file that is no socket");
    says(&["-u"], "this is a folder");

    fs::remove_dir(&socket).unwrap();
    let other = UnixDatagram::bind(&socket).unwrap();
    says(&[], "another program listens there, by a socket of another kind");
    says(&["-u"], "this is another program's socket");
    drop(other);
    // Nobody has it any more: it is in nobody's way.
    drop(place.start(&[], 1));
}

#[test]
fn two_processes_with_one_configuration_are_told_apart() {
    let place = Place::new("");
    let reserved = support::free_port();
    let port = reserved.port();
    place.write(&format!("listeners: {{main: {{address: 127.0.0.1:{port}}}}}\nroutes: {{all: {{respond: {{body: hi}}}}}}\n"));
    let first = place.start(&[], 1);
    let said = place.refused(&[]);
    assert!(said.contains("listener `main`: can't listen on 127.0.0.1:") && said.contains("another process"), "{said}");
    assert_eq!(place.pid(), Some(first.pid()));

    let pid_file = place.path().join("a.pid");
    let config = format!(
        "pid_file: {}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{respond: {{}}}}}}\n",
        pid_file.display()
    );
    place.write(&config);
    let second = place.start(&[], 1);
    let said = place.refused(&[]);
    assert!(said.contains(&format!("a running process has it (pid {})", second.pid())), "{said}");
    drop(second);
    // What a killed process leaves behind is in nobody's way.
    assert!(pid_file.exists());
    let third = place.start(&[], 1);
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", third.pid()));
}

#[test]
fn the_background_answers_before_the_command_ends_and_tells_why_it_does_not() {
    let place = Place::new("");
    let reserved = support::free_port();
    let port = reserved.port();
    let config =
        format!("error_log: error.log\nlisteners: {{main: {{address: 127.0.0.1:{port}}}}}\nroutes: {{all: {{respond: {{}}}}}}\n");
    place.write(&config);
    let mut started = place.launch(&["-d"]).spawn().unwrap();
    let status = started.wait_for_exit(Deadline::standard()).expect("the command ends");
    assert!(status.success(), "{}", started.log().text());
    assert_eq!(answer(&format!("127.0.0.1:{port}")), 200);
    let pid = place.pid().expect("a pid file");
    let background = Background(pid);
    assert!(fs::read_to_string(place.path().join("error.log")).unwrap().contains("listening on"));

    // A reload finds the file although the process is in another folder.
    place.write(&config.replace("respond: {}", "respond: {status: 204}"));
    background.signal("HUP");
    let deadline = Deadline::standard();
    while answer(&format!("127.0.0.1:{port}")) != 204 {
        assert!(!deadline.passed(), "{}", fs::read_to_string(place.path().join("error.log")).unwrap());
    }

    // An upgrade, in the background too.
    let mut upgraded = place.launch(&["-d", "-u"]).spawn().unwrap();
    assert!(upgraded.wait_for_exit(deadline).unwrap().success(), "{}", upgraded.log().text());
    let second = Background(place.pid().unwrap());
    assert_ne!(second.0, background.0);
    background.signal("QUIT");
    background.gone(deadline);
    let log = || fs::read_to_string(place.path().join("error.log")).unwrap();
    while !log().contains("accepts no more") {
        assert!(!deadline.passed(), "{}", log());
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(answer(&format!("127.0.0.1:{port}")), 204);
    second.signal("TERM");
    second.gone(deadline);
    assert!(place.own_files().is_empty());

    // What fails after the fork is told as well.
    place.write(&format!("{config}access_log: {{output: {{file: missing/access.log}}}}\n"));
    let said = place.refused(&["-d"]);
    assert!(said.contains("missing/access.log"), "{said}");
}

/// Wherever a process is started and wherever it goes then: paths are meant from the file that names them.
#[test]
fn the_background_follows_and_removes_files_of_relative_paths() {
    let place = Place::new("");
    let folder = place.path().join("conf");
    fs::create_dir_all(folder.join("more")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let reserved = support::free_port();
    let address = format!("127.0.0.1:{}", reserved.port());
    let config = |status: u16| {
        format!(
            "reload: watch\nerror_log: error.log\npid_file: rv.pid\nupgrade_sock: up.sock\n\
             include: [other.yaml, more/*.yaml]\nerrors: {{404: {{file: page.html}}}}\n\
             listeners: {{main: {{address: \"{address}\"}}}}\n\
             routes: {{main: {{match: {{paths: [/main]}}, respond: {{status: {status}}}}}}}\n"
        )
    };
    let route =
        |name: &str, status: u16| format!("routes: {{{name}: {{match: {{paths: [/{name}]}}, respond: {{status: {status}}}}}}}\n");
    write("ravelin.yaml", &config(200));
    write("other.yaml", &route("other", 200));
    write("more/a.yaml", &route("a", 200));
    write("page.html", "before");
    let start = |upgrade: &[&str]| {
        let arguments = ["run", "-d", "-c", "conf/ravelin.yaml"];
        let mut command = Launch::new(place.path()).arguments(arguments.iter().chain(upgrade)).spawn().unwrap();
        let status = command.wait_for_exit(Deadline::standard()).expect("the command ends");
        assert!(status.success(), "{}", command.log().text());
        Background(fs::read_to_string(folder.join("rv.pid")).unwrap().trim().parse().unwrap())
    };
    let first = start(&[]);

    let changed = [
        ("ravelin.yaml", config(201)),
        ("other.yaml", route("other", 201)),
        ("more/a.yaml", route("a", 201)),
        ("more/b.yaml", route("b", 201)),
        ("page.html", "after the change".to_owned()),
    ];
    let log = || fs::read_to_string(folder.join("error.log")).unwrap();
    for ((name, text), generation) in changed.iter().zip(2..) {
        write(name, text);
        let deadline = Deadline::standard();
        while !log().contains(&format!("configuration reloaded cause=watch generation={generation} ")) {
            assert!(!deadline.passed(), "{name} is not followed\n{}", log());
            thread::sleep(Duration::from_millis(1));
        }
    }
    for path in ["/main", "/other", "/a", "/b"] {
        assert_eq!(support::get(&address, path), 201, "{path}");
    }

    let second = start(&["-u"]);
    assert_ne!(first.0, second.0);
    first.signal("QUIT");
    first.gone(Deadline::standard());
    second.signal("TERM");
    second.gone(Deadline::standard());
    for name in ["rv.pid", "rv.pid.old", "up.sock"] {
        assert!(!folder.join(name).exists(), "{name} is left behind\n{}", log());
        assert!(!place.path().join(name).exists(), "{name} is where the process was started");
    }
}

/// A process in the background, which is nobody's child.
struct Background(u32);

impl Background {
    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.0.to_string()]).status().unwrap().success());
    }

    fn gone(&self, deadline: Deadline) {
        while self.runs() {
            assert!(!deadline.passed(), "process {} is still there", self.0);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Neither gone nor waiting for a parent to notice.
    fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.runs() {
            self.signal("KILL");
        }
    }
}

#[test]
fn the_supervisor_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.sock");
    is_told(UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap());
}

/// A name without a file, which begins with `@` in the environment.
#[test]
fn a_supervisor_without_a_file_is_told() {
    let name = format!("ravelin-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    is_told(UnixDatagram::bind_addr(&address).unwrap(), &format!("@{name}"));
}

fn is_told(supervisor: UnixDatagram, socket: &str) {
    let place = Place::new("listeners: {main: {address: 127.0.0.1:0}}\nroutes: {all: {respond: {}}}\n");
    supervisor.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let hear = || {
        let mut bytes = [0; 4096];
        let read = supervisor.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    };
    let started = |arguments: &[&str]| {
        let mut ravelin = place.launch(arguments).env("NOTIFY_SOCKET", socket).spawn().unwrap();
        ravelin.ready(1, Deadline::standard()).unwrap();
        ravelin
    };
    let mut first = started(&[]);
    assert_eq!(hear(), "READY=1\n");
    first.signal(Signal::HUP).unwrap();
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hear(), "READY=1\n");

    let mut second = started(&["-u"]);
    assert_eq!(hear(), format!("MAINPID={}\nREADY=1\n", second.pid()));
    first.signal(Signal::QUIT).unwrap();
    assert!(first.wait_for_exit(Deadline::standard()).unwrap().success());
    // The process that was replaced says nothing: the service goes on.
    second.signal(Signal::TERM).unwrap();
    assert_eq!(hear(), "STOPPING=1\n");
    assert!(second.wait_for_exit(Deadline::standard()).unwrap().success());
}
