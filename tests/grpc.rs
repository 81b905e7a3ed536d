//! gRPC end to end, with a client and a server that others wrote (grpcio): every kind of call, trailers, deadlines, cancellation.
//!
//! What is not installed is not tested, unless `RAVELIN_TEST_PEERS` says that all of it must be there (`scripts/setup --test` sees to that).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Ravelin, free_port};

/// It ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/python");
    let found =
        Command::new(&python).args(["-c", "import grpc"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    found.then_some(python)
}

#[test]
fn calls_of_every_kind() {
    let Some(python) = python() else {
        assert!(std::env::var_os("RAVELIN_TEST_PEERS").is_none(), "grpcio is not installed: scripts/setup --test");
        return eprintln!("grpcio is not installed: nothing was tested");
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grpc/calls.py");
    let mut server = Server(Command::new(&python).arg(&script).arg("serve").stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (endpoint, dead) = (line.trim().to_owned(), free_port());
    let ravelin = Ravelin::start(&format!(
        "listeners: {{main: {{address: 127.0.0.1:0, http2: true}}}}\n\
         upstreams:\n  a: {{endpoints: [\"{endpoint}\"], protocol: http2, health_check: none}}\n  \
         dead: {{endpoints: [\"{}\"], protocol: http2, health_check: none}}\n\
         routes:\n  a: {{match: {{paths: [/test.Calls/*]}}, upstream: a}}\n  \
         dead: {{match: {{paths: [/test.Dead/*]}}, upstream: dead}}\n",
        dead.address()
    ));
    let client = Command::new(&python).arg(&script).arg("call").arg(ravelin.address()).output().unwrap();
    let said = String::from_utf8_lossy(&client.stdout);
    assert!(client.status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&client.stderr), ravelin.log().text());
    assert!(said.contains("all calls are as they should be"), "{said}");
}
