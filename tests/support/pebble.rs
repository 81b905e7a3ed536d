//! A certificate authority of the test's own: Pebble (Debian's package), and the resolver that leads its questions to this machine.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, thread};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::Deadline;
use super::ports::{Reserved, free_port};
use super::process::Log;
use super::tls::{Authority, Client, program, put};

/// Where it asks for names.
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) tls: u16,
}

/// Pebble, not yet running: its address is known before it listens.
pub(crate) struct Prepared {
    folder: tempfile::TempDir,
    authority: Authority,
    address: Reserved,
    management: Reserved,
    resolver: Reserved,
    resolver_management: Reserved,
}

/// Pebble, running until it is dropped.
pub(crate) struct Pebble {
    pub(crate) log: Log,
    prepared: Prepared,
    processes: Vec<Child>,
}

impl Prepared {
    /// With a certificate of its own for the directory, valid for 127.0.0.1.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("directory");
        authority.issue(&["127.0.0.1", "localhost"]).write(folder.path(), "directory");
        let [address, management, resolver, resolver_management] = [(); 4].map(|()| free_port());
        Self { folder, authority, address, management, resolver, resolver_management }
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.address.address())
    }

    /// Writes the certificate by which the directory is trusted.
    pub(crate) fn write_ca(&self, path: &Path) {
        put(path, self.authority.pem());
    }

    /// Starts it. Certificates are valid for `lifetime`.
    pub(crate) fn start(self, ports: &Ports, lifetime: Duration) -> Pebble {
        let folder = self.folder.path();
        let configuration = serde_json::json!({"pebble": {
            "listenAddress": self.address.address().to_string(),
            "managementListenAddress": self.management.address().to_string(),
            "certificate": folder.join("directory.pem"),
            "privateKey": folder.join("directory.key"),
            "httpPort": ports.http,
            "tlsPort": ports.tls,
            "certificateValidityPeriod": lifetime.as_secs(),
        }});
        fs::write(folder.join("pebble.json"), configuration.to_string()).unwrap();
        let log = Log::default();
        let resolver = self.resolver.address().to_string();
        let mut processes = Vec::new();
        let mut names = tool("pebble-challtestsrv");
        names.args(["-dns01", &resolver, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", ""]);
        names.args(["-tlsalpn01", "", "-management", &self.resolver_management.address().to_string()]);
        processes.push(run(names, &Log::default()));
        let mut pebble = tool("pebble");
        pebble.arg("-config").arg(folder.join("pebble.json")).args(["-dnsserver", &resolver, "-strict=false"]);
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        processes.push(run(pebble, &log));
        let pebble = Pebble { log, prepared: self, processes };
        let deadline = Deadline::standard();
        for reserved in [&pebble.prepared.address, &pebble.prepared.management, &pebble.prepared.resolver] {
            while TcpStream::connect(reserved.address()).is_err() {
                assert!(!deadline.passed(), "pebble does not listen on {}\n{}", reserved.address(), pebble.log.text());
                thread::sleep(Duration::from_millis(10));
            }
        }
        pebble
    }
}

impl Pebble {
    pub(crate) fn start(ports: &Ports, lifetime: Duration) -> Self {
        Prepared::new().start(ports, lifetime)
    }

    pub(crate) fn directory(&self) -> String {
        self.prepared.directory()
    }

    pub(crate) fn write_ca(&self, path: &Path) {
        self.prepared.write_ca(path);
    }

    /// How many orders it has taken. It refuses one request in twenty for its nonce, and is asked again.
    pub(crate) fn orders(&self) -> usize {
        self.log.lines().iter().filter(|line| line.contains("Added order")).count()
    }

    /// How many accounts it has made.
    pub(crate) fn accounts(&self) -> usize {
        self.log.lines().iter().filter(|line| line.contains("accounts in memory")).count()
    }

    /// A client that trusts what it issues.
    pub(crate) fn client(&self) -> Client {
        let management = self.prepared.management.address().to_string();
        let mut connection =
            Client::new(&self.prepared.authority).connect(&management, "127.0.0.1", Deadline::standard()).unwrap();
        let (status, text) = connection.get("/roots/0", "127.0.0.1").unwrap();
        assert_eq!(status, 200);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(text.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        Client::new(&self.prepared.authority).change(|config| config.dangerous().set_certificate_verifier(verifier))
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn tool(name: &str) -> Command {
    let path = program(name);
    Command::new(path.unwrap_or_else(|| panic!("there is no {name}: scripts/setup --test installs it (Debian's package pebble)")))
}

fn run(mut command: Command, log: &Log) -> Child {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Go's log package writes to stderr, Pebble to stdout.
    log.follow(child.stdout.take().unwrap());
    log.follow(child.stderr.take().unwrap());
    child
}

/// A directory that says what the test wants: enough of the protocol to come to an order, over HTTP on loopback.
pub(crate) struct Directory {
    pub(crate) address: String,
    pub(crate) log: Log,
}

/// What it answers to an order: status, fields, and body.
pub(crate) type Answer = (u16, &'static str, &'static str);

impl Directory {
    pub(crate) fn start(answer: Answer) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = Self { address: listener.local_addr().unwrap().to_string(), log: Log::default() };
        let (address, log) = (directory.address.clone(), directory.log.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                let (Ok(socket), address, log) = (socket, address.clone(), log.clone()) else { return };
                thread::spawn(move || converse(socket, &address, &log, answer));
            }
        });
        directory
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/dir", self.address)
    }

    /// How many requests came for this path.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.log.lines().iter().filter(|line| line.contains(path)).count()
    }
}

fn converse(socket: TcpStream, address: &str, log: &Log, answer: Answer) -> Option<()> {
    socket.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    let mut reader = BufReader::new(socket.try_clone().ok()?);
    let mut writer = socket;
    loop {
        let (first, body) = request(&mut reader).ok()?;
        log.say(&format!("{first} {body}"));
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let location = format!("location: http://{address}/account/1\r\n");
        let directory = format!(
            r#"{{"newNonce": "http://{address}/nonce", "newAccount": "http://{address}/account", "newOrder": "http://{address}/order"}}"#
        );
        let (status, fields, body) = match path.as_str() {
            "/dir" => (200, "", directory.as_str()),
            "/nonce" => (200, "", ""),
            "/account" => (201, location.as_str(), r#"{"status": "valid"}"#),
            "/order" => answer,
            _ => (404, "", "{}"),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} x\r\nreplay-nonce: bm9uY2U\r\n{fields}content-length: {length}\r\n\r\n");
        writer.write_all(head.as_bytes()).ok()?;
        if !first.starts_with("HEAD") {
            writer.write_all(body.as_bytes()).ok()?;
        }
    }
}

/// The first line of a request, and what it has signed.
fn request(reader: &mut impl BufRead) -> io::Result<(String, String)> {
    let (mut first, mut length) = (String::new(), 0);
    if reader.read_line(&mut first)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let signed = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
    let payload = base64(signed["payload"].as_str().unwrap_or_default());
    Ok((first.trim_end().to_owned(), String::from_utf8_lossy(&payload).into_owned()))
}

/// What stands in base64url.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let value = |byte: u8| ALPHABET.iter().position(|letter| *letter == byte).unwrap_or_default();
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |bits, byte| bits << 6 | value(*byte)) << (6 * (4 - four.len()));
        bytes.extend((0..four.len() * 6 / 8).map(|at| u8::try_from(bits >> (16 - 8 * at) & 0xff).unwrap()));
    }
    bytes
}
