//! The table of the reference, case by case, and against a matcher that is too plain to be wrong.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::config::testing::decoded;
use crate::config::{Conditions, ValueMatch};
use crate::router::explain::Candidate;
use crate::router::rank::Criterion;
use crate::types::{PathPattern, path};

/// A route of a test: `match`, its listeners, and whether `//` is kept.
#[derive(Debug, Clone)]
struct Row {
    matches: Match,
    listeners: Vec<&'static str>,
    keeps_slashes: bool,
}

/// A request of a test, its path as it was sent.
#[derive(Debug, Clone)]
struct Request {
    method: http::Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    client: Option<IpAddr>,
    listener: Option<usize>,
}

fn row(matches: &str) -> Row {
    reading(matches, false)
}

/// A row as the configuration makes it for `merge_slashes`.
fn reading(matches: &str, keeps_slashes: bool) -> Row {
    let mut matches: Match = decoded(matches).unwrap();
    for path in &mut matches.paths {
        path.value = path.value.clone().over(!keeps_slashes);
    }
    Row { matches, listeners: Vec::new(), keeps_slashes }
}

fn router(rows: &[Row]) -> Router {
    let mut router = Router::new(["a".into(), "b".into()]);
    for row in rows {
        router.add(row.matches.clone(), row.listeners.iter().copied(), row.keeps_slashes);
    }
    router.finish();
    router
}

/// `GET http://host/path?query` with headers and a client of 10.1.2.3.
fn get(url: &str, headers: &[(&str, &str)]) -> Request {
    let (host, rest) = url.split_once('/').unwrap_or((url, ""));
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query.to_owned())));
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    Request {
        method: http::Method::GET,
        host: host.to_owned(),
        path: format!("/{path}"),
        query,
        headers: headers.iter().map(field).collect(),
        client: Some("10.1.2.3".parse().unwrap()),
        listener: Some(0),
    }
}

impl Request {
    fn forms(&self) -> (Cow<'_, str>, Option<Cow<'_, str>>) {
        let unmerged = self.path.contains("//").then(|| path::normalise_unmerged(&self.path).unwrap());
        (path::normalise(&self.path).unwrap(), unmerged)
    }

    fn asked<T>(&self, ask: impl FnOnce(&Question<'_>) -> T) -> T {
        let (path, unmerged) = self.forms();
        ask(&Question {
            host: &self.host,
            path: &path,
            unmerged: unmerged.as_deref(),
            method: &self.method,
            query: self.query.as_deref(),
            client: self.client,
            listener: self.listener,
            headers: &self.headers,
        })
    }
}

fn find(rows: &[Row], request: &Request) -> Option<usize> {
    request.asked(|question| router(rows).find(question)).map(|found| found.route)
}

fn rows(matches: &[&str]) -> Vec<Row> {
    matches.iter().map(|text| row(text)).collect()
}

#[test]
fn the_most_specific_host_wins_even_with_a_vaguer_path() {
    let table = rows(&[
        "{paths: [/a]}",
        "{hosts: ['*.example.com'], paths: [/a/*]}",
        "{hosts: ['*.b.example.com'], paths: [/*]}",
        "{hosts: [x.b.example.com]}",
    ]);
    let find = |url| find(&table, &get(url, &[]));
    assert_eq!(find("x.b.example.com/a"), Some(3));
    assert_eq!(find("y.b.example.com/a"), Some(2));
    assert_eq!(find("z.example.com/a/b"), Some(1));
    assert_eq!(find("example.com/a"), Some(0));
    assert_eq!(find("example.com/b"), None);
}

#[test]
fn exact_beats_regex_beats_longest_prefix_beats_any() {
    let table = rows(&[
        "{}",
        "{paths: [/*]}",
        "{paths: [/a/*]}",
        "{paths: [{regex: '^/a/b/[0-9]+$'}]}",
        "{paths: [/a/b/*]}",
        "{paths: [/a/b, /a/b/7]}",
    ]);
    let cases = [
        ("h/a/b", 5),
        ("h/a/b/7", 5),
        ("h/a/b/8", 3),
        ("h/a/b/8/c", 4),
        ("h/a/b/", 4),
        ("h/a/bc", 2),
        ("h/a", 2),
        ("h/a/", 2),
        ("h/ab", 1),
        ("h/", 1),
    ];
    for (url, index) in cases {
        assert_eq!(find(&table, &get(url, &[])), Some(index), "{url}");
    }
    let options = Request { path: "*".to_owned(), ..get("h/", &[]) };
    assert_eq!(find(&table, &options), Some(0));
}

#[test]
fn the_number_of_conditions_decides_in_the_order_of_the_reference() {
    let table = rows(&[
        "{}",
        "{client_ips: [10.0.0.0/8]}",
        "{cookies: {c: x, d: {present: true}}}",
        "{query: {q: '1'}}",
        "{headers: {x-a: '1'}}",
        "{headers: {x-a: '1', x-b: {regex: '^2'}}}",
        "{methods: [PUT, GET]}",
    ]);
    let find = |url, headers: &[(&str, &str)], rows: &[Row]| find(rows, &get(url, headers));
    let all = [("x-a", "1"), ("x-b", "23"), ("cookie", "c=x; d=1")];
    for (rows, expected) in [(7, 6), (6, 5), (5, 4), (4, 3), (3, 2), (2, 1), (1, 0)] {
        assert_eq!(find("h/?q=1", &all, &table[..rows]), Some(expected));
    }
    assert_eq!(find("h/?q=1", &[("x-b", "23"), ("cookie", "c=x")], &table[..6]), Some(3));
}

#[test]
fn a_route_that_does_not_match_in_full_makes_way_for_a_vaguer_one() {
    let table = rows(&["{hosts: [a.example], paths: [/x], methods: [POST]}", "{hosts: ['*.example'], headers: {x: '1'}}", "{}"]);
    assert_eq!(find(&table, &get("a.example/x", &[])), Some(2));
    assert_eq!(find(&table, &get("a.example/x", &[("x", "1")])), Some(1));
    assert_eq!(find(&table, &Request { method: http::Method::POST, ..get("a.example/x", &[]) }), Some(0));
}

#[test]
fn one_of_several_fields_of_a_name_is_enough() {
    let meets = |condition: &str, fields: &[(&str, &str)]| find(&rows(&[condition]), &get("h/", fields)).is_some();
    let twice = [("x-a", "1"), ("x-a", "two")];
    assert!(meets("{headers: {X-A: two}}", &twice) && meets("{headers: {x-a: {regex: ^1$}}}", &twice));
    assert!(!meets("{headers: {x-a: '1, two'}}", &twice) && !meets("{headers: {x-a: TWO}}", &twice));
    assert!(meets("{headers: {x-a: {present: true}}}", &twice) && !meets("{headers: {x-a: {present: false}}}", &twice));
    assert!(meets("{headers: {x-a: {present: false}}}", &[]) && !meets("{headers: {x-a: {present: true}}}", &[]));
    assert!(meets("{headers: {x-a: {present: true}}}", &[("x-a", "")]));
}

#[test]
fn queries_are_compared_decoded() {
    let meets = |condition: &str, query: &str| find(&rows(&[condition]), &get(&format!("h/?{query}"), &[])).is_some();
    for query in ["beta=a+b", "beta=a%20b", "b%65ta=%61%20b", "x&beta=c&beta=a+b&", "&&beta=a+b"] {
        assert!(meets("{query: {beta: a b}}", query), "{query}");
    }
    for query in ["", "beta", "Beta=a+b", "beta=a+b+", "xbeta=a+b", "beta=a%2+b"] {
        assert!(!meets("{query: {beta: a b}}", query), "{query}");
    }
    assert!(meets("{query: {beta: {present: true}}}", "beta") && meets("{query: {beta: ''}}", "beta"));
    assert!(meets("{query: {beta: {regex: '^a b$'}}}", "beta=%61+b") && meets("{query: {'a b': '%zz'}}", "a+b=%zz"));
    assert!(meets("{query: {beta: {present: false}}}", "beta2"));
}

#[test]
fn cookies_come_in_one_field_or_several() {
    let meets = |condition: &str, fields: &[&str]| {
        find(&rows(&[condition]), &get("h/", &fields.iter().map(|f| ("cookie", *f)).collect::<Vec<_>>())).is_some()
    };
    assert!(meets("{cookies: {group: b}}", &["a=1; group=b;c=2"]) && meets("{cookies: {group: b}}", &["a=1", "group=b"]));
    assert!(!meets("{cookies: {group: b}}", &["Group=b; xgroup=b; group=bb; group"]));
    assert!(meets("{cookies: {group: a=b}}", &["group=a=b"]) && meets("{cookies: {group: {regex: ^b}}}", &["group=bb"]));
    assert!(!meets("{cookies: {group: {present: true}}}", &[]) && meets("{cookies: {group: {present: false}}}", &["a=1"]));
}

#[test]
fn clients_and_listeners() {
    let table = rows(&["{client_ips: [10.0.0.0/8, 2001:db8::1]}"]);
    let from = |client: Option<&str>| {
        let request = Request { client: client.map(|ip| ip.parse().unwrap()), ..get("h/", &[]) };
        find(&table, &request).is_some()
    };
    assert!(from(Some("10.9.9.9")) && from(Some("2001:db8::1")) && from(Some("::ffff:10.1.1.1")));
    assert!(!from(Some("11.0.0.1")) && !from(Some("2001:db8::2")) && !from(None));

    let table = [Row { listeners: vec!["b"], ..row("{paths: [/x]}") }, row("{}")];
    let through = |listener| find(&table, &Request { listener, ..get("h/x", &[]) });
    assert_eq!([through(Some(0)), through(Some(1)), through(None)], [Some(1), Some(0), Some(1)]);
    let nobodys = [Row { listeners: vec!["unknown"], ..row("{}") }];
    assert_eq!(find(&nobodys, &get("h/", &[])), None);
}

#[test]
fn the_form_that_matched_is_named() {
    let table = [row("{paths: [/a/b]}"), reading("{paths: [/a//b, /c/*]}", true), row("{paths: [/*]}")];
    let router = router(&table);
    let find = |url| get(url, &[]).asked(|question| router.find(question)).map(|found| (found.route, found.keeps_slashes));
    assert_eq!(find("h/a/b"), Some((0, false)));
    assert_eq!(find("h/c//d"), Some((1, true)));
    assert_eq!(find("h//c/d"), Some((2, false)));
    // Both are exact: the file decides.
    assert_eq!(find("h/a//b"), Some((0, false)));
}

#[test]
fn a_host_longer_than_any_name_or_of_very_many_labels_costs_little() {
    let table = rows(&["{hosts: ['*.b.c']}", "{}"]);
    assert_eq!(find(&table, &get(&("a.".repeat(4000) + "b.c/"), &[])), Some(1));
    assert_eq!(find(&table, &get(&("a.".repeat(100) + "b.c/"), &[])), Some(0));
}

#[test]
fn an_explanation_names_the_first_condition_that_fails() {
    let table = [
        row("{}"),
        row("{hosts: [a.com], paths: [/x/*], headers: {x-env: canary}}"),
        row("{hosts: [a.com], paths: [/x]}"),
        row("{hosts: [b.com]}"),
        row("{paths: [{regex: ^/y}]}"),
        Row { listeners: vec!["b"], ..row("{hosts: [a.com], paths: [/x]}") },
    ];
    let request = get("a.com/x", &[("x-env", "prod"), ("x-env", "test")]);
    let text = |candidate: &Candidate| format!("{}: {}", candidate.route, candidate.verdict);
    let lines: Vec<String> = request.asked(|question| router(&table).explain(question)).iter().map(text).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    2: taken
    5: listeners: [b] does not hold for a
    1: headers: {x-env: canary} does not hold for prod, test
    0: matches too, but the taken one names this host, and this one takes any
    4: paths: [{regex: ^/y}] does not hold for /x
    3: hosts: [b.com] does not hold for a.com
    ");
}

#[test]
fn criteria_are_the_first_difference() {
    let by = |winner: &str, other: &str| {
        let candidates = get("a.b/x?q=1", &[("h", "1"), ("cookie", "c=1")])
            .asked(|question| router(&rows(&[other, winner])).explain(question));
        assert_eq!((candidates[0].route, &candidates[0].verdict), (1, &Verdict::Taken));
        match candidates[1].verdict {
            Verdict::Outranked(by, _) => by,
            _ => panic!("{:?}", candidates[1]),
        }
    };
    assert_eq!(by("{hosts: [a.b]}", "{paths: [/x]}"), Criterion::Host);
    assert_eq!(by("{paths: [/x]}", "{paths: [{regex: x}]}"), Criterion::Path);
    assert_eq!(by("{methods: [GET]}", "{headers: {h: '1'}}"), Criterion::Method);
    assert_eq!(by("{headers: {h: '1'}}", "{query: {q: '1'}}"), Criterion::Headers);
    assert_eq!(by("{query: {q: '1'}}", "{cookies: {c: '1'}}"), Criterion::Query);
    assert_eq!(by("{cookies: {c: '1'}}", "{client_ips: [10.0.0.0/8]}"), Criterion::Cookies);
    assert_eq!(by("{client_ips: [10.0.0.0/8]}", "{}"), Criterion::ClientIps);
}

/// The reference matcher: all routes that match, sorted by the ranking as the reference of the configuration has it.
fn plainly(rows: &[Row], request: &Request) -> Option<usize> {
    let matching = rows.iter().enumerate().filter_map(|(index, row)| Some((plain_rank(row, request)?, index)));
    matching.min().map(|(_, index)| index)
}

/// Smaller is more specific; `None`: it does not match.
fn plain_rank(row: &Row, request: &Request) -> Option<impl Ord + use<>> {
    let matches = &row.matches;
    let (merged, unmerged) = request.forms();
    let path = if row.keeps_slashes { unmerged.unwrap_or(merged) } else { merged };
    let host = matches.hosts.iter().filter(|host| host.matches(&request.host)).map(|host| match &host.value {
        HostPattern::Exact(_) => (0, 0),
        HostPattern::Wildcard(suffix) => (1, 255 - suffix.len()),
        HostPattern::Any => (2, 0),
    });
    let host = if matches.hosts.is_empty() { (2, 0) } else { host.min()? };
    let paths = matches.paths.iter().filter(|pattern| pattern.matches(&path)).map(|pattern| match &pattern.value {
        PathMatch::Pattern { pattern: PathPattern::Exact(_), .. } => (0, 0),
        PathMatch::Regex(_) => (1, 0),
        PathMatch::Pattern { pattern: PathPattern::Prefix(prefix), .. } => (2, 1000 - prefix.len()),
    });
    let path = if matches.paths.is_empty() { (3, 0) } else { paths.min()? };
    let one_of = |empty: bool, any: bool| empty || any;
    let methods = one_of(matches.methods.is_empty(), matches.methods.iter().any(|method| *method.as_http() == request.method));
    let clients = one_of(
        matches.client_ips.is_empty(),
        matches.client_ips.iter().any(|network| request.client.is_some_and(|client| network.contains(client))),
    );
    let listener = request.listener.map(|index| ["a", "b"][index]);
    let listeners = one_of(row.listeners.is_empty(), row.listeners.iter().any(|name| listener == Some(*name)));
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let headers = plain_values(&matches.headers, |name| request.headers.get_all(name.as_str()).iter().map(text).collect());
    let query = plain_values(&matches.query, |name| {
        let pairs = request.query.iter().flat_map(|query| query.split('&'));
        pairs
            .filter_map(|pair| pair.split_once('='))
            .filter(|(given, _)| given == name)
            .map(|(_, value)| value.to_owned())
            .collect()
    });
    let cookies = plain_values(&matches.cookies, |name| {
        let fields: Vec<String> = request.headers.get_all("cookie").iter().map(text).collect();
        let pairs = fields.iter().flat_map(|field| field.split("; ")).filter_map(|pair| pair.split_once('='));
        pairs.filter(|(given, _)| *given == name.as_str()).map(|(_, value)| value.to_owned()).collect()
    });
    let counts = (usize::MAX - matches.headers.0.len(), usize::MAX - matches.query.0.len(), usize::MAX - matches.cookies.0.len());
    (methods && clients && listeners && headers && query && cookies).then_some((
        host,
        path,
        matches.methods.is_empty(),
        counts,
        matches.client_ips.is_empty(),
    ))
}

fn plain_values<K>(conditions: &Conditions<K>, values: impl Fn(&K) -> Vec<String>) -> bool {
    conditions.0.iter().all(|(name, condition)| {
        let values = values(&name.value);
        match &condition.value {
            ValueMatch::Exact(text) => values.contains(text),
            ValueMatch::Present(present) => values.is_empty() != *present,
            ValueMatch::Regex(regex) => values.iter().any(|value| regex.is_match(value.as_bytes())),
        }
    })
}

fn some_of(key: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        3 => proptest::sample::subsequence(values, 1..3).prop_shuffle().prop_map(move |some| format!("{key}: [{}], ", some.join(", "))),
    ]
}

fn some_values(key: &'static str, names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let value = prop_oneof![Just("'1'"), Just("{present: true}"), Just("{present: false}"), Just("{regex: '^[12]$'}")];
    let named = proptest::sample::subsequence(names, 1..3);
    prop_oneof![
        4 => Just(String::new()),
        1 => (named, proptest::collection::vec(value, 2)).prop_map(move |(names, values)| {
            let all: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name}: {value}")).collect();
            format!("{key}: {{{}}}, ", all.join(", "))
        }),
    ]
}

fn any_row() -> impl Strategy<Value = Row> {
    let hosts = some_of("hosts", &["a.b.c", "b.c", "'*.b.c'", "'*.c'", "x.c", "'*'"]);
    let paths = some_of(
        "paths",
        &[
            "/a",
            "/a/*",
            "/a/b",
            "/a/b/*",
            "/a//b",
            "/a//*",
            "/*",
            "/",
            "{regex: '^/a/[bc]'}",
            "{regex: 'b$'}",
            "{regex: '^/a/b/'}",
        ],
    );
    let methods = some_of("methods", &["GET", "PUT"]);
    let ips = some_of("client_ips", &["10.0.0.0/8", "10.1.0.0/16", "'::1'"]);
    let values =
        (some_values("headers", &["x-a", "x-b"]), some_values("query", &["q", "r"]), some_values("cookies", &["c", "d"]));
    let listeners = prop_oneof![4 => Just(vec![]), 1 => Just(vec!["a"]), 1 => Just(vec!["b"])];
    (hosts, paths, methods, ips, values, listeners, proptest::bool::weighted(0.2)).prop_map(
        |(hosts, paths, methods, ips, (headers, query, cookies), listeners, keeps)| {
            let text = format!("{{{hosts}{paths}{methods}{ips}{headers}{query}{cookies}}}");
            Row { listeners, ..reading(&text, keeps) }
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    let host = proptest::sample::select(vec!["a.b.c", "b.c", "z.b.c", "x.c", "d", "", "y.a.b.c"]);
    let path = "(/[abc]|//[ab]|/\\./|/%61|/){1,4}";
    let fields = proptest::collection::vec((proptest::sample::select(vec!["x-a", "x-b"]), "[123]"), 0..3);
    let query = proptest::option::of("[qr]=[123](&[qr]=[123])?");
    let cookie = proptest::option::of("[cd]=[123](; [cd]=[123])?");
    let client = proptest::sample::select(vec![None, Some("10.1.0.1"), Some("10.2.0.1"), Some("::1"), Some("127.0.0.1")]);
    let listener = proptest::sample::select(vec![None, Some(0), Some(1)]);
    (host, path, fields, query, cookie, client, listener, any::<bool>()).prop_map(
        |(host, path, mut fields, query, cookie, client, listener, put)| {
            fields.extend(cookie.map(|cookie| ("cookie", cookie)));
            let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let method = if put { http::Method::PUT } else { http::Method::GET };
            let client = client.map(|ip| ip.parse().unwrap());
            Request { host: host.to_owned(), path, query, method, client, listener, ..get("h/", &fields) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_agrees_with_a_naive_matcher(
        rows in proptest::collection::vec(any_row(), 1..9),
        requests in proptest::collection::vec(any_request(), 1..6),
    ) {
        let router = router(&rows);
        for request in &requests {
            let expected = plainly(&rows, request);
            let found = request.asked(|question| router.find(question)).map(|found| found.route);
            prop_assert_eq!(found, expected, "{:?}", request);
            // The explanation's winner is the live one, and nothing before it matches.
            let candidates = request.asked(|question| router.explain(question));
            prop_assert_eq!(candidates.len(), rows.len());
            let first = candidates.iter().find(|candidate| !matches!(candidate.verdict, Verdict::Failed { .. }));
            prop_assert_eq!(first.map(|candidate| (candidate.route, candidate.verdict == Verdict::Taken)), expected.map(|route| (route, true)));
            for candidate in &candidates {
                let failed = matches!(candidate.verdict, Verdict::Failed { .. });
                prop_assert_eq!(failed, plain_rank(&rows[candidate.route], request).is_none(), "{:?}", candidate);
            }
        }
    }
}
