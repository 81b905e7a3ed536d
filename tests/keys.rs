//! The effect of keys that a case can't show: on where connections come from, on endpoints that do not answer, on the process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use support::{Answer, Connection, Deadline, Launch, Origin, Outgoing, Ravelin, get};

/// A proxy in front of one endpoint, with more at the top level and more for the upstream.
fn proxy(top: &str, upstream: &str, endpoint: impl std::fmt::Display) -> Ravelin {
    Ravelin::start(&format!(
        "{top}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{a: {{endpoints: [\"{endpoint}\"], health_check: none, retry: {{retries: 0}}{upstream}}}}}\n\
         routes: {{all: {{upstream: a}}}}\n"
    ))
}

fn status(ravelin: &Ravelin) -> u16 {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    client.next_response(deadline).unwrap().head.status().unwrap()
}

// covers: client_bind_to_ipv4
#[test]
fn endpoints_are_reached_from_the_address_that_is_configured() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let ravelin = proxy("client_bind_to_ipv4: [127.0.0.77]", "", endpoint.local_addr().unwrap());
    let from = thread::spawn(move || {
        let (mut stream, from) = endpoint.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        from
    });
    assert_eq!(status(&ravelin), 200);
    assert_eq!(from.join().unwrap().ip().to_string(), "127.0.0.77");
}

// covers: client_bind_to_ipv6
#[test]
fn an_address_of_another_machine_reaches_nothing() {
    if !support::has_ipv6() {
        return;
    }
    let endpoint = TcpListener::bind("[::1]:0").unwrap();
    let ravelin = proxy("client_bind_to_ipv6: ['2001:db8::1']", "", endpoint.local_addr().unwrap());
    assert_eq!(status(&ravelin), 502);
}

// covers: upstreams.timeouts.connect
#[test]
fn an_endpoint_that_takes_no_connection_is_given_up() {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Its queue is full: further ones are not even refused.
    let _queued: Vec<TcpStream> =
        (0..4).map_while(|_| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok()).collect();
    let ravelin = proxy("", ", timeouts: {connect: 100ms}", address);
    assert_eq!(status(&ravelin), 504);
    let told = ravelin.wait_for_log("reason=connect_timeout", Deadline::standard());
    assert!(told.is_some(), "{}", ravelin.log().text());
}

// covers: upstreams.timeouts.write
#[test]
fn an_endpoint_that_reads_nothing_is_given_up() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let ravelin = proxy("", ", timeouts: {write: 100ms, response: 3s, read: 3s}", endpoint.local_addr().unwrap());
    let deadline = Deadline::standard();
    let mut client = TcpStream::connect(ravelin.address()).unwrap();
    let mut sender = client.try_clone().unwrap();
    // More than all buffers on the way hold.
    let sending = thread::spawn(move || {
        let _ = sender.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..95 {
            if sender.write_all(&piece).is_err() {
                return;
            }
        }
    });
    client.set_read_timeout(Some(deadline.left())).unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert!(ravelin.wait_for_log("reason=write_timeout", deadline).is_some(), "{}", ravelin.log().text());
    // Unless the other side was faster.
    let _ = client.shutdown(std::net::Shutdown::Both);
    sending.join().unwrap();
}

// covers: listeners.limits.min_write_rate
#[test]
fn a_client_that_takes_little_at_a_time_is_dropped() {
    let origin = Origin::start("a", vec![Answer::text(200, &"a".repeat(60_000_000))]);
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: \"127.0.0.1:0\", limits: {{write_timeout: 2s, min_write_rate: 1GiB/s}}}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        origin.address()
    ));
    let mut client = TcpStream::connect(ravelin.address()).unwrap();
    client.set_read_timeout(Some(Deadline::standard().left())).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    // Some megabytes a second: it is never silent, and the default rate is far away.
    let (mut buffer, mut taken) = (vec![0; 128 * 1024], 0);
    let ended = loop {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => break taken,
            Ok(more) => taken += more,
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert!(ended < 60_000_000, "{ended}");
    assert!(ravelin.wait_for_log("reason=client_too_slow", Deadline::standard()).is_some(), "{}", ravelin.log().text());
}

// covers: upstream_keepalive_pool_size
#[test]
fn no_connection_is_kept_beyond_the_size_of_the_pool() {
    let origins = ["a", "b", "c"].map(|name| Origin::start(name, vec![Answer::text(200, "a")]));
    let connections = |top: &str| {
        let endpoints: Vec<String> = origins.iter().map(|origin| format!("\"{}\"", origin.address())).collect();
        let ravelin = Ravelin::start(&format!(
            "threads: 1\n{top}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\n\
             upstreams: {{a: {{endpoints: [{}], health_check: none}}}}\nroutes: {{all: {{upstream: a}}}}\n",
            endpoints.join(", ")
        ));
        let before: usize = origins.iter().map(Origin::connections).sum();
        for _ in 0..12 {
            assert_eq!(status(&ravelin), 200);
        }
        origins.iter().map(Origin::connections).sum::<usize>() - before
    };
    assert_eq!(connections(""), 3);
    assert!(connections("upstream_keepalive_pool_size: 1") > 3);
}

// covers: threads
#[test]
fn there_are_as_many_threads_as_configured() {
    for number in [1, 5] {
        let ravelin = Ravelin::start(&format!(
            "threads: {number}\nlisteners: {{main: {{address: 127.0.0.1:0}}}}\nroutes: {{all: {{respond: {{}}}}}}\n"
        ));
        let serving = || {
            let tasks = fs::read_dir(format!("/proc/{}/task", ravelin.pid())).unwrap();
            let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
            names.filter(|name| name.trim() == "listeners").count()
        };
        let deadline = Deadline::standard();
        while serving() != number {
            assert!(!deadline.passed(), "{} threads serve, not {number}", serving());
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A configuration for the background, in a folder of its own.
fn background(more: &str) -> (tempfile::TempDir, support::Reserved) {
    let directory = tempfile::tempdir().unwrap();
    let port = support::free_port();
    let config = format!(
        "daemon: true\nerror_log: {directory}/error.log\npid_file: {directory}/ravelin.pid\n\
         listeners: {{main: {{address: 127.0.0.1:{}}}}}\nroutes: {{all: {{respond: {{}}}}}}\n{more}",
        port.port(),
        directory = directory.path().display(),
    );
    fs::write(directory.path().join("ravelin.yaml"), config).unwrap();
    (directory, port)
}

/// Runs the command; what it says, and the process that it left in the background.
fn command(directory: &tempfile::TempDir, with: impl FnOnce(Launch) -> Launch) -> (i32, String, Option<Left>) {
    let mut ravelin = with(Launch::new(directory.path())).spawn().unwrap();
    let status = ravelin.wait_for_exit(Deadline::standard()).expect("the command ends").code().unwrap();
    let pid = fs::read_to_string(directory.path().join("ravelin.pid")).ok().and_then(|pid| pid.trim().parse().ok());
    (status, ravelin.log().text(), pid.and_then(Pid::from_raw).map(Left))
}

/// Nobody's child.
struct Left(Pid);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
    }
}

// covers: daemon, working_directory, error_log, pid_file
#[test]
fn the_background_has_its_folder_its_log_and_its_pid_file() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (directory, _port) = background(&format!("working_directory: {}\n", elsewhere.path().display()));
    let (status, said, left) = command(&directory, |launch| launch);
    assert!(status == 0 && !said.contains("error"), "{said}");
    let pid = left.as_ref().expect("a pid file").0;
    let cwd = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).unwrap();
    assert_eq!(cwd, elsewhere.path().canonicalize().unwrap());
    assert!(fs::read_to_string(directory.path().join("error.log")).unwrap().contains("listening on"));
}

// covers: daemon_ready_timeout_seconds
#[test]
fn the_command_does_not_wait_for_ever() {
    let (directory, _port) = background("daemon_ready_timeout_seconds: 1\n");
    // A supervisor that does not listen: to tell it that the process serves takes for ever.
    let path = directory.path().join("notify.sock");
    let _supervisor = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"x", &path).is_ok() {}
    let (status, said, _left) = command(&directory, |launch| launch.env("NOTIFY_SOCKET", path.to_str().unwrap()));
    assert_eq!(status, 1);
    assert!(said.contains("does not serve yet, after 1s"), "{said}");
}

// covers: daemon_wait_for_ready
#[test]
fn the_command_need_not_wait_at_all() {
    let (directory, _port) = background("daemon_wait_for_ready: false\naccess_log: {output: {file: missing/log}}\n");
    let (status, said, _left) = command(&directory, |launch| launch);
    assert!(status == 0 && !said.contains("error"), "what fails later is in the log alone: {said}");
}

// covers: user
#[test]
fn the_background_is_the_users() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let (directory, port) = background("user: nobody\n");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (status, said, left) = command(&directory, |launch| launch);
    assert_eq!(status, 0, "{said}");
    let pid = left.as_ref().expect("a pid file").0;
    let about = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    assert!(about.contains("Uid:\t65534\t65534\t65534\t65534\n") && about.contains("CapEff:\t0000000000000000\n"), "{about}");
    assert_eq!(get(&port.address().to_string(), "/"), 200);
}
