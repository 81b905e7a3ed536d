//! TLS towards clients, by peers that are not ours: certificates by name, sessions, certificates of clients, and what is no handshake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme};
use support::tls::{Authority, Client, Issued, put};
use support::{Answer, Connection, Deadline, Launch, Origin, Ravelin, Signal, free_port, metric};
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
    let (old, new) = (authority.issue(&["a.example"]), authority.issue(&["a.example"]));
    let (first, second) = (ocsp(&old.der, "20990101000000Z"), ocsp(&new.der, "20990101000000Z"));
    let directory = tempfile::tempdir().unwrap();
    old.write(directory.path(), "a");
    fs::write(directory.path().join("a.ocsp"), &first).unwrap();
    let edge = Edge::run(directory, &configuration("certificates: [{cert: a.pem, key: a.key, ocsp: a.ocsp}]", "", ""));
    let stapled = || {
        let roots = Roots::of(&authority);
        let staple = roots.staple.clone();
        let client = Client::new(&authority).change(|config| config.dangerous().set_certificate_verifier(Arc::new(roots)));
        client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        let staple = staple.lock().unwrap();
        staple.clone()
    };
    assert_eq!(stapled(), first);
    // The certificate is renewed before its staple is: what is about the old one is not handed out with the new one.
    new.write(edge.path(), "a");
    edge.log("the OCSP response is about another certificate: it is not handed out");
    assert_eq!(stapled(), b"");
    fs::write(edge.path().join("a.ocsp.new"), &second).unwrap();
    fs::rename(edge.path().join("a.ocsp.new"), edge.path().join("a.ocsp")).unwrap();
    let deadline = Deadline::standard();
    while stapled() != second {
        assert!(!deadline.passed(), "the new staple is not handed out");
        std::thread::sleep(Duration::from_millis(50));
    }
    // One whose time is over is none.
    fs::write(edge.path().join("a.ocsp"), ocsp(&new.der, "20200101000000Z")).unwrap();
    edge.log("the OCSP response is out of date: it is not handed out");
    assert_eq!(stapled(), b"");
}

/// A response that says of this certificate that it is good until then (RFC 6960 §4.2.1), signed by nobody.
fn ocsp(certificate: &[u8], until: &str) -> Vec<u8> {
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let all = parts.concat();
        let length = u8::try_from(all.len()).unwrap();
        let head = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        [head, all].concat()
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let time = |text: &str| der(0x18, &[text.as_bytes()]);
    let about =
        der(0x30, &[&der(0x30, &[&der(6, &[&[0x2b]])]), &der(4, &[b"n"]), &der(4, &[b"k"]), &der(2, &[parsed.raw_serial()])]);
    let single = der(0x30, &[&about, &[0x80, 0], &time("20200101000000Z"), &der(0xa0, &[&time(until)])]);
    let data = der(0x30, &[&der(0xa2, &[&der(4, &[b"us"])]), &time("20200101000000Z"), &der(0x30, &[&single])]);
    let basic = der(0x30, &[&data, &der(0x30, &[]), &der(3, &[&[0, 1]])]);
    let inner = der(0x30, &[&der(6, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]), &der(4, &[&basic])]);
    der(0x30, &[&der(10, &[&[0]]), &der(0xa0, &[&inner])])
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

/// A proxy with one listener in the clear and one that asks for certificates, in front of an origin.
fn proxied(mode: &str, origin: &Origin, authority: &Authority, clients: &Authority) -> Edge {
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example", "b.example"]).write(directory.path(), "a");
    put(&directory.path().join("clients.pem"), clients.pem());
    let configuration = format!(
        "admin: {{address: 127.0.0.1:0}}\naccess_log: {{format: json}}\n\
         listeners:\n  main: {{address: 127.0.0.1:0, underscores: pass, tls: {{{ONE}, client_auth: {{ca: clients.pem, mode: {mode}}}}}}}\n  \
         plain: {{address: 127.0.0.1:0, underscores: pass}}\n  other: {{address: 127.0.0.1:0, tls: {{{ONE}}}}}\n\
         upstreams: {{a: {{endpoints: [\"{}\"], health_check: none}}}}\n\
         routes:\n  known:\n    listeners: [main]\n    filters:\n      - headers:\n          request:\n            set:\n              \
         x-client: \"{{{{ client.cert.subject }}}}\"\n              \
         x-facts: \"{{{{ tls.version }}}} {{{{ tls.sni }}}} {{{{ tls.cipher }}}} {{{{ client.cert.sans }}}} {{{{ client.cert.issuer }}}}\"\n              \
         x-print: \"{{{{ client.cert.fingerprint }}}} {{{{ client.cert.serial }}}}\"\n    upstream: a\n  \
         open: {{listeners: [plain], upstream: a}}\n  b: {{listeners: [other], match: {{hosts: [b.example]}}, upstream: a}}\n",
        origin.address(),
    );
    Edge::run(directory, &configuration)
}

#[test]
fn endpoints_and_logs_learn_who_a_client_is_and_nobody_else_says_so() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = proxied("request", &origin, &authority, &clients);
    let ann = clients.client("ann");
    let forged = "X-Client: root\r\nx_client: root\r\nClient-Cert: :AAAA:\r\nClient_Cert-Chain: x\r\nX-Forwarded-Client-Cert: Subject=root\r\n\
                  X-Print: root\r\nX-Other: kept\r\n";
    let deadline = Deadline::standard();
    let asked = |own: Option<&Issued>| {
        let client = Client::with(&authority, own, &[&TLS13]);
        let mut connection = client.connect(edge.address(), "a.example", deadline).unwrap();
        connection.send(format!("GET / HTTP/1.1\r\nhost: a.example\r\n{forged}\r\n").as_bytes()).unwrap();
        assert_eq!(connection.response().unwrap().0, 200);
        origin.requests().pop().unwrap().head
    };
    let value = |head: &support::Head, name: &str| {
        let values = head.values(name);
        values.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>().join("|")
    };
    let head = asked(Some(&ann));
    assert_eq!(value(&head, "x-client"), "CN=ann,O=Example");
    assert!(value(&head, "x-facts").starts_with("TLSv1.3 a.example TLS13_"), "{}", value(&head, "x-facts"));
    assert!(value(&head, "x-facts").contains("URI:spiffe://example/ann CN=clients"), "{}", value(&head, "x-facts"));
    let print = value(&head, "x-print");
    assert!(
        print.split(' ').next().unwrap().len() == 64
            && print.split(' ').all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    );
    assert_eq!(value(&head, "x-forwarded-proto"), "https");
    // Without a certificate: nobody, whatever the client says.
    assert_eq!(value(&asked(None), "x-client"), "");
    let mut plain = Connection::open(&edge.ravelin.addresses()[1], deadline).unwrap();
    plain.send(format!("GET / HTTP/1.1\r\nHost: a.example\r\n{forged}\r\n").as_bytes()).unwrap();
    assert_eq!(plain.response("GET", deadline).unwrap().head.status(), Some(200));
    let head = origin.requests().pop().unwrap().head;
    for name in ["x-client", "x_client", "x-print", "client-cert", "client_cert-chain", "x-forwarded-client-cert"] {
        assert!(head.values(name).is_empty(), "{name}: {}", String::from_utf8_lossy(&head.raw));
    }
    assert_eq!(value(&head, "x-other"), "kept");
    let logged = |text: &str| {
        let line = edge.ravelin.stdout().wait_for(deadline, |lines| lines.iter().find(|line| line.contains(text)).cloned());
        line.unwrap_or_else(|| panic!("no {text} in {}", edge.ravelin.stdout().text()))
    };
    let line = logged("\"client_cert_subject\":\"CN=ann,O=Example\"");
    for part in
        ["\"scheme\":\"https\"", "\"tls_version\":\"TLSv1.3\"", "\"tls_sni\":\"a.example\"", "\"client_cert_fingerprint\":\""]
    {
        assert!(line.contains(part), "{line}");
    }
}

#[test]
fn a_connection_is_for_the_host_that_it_was_made_for() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let origin = Origin::start("a", vec![Answer::text(200, "hello")]);
    let edge = proxied("require", &origin, &authority, &clients);
    let deadline = Deadline::standard();
    let ann = Client::with(&authority, Some(&clients.client("ann")), &[&TLS13]);
    let mut connection = ann.connect(edge.address(), "a.example", deadline).unwrap();
    assert_eq!(connection.get("/", "A.example.:1234").unwrap().0, 200);
    // Who was let in for one name is not let in for another, be the certificate good for both.
    assert_eq!(connection.get("/", "b.example").unwrap().0, 421);
    let other = &edge.ravelin.addresses()[2];
    let client = Client::new(&authority);
    let mut connection = client.connect(other, "b.example", deadline).unwrap();
    assert_eq!(connection.get("/", "b.example").unwrap().0, 200);
    // Its host is served elsewhere, and nothing was asked for here: the client should come again, by another way.
    assert_eq!(connection.get("/", "a.example").unwrap().0, 421);
    let mut connection = client.connect(other, "a.example", deadline).unwrap();
    assert_eq!(connection.get("/", "a.example").unwrap().0, 404);
    assert_eq!(connection.get("/", "b.example").unwrap().0, 200);
}

#[test]
fn what_is_no_handshake_is_closed_and_counted() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, ", limits: {tls_handshake_timeout: 5s}");
    let record = |kind: u8, payload: &[u8]| [&[kind, 3, 1], &(payload.len() as u16).to_be_bytes()[..], payload].concat();
    let whole = hello("a.example");
    // A name that no name can be: a byte of it, and its length.
    let mut unnamed = hello("name.example");
    let at = unnamed.windows(8).position(|eight| eight == b".example").unwrap();
    unnamed[at] = b'\xff';
    let mut long = hello("name.example");
    let at = long.windows(12).position(|twelve| twelve == b"name.example").unwrap();
    long[at - 1] = 255;
    let ssl2 = [0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80];
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("random", (0..600_u32).map(|byte| (byte.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect()),
        ("zeros", vec![0; 4096]),
        ("a record of data", record(23, &[7; 100])),
        ("an alert", record(21, &[2, 40])),
        ("a record that is too long", [&[22, 3, 1, 0xff, 0xff][..], &[0; 100]].concat()),
        ("an empty record", record(22, &[])),
        ("SSL 2", [&ssl2[..], &[0; 40]].concat()),
        ("a hello of nonsense", record(22, &[&[1, 0, 0, 200][..], &[0xaa; 200]].concat())),
        ("a name that is none", unnamed),
        ("a name of 255 characters", long),
        ("a hello that is cut off by another", [&whole[..whole.len() / 2], &whole[..]].concat()),
    ];
    for (what, bytes) in &cases {
        let mut stream = TcpStream::connect(edge.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let began = Instant::now();
        // It may be closed before all of it is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(began.elapsed() < Duration::from_secs(15), "{what}");
        let timed_out = ended
            .err()
            .is_some_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!timed_out, "{what}");
    }
    let count = || {
        support::metrics(&edge.ravelin)
            .lines()
            .filter_map(|line| {
                line.strip_prefix("ravelin_tls_handshake_failures_total{")?.rsplit(' ').next()?.parse::<u64>().ok()
            })
            .sum::<u64>()
    };
    let deadline = Deadline::standard();
    while count() < cases.len() as u64 {
        assert!(!deadline.passed(), "{}\n{}", count(), edge.ravelin.log().text());
        thread::sleep(Duration::from_millis(5));
    }
    assert!(Client::new(&authority).connect(edge.address(), "a.example", deadline).is_ok());
}

#[test]
fn the_log_does_not_grow_with_handshakes_that_fail() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, "");
    for _ in 0..500 {
        let mut stream = TcpStream::connect(edge.address()).unwrap();
        let _ = stream.write_all(&[0x80; 64]);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    edge.until_failures("malformed", 500);
    let lines = edge.ravelin.log().lines().iter().filter(|line| line.contains("TLS handshake failed")).count();
    assert!((1..100).contains(&lines), "{lines}");
}

/// What `ravelin check` says, and whether it is content.
fn checked(directory: &Path, configuration: &str, strict: bool) -> (bool, String) {
    fs::write(directory.join("ravelin.yaml"), configuration).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"));
    command.args(["check", "-c", "ravelin.yaml"]).args(strict.then_some("--strict")).current_dir(directory);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn files_that_can_not_be_served_are_errors_with_a_place() {
    use std::os::unix::fs::PermissionsExt as _;
    let authority = Authority::new("ca");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    authority.issue(&["a.example"]).write(path, "a");
    authority.issue(&["b.example"]).write(path, "b");
    put(&path.join("json.pem"), "{\"certificate\": \"secret\"}");
    put(&path.join("empty.pem"), "");
    put(&path.join("large.pem"), &"x".repeat(2 << 20));
    fs::create_dir(path.join("folder.pem")).unwrap();
    let file = |tls: &str| {
        format!("listeners: {{main: {{address: 127.0.0.1:0, tls: {{{tls}}}}}}}\nroutes: {{all: {{respond: {{}}}}}}\n")
    };
    let pair = |cert: &str, key: &str| file(&format!("certificates: [{{cert: {cert}, key: {key}}}]"));
    for (configuration, words) in [
        (pair("json.pem", "a.key"), "BEGIN CERTIFICATE"),
        (pair("empty.pem", "a.key"), "BEGIN CERTIFICATE"),
        (pair("a.pem", "json.pem"), "BEGIN PRIVATE KEY"),
        (pair("a.key", "a.pem"), "BEGIN CERTIFICATE"),
        (pair("a.pem", "b.key"), "does not belong to the certificate"),
        (pair("none.pem", "a.key"), "no such file"),
        (pair("folder.pem", "a.key"), "this is a folder"),
        (pair("large.pem", "a.key"), "larger than 1 MiB"),
        (pair("/dev/zero", "a.key"), "this is no file"),
        (file("certificates: [{cert: a.pem, key: a.key, ocsp: json.pem}]"), "no OCSP response"),
        (file(&format!("{ONE}, client_auth: {{ca: json.pem}}")), "BEGIN CERTIFICATE"),
        (file(&format!("{ONE}, client_auth: {{ca: none.pem}}")), "no such file"),
    ] {
        let (content, said) = checked(path, &configuration, false);
        assert!(!content && said.contains(words) && said.contains("ravelin.yaml:1:"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    assert_eq!(checked(path, &pair("a.pem", "a.key"), true), (true, String::new()));
    fs::set_permissions(path.join("a.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let (content, said) = checked(path, &pair("a.pem", "a.key"), false);
    assert!(content && said.contains("its mode is 0640"), "{said}");
    assert!(!checked(path, &pair("a.pem", "a.key"), true).0);
    for (from, until, words) in [(2000, 2001, "expired at 2001-01-01"), (2900, 2950, "not valid before 2900-01-01")] {
        let kind = &PKCS_ECDSA_P256_SHA256;
        let dated = authority.issue_as(&["a.example"], kind, |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        });
        dated.write(path, "dated");
        let (content, said) = checked(path, &pair("dated.pem", "dated.key"), false);
        assert!(content && said.contains(words), "{said}");
    }
    let twice = "certificates: [{cert: b.pem, key: b.key}, {cert: a.pem, key: a.key}, {cert: a.pem, key: a.key}]";
    assert!(checked(path, &file(twice), false).1.contains("never served"));
}

#[test]
fn a_session_opens_no_other_door() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example"]).write(directory.path(), "a");
    put(&directory.path().join("clients.pem"), clients.pem());
    let file = |mode: &str| {
        format!(
            "listeners:\n  open: {{address: 127.0.0.1:0, tls: {{{ONE}}}}}\n  \
             known: {{address: 127.0.0.1:0, tls: {{{ONE}, client_auth: {{ca: clients.pem, mode: {mode}}}}}}}\n\
             routes: {{all: {{respond: {{}}}}}}\n"
        )
    };
    let edge = Edge::run(directory, &file("request"));
    let [open, known] = edge.ravelin.addresses() else { panic!("two listeners") };
    for version in [&TLS12, &TLS13] {
        // Nobody in particular, with what it remembers of the open door, and of the one that asked and let it in.
        let nobody = Client::with(&authority, None, &[version]);
        let ask = |address: &str| {
            let mut connection = nobody.connect(address, "a.example", Deadline::standard())?;
            let status = connection.get("/", "a.example")?.0;
            Ok::<_, std::io::Error>((status, connection.0.conn.handshake_kind()))
        };
        assert_eq!(ask(open).unwrap().0, 200);
        assert_eq!(ask(known).unwrap(), (200, Some(HandshakeKind::Full)));
        assert_eq!(ask(known).unwrap(), (200, Some(HandshakeKind::Resumed)));
        let reloads = edge.ravelin.log().text().matches("configuration reloaded").count();
        let reload = |mode: &str, count: usize| {
            fs::write(edge.path().join("ravelin.yaml"), file(mode)).unwrap();
            edge.ravelin.signal(Signal::HUP).unwrap();
            let deadline = Deadline::standard();
            while edge.ravelin.log().text().matches("configuration reloaded").count() < count {
                assert!(!deadline.passed(), "{}", edge.ravelin.log().text());
                thread::sleep(Duration::from_millis(5));
            }
        };
        reload("require", reloads + 1);
        assert!(ask(known).is_err(), "{version:?}");
        reload("request", reloads + 2);
    }
}

#[test]
fn an_alert_says_that_there_is_no_certificate_for_a_name() {
    let authority = Authority::new("ca");
    let edge = Edge::start(&[("a", &authority.issue(&["a.example"]))], ONE, "");
    // An ACME server that asks for a name of which nobody knows anything.
    let client = Client::new(&authority).alpn(&["acme-tls/1"]);
    let refused = client.connect(edge.address(), "a.example", Deadline::standard()).err().unwrap();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    edge.until_failures("unknown_name", 1);
    // Of protocols that nobody speaks here it is said likewise.
    let client = Client::new(&authority).alpn(&["spdy/3"]);
    let refused = client.connect(edge.address(), "a.example", Deadline::standard()).err().unwrap();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    edge.until_failures("no_common_protocol", 1);
}

#[test]
fn who_asks_for_another_name_than_those_that_are_obtained_is_told_by_an_alert() {
    let authority = Authority::new("ca");
    // Nobody answers there: names have a certificate of nobody's until somebody does.
    let nowhere = free_port();
    let acme = format!("acme: {{directory: \"http://{}/\", domains: [a.example], storage: acme}}", nowhere.address());
    let edge = Edge::start(&[], &acme, "");
    for version in [&TLS12, &TLS13] {
        let client = Client::with(&authority, None, &[version]);
        let refused = |name: &str| client.connect(edge.address(), name, Deadline::standard()).err().unwrap().to_string();
        assert!(refused("b.example").contains("UnrecognisedName"), "{version:?} {}", refused("b.example"));
        assert!(refused("a.example").contains("invalid peer certificate"), "{version:?} {}", refused("a.example"));
    }
    edge.until_failures("unknown_name", 2);
}

#[test]
fn a_client_whose_certificate_has_ended_since_resumes_nothing() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example"]).write(directory.path(), "a");
    put(&directory.path().join("clients.pem"), clients.pem());
    let edge = Edge::run(directory, &configuration(&format!("{ONE}, client_auth: {{ca: clients.pem}}"), "", ""));
    // Long enough for a slow machine to shake hands twice with each version.
    let ends = SystemTime::now() + Duration::from_secs(10);
    let ann = clients.issue_as(&[], &PKCS_ECDSA_P256_SHA256, |params| params.not_after = ends.into());
    let known = [&TLS12, &TLS13].map(|version| Client::with(&authority, Some(&ann), &[version]));
    let ask = |client: &Client| {
        let mut connection = client.connect(edge.address(), "a.example", Deadline::standard())?;
        let status = connection.get("/", "a.example")?.0;
        Ok::<_, std::io::Error>((status, connection.0.conn.handshake_kind()))
    };
    for client in &known {
        assert_eq!(ask(client).unwrap(), (200, Some(HandshakeKind::Full)));
        assert_eq!(ask(client).unwrap(), (200, Some(HandshakeKind::Resumed)));
    }
    for client in &known {
        let deadline = Deadline::standard();
        while let Ok(let_in) = ask(client) {
            assert_eq!(let_in, (200, Some(HandshakeKind::Resumed)));
            assert!(!deadline.passed(), "still let in");
            thread::sleep(Duration::from_millis(50));
        }
        assert!(SystemTime::now() + Duration::from_secs(1) >= ends);
    }
    edge.until_failures("client_certificate", 2);
}

#[test]
fn issuers_of_clients_are_followed_while_they_are_asked_for() {
    let (authority, old, new) = (Authority::new("ca"), Authority::new("old"), Authority::new("new"));
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["a.example"]).write(directory.path(), "a");
    put(&directory.path().join("clients.pem"), old.pem());
    let edge = Edge::run(directory, &configuration(&format!("{ONE}, client_auth: {{ca: clients.pem}}"), "", ""));
    let (ann, bob) = (old.client("ann"), new.client("bob"));
    let asked = |own: &Issued| {
        let client = Client::with(&authority, Some(own), &[&TLS13]);
        client.connect(edge.address(), "a.example", Deadline::standard())?.get("/", "a.example").map(|(status, _)| status)
    };
    assert_eq!(asked(&ann).unwrap(), 200);
    assert!(asked(&bob).is_err());
    put(&edge.path().join("clients.pem"), new.pem());
    edge.log("issuers of client certificates renewed");
    assert!(asked(&ann).is_err());
    assert_eq!(asked(&bob).unwrap(), 200);
    // What can't be read lets in whom it let in before.
    put(&edge.path().join("clients.pem"), "nothing of the kind");
    edge.log("certificate can't be renewed, the one before stays in force");
    assert_eq!(asked(&bob).unwrap(), 200);
}

// covers: listeners.http2
#[test]
fn http2_is_agreed_on_unless_the_file_says_otherwise() {
    let authority = Authority::new("ca");
    let files = [("a", &authority.issue(&["a.example"]))];
    for (listener, agreed) in [("", &b"h2"[..]), (", http2: false", b"http/1.1")] {
        let edge = Edge::start(&files, ONE, listener);
        let client = Client::new(&authority).alpn(&["h2", "http/1.1"]);
        let connection = client.connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        assert_eq!(connection.0.conn.alpn_protocol(), Some(agreed));
        // Who agrees on nothing speaks HTTP/1.1, and nothing else.
        let mut connection = Client::new(&authority).connect(edge.address(), "a.example", Deadline::standard()).unwrap();
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        assert_eq!(connection.response().unwrap().0, 505);
    }
}
