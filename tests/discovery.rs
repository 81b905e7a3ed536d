//! Endpoints that are looked up: by name, by service record, in a file. Resolvers fail, lie and flap; requests go on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a test may fail loudly")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::time::Duration;

use support::{Connection, Deadline, Launch, NameServer, Origin, Outgoing, Ravelin, Says, has_ipv6, metric};

fn yaml(upstream: &str) -> String {
    format!(
        "listeners: {{main: {{address: 127.0.0.1:0}}}}\nadmin: {{address: 127.0.0.1:0}}\n\
         upstreams: {{a: {{health_check: none, retry: {{retries: 0}}, {upstream}}}}}\nroutes: {{all: {{upstream: a}}}}\n"
    )
}

fn ask(ravelin: &Ravelin) -> (u16, String) {
    let deadline = Deadline::standard();
    let mut client = Connection::open(ravelin.address(), deadline).unwrap();
    client.request(&Outgoing::get("/", "a"), deadline).unwrap();
    let response = client.next_response(deadline).unwrap();
    let body = String::from_utf8_lossy(&response.body).into_owned();
    (response.head.status().unwrap(), body.lines().next().unwrap_or_default().to_owned())
}

/// Who answers, of several requests.
fn answering(ravelin: &Ravelin) -> BTreeSet<String> {
    (0..8).map(|_| ask(ravelin)).map(|(status, body)| if status == 200 { body } else { status.to_string() }).collect()
}

/// Waits until exactly these answer.
fn until(ravelin: &Ravelin, expected: &[&str]) {
    let deadline = Deadline::standard();
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    loop {
        let found = answering(ravelin);
        if found == expected {
            return;
        }
        assert!(!deadline.passed(), "{found:?}, not {expected:?}\n{}", ravelin.log().text());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Servers on one port of several addresses, each of which says its own.
struct Servers {
    port: u16,
    _accepting: Vec<std::thread::JoinHandle<()>>,
}

impl Servers {
    fn start<T: Copy + Into<IpAddr>>(addresses: &[T]) -> Self {
        loop {
            let first = TcpListener::bind((addresses[0].into(), 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let rest: Result<Vec<TcpListener>, _> =
                addresses[1..].iter().map(|ip| TcpListener::bind(((*ip).into(), port))).collect();
            let Ok(rest) = rest else { continue };
            let accepting = std::iter::once(first).chain(rest).map(|listener| std::thread::spawn(move || serve(&listener)));
            return Self { port, _accepting: accepting.collect() };
        }
    }
}

fn serve(listener: &TcpListener) {
    use std::io::{Read, Write};
    let name = listener.local_addr().unwrap().ip().to_string();
    while let Ok((mut stream, _)) = listener.accept() {
        let name = name.clone();
        std::thread::spawn(move || {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        });
    }
}

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 41);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 42);
const THIRD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 43);

fn addresses(list: &[Ipv4Addr]) -> Says {
    Says::Addresses(list.iter().map(|ip| IpAddr::V4(*ip)).collect(), 0)
}

// covers: upstreams.discover.dns.name, upstreams.discover.dns.port, upstreams.discover.dns.refresh
// covers: upstreams.discover.dns.resolver
#[test]
fn addresses_come_and_go_and_whatever_a_resolver_says_requests_go_on() {
    let servers = Servers::start(&[FIRST, SECOND]);
    let names = NameServer::start();
    names.say("web.test", addresses(&[FIRST]));
    let ravelin = Ravelin::start(&yaml(&format!(
        "discover: {{dns: {{name: Web.test., port: {}, refresh: 50ms, resolver: '{}'}}}}",
        servers.port, names.address
    )));
    assert_eq!(answering(&ravelin), BTreeSet::from([FIRST.to_string()]));
    names.say("web.test", addresses(&[FIRST, SECOND, FIRST, SECOND, SECOND]));
    until(&ravelin, &["127.0.0.41", "127.0.0.42"]);
    assert_eq!(metric(&ravelin, "ravelin_upstream_endpoints{upstream=\"a\"}"), 2.0);
    let lies = [
        Says::NoName,
        Says::Nothing,
        Says::Failure,
        Says::Silence,
        Says::WrongId(IpAddr::V4(THIRD)),
        Says::Junk,
        Says::Alias("web.test".into()),
        Says::Alias("other.test".into()),
        Says::Addresses(vec!["0.0.0.0".parse().unwrap(), "224.0.0.1".parse().unwrap()], 0),
    ];
    names.say("other.test", Says::Alias("web.test".into()));
    for lie in lies {
        let before = names.asked();
        names.say("web.test", lie.clone());
        let deadline = Deadline::standard();
        while names.asked() < before + 3 {
            assert!(!deadline.passed(), "{lie:?}: nobody is asked any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(answering(&ravelin), BTreeSet::from(["127.0.0.41".to_owned(), "127.0.0.42".to_owned()]), "{lie:?}");
    }
    assert!(ravelin.wait_for_log("discovery finds none, the last endpoints are kept for 30s", Deadline::standard()).is_some());
    assert!(ravelin.wait_for_log("discovery fails, the last endpoints are kept", Deadline::standard()).is_some());
    assert!(metric(&ravelin, "ravelin_discovery_failures_total{upstream=\"a\"}") >= 1.0);
    // Somebody else's address beside one of its own, and its own under another name.
    names.say("web.test", Says::Besides(IpAddr::V4(SECOND), IpAddr::V4(THIRD)));
    until(&ravelin, &["127.0.0.42"]);
    names.say("other.test", addresses(&[FIRST]));
    names.say("web.test", Says::Alias("other.test".into()));
    until(&ravelin, &["127.0.0.41"]);
    names.say("web.test", addresses(&[SECOND]));
    until(&ravelin, &["127.0.0.42"]);
    // More than an answer over UDP holds, and than an upstream can have.
    let many: Vec<IpAddr> = (0..2000_u32).map(|n| IpAddr::V4(Ipv4Addr::from(0x7f01_0000 + n))).collect();
    names.say("web.test", Says::Addresses(many, 0));
    let deadline = Deadline::standard();
    while metric(&ravelin, "ravelin_upstream_endpoints{upstream=\"a\"}") < 1024.0 {
        assert!(!deadline.passed(), "{}", ravelin.log().text());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(ravelin.wait_for_log("discovery finds too many endpoints", Deadline::standard()).is_some());
}

/// Both families of a name, and of the host of a service record.
#[test]
fn a_family_that_fails_is_as_it_was() {
    if !has_ipv6() {
        return eprintln!("not played: there is no [::1]");
    }
    let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let servers = Servers::start(&[IpAddr::V4(FIRST), IpAddr::V4(SECOND), six]);
    let names = NameServer::start();
    names.say("_http._tcp.web.test", Says::Services(vec![(1, 1, servers.port, "web.test".into())]));
    names.say("web.test", Says::Addresses(vec![IpAddr::V4(FIRST), six], 0));
    let by_name = format!("dns: {{name: web.test, port: {}, refresh: 50ms, resolver: '{}'}}", servers.port, names.address);
    let by_port = format!("dns_srv: {{name: _http._tcp.web.test, refresh: 50ms, resolver: '{}'}}", names.address);
    let followed = [by_name, by_port].map(|discover| Ravelin::start(&yaml(&format!("discover: {{{discover}}}"))));
    let each = |expected: &[&str]| followed.iter().for_each(|ravelin| until(ravelin, expected));
    let failures = |ravelin: &Ravelin| metric(ravelin, "ravelin_discovery_failures_total{upstream=\"a\"}");
    let fails_again = || {
        for ravelin in &followed {
            let (before, deadline) = (failures(ravelin), Deadline::standard());
            while failures(ravelin) < before + 2.0 {
                assert!(!deadline.passed(), "{}", ravelin.log().text());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    };
    let said = |text: &str| followed.iter().map(|ravelin| ravelin.log().text().matches(text).count()).collect::<Vec<_>>();
    let families = |v6: Says, rest: Says| names.say("web.test", Says::V6Else(v6.into(), rest.into()));
    each(&["127.0.0.41", "::1"]);
    assert_eq!(followed.each_ref().map(failures), [0.0, 0.0]);
    // What the other family says is taken all the same.
    families(Says::Failure, addresses(&[FIRST, SECOND]));
    each(&["127.0.0.41", "127.0.0.42", "::1"]);
    fails_again();
    assert_eq!(said("discovery fails in part, the last endpoints of that part are kept"), [1, 1], "it is said once");
    families(Says::Silence, addresses(&[SECOND]));
    each(&["127.0.0.42", "::1"]);
    families(Says::Addresses(vec![six], 0), Says::Failure);
    fails_again();
    each(&["127.0.0.42", "::1"]);
    families(Says::Addresses(vec![six], 0), addresses(&[FIRST]));
    each(&["127.0.0.41", "::1"]);
    for ravelin in &followed {
        assert!(ravelin.wait_for_log("discovery finds endpoints again", Deadline::standard()).is_some());
    }
    // It says that there is none, which is an answer: from then on it is not missed.
    families(Says::Nothing, addresses(&[SECOND]));
    each(&["127.0.0.42"]);
    let before = (followed.each_ref().map(failures), said("discovery fails"));
    families(Says::Failure, addresses(&[FIRST]));
    each(&["127.0.0.41"]);
    families(Says::Silence, addresses(&[FIRST, SECOND]));
    each(&["127.0.0.41", "127.0.0.42"]);
    assert_eq!((followed.each_ref().map(failures), said("discovery fails")), before);
}

#[test]
fn a_ttl_is_respected() {
    let servers = Servers::start(&[FIRST, SECOND]);
    let names = NameServer::start();
    names.say("web.test", Says::Addresses(vec![IpAddr::V4(FIRST)], 3600));
    let section = |refresh: &str| {
        format!(
            "discover: {{dns: {{name: web.test, port: {}, refresh: {refresh}, resolver: '{}'}}}}",
            servers.port, names.address
        )
    };
    let ravelin = Ravelin::start(&yaml(&section("10ms")));
    assert_eq!(answering(&ravelin), BTreeSet::from([FIRST.to_string()]));
    // Both families, before the first request and once more when the upstream begins to follow them.
    let deadline = Deadline::standard();
    while names.asked() < 4 {
        assert!(!deadline.passed(), "asked {} times", names.asked());
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = names.asked();
    for _ in 0..20 {
        assert_eq!(ask(&ravelin).0, 200);
    }
    assert_eq!(names.asked(), asked, "the answer holds for an hour");
}

// covers: upstreams.discover.dns_srv.name, upstreams.discover.dns_srv.refresh, upstreams.discover.dns_srv.resolver
#[test]
fn a_service_record_has_ports_weights_and_priorities() {
    let servers = Servers::start(&[FIRST, SECOND, THIRD]);
    let names = NameServer::start();
    let (service, port) = ("_http._tcp.web.test", servers.port);
    for (host, ip) in [("one.test", FIRST), ("two.test", SECOND), ("three.test", THIRD)] {
        names.say(host, addresses(&[ip]));
    }
    let record = |priority, weight, host: &str| (priority, weight, port, host.to_owned());
    names.say(service, Says::Services(vec![record(1, 0, "one.test"), record(1, 3, "two.test"), record(2, 9, "three.test")]));
    let ravelin = Ravelin::start(
        &yaml(&format!("discover: {{dns_srv: {{name: {service}, refresh: 50ms, resolver: '{}'}}}}", names.address))
            .replace("health_check: none", "health_check: {tcp: {interval: 100ms}}"),
    );
    // By weight, of which 0 is the smallest: one in four.
    let mut answers: Vec<String> = (0..8).map(|_| ask(&ravelin).1).collect();
    answers.sort();
    assert_eq!(answers.iter().filter(|answer| **answer == FIRST.to_string()).count(), 2, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| **answer == SECOND.to_string()).count(), 6, "{answers:?}");
    // A host that can't be looked up any more is as it was; one that is gone is gone.
    names.say("one.test", Says::Failure);
    names.say(service, Says::Services(vec![record(1, 1, "one.test"), record(2, 9, "three.test")]));
    until(&ravelin, &["127.0.0.41"]);
    // No target, and a target that is decidedly none.
    names.say(service, Says::Services(vec![record(5, 0, "three.test"), record(1, 1, ".")]));
    until(&ravelin, &["127.0.0.43"]);
}

/// A headless service of Kubernetes, as CoreDNS answers for one: the addresses of its ready pods, for few seconds
/// (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>, 2.4), and a service record for each named port, whose hosts are
/// the pods by their addresses with dashes. While none is ready there is no such name, or nothing under it.
#[test]
fn a_headless_service_of_kubernetes_is_followed() {
    let pods = [FIRST, SECOND, THIRD];
    let servers = Servers::start(&pods);
    let names = NameServer::start();
    let service = "web.shop.svc.cluster.local";
    let record = format!("_http._tcp.{service}");
    let host = |ip: &Ipv4Addr| format!("{}.{service}", ip.to_string().replace('.', "-"));
    let ready = |list: &[Ipv4Addr]| {
        names.say(service, Says::Addresses(list.iter().map(|ip| IpAddr::V4(*ip)).collect(), 1));
        for ip in list {
            names.say(&host(ip), Says::Addresses(vec![IpAddr::V4(*ip)], 1));
        }
        // CoreDNS shares a hundred out.
        let weight = 100 / list.len() as u16;
        names.say(&record, Says::Services(list.iter().map(|ip| (0, weight, servers.port, host(ip))).collect()));
    };
    ready(&pods[..2]);
    let by_name = format!("dns: {{name: {service}, port: {}, refresh: 50ms, resolver: '{}'}}", servers.port, names.address);
    let by_port = format!("dns_srv: {{name: {record}, refresh: 50ms, resolver: '{}'}}", names.address);
    let followed: Vec<Ravelin> =
        [by_name, by_port].map(|discover| Ravelin::start(&yaml(&format!("discover: {{{discover}}}")))).into();
    let each = |expected: &[&str]| followed.iter().for_each(|ravelin| until(ravelin, expected));
    each(&["127.0.0.41", "127.0.0.42"]);
    // It grows, and a pod is replaced by another.
    ready(&pods);
    each(&["127.0.0.41", "127.0.0.42", "127.0.0.43"]);
    ready(&pods[1..]);
    names.say(&host(&FIRST), Says::NoName);
    each(&["127.0.0.42", "127.0.0.43"]);
    // None is ready any more, says the one version, and the other.
    for none in [Says::NoName, Says::Nothing] {
        names.say(service, none.clone());
        names.say(&record, none.clone());
        let (before, deadline) = (names.asked(), Deadline::standard());
        while names.asked() < before + 6 {
            assert!(!deadline.passed(), "{none:?}: nobody is asked any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        each(&["127.0.0.42", "127.0.0.43"]);
    }
    for ravelin in &followed {
        assert!(
            ravelin.wait_for_log("discovery finds none, the last endpoints are kept for 30s", Deadline::standard()).is_some()
        );
    }
    ready(&pods[..1]);
    each(&["127.0.0.41"]);
}

/// A name server that a process may take for its system's. `None`: not here, which is said.
fn systems_own(at: Ipv4Addr) -> Option<NameServer> {
    let may_mount = std::process::Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    let names = NameServer::at(at.into()).ok().filter(|_| may_mount);
    if names.is_none() {
        eprintln!("not played: it takes root, and port 53 of {at}");
    }
    names
}

/// A pod's own resolver has domains to search, and `ndots:5`: a service is found by as much of its name as a pod says.
#[test]
fn short_names_are_searched_for_as_pods_do() {
    let pods = Ipv4Addr::new(127, 0, 53, 53);
    let Some(names) = systems_own(pods) else { return };
    let servers = Servers::start(&[FIRST, SECOND]);
    names.say("web.shop.svc.cluster.local", addresses(&[FIRST]));
    names.say(
        "_http._tcp.api.other.svc.cluster.local",
        Says::Services(vec![(0, 100, servers.port, "127-0-0-42.api.other.svc.cluster.local".into())]),
    );
    names.say("127-0-0-42.api.other.svc.cluster.local", addresses(&[SECOND]));
    for (discover, answers) in [
        (format!("dns: {{name: web, port: {}, refresh: 50ms}}", servers.port), FIRST),
        ("dns_srv: {name: _http._tcp.api.other, refresh: 50ms}".to_owned(), SECOND),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ravelin.yaml"), yaml(&format!("discover: {{{discover}}}"))).unwrap();
        let resolver = directory.path().join("resolv.conf");
        let domains = "search shop.svc.cluster.local svc.cluster.local cluster.local";
        fs::write(&resolver, format!("nameserver {pods}\n{domains}\noptions ndots:5\n")).unwrap();
        let mut ravelin = Launch::new(directory.path()).resolves_by(&resolver).spawn().unwrap();
        if let Err(problem) = ravelin.ready(1, Deadline::standard()) {
            panic!("{problem}\n{}", ravelin.log().text());
        }
        until(&ravelin, &[&answers.to_string()]);
    }
}

/// The name of an endpoint that stands in the file.
#[test]
fn a_name_that_does_not_resolve_keeps_its_addresses() {
    let server = Ipv4Addr::new(127, 0, 53, 54);
    let Some(names) = systems_own(server) else { return };
    let servers = Servers::start(&[FIRST, SECOND]);
    names.say("app.test", addresses(&[FIRST]));
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ravelin.yaml"), yaml(&format!("endpoints: ['app.test:{}']", servers.port))).unwrap();
    let resolver = directory.path().join("resolv.conf");
    fs::write(&resolver, format!("nameserver {server}\noptions timeout:1 attempts:1\n")).unwrap();
    let mut ravelin = Launch::new(directory.path()).resolves_by(&resolver).spawn().unwrap();
    if let Err(problem) = ravelin.ready(1, Deadline::standard()) {
        panic!("{problem}\n{}", ravelin.log().text());
    }
    until(&ravelin, &["127.0.0.41"]);
    let said = |what: &str| ravelin.log().text().lines().filter(|line| line.contains(what)).count();
    let before = names.asked();
    names.say("app.test", Says::Failure);
    let deadline = Deadline::after(Duration::from_secs(60));
    // Each time for both families; twice, so that a second line could have been written.
    while names.asked() < before + 5 {
        assert!(!deadline.passed(), "nobody is asked any more");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(answering(&ravelin), BTreeSet::from([FIRST.to_string()]));
    assert_eq!(said("endpoint name does not resolve upstream=a name=app.test"), 1, "{}", ravelin.log().text());
    names.say("app.test", addresses(&[SECOND]));
    assert!(ravelin.wait_for_log("endpoint name resolves again upstream=a", Deadline::after(Duration::from_secs(60))).is_some());
    until(&ravelin, &["127.0.0.42"]);
}

// covers: upstreams.discover.file.path
#[test]
fn a_file_is_read_anew_when_it_changes_and_only_if_it_is_sound() {
    let (a, b) = (Origin::start("a", vec![]), Origin::start("b", vec![]));
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("endpoints.yaml");
    let write = |text: &str| {
        let beside = directory.path().join("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, &list).unwrap();
    };
    write(&format!("- {}\n", a.address()));
    fs::write(directory.path().join("ravelin.yaml"), yaml("discover: {file: {path: endpoints.yaml}}")).unwrap();
    let mut ravelin = Launch::new(directory.path()).spawn().unwrap();
    ravelin.ready(1, Deadline::standard()).unwrap();
    until(&ravelin, &["a"]);
    write(&format!("[\"{}\", {{\"address\": \"{}\", \"weight\": 2}}]", a.address(), b.address()));
    until(&ravelin, &["a", "b"]);
    // Given twice it is one endpoint, as it is given first.
    write(&format!("- {0}\n- {{address: \"{0}\", weight: 9}}\n- {1}\n- {1}\n", a.address(), b.address()));
    assert!(ravelin.wait_for_log("endpoints=4", Deadline::standard()).is_some(), "{}", ravelin.log().text());
    until(&ravelin, &["a", "b"]);
    assert_eq!(metric(&ravelin, "ravelin_upstream_endpoints{upstream=\"a\"}"), 2.0);
    for (number, wrong) in ["- 127.0.0.1:80\n- 127.0.0.", "{}", "- nonsense\n", ""].into_iter().enumerate() {
        write(wrong);
        let told = ravelin.log().wait_for(Deadline::standard(), |lines| {
            (lines.iter().filter(|line| line.contains("discovery can't use its file")).count() > number).then_some(())
        });
        assert!(told.is_some(), "{wrong:?}\n{}", ravelin.log().text());
        assert_eq!(answering(&ravelin), BTreeSet::from(["a".to_owned(), "b".to_owned()]), "{wrong:?}");
    }
    write(&format!("- {}\n", b.address()));
    until(&ravelin, &["b"]);
    write("[]\n");
    until(&ravelin, &["503"]);
    assert_eq!(metric(&ravelin, "ravelin_discovery_failures_total{upstream=\"a\"}"), 4.0);
    // At start it must be there and sound.
    write("nonsense");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(["check", "-c", "ravelin.yaml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let report = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && report.contains("ravelin.yaml:3:") && report.contains("endpoints.yaml:"), "{report}");
}

#[test]
fn offline_nobody_is_asked() {
    let names = NameServer::start();
    let directory = tempfile::tempdir().unwrap();
    let section = format!("discover: {{dns: {{name: web.test, port: 8080, resolver: '{}'}}}}", names.address);
    fs::write(directory.path().join("ravelin.yaml"), yaml(&section)).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ravelin"))
        .args(["explain", "-c", "ravelin.yaml", "GET", "http://a/"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("web.test:8080"), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names.asked(), 0);
}
