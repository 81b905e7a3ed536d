//! TLS towards clients, by peers that are not ours: certificates by name, sessions, certificates of clients, and what is no handshake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme};
use support::tls::{Authority, Client, Issued, put};
use support::{Connection, Deadline, Launch, Ravelin, Signal, free_port, metric};
use tempfile::TempDir;

/// A directory with a configuration, and the process that runs it.
struct Edge {
    ravelin: Ravelin,
    directory: TempDir,
}

/// The listener's TLS, what else it has, and what else the file has.
fn configuration(tls: &str, listener: &str, top: &str) -> String {
    format!(
        "admin: {{address: 127.0.0.1:0}}\naccess_log: {{format: json}}\n{top}\n\
         listeners: {{main: {{address: 127.0.0.1:0, tls: {{{tls}}}{listener}}}}}\n\
         routes: {{all: {{respond: {{body: \"{{{{ request.scheme }}}} {{{{ request.host }}}}\"}}}}}}\n"
    )
}

impl Edge {
    fn start(files: &[(&str, &Issued)], tls: &str, listener: &str) -> Self {
        Self::start_with(files, &configuration(tls, listener, ""))
    }

    fn start_with(files: &[(&str, &Issued)], configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, issued) in files {
            issued.write(directory.path(), name);
        }
        Self::run(directory, configuration)
    }

    fn run(directory: TempDir, configuration: &str) -> Self {
        fs::write(directory.path().join("ravelin.yaml"), configuration).unwrap();
        let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
        let listeners = support::listeners(configuration).len();
        if let Err(problem) = ravelin.ready(listeners, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        Self { ravelin, directory }
    }

    fn address(&self) -> &str {
        self.ravelin.address()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn failures(&self, reason: &str) -> u64 {
        metric(&self.ravelin, &format!("ravelin_tls_handshake_failures_total{{listener=\"main\",reason=\"{reason}\"}}")) as u64
    }

    /// Waits until this many handshakes have failed for the reason.
    fn until_failures(&self, reason: &str, count: u64) {
        let deadline = Deadline::standard();
        while self.failures(reason) < count {
            assert!(!deadline.passed(), "{reason}: {}\n{}", self.failures(reason), self.ravelin.log().text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self, text: &str) {
        let told = self.ravelin.wait_for_log(text, Deadline::standard());
        assert!(told.is_some(), "no `{text}` in\n{}", self.ravelin.log().text());
    }
}

const ONE: &str = "certificates: [{cert: a.pem, key: a.key}]";

// covers: listeners.tls.certificates.cert, listeners.tls.certificates.key
#[test]
fn a_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let authority = Authority::new("ca");
    let first = authority.issue(&["first.example", "127.0.0.1"]);
    let (exact, wild) = (authority.issue(&["x.site.example"]), authority.issue(&["*.site.example"]));
    let edge = Edge::start(
        &[("first", &first), ("wild", &wild), ("exact", &exact)],
        "certificates: [{cert: first.pem, key: first.key}, {cert: wild.pem, key: wild.key}, {cert: exact.pem, key: exact.key}]",
        "",
    );
    let client = Client::new(&authority);
    for (name, expected) in
        [("first.example", &first), ("x.site.example", &exact), ("y.site.example", &wild), ("127.0.0.1", &first)]
    {
        let deadline = Deadline::standard();
        let mut connection = client.connect(edge.address(), name, deadline).unwrap();
        assert_eq!(connection.certificate(), expected.der, "{name}");
        let (status, text) = connection.get("/", name).unwrap();
        assert!(status == 200 && text.ends_with(&format!("https {name}")), "{text}");
    }
    // For a name that no certificate is for there is the first: the client does not take it, and says so.
    let refused = client.connect(edge.address(), "other.example", Deadline::standard()).err().unwrap();
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
    edge.until_failures("alert", 1);
}

#[test]
fn each_client_gets_the_kind_of_key_that_it_knows() {
    let authority = Authority::new("ca");
    let rsa = authority.issue_as(&["a.example"], &PKCS_RSA_SHA256, |_| ());
    let ecdsa = authority.issue_as(&["a.example"], &PKCS_ECDSA_P256_SHA256, |_| ());
    let tls = "certificates: [{cert: rsa.pem, key: rsa.key}, {cert: ec.pem, key: ec.key}]";
    let edge = Edge::start(&[("rsa", &rsa), ("ec", &ecdsa)], tls, "");
    let only = |word: &'static str| {
        Client::new(&authority).change(|config| {
            let roots = Roots::of(&authority).only(word);
            config.dangerous().set_certificate_verifier(Arc::new(roots));
        })
    };
    for (client, expected) in [(only("RSA"), &rsa), (only("ECDSA"), &ecdsa), (Client::new(&authority), &ecdsa)] {
        let connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        assert_eq!(connection.certificate(), expected.der);
    }
}

/// Judges servers as usual, and keeps what else it sees.
#[derive(Debug)]
struct Roots {
    usual: Arc<WebPkiServerVerifier>,
    /// The schemes that it knows have this in their name.
    word: &'static str,
    staple: Arc<Mutex<Vec<u8>>>,
}

impl Roots {
    fn of(authority: &Authority) -> Self {
        let usual = authority.verifier();
        Self { usual, word: "", staple: Arc::default() }
    }

    fn only(mut self, word: &'static str) -> Self {
        self.word = word;
        self
    }
}

impl ServerCertVerifier for Roots {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.staple.lock().unwrap() = staple.to_vec();
        self.usual.verify_server_cert(leaf, others, name, &[], now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = self.usual.supported_verify_schemes();
        known.into_iter().filter(|scheme| format!("{scheme:?}").contains(self.word)).collect()
    }
}

// covers: listeners.tls.certificates.ocsp
#[test]
fn a_staple_is_handed_out_with_the_certificate() {
    let authority = Authority::new("ca");
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example"]).write(directory.path(), "a");
    fs::write(directory.path().join("a.ocsp"), [0x30, 3, 10, 1, 0]).unwrap();
    let edge = Edge::run(directory, &configuration("certificates: [{cert: a.pem, key: a.key, ocsp: a.ocsp}]", "", ""));
    let roots = Roots::of(&authority);
    let staple = roots.staple.clone();
    let client = Client::new(&authority).change(|config| config.dangerous().set_certificate_verifier(Arc::new(roots)));
    client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
    assert_eq!(*staple.lock().unwrap(), [0x30, 3, 10, 1, 0]);
}

// covers: listeners.tls.min_version
#[test]
fn an_old_version_is_refused_where_the_file_says_so() {
    let authority = Authority::new("ca");
    let files = [("a", &authority.issue(&["a.example"]))];
    let versions = [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)];
    let edge = Edge::start(&files, ONE, "");
    for (version, spoken) in versions {
        let client = Client::with(&authority, None, &[version]);
        let connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        assert_eq!(connection.0.conn.protocol_version(), Some(spoken));
    }
    let edge = Edge::start(&files, &format!("{ONE}, min_version: \"1.3\""), "");
    let refused = Client::with(&authority, None, &[&TLS12]).connect(edge.address(), "a.example", Deadline::standard());
    assert!(refused.err().unwrap().to_string().contains("ProtocolVersion"));
    edge.until_failures("incompatible", 1);
    assert!(Client::with(&authority, None, &[&TLS13]).connect(edge.address(), "a.example", Deadline::standard()).is_ok());
}

#[test]
fn keys_are_agreed_against_quantum_computers_too() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, "");
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
    let client = Client::of_provider(&authority, provider);
    let connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
    assert_eq!(connection.0.conn.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
}

/// How the second of two connections began.
fn resumes(edge: &Edge, client: &Client) -> Option<HandshakeKind> {
    let mut kind = None;
    for _ in 0..2 {
        let mut connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        // What lets a client resume comes with the first answer.
        assert_eq!(connection.get("/", "a.example").unwrap().0, 200);
        kind = connection.0.conn.handshake_kind();
    }
    kind
}

#[test]
fn sessions_are_resumed_also_after_a_reload() {
    let authority = Authority::new("ca");
    for tickets in ["", ", session_tickets: false"] {
        let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], &format!("{ONE}{tickets}"), "");
        for version in [&TLS12, &TLS13] {
            let client = Client::with(&authority, None, &[version]);
            assert_eq!(resumes(&edge, &client), Some(HandshakeKind::Resumed), "{version:?} {tickets}");
            let reloads = || edge.ravelin.log().text().matches("configuration reloaded").count();
            let (before, deadline) = (reloads(), Deadline::standard());
            edge.ravelin.signal(Signal::HUP).unwrap();
            while reloads() == before {
                assert!(!deadline.passed(), "{}", edge.ravelin.log().text());
                thread::sleep(Duration::from_millis(5));
            }
            let mut connection = client.connect(edge.address(), "a.example", deadline).unwrap();
            assert_eq!(connection.get("/", "a.example").unwrap().0, 200);
            assert_eq!(connection.0.conn.handshake_kind(), Some(HandshakeKind::Resumed), "{version:?} {tickets}");
        }
    }
}

// covers: listeners.tls.session_tickets
#[test]
fn tickets_can_be_had_or_not() {
    let authority = Authority::new("ca");
    for (tickets, longest) in [("true", true), ("false", false)] {
        let tls = format!("{ONE}, session_tickets: {tickets}");
        let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], &tls, "");
        // A ticket of TLS 1.3 holds the session, sealed; without tickets it is the name under which the session is kept here.
        let seen = Arc::new(Tickets::default());
        let client = Client::with(&authority, None, &[&TLS13])
            .change(|config| config.resumption = rustls::client::Resumption::store(seen.clone()));
        let mut connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        assert_eq!(connection.get("/", "a.example").unwrap().0, 200);
        assert_eq!(seen.0.lock().unwrap().iter().any(|length| *length > 64), longest, "{:?}", seen.0);
    }
}

/// Keeps how long tickets were.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<usize>>);

impl rustls::client::ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: rustls::client::Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        // There is no other way to its length.
        let text = format!("{value:?}");
        let ticket = text.split("ticket: ").nth(1).unwrap_or_default();
        self.0.lock().unwrap().push(
            ticket.split(']').next().unwrap_or_default().matches(',').count()
                + ticket.split(',').next().map_or(0, |hex| hex.len() / 2),
        );
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        None
    }
}

// covers: listeners.tls.client_auth.ca, listeners.tls.client_auth.mode
#[test]
fn clients_prove_who_they_are() {
    let (authority, clients, others) = (Authority::new("ca"), Authority::new("clients"), Authority::new("others"));
    let server = authority.issue(&["a.example"]);
    for (mode, without) in [("require", false), ("request", true)] {
        let directory = tempfile::tempdir().unwrap();
        server.write(directory.path(), "a");
        put(&directory.path().join("clients.pem"), clients.pem());
        let tls = format!("{ONE}, client_auth: {{ca: clients.pem, mode: {mode}}}");
        let edge = Edge::run(directory, &configuration(&tls, "", ""));
        for version in [&TLS12, &TLS13] {
            let asked = |own: Option<&Issued>| {
                let client = Client::with(&authority, own, &[version]);
                // With TLS 1.3 a client learns only by its first read that it is not let in.
                client.connect(edge.address(), "a.example", Deadline::standard())?.get("/", "a.example").map(|(status, _)| status)
            };
            assert_eq!(asked(Some(&clients.client("ann"))).unwrap(), 200, "{mode} {version:?}");
            assert_eq!(asked(None).is_ok(), without, "{mode} {version:?}");
            assert!(asked(Some(&others.client("eve"))).is_err(), "{mode} {version:?}");
        }
        edge.until_failures("client_certificate", 2);
        if !without {
            edge.until_failures("no_client_certificate", 2);
        }
    }
}

#[test]
fn http_in_the_clear_is_told_what_the_port_speaks() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, "");
    let deadline = Deadline::standard();
    let mut client = Connection::open(edge.address(), deadline).unwrap();
    client.send(b"GET /secret HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    let response = client.response("GET", deadline).unwrap();
    assert_eq!(response.head.status(), Some(400));
    assert!(String::from_utf8_lossy(&response.body).contains("https://"), "{response:?}");
    edge.until_failures("plaintext", 1);
    let logged = edge.ravelin.stdout().wait_for(deadline, |lines| lines.iter().find(|line| line.contains("/secret")).cloned());
    assert!(logged.as_ref().is_some_and(|line| line.contains("plaintext_on_tls")), "{logged:?}");
}

// covers: listeners.limits.tls_handshake_timeout
#[test]
fn a_handshake_ends_in_time_or_is_ended() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, ", limits: {tls_handshake_timeout: 300ms}");
    let hello = hello("a.example");
    let lengths = [0, 1, 5, 6, 50, hello.len() - 1, hello.len()];
    let began = Instant::now();
    let stalled: Vec<TcpStream> = lengths
        .iter()
        .map(|length| {
            let mut stream = TcpStream::connect(edge.address()).unwrap();
            stream.write_all(&hello[..*length]).unwrap();
            stream
        })
        .collect();
    for mut stream in stalled {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut all = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut all);
    }
    // Generous, for a machine that is busy: the default is 10 s.
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    edge.until_failures("timeout", lengths.len() as u64);
    assert!(Client::new(&authority).connect(edge.address(), "a.example", Deadline::standard()).is_ok());
}

/// The first flight of a client.
fn hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

// covers: listeners.limits.handshakes_per_client
#[test]
fn one_client_has_only_so_many_handshakes_at_once() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, ", limits: {handshakes_per_client: 1}");
    let client = Client::new(&authority);
    let mut half = TcpStream::connect(edge.address()).unwrap();
    half.write_all(&hello("a.example")).unwrap();
    // Its handshake is under way once the server has answered.
    half.read_exact(&mut [0; 5]).unwrap();
    let mut refused = TcpStream::connect(edge.address()).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(refused.read(&mut [0; 16]).unwrap_or(0), 0);
    edge.until_failures("handshakes_per_client", 1);
    drop(half);
    edge.until_failures("left", 1);
    // Those that are done do not count.
    let mut open = Vec::new();
    for _ in 0..3 {
        let deadline = Deadline::standard();
        open.push(loop {
            match client.connect(edge.address(), "a.example", deadline) {
                Ok(connection) => break connection,
                Err(error) => assert!(!deadline.passed(), "{error}"),
            }
        });
    }
}

#[test]
fn renewed_files_are_served_and_broken_ones_are_not() {
    let authority = Authority::new("ca");
    let (old, new) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let edge = Edge::start(&[("a", &old)], ONE, "");
    // One that remembers no session, and so sees the certificate each time.
    let served = || Client::new(&authority).connect(edge.address(), "a.example", Deadline::standard()).unwrap();
    let mut first = served();
    assert_eq!(first.certificate(), old.der);
    // Half of a change: the certificate is there, its key is not.
    put(&edge.path().join("a.pem"), &new.cert);
    edge.log("certificate can't be renewed, the one before stays in force");
    edge.log("does not belong to the certificate");
    assert_eq!(served().certificate(), old.der);
    put(&edge.path().join("a.key"), &new.key);
    edge.log("certificate renewed");
    assert_eq!(served().certificate(), new.der);
    // Who was connected is not disturbed.
    assert_eq!(first.get("/", "a.example").unwrap().0, 200);
    // Nonsense is told of once.
    put(&edge.path().join("a.key"), "{\"json\": true}");
    edge.log("BEGIN PRIVATE KEY");
    fs::remove_file(edge.path().join("a.pem")).unwrap();
    edge.log("no such file");
    assert_eq!(served().certificate(), new.der);
    let failures = metric(&edge.ravelin, "ravelin_certificate_reload_failures_total");
    assert_eq!(failures as u64, 3);
    let expiry = format!(
        "ravelin_certificate_expiry_timestamp_seconds{{listener=\"main\",certificate=\"{}\"}}",
        edge.path().join("a.pem").display()
    );
    assert!(metric(&edge.ravelin, &expiry) > 1e9);
}

// covers: listeners.redirect_to_https, listeners.tls
#[test]
fn what_comes_in_the_clear_is_sent_to_https() {
    let authority = Authority::new("ca");
    let (plain, secure) = (free_port(), free_port());
    let configuration = format!(
        "listeners:\n  plain: {{address: \"{}\", redirect_to_https: true, trust_forwarded: {{from: [127.0.0.0/8]}}}}\n  \
         secure: {{address: \"{}\", tls: {{{ONE}}}}}\n\
         routes: {{all: {{respond: {{body: \"{{{{ request.scheme }}}}\"}}}}}}\n",
        plain.address(),
        secure.address(),
    );
    let edge = Edge::start_with(&[("a", &authority.issue(&["a.example"]))], &configuration);
    let deadline = Deadline::standard();
    let mut client = Connection::open(edge.address(), deadline).unwrap();
    let mut ask = |head: &str| {
        client.send(format!("{head}\r\n\r\n").as_bytes()).unwrap();
        let response = client.response("GET", deadline).unwrap();
        let location = response.head.values("location").first().map(|value| String::from_utf8_lossy(value).into_owned());
        (response.head.status().unwrap(), location.unwrap_or_default())
    };
    let usual = "https://a.example/x/?y=1".to_owned();
    assert_eq!(ask("GET /a/../x/?y=1 HTTP/1.1\r\nHost: A.example"), (308, usual));
    let own = format!("POST /x HTTP/1.1\r\nContent-Length: 0\r\nHost: a.example:{}", plain.port());
    assert_eq!(ask(&own), (308, format!("https://a.example:{}/x", secure.port())));
    // A proxy that is believed has taken TLS off.
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https").0, 200);
    let (status, text) = Client::new(&authority)
        .connect(&edge.ravelin.addresses()[1], "a.example", deadline)
        .unwrap()
        .get("/", "a.example")
        .unwrap();
    assert!(status == 200 && text.ends_with("https"), "{text}");
}
