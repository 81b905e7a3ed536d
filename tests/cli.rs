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
