//! Routes that no request can tell apart, and routes that none can reach.

use std::collections::{HashMap, HashSet};

use crate::config::report::{Diagnostic, Report};
use crate::config::resolve::cover::{self, Rank};
use crate::config::{Match, PathMatch, Span, Spanned, ValueMatch};
use crate::types::{HostPattern, Method, Name, PathPattern};

/// A route that was read whole.
pub(super) struct Candidate {
    pub(super) name: Spanned<Name>,
    pub(super) matches: Match,
    pub(super) listeners: Vec<Spanned<Name>>,
    pub(super) merge_slashes: bool,
}

/// One host, path and method that a route matches, and where they stand; `None` is any.
struct Combination<'a> {
    host: Option<&'a HostPattern>,
    path: Option<&'a PathMatch>,
    method: Option<&'a str>,
    spans: [Option<Span>; 3],
}

/// A path or value by its kind and text.
type Key<'a> = (u8, &'a str);
/// One host and path; `None` is any.
type Place<'a> = (Option<&'a HostPattern>, Option<Key<'a>>);
/// One host, path and method, and all that is asked of values. Whoever matches one of these equals whoever else does in every rank,
/// but for the client's address.
type Condition<'a> = (Place<'a>, Option<&'a str>, usize);
/// What is asked of header fields, of the query and of cookies, whatever the order.
type Asked<'a> = [Vec<(&'a str, Key<'a>)>; 3];

/// More routes than this are not searched for one that takes all that another could: nobody would read so many warnings.
const MAX_WIDE: usize = 64;

/// Reports each pair of routes that match the same: only the order in the file would decide, silently. Warns of routes that an earlier
/// one leaves nothing.
pub(super) fn report(routes: &[Candidate], report: &mut Report) {
    let reported = ambiguous(routes, report);
    unreachable(routes, &reported, report);
}

/// The pairs that are reported.
fn ambiguous(routes: &[Candidate], report: &mut Report) -> HashSet<(usize, usize)> {
    let mut owners: HashMap<Condition<'_>, Vec<(usize, Span)>> = HashMap::with_capacity(routes.len());
    let mut reported: HashSet<(usize, usize)> = HashSet::new();
    let mut asked: HashMap<Asked<'_>, usize> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let next = asked.len();
        let values = *asked.entry(asked_of(&route.matches)).or_insert(next);
        for combination in combinations(&route.matches) {
            let [host, path, method] = combination.spans;
            let span = path.or(host).or(method).unwrap_or(route.name.span);
            let owners = owners.entry((combination.place(), combination.method, values)).or_default();
            let rival = owners.iter().copied().find(|(owner, _)| {
                routes.get(*owner).is_some_and(|owner| cover::share_listener(owner, route) && cover::share_client(owner, route))
            });
            match rival {
                Some((owner, _)) if owner == index => continue,
                None => {
                    owners.push((index, span));
                    continue;
                }
                Some((owner, _)) if !reported.insert((owner, index)) => continue,
                Some((owner, first_span)) => {
                    let Some(first) = routes.get(owner) else { continue };
                    let what = combination.in_words(report) + cover::beside(&route.matches);
                    let (first, name) = (first.name.as_str(), route.name.as_str());
                    let message = format!("the routes `{first}` and `{name}` both match {what}");
                    let hint = "no request can tell them apart: change one of them, or remove it";
                    report.push(Diagnostic::error(span, message).hint(hint).related(first_span, format!("the route `{first}`")));
                }
            }
        }
    }
    reported
}

fn unreachable(routes: &[Candidate], reported: &HashSet<(usize, usize)>, report: &mut Report) {
    let mut wide: HashMap<(Place<'_>, Rank), Vec<usize>> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let rank = Rank::of(&route.matches);
        // Who asks for nothing of values or addresses can only be in the way of who asks for the same.
        if rank.asks_nothing() {
            continue;
        }
        let mut cover = Some(None);
        for place in places(&route.matches) {
            let group = wide.entry((place, rank)).or_default();
            let covering = group.iter().copied().find(|earlier| {
                *earlier != index && routes.get(*earlier).is_some_and(|earlier| cover::takes_all_of(earlier, route))
            });
            cover = cover.and_then(|first: Option<usize>| covering.map(|covering| first.or(Some(covering))));
            if cover::is_wide(&route.matches) && group.len() < MAX_WIDE {
                group.push(index);
            }
        }
        let Some(Some(earlier)) = cover.filter(|cover| cover.is_some_and(|earlier| !reported.contains(&(earlier, index)))) else {
            continue;
        };
        let Some(first) = routes.get(earlier) else { continue };
        let (first_name, name) = (first.name.as_str(), route.name.as_str());
        let message = format!("nothing can reach the route `{name}`: `{first_name}` takes all that it matches");
        let hint = "neither is more specific, so the first in the file wins: put this one before it";
        report.push(Diagnostic::warning(route.name.span, message).hint(hint).related(first.name.span, "that one is here"));
    }
}

fn asked_of(matches: &Match) -> Asked<'_> {
    fn sorted<'a, K: 'a>(
        conditions: &'a [(Spanned<K>, Spanned<ValueMatch>)],
        name: impl Fn(&'a K) -> &'a str,
    ) -> Vec<(&'a str, Key<'a>)> {
        let mut all: Vec<_> = conditions.iter().map(|(key, value)| (name(&key.value), value_key(&value.value))).collect();
        all.sort_unstable();
        all
    }
    [
        sorted(&matches.headers.0, |name| name.as_str()),
        sorted(&matches.query.0, |name| name.as_str()),
        sorted(&matches.cookies.0, |name| name.as_str()),
    ]
}

fn value_key(value: &ValueMatch) -> Key<'_> {
    match value {
        ValueMatch::Exact(text) => (0, text),
        ValueMatch::Regex(regex) => (1, regex.as_str()),
        ValueMatch::Present(true) => (2, ""),
        ValueMatch::Present(false) => (3, ""),
    }
}

fn path_key(path: &PathMatch) -> Key<'_> {
    match path {
        PathMatch::Pattern { pattern: PathPattern::Exact(path), .. } => (0, path),
        PathMatch::Pattern { pattern: PathPattern::Prefix(path), .. } => (1, path),
        PathMatch::Regex(regex) => (2, regex.as_str()),
    }
}

fn places(matches: &Match) -> impl Iterator<Item = Place<'_>> {
    let (hosts, paths) = (hosts(matches), paths(matches));
    hosts.into_iter().flat_map(move |(host, _)| paths.clone().into_iter().map(move |(path, _)| (host, path.map(path_key))))
}

fn hosts(matches: &Match) -> Vec<(Option<&HostPattern>, Option<Span>)> {
    or_any(&matches.hosts, |host| (*host != HostPattern::Any).then_some(host))
}

fn paths(matches: &Match) -> Vec<(Option<&PathMatch>, Option<Span>)> {
    or_any(&matches.paths, |path| (!is_everything(path)).then_some(path))
}

/// Every combination that a route matches.
fn combinations(matches: &Match) -> Vec<Combination<'_>> {
    let (hosts, paths) = (hosts(matches), paths(matches));
    let methods = or_any(&matches.methods, |method: &Method| Some(method.as_str()));
    let mut all = Vec::with_capacity(hosts.len() * paths.len() * methods.len());
    for (host, host_span) in &hosts {
        for (path, path_span) in &paths {
            for (method, method_span) in &methods {
                let spans = [*host_span, *path_span, *method_span];
                all.push(Combination { host: *host, path: *path, method: *method, spans });
            }
        }
    }
    all
}

fn or_any<'a, T, U: Copy>(list: &'a [Spanned<T>], of: impl Fn(&'a T) -> Option<U>) -> Vec<(Option<U>, Option<Span>)> {
    if list.is_empty() {
        return vec![(None, None)];
    }
    list.iter().map(|item| (of(&item.value), Some(item.span))).collect()
}

/// `/*`
fn is_everything(path: &PathMatch) -> bool {
    matches!(path, PathMatch::Pattern { pattern: PathPattern::Prefix(prefix), .. } if prefix.is_empty())
}

impl<'a> Combination<'a> {
    fn place(&self) -> Place<'a> {
        (self.host, self.path.map(path_key))
    }

    fn in_words(&self, report: &Report) -> String {
        let values = [self.host.map(ToString::to_string), self.path.map(ToString::to_string), self.method.map(str::to_owned)];
        let parts = ["host", "path", "method"].into_iter().zip(values).zip(self.spans);
        let shown = parts.map(|((kind, value), span)| match value {
            None => format!("any {kind}"),
            Some(value) => format!("the {kind} `{}`", report.shown(span.unwrap_or_default(), &value)),
        });
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    fn checked(matches: &[&str]) -> Report {
        checked_on(&matches.iter().map(|text| (*text, "[]")).collect::<Vec<_>>())
    }

    fn merged(mut matches: Match) -> Match {
        for path in &mut matches.paths {
            path.value = path.value.clone().over(true);
        }
        matches
    }

    fn checked_on(routes: &[(&str, &str)]) -> Report {
        let candidate = |(index, (matches, listeners)): (usize, &(&str, &str))| Candidate {
            name: Spanned::new(format!("r{index}").parse().unwrap(), Span::new(0, index, index)),
            matches: merged(decoded(matches).unwrap()),
            listeners: decoded(listeners).unwrap(),
            merge_slashes: true,
        };
        let routes: Vec<_> = routes.iter().enumerate().map(candidate).collect();
        let mut found = Report::default();
        report(&routes, &mut found);
        found
    }

    fn conflicts(matches: &[&str]) -> usize {
        checked(matches).errors()
    }

    #[test]
    fn routes_that_differ_in_rank_can_be_told_apart() {
        assert_eq!(conflicts(&["{}", "{hosts: [a.com]}", "{hosts: ['*.a.com']}", "{paths: [/x]}", "{paths: [/x/*]}"]), 0);
        assert_eq!(conflicts(&["{paths: [/x]}", "{paths: [/x], methods: [GET]}", "{paths: [/x], methods: [POST]}"]), 0);
        assert_eq!(conflicts(&["{paths: [/x, /x]}"]), 0);
        assert_eq!(conflicts(&["{}", "{headers: {a: b}}", "{headers: {a: c}}", "{query: {a: b}}", "{cookies: {a: b}}"]), 0);
        assert_eq!(conflicts(&["{client_ips: [10.0.0.0/8]}", "{client_ips: [10.0.0.0/9]}"]), 0);
        assert_eq!(conflicts(&["{paths: [{regex: a}]}", "{paths: [{regex: b}, /a]}"]), 0);
    }

    #[test]
    fn other_spellings_of_the_same_cannot() {
        assert_eq!(conflicts(&["{}", "{hosts: ['*'], paths: [/*]}"]), 1);
        assert_eq!(conflicts(&["{paths: [/a//%62]}", "{paths: [/a/b]}"]), 1);
        assert_eq!(conflicts(&["{hosts: [A.com]}", "{hosts: [a.com.]}"]), 1);
        assert_eq!(conflicts(&["{methods: [GET, POST]}", "{methods: [PUT, POST]}"]), 1);
        assert_eq!(conflicts(&["{headers: {a: b, c: {regex: d}}}", "{headers: {C: {regex: d}, A: b}}"]), 1);
        assert_eq!(conflicts(&["{client_ips: [10.0.0.0/8]}", "{client_ips: [11.0.0.0/8, 10.0.0.0/8]}"]), 1);
        assert_eq!(conflicts(&["{paths: [{regex: a}]}", "{paths: [/b, {regex: a}]}"]), 1);
    }

    #[test]
    fn a_pair_is_reported_once() {
        assert_eq!(conflicts(&["{paths: [/a, /b, /c]}", "{paths: [/c, /b, /a]}"]), 1);
        assert_eq!(conflicts(&["{}", "{}", "{}"]), 2);
    }

    #[test]
    fn listeners_tell_routes_apart_if_they_share_none() {
        let errors = |routes: &[(&str, &str)]| checked_on(routes).errors();
        assert_eq!(errors(&[("{}", "[a]"), ("{}", "[b, c]")]), 0);
        assert_eq!(errors(&[("{}", "[a]"), ("{}", "[b]"), ("{}", "[b, a]")]), 1);
        assert_eq!(errors(&[("{}", "[a]"), ("{}", "[]")]), 1);
    }

    #[test]
    fn nothing_is_left_to_a_route_behind_a_wider_one_of_its_rank() {
        for (earlier, later, unreachable) in [
            ("{headers: {a: {present: true}}}", "{headers: {a: b}}", true),
            ("{headers: {a: b}}", "{headers: {a: {present: true}}}", false),
            ("{headers: {a: {regex: ^b}}}", "{headers: {a: bc}}", true),
            ("{headers: {a: {regex: ^b}}}", "{headers: {a: c}}", false),
            ("{headers: {a: {present: true}}}", "{headers: {a: b, c: d}}", false),
            ("{headers: {a: {present: false}}}", "{headers: {a: b}}", false),
            ("{query: {a: {present: true}}}", "{query: {a: {regex: b}}, paths: [/x]}", false),
            ("{client_ips: [10.0.0.0/8]}", "{client_ips: [10.1.0.0/16, 10.2.0.1]}", true),
            ("{client_ips: [10.0.0.0/8]}", "{client_ips: [10.1.0.0/16, 11.0.0.0/8]}", false),
            ("{cookies: {a: {present: true}}, methods: [GET, POST]}", "{cookies: {a: b}, methods: [GET]}", true),
            ("{cookies: {a: {present: true}}, methods: [GET]}", "{cookies: {a: b}, methods: [GET, POST]}", false),
            ("{hosts: [a, b], client_ips: [10.0.0.0/8]}", "{hosts: [b, c], client_ips: [10.0.0.1]}", false),
            ("{hosts: [a, b, c], client_ips: [10.0.0.0/8]}", "{hosts: [b, c], client_ips: [10.0.0.1]}", true),
        ] {
            let report = checked(&[earlier, later]);
            assert_eq!((report.errors(), report.warnings()), (0, usize::from(unreachable)), "{earlier} {later}");
        }
    }
}
