//! Certificates that are obtained by themselves: from Pebble, by both challenges; and what becomes of it where the authority is down, slow,
//! or refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use support::pebble::{Directory, Pebble, Ports, Prepared};
use support::tls::{Authority, Client};
use support::{Connection, Deadline, Launch, Outgoing, Ravelin, Reserved, Signal, Usage, free_port, get, metric, until_metric};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// A folder with a configuration, and the two addresses that an authority knows.
struct Place {
    folder: tempfile::TempDir,
    plain: Reserved,
    tls: Reserved,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), plain: free_port(), tls: free_port() }
    }

    fn ports(&self) -> Ports {
        Ports { http: self.plain.port(), tls: self.tls.port() }
    }

    fn tls(&self) -> String {
        self.tls.address().to_string()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A section with these keys beside its directory.
    fn write(&self, directory: &str, keys: &str) {
        self.write_with(&format!("acme: {{directory: \"{directory}\", {keys}}}"));
    }

    fn write_with(&self, tls: &str) {
        let (plain, secure) = (self.plain.address(), self.tls());
        let file = format!(
            "admin: {{address: 127.0.0.1:0}}\naccess_log: {{format: json}}\nlisteners:\n  plain: {{address: \"{plain}\", redirect_to_https: true}}\n  \
             public:\n    address: \"{secure}\"\n    tls: {{{tls}}}\nroutes: {{all: {{respond: {{body: \"{{{{ request.host }}}}\"}}}}}}\n"
        );
        fs::write(self.path().join("ravelin.yaml"), file).unwrap();
    }

    fn start(&self) -> Ravelin {
        let mut ravelin = Launch::new(self.path()).spawn().unwrap();
        if let Err(problem) = ravelin.ready(2, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        ravelin
    }

    /// `check`: whether it has found no error, and what it says.
    fn check(&self) -> (bool, String) {
        let program = env!("CARGO_BIN_EXE_ravelin");
        let output = Command::new(program).args(["check", "-c", "ravelin.yaml"]).current_dir(self.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// What is kept: the files of all authorities.
    fn kept(&self, ending: &str) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.path().join("acme")).unwrap().map(|folder| folder.unwrap().path());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
        files.filter(|file| file.to_string_lossy().ends_with(ending)).collect()
    }
}

fn until(ravelin: &Ravelin, text: &str) -> String {
    let deadline = Deadline::after(Duration::from_secs(60));
    ravelin.wait_for_log(text, deadline).unwrap_or_else(|| panic!("no `{text}` in\n{}", ravelin.log().text()))
}

/// Waits until a line of the log, of so many with this text, is there.
fn until_nth(ravelin: &Ravelin, text: &str, count: usize) {
    let enough = |lines: &[String]| (lines.iter().filter(|line| line.contains(text)).count() >= count).then_some(());
    let found = ravelin.log().wait_for(Deadline::after(Duration::from_secs(60)), enough);
    assert!(found.is_some(), "not {count} times `{text}` in\n{}", ravelin.log().text());
}

/// Whether a client that trusts the authority takes what is served for this name, and gets an answer.
fn is_served(client: &Client, address: &str, name: &str) -> Result<(), String> {
    let mut connection = client.connect(address, name, Deadline::standard()).map_err(|error| error.to_string())?;
    let (status, text) = connection.get("/", name).map_err(|error| error.to_string())?;
    if status == 200 && text.ends_with(name) { Ok(()) } else { Err(text) }
}

// covers: listeners.tls.acme.domains, listeners.tls.acme.directory, listeners.tls.acme.ca, listeners.tls.acme.storage
#[test]
fn a_certificate_is_obtained_over_tls_and_kept() {
    let place = Place::new();
    let pebble = Prepared::new();
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [www.example.test, Example.TEST], ca: ca.pem, storage: acme");

    // Nobody is there yet: names are served by a certificate that nobody trusts, and the process is ready.
    let ravelin = place.start();
    until(&ravelin, "no certificate yet");
    let deadline = Deadline::standard();
    while get(&ravelin.admin().unwrap(), "/readyz") != 200 {
        assert!(!deadline.passed(), "it is not ready\n{}", ravelin.log().text());
        thread::sleep(Duration::from_millis(5));
    }
    let nobody = Client::new(&Authority::new("nobody"));
    for name in ["www.example.test", "example.test"] {
        let refused = is_served(&nobody, &place.tls(), name).unwrap_err();
        assert!(refused.contains("invalid peer certificate"), "{refused}");
    }
    let refused = is_served(&nobody, &place.tls(), "other.test").unwrap_err();
    assert!(refused.contains("alert"), "{refused}");
    let line = until(&ravelin, "certificate can't be obtained");
    assert!(line.contains("party=authority reason=unreachable"), "{line}");

    // It is tried again once there is somebody.
    let pebble = pebble.start(&place.ports(), YEAR);
    let line = until(&ravelin, "certificate obtained names=\"example.test www.example.test\"");
    assert!(line.contains("renewal="), "{line}");
    for name in ["www.example.test", "example.test"] {
        assert_eq!(is_served(&pebble.client(), &place.tls(), name), Ok(()));
    }
    assert_eq!(pebble.orders(), 1);
    let certificate = "{certificate=\"example.test\"}";
    assert_eq!(metric(&ravelin, &format!("ravelin_acme_certificates_total{certificate}")), 1.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    until_metric(&ravelin, &format!("ravelin_acme_next_order_timestamp_seconds{certificate}"), |next| next > now);
    let expiry = "ravelin_certificate_expiry_timestamp_seconds{listener=\"public\",certificate=\"example.test\"}";
    assert!(metric(&ravelin, expiry) > now);

    // For its owner alone.
    for file in place.kept("") {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    for folder in [place.path().join("acme"), place.kept(".pem")[0].parent().unwrap().to_owned()] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert!(!ravelin.log().text().contains("PRIVATE KEY"));

    // Neither a reload nor a new process orders what is there.
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "configuration reloaded");
    drop(ravelin);
    let ravelin = place.start();
    until(&ravelin, "certificate is kept names=\"example.test www.example.test\"");
    assert_eq!(is_served(&pebble.client(), &place.tls(), "www.example.test"), Ok(()));
    until_metric(&ravelin, &format!("ravelin_acme_next_order_timestamp_seconds{certificate}"), |next| next > now);
    assert_eq!(pebble.orders(), 1);
}

// covers: listeners.tls.acme.challenge
#[test]
fn a_certificate_is_obtained_over_http_while_everything_else_is_redirected() {
    let place = Place::new();
    let pebble = Pebble::start(&place.ports(), YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test, b.test, c.test], ca: ca.pem, storage: acme, challenge: http_01");
    let ravelin = place.start();
    until(&ravelin, "certificate obtained");
    let client = pebble.client();
    for name in ["a.test", "b.test", "c.test"] {
        assert_eq!(is_served(&client, &place.tls(), name), Ok(()));
    }
    // What was answered to the authority is in the access log, and by now goes its usual way.
    let asked = ravelin.stdout().wait_for(Deadline::standard(), |lines| {
        lines.iter().find(|line| line.contains("/.well-known/acme-challenge/") && line.contains("\"status\":200")).cloned()
    });
    let asked: serde_json::Value = serde_json::from_str(&asked.expect("it is recorded")).unwrap();
    let path = asked["path"].as_str().unwrap();
    for path in [path, "/.well-known/acme-challenge/x"] {
        assert_eq!(get(&place.plain.address().to_string(), path), 308);
        let mut connection = client.connect(&place.tls(), "a.test", Deadline::standard()).unwrap();
        assert!(connection.get(path, "a.test").unwrap().1.ends_with("a.test"));
    }
}

#[test]
fn a_certificate_is_renewed_before_it_expires_and_open_connections_do_not_notice() {
    let place = Place::new();
    let pebble = Pebble::start(&place.ports(), Duration::from_secs(20));
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test], ca: ca.pem, storage: acme");
    let ravelin = place.start();
    until_nth(&ravelin, "certificate obtained", 1);
    // What the test shows does not depend on how fast it is: nobody looks at the dates.
    let client = || {
        Client::new(&Authority::new("nobody"))
            .change(|config| config.dangerous().set_certificate_verifier(Arc::new(support::tls::Anybody)))
    };
    let mut open = client().connect(&place.tls(), "a.test", Deadline::after(Duration::from_secs(60))).unwrap();
    let first = open.certificate();
    assert_eq!(open.get("/", "a.test").unwrap().0, 200);
    until_nth(&ravelin, "certificate obtained", 2);
    assert_eq!(open.get("/", "a.test").unwrap().0, 200);
    // A client without a session to resume.
    let second = client().connect(&place.tls(), "a.test", Deadline::standard()).unwrap().certificate();
    assert!(first != second);
    assert!(pebble.orders() >= 2);
    assert_eq!(place.kept(".pem").len(), 1);
}

#[test]
fn names_that_change_are_ordered_anew_and_what_is_gone_is_not_served() {
    let place = Place::new();
    let pebble = Pebble::start(&place.ports(), YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test, b.test], ca: ca.pem, storage: acme");
    let ravelin = place.start();
    until_nth(&ravelin, "certificate obtained", 1);
    assert_eq!(is_served(&pebble.client(), &place.tls(), "b.test"), Ok(()));

    // Meanwhile a name that had a certificate keeps it.
    place.write(&pebble.directory(), "domains: [a.test, c.test], ca: ca.pem, storage: acme, challenge: http_01");
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "configuration reloaded");
    assert_eq!(is_served(&pebble.client(), &place.tls(), "a.test"), Ok(()));
    assert!(is_served(&pebble.client(), &place.tls(), "b.test").is_err());
    until_nth(&ravelin, "certificate obtained", 2);
    assert_eq!(is_served(&pebble.client(), &place.tls(), "c.test"), Ok(()));
    assert_eq!(pebble.orders(), 2);
    // The account is the same.
    assert_eq!(pebble.accounts(), 1);

    // A section that is gone: none of its names is served, by a listener that has another certificate.
    Authority::new("own").issue(&["own.test"]).write(place.path(), "own");
    place.write_with("certificates: [{cert: own.pem, key: own.key}]");
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "generation=3");
    let refused = is_served(&pebble.client(), &place.tls(), "a.test").unwrap_err();
    assert!(refused.contains("invalid peer certificate"), "{refused}");
}

#[test]
fn an_upgrade_orders_nothing_twice_and_nothing_while_the_old_process_accepts() {
    let place = Place::new();
    let pebble = Pebble::start(&place.ports(), YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test], ca: ca.pem, storage: acme");
    let mut first = place.start();
    until(&first, "certificate obtained");
    let upgrade = |old: &mut Ravelin| {
        let mut new = Launch::new(place.path()).arguments(["run", "-c", "ravelin.yaml", "-u"]).spawn().unwrap();
        new.ready(2, Deadline::standard()).unwrap_or_else(|problem| panic!("{problem}\n{}", new.log().text()));
        let said = new.log().text();
        old.signal(Signal::QUIT).unwrap();
        assert!(old.wait_for_exit(Deadline::standard()).unwrap().success());
        (new, said)
    };
    let (mut second, said) = upgrade(&mut first);
    assert!(said.contains("certificate is kept names=\"a.test\""), "{said}");
    // One more name, of which the authority would ask the old process too.
    place.write(&pebble.directory(), "domains: [a.test, b.test], ca: ca.pem, storage: acme");
    let (third, said) = upgrade(&mut second);
    assert!(said.contains("no certificate yet") && !said.contains("certificate obtained"), "{said}");
    until(&third, "certificate obtained names=\"a.test b.test\"");
    assert_eq!(pebble.orders(), 2);
    assert_eq!(is_served(&pebble.client(), &place.tls(), "b.test"), Ok(()));
}

#[test]
fn two_sections_with_the_same_names_share_a_certificate() {
    let place = Place::new();
    let pebble = Pebble::start(&place.ports(), YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    let (secure, other) = (place.tls(), free_port());
    let acme = format!("{{directory: \"{}\", domains: [a.test], ca: ca.pem, storage: acme}}", pebble.directory());
    let file = format!(
        "listeners:\n  one: {{address: \"{}\", tls: {{acme: {acme}}}}}\n  two: {{address: \"{secure}\", tls: {{acme: {acme}}}}}\n\
         routes: {{all: {{respond: {{body: \"{{{{ request.host }}}}\"}}}}}}\n",
        other.address()
    );
    fs::write(place.path().join("ravelin.yaml"), file).unwrap();
    let ravelin = place.start();
    until(&ravelin, "certificate obtained");
    for address in [&secure, &other.address().to_string()] {
        assert_eq!(is_served(&pebble.client(), address, "a.test"), Ok(()));
    }
    assert_eq!(pebble.orders(), 1);
}

#[test]
fn a_folder_that_the_process_may_not_write_to_needs_a_new_one() {
    let place = Place::new();
    let directory = Directory::start((503, "", ""));
    place.write(&directory.url(), "domains: [a.test], storage: acme");
    let ravelin = place.start();
    if !ravelin.log().text().contains("landlock=enforced") {
        return;
    }
    until(&ravelin, "reason=bad_answer");
    // Another authority is another folder below the same one.
    let other = Directory::start((503, "", ""));
    place.write(&other.url(), "domains: [a.test], storage: acme");
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "generation=2");
    until_nth(&ravelin, "reason=bad_answer", 2);
    place.write(&other.url(), "domains: [a.test], storage: elsewhere");
    ravelin.signal(Signal::HUP).unwrap();
    let line = until(&ravelin, "reload refused, nothing has changed");
    assert!(line.contains("`storage` is outside") && line.contains("folder="), "{line}");
}

#[test]
fn an_authority_that_has_forgotten_the_account_is_given_another() {
    let place = Place::new();
    let ports = place.ports();
    let pebble = Pebble::start(&ports, YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test], ca: ca.pem, storage: acme");
    let ravelin = place.start();
    until(&ravelin, "certificate obtained");
    drop(ravelin);
    // As if it were of an authority before this one, which has been set up anew.
    for file in place.kept(".pem") {
        fs::remove_file(file).unwrap();
    }
    let account = place.kept("account.json").remove(0);
    let text = fs::read_to_string(&account).unwrap();
    let known = text.split("/my-account/").nth(1).unwrap().split('"').next().unwrap();
    fs::write(&account, text.replace(known, "unknown")).unwrap();
    let ravelin = place.start();
    let line = until(&ravelin, "account is of no use");
    assert!(line.contains("party=authority reason=account_does_not_exist"), "{line}");
    until(&ravelin, "certificate obtained");
    assert_eq!(is_served(&pebble.client(), &place.tls(), "a.test"), Ok(()));
    drop(ravelin);
    // Likewise one that is damaged; what is no certificate is named, and obtained anew.
    fs::write(&account, "{\"email\":").unwrap();
    let certificate = place.kept(".pem").remove(0);
    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    fs::set_permissions(&certificate, Permissions::from_mode(0o640)).unwrap();
    let (good, said) = place.check();
    assert!(good && said.contains("a certificate that is kept can't be used") && said.contains("(mode 0640)"), "{said}");
    let ravelin = place.start();
    until(&ravelin, "reason=account_damaged");
    until(&ravelin, "certificate obtained");
    assert_eq!(fs::metadata(&certificate).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn who_can_not_be_reached_by_a_name_is_told_why() {
    let place = Place::new();
    // It asks where nobody answers.
    let nowhere = free_port();
    let pebble = Pebble::start(&Ports { http: nowhere.port(), tls: nowhere.port() }, YEAR);
    pebble.write_ca(&place.path().join("ca.pem"));
    place.write(&pebble.directory(), "domains: [a.test], ca: ca.pem, storage: acme");
    let ravelin = place.start();
    let line = until(&ravelin, "certificate can't be obtained");
    assert!(line.contains("party=operator") && line.contains("detail=\"a.test: "), "{line}");
    // Pebble's versions differ in what they call it.
    let reason = ["connection", "unauthorized"].into_iter().find(|reason| line.contains(&format!("reason={reason} ")));
    let reason = reason.unwrap_or_else(|| panic!("{line}"));
    let failures = format!("ravelin_acme_failures_total{{certificate=\"a.test\",party=\"operator\",reason=\"{reason}\"}}");
    assert_eq!(metric(&ravelin, &failures), 1.0);
    // The challenge is over: whoever asks by acme-tls/1 is refused, like anybody who asks for it out of turn.
    let client = pebble.client().alpn(&["acme-tls/1"]);
    assert!(client.connect(&place.tls(), "a.test", Deadline::standard()).is_err());
}

const LIMITED: &str = r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates already issued"}"#;

// covers: listeners.tls.acme.email
#[test]
fn a_limit_is_kept_even_by_the_next_process() {
    let place = Place::new();
    let directory = Directory::start((429, "retry-after: 86400\r\n", LIMITED));
    place.write(&directory.url(), "domains: [a.test], storage: acme, email: ops@example.test");
    let ravelin = place.start();
    let line = until(&ravelin, "certificate can't be obtained");
    assert!(line.contains("party=operator reason=rate_limited"), "{line}");
    let day = SystemTime::now() + Duration::from_secs(86_400);
    let next = until_metric(&ravelin, "ravelin_acme_next_order_timestamp_seconds{certificate=\"a.test\"}", |next| {
        let day = day.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        (next - day).abs() < 120.0
    });
    assert!(next > 0.0);
    assert_eq!(directory.asked("/order"), 1);
    assert!(directory.log.text().contains("mailto:ops@example.test"), "{}", directory.log.text());
    drop(ravelin);
    let ravelin = place.start();
    until_metric(&ravelin, "ravelin_acme_next_order_timestamp_seconds{certificate=\"a.test\"}", |kept| (kept - next).abs() < 2.0);
    assert_eq!((directory.asked("/order"), directory.asked("/dir")), (1, 1));
    // It serves what it has.
    assert_eq!(get(&place.plain.address().to_string(), "/"), 308);
}

#[test]
fn refusals_are_told_by_party_and_reason() {
    let reject = r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "policy forbids it",
        "subproblems": [{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "no", "identifier": {"type": "dns", "value": "a.test"}}]}"#;
    for (answer, expected) in [
        ((403, "", reject), "party=operator reason=rejected_identifier"),
        ((503, "retry-after: 7200\r\n", "<html>down</html>"), "party=authority reason=bad_answer"),
        ((429, "", "slow down"), "party=authority reason=rate_limited"),
        ((201, "location: /order/1\r\n", "{}"), "party=authority reason=bad_answer"),
        ((201, "location: /order/1\r\n", "{\"status\": \"pending\""), "party=authority reason=bad_answer"),
    ] {
        let place = Place::new();
        let directory = Directory::start(answer);
        place.write(&directory.url(), "domains: [a.test], storage: acme");
        let ravelin = place.start();
        let line = until(&ravelin, "certificate can't be obtained");
        assert!(line.contains(expected), "{line}");
        assert!(line.contains("failures=1") && line.contains("expires=none"), "{line}");
    }
}

#[test]
fn an_authority_that_never_answers_holds_nothing_up() {
    let place = Place::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/dir", silent.local_addr().unwrap());
    place.write(&url, "domains: [a.test], storage: acme");
    let mut ravelin = place.start();
    let (mut asked, _) = silent.accept().unwrap();
    let mut bytes = [0; 512];
    assert!(asked.read(&mut bytes).unwrap() > 0);
    let before = Usage::of(&ravelin).descriptors;
    // A reload does not disturb it; a section that is gone ends it.
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "generation=2");
    asked.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(asked.read(&mut bytes).is_err(), "the connection is still there");
    Authority::new("own").issue(&["own.test"]).write(place.path(), "own");
    place.write_with("certificates: [{cert: own.pem, key: own.key}]");
    ravelin.signal(Signal::HUP).unwrap();
    until(&ravelin, "generation=3");
    asked.set_read_timeout(Some(Deadline::standard().left())).unwrap();
    assert_eq!(asked.read(&mut bytes).unwrap(), 0);
    let deadline = Deadline::standard();
    while Usage::of(&ravelin).descriptors >= before {
        assert!(!deadline.passed(), "{} descriptors, {before} before", Usage::of(&ravelin).descriptors);
    }
    ravelin.signal(Signal::TERM).unwrap();
    assert!(ravelin.wait_for_exit(Deadline::standard()).unwrap().success());
}

#[test]
fn a_token_that_nobody_waits_for_is_a_request_like_any_other() {
    let place = Place::new();
    let directory = Directory::start((503, "", ""));
    place.write(&directory.url(), "domains: [a.test], storage: acme, challenge: http_01");
    let _ravelin = place.start();
    let deadline = Deadline::standard();
    let mut client = Connection::open(&place.plain.address().to_string(), deadline).unwrap();
    client.request(&Outgoing::get("/.well-known/acme-challenge/../acme-challenge/x", "a.test"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    assert_eq!(response.head.status(), Some(308));
}

#[test]
fn a_storage_that_is_of_no_use_is_an_error_with_its_place() {
    let place = Place::new();
    fs::write(place.path().join("file"), "").unwrap();
    place.write("https://ca.test/dir", "domains: [a.test], storage: file");
    let (good, said) = place.check();
    assert!(!good && said.contains("certificates can't be kept in `storage`") && said.contains("this is no folder"), "{said}");
    place.write("https://ca.test/dir", "domains: [a.test], storage: acme, ca: missing.pem");
    let (good, said) = place.check();
    assert!(!good && said.contains("missing.pem: no such file"), "{said}");
    // To check is not to make.
    place.write("https://ca.test/dir", "domains: [a.test], storage: acme");
    assert!(place.check().0 && !place.path().join("acme").exists());
}
