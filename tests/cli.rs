//! The command line as a user sees it: help, `check`, and the schema that is checked in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn ravelin(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ravelin")).args(arguments).current_dir(directory).output().unwrap()
}

fn help(arguments: &[&str]) -> String {
    let output = ravelin(Path::new("."), arguments);
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_the_program() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn help_of_run() {
    insta::assert_snapshot!(help(&["run", "--help"]));
}

#[test]
fn help_of_check() {
    insta::assert_snapshot!(help(&["check", "--help"]));
}

#[test]
fn help_of_demo() {
    insta::assert_snapshot!(help(&["demo", "--help"]));
}

/// Exit status, standard output and standard error of `check` on a file.
fn check(yaml: &str, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), yaml).unwrap();
    let output = ravelin(directory.path(), &[&["check", "-c", "edge.yaml"], arguments].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    format!("exit {}\n{}{}", output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const SOUND: &str = "listeners: {main: {address: 127.0.0.1:8080}}\nroutes: {all: {respond: {body: ok}}}\n";

const UNUSED: &str = "\
listeners: {main: {address: 127.0.0.1:8080}}
upstreams: {spare: {endpoints: [127.0.0.1:1]}}
routes: {all: {respond: {body: ok}}}
";

/// Mistakes of every stage: the shape, a value, a name, and what a filter finds in its settings.
const BROKEN: &str = "\
listeners:
  main: {adress: 127.0.0.1:8080}
upstreams:
  api:
    endpoint: [127.0.0.1:1]
    timeouts: {connect: 10 parsecs}
routes:
  all:
    filters:
      - headers: {request: {set: {content-length: \"3\"}}}
    upstream: appi
";

#[test]
fn check_of_a_sound_file() {
    insta::assert_snapshot!(check(SOUND, &[]));
}

#[test]
fn check_of_a_file_with_a_warning() {
    insta::assert_snapshot!(check(UNUSED, &[]));
    insta::assert_snapshot!("check_of_a_file_with_a_warning_strict", check(UNUSED, &["--strict"]));
}

#[test]
fn check_shows_the_mistakes_of_every_stage_at_once() {
    insta::assert_snapshot!(check(BROKEN, &[]));
}

#[test]
fn check_of_a_file_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let output = ravelin(directory.path(), &["check"]);
    insta::assert_snapshot!(String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn run_refuses_what_check_refuses() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), BROKEN).unwrap();
    let run = ravelin(directory.path(), &["run", "-c", "edge.yaml"]);
    let check = ravelin(directory.path(), &["check", "-c", "edge.yaml"]);
    assert_eq!((run.status.code(), run.stderr), (Some(1), check.stderr));
}

#[test]
fn run_only_tests_a_file_when_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), SOUND).unwrap();
    assert_eq!(ravelin(directory.path(), &["run", "-t", "-c", "edge.yaml"]).status.code(), Some(0));
}

#[test]
fn a_file_can_be_named_without_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("edge.yaml"), SOUND).unwrap();
    for arguments in [&["check", "edge.yaml"][..], &["run", "edge.yaml", "-t"]] {
        assert_eq!(ravelin(directory.path(), arguments).status.code(), Some(0), "{arguments:?}");
    }
    let twice = ravelin(directory.path(), &["check", "edge.yaml", "-c", "edge.yaml"]);
    assert_eq!(twice.status.code(), Some(2));
}

/// Whether this machine could serve it is not the file's fault, so `--strict` does not count it.
#[test]
fn check_says_what_the_machine_lacks() {
    let yaml = "user: nobody-of-this-name\ngroup: no-group-of-this-name\npid_file: /nonexistent/ravelin.pid\n\
                listeners: {main: {address: unix:/nonexistent/edge.sock}}\naccess_log: {output: {file: logs/access.log}}\n\
                routes: {all: {respond: {body: ok}}}\n";
    let said = check(yaml, &["--strict"]);
    assert!(said.starts_with("exit 0\n"), "{said}");
    for part in [
        "edge.yaml:1:7: warning: this machine has no user `nobody-of-this-name`: `ravelin run` would not start",
        "edge.yaml:2:8: warning: this machine has no group `no-group-of-this-name`",
        "edge.yaml:3:11: warning: there is no folder `/nonexistent`: `ravelin run` would not start",
        "edge.yaml:4:29: warning: there is no folder `/nonexistent`",
        "/logs`: `ravelin run` would not start",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn what_asks_needs_no_keys() {
    let directory = tempfile::tempdir().unwrap();
    let yaml = "listeners:\n  main: {address: 127.0.0.1:8443, tls: {certificates: [{cert: no.pem, key: no.key}], client_auth: {ca: no.pem}}}\n\
                upstreams: {a: {endpoints: [a.test:443], tls: {ca: no.pem, client_cert: no.pem, client_key: no.key}}}\n\
                routes: {all: {upstream: a}}\n\
                tests: [{name: a, request: {url: 'https://x.test/'}, expect: {route: all, upstream: a, endpoint: 'a.test:443'}}]\n";
    std::fs::write(directory.path().join("edge.yaml"), yaml).unwrap();
    for arguments in [&["test", "edge.yaml"][..], &["explain", "-c", "edge.yaml", "https://x.test/"]] {
        let output = ravelin(directory.path(), arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{said}");
        assert!(said.starts_with("note: not all keys and certificates can be read"), "{said}");
    }
    // What serves does.
    let said = check(yaml, &[]);
    assert!(said.starts_with("exit 1\n") && said.contains("no.pem"), "{said}");
}

#[test]
fn files_that_are_missing_are_missing_in_the_same_words() {
    let said = check(
        "listeners:\n  main: {address: 127.0.0.1:8443, tls: {certificates: [{cert: no.pem, key: no.key}]}}\n\
         errors: {404: {file: no.html}}\nroutes: {all: {respond: {}}}\n",
        &[],
    );
    assert!(said.contains("no.pem: no such file or directory"), "{said}");
    assert!(said.contains("no.key: no such file or directory"), "all at once: {said}");
    assert!(said.contains("no.html: no such file or directory") && !said.contains("os error"), "{said}");
}

#[test]
fn every_configuration_of_ours_passes_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec!["conf/ravelin.yaml".to_owned()];
    for entry in std::fs::read_dir(root.join("conf/examples")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            files.push(format!("conf/examples/{name}"));
        }
    }
    // In a copy, beside the certificates that they name.
    let copy = tempfile::tempdir().unwrap();
    assert!(Command::new("cp").arg("-r").arg(root.join("conf")).arg(copy.path()).status().unwrap().success());
    let certs = copy.path().join("conf/examples/certs");
    std::fs::create_dir_all(&certs).unwrap();
    for name in ["example.com", "example.com-rsa", "wildcard.example.org", "clients"] {
        let kind = if name.ends_with("-rsa") { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let names = vec![name.trim_end_matches("-rsa").replace("wildcard", "*")];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        std::fs::write(certs.join(format!("{name}.pem")), certificate.pem()).unwrap();
        let path = certs.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    for file in files {
        let output = ravelin(copy.path(), &["check", "--strict", "-c", &file]);
        assert!(output.status.success(), "{file}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Written anew by `RAVELIN_UPDATE=1 cargo test --test cli`.
#[test]
fn the_schema_that_is_checked_in_is_the_one_that_is_printed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema.json");
    let printed = help(&["schema"]);
    if std::env::var_os("RAVELIN_UPDATE").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == printed, "docs/schema.json is not what `ravelin schema` prints: RAVELIN_UPDATE=1 cargo test --test cli");
}
