//! The effect of keys that a case can't show: on where connections come from, on endpoints that do not answer, on the process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Pid;
use support::{Action, Answer, Bind, Connection, Deadline, Events, Launch, Origin, Outgoing, Ravelin, get};

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
    for lane in ["general", "express"] {
        reads_nothing(lane);
    }
}

/// The other times are longer than the test: none of them has to be over too.
fn reads_nothing(lane: &str) {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let ravelin = Ravelin::start_in(
        lane,
        &format!(
            "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
             upstreams: {{a: {{endpoints: [\"{}\"], health_check: none, timeouts: {{write: 100ms, response: 10m, read: 10m}}}}}}\n\
             routes: {{all: {{upstream: a}}}}\n",
            endpoint.local_addr().unwrap()
        ),
    );
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

/// What a gRPC health service says, and of whom it was asked.
#[derive(Clone, Default)]
struct HealthService {
    /// A `ServingStatus`; 9: it never says anything.
    status: Arc<AtomicU8>,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl HealthService {
    /// Serves, over HTTP/2 without TLS, and tells its port.
    fn start(&self) -> u16 {
        let service = self.clone();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        support::runtime().spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let service = service.clone();
                        tokio::spawn(async move { service.answer(request, respond).await });
                    }
                });
            }
        });
        port
    }

    async fn answer(self, request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/grpc.health.v1.Health/Check"));
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let (mut body, mut message) = (request.into_body(), Vec::new());
        while let Some(Ok(data)) = body.data().await {
            message.extend_from_slice(&data);
        }
        self.asked.lock().unwrap().push(message);
        let status = self.status.load(Ordering::SeqCst);
        if status == 9 {
            return std::future::pending().await;
        }
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]), false).unwrap();
        stream.send_trailers(http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())])).unwrap();
    }
}

// covers: upstreams.health_check.grpc.service, upstreams.health_check.grpc.interval, upstreams.health_check.grpc.timeout
// covers: upstreams.health_check.grpc.healthy_after, upstreams.health_check.grpc.unhealthy_after
#[test]
fn a_grpc_service_says_whether_it_serves() {
    let (service, deadline) = (HealthService::default(), Deadline::standard());
    let (serving, not_serving, silent) = (1, 2, 9);
    service.status.store(serving, Ordering::SeqCst);
    let endpoint = Origin::start("a", vec![]);
    let check = format!(
        "{{grpc: {{service: api.v1.Api, port: {}, interval: 30ms, timeout: 3s, healthy_after: 2, unhealthy_after: 3}}}}",
        service.start()
    );
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: {check}}}}}\nroutes: {{all: {{upstream: a}}}}\n",
        endpoint.address()
    ));
    let asked = || service.asked.lock().unwrap().len();
    assert_eq!(status(&ravelin), 200);
    let before = asked();
    service.status.store(not_serving, Ordering::SeqCst);
    let line = ravelin.wait_for_log("endpoint is unhealthy", deadline).expect("it is taken out");
    assert!(line.contains("check=grpc reason=\"NOT_SERVING\""), "{line}");
    assert!(asked() >= before + 3, "three failures in a row");
    assert_eq!(status(&ravelin), 503);
    let before = asked();
    service.status.store(serving, Ordering::SeqCst);
    ravelin.wait_for_log("endpoint is healthy again", deadline).expect("it is brought back");
    assert!(asked() >= before + 2, "two successes in a row");
    service.status.store(silent, Ordering::SeqCst);
    ravelin.wait_for_log("no answer within 3s", deadline).expect("it is not waited for");
    assert_eq!(*service.asked.lock().unwrap()[0], *b"\0\0\0\0\x0c\x0a\x0aapi.v1.Api");
}

// covers: upstreams.limits.connections, upstreams.limits.queue, upstreams.limits.queue_timeout
#[test]
fn a_request_for_which_there_is_no_room_waits_in_line() {
    let (events, deadline) = (Events::new(), Deadline::standard());
    let endpoint = Origin::prepare("a", Bind::V4, false, events.clone()).unwrap();
    let answer = Action::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na".to_vec());
    endpoint.script(vec![Answer::of(vec![Action::Wait("go".to_owned()), answer])]);
    endpoint.resume().unwrap();
    let ravelin =
        proxy("admin: {address: 127.0.0.1:0}", ", limits: {connections: 1, queue: 1, queue_timeout: 1h}", endpoint.address());
    let ask = || {
        let mut client = Connection::open(ravelin.address(), deadline).unwrap();
        client.request(&Outgoing::get("/", "a"), deadline).unwrap();
        client
    };
    let answered = |mut client: Connection| client.next_response(deadline).unwrap().head.status().unwrap();
    let first = ask();
    support::until_metric(
        &ravelin,
        &format!("ravelin_endpoint_requests_in_flight{{upstream=\"a\",endpoint=\"{}\"}}", endpoint.address()),
        |count| count == 1.0,
    );
    let second = ask();
    support::until_metric(&ravelin, "ravelin_upstream_queue{upstream=\"a\"}", |waiting| waiting == 1.0);
    assert_eq!(answered(ask()), 503, "one more may not wait");
    events.release("go");
    assert_eq!((answered(first), answered(second)), (200, 200));
    assert_eq!(support::metric(&ravelin, "ravelin_upstream_queued_total{upstream=\"a\"}"), 1.0);
    assert_eq!(support::metric(&ravelin, "ravelin_upstream_queue{upstream=\"a\"}"), 0.0);
}
