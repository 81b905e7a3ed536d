//! Routes that no request can tell apart.

use std::collections::{HashMap, HashSet};

use crate::config::report::{Diagnostic, Report};
use crate::config::{Match, Span, Spanned};
use crate::types::{HostPattern, Method, Name, PathPattern};

/// One host, path and method; `None` is any. Whoever matches one of these equals whoever else does in every rank.
type Condition<'a> = (Option<&'a HostPattern>, Option<&'a PathPattern>, Option<&'a str>);

/// Reports each pair of routes that match the same host, path and method: only the order in the file would decide, silently.
pub(super) fn report(routes: &[(Spanned<Name>, Match)], report: &mut Report) {
    let mut owners: HashMap<Condition<'_>, (usize, Span)> = HashMap::new();
    let mut reported: HashSet<(usize, usize)> = HashSet::new();
    for (index, (name, matches)) in routes.iter().enumerate() {
        for (condition, spans) in conditions(matches) {
            let [host, path, method] = spans;
            let span = path.or(host).or(method).unwrap_or(name.span);
            let Some((owner, place)) = owners.get(&condition).copied() else {
                owners.insert(condition, (index, span));
                continue;
            };
            if owner == index || !reported.insert((owner, index)) {
                continue;
            }
            let first = routes.get(owner).map_or("", |(name, _)| name.as_str());
            let what = in_words(condition, spans, report);
            let message = format!("the routes `{first}` and `{}` both match {what}", name.as_str());
            let hint = "no request can tell them apart: change one of them, or remove it";
            report.push(Diagnostic::error(span, message).hint(hint).related(place, format!("the route `{first}`")));
        }
    }
}

/// Every combination that a route matches, and where its parts stand.
fn conditions(matches: &Match) -> Vec<(Condition<'_>, [Option<Span>; 3])> {
    let hosts = or_any(&matches.hosts, |host| (*host != HostPattern::Any).then_some(host));
    let paths = or_any(&matches.paths, |path| (!is_everything(path)).then_some(path));
    let methods = or_any(&matches.methods, |method: &Method| Some(method.as_str()));
    let mut all = Vec::with_capacity(hosts.len() * paths.len() * methods.len());
    for (host, host_span) in &hosts {
        for (path, path_span) in &paths {
            for (method, method_span) in &methods {
                all.push(((*host, *path, *method), [*host_span, *path_span, *method_span]));
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
fn is_everything(path: &PathPattern) -> bool {
    matches!(path, PathPattern::Prefix(prefix) if prefix.is_empty())
}

fn in_words((host, path, method): Condition<'_>, spans: [Option<Span>; 3], report: &Report) -> String {
    let values = [host.map(ToString::to_string), path.map(ToString::to_string), method.map(str::to_owned)];
    let parts = ["host", "path", "method"].into_iter().zip(values).zip(spans).map(|((kind, value), span)| match value {
        None => format!("any {kind}"),
        Some(value) => format!("the {kind} `{}`", report.shown(span.unwrap_or_default(), &value)),
    });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    fn conflicts(matches: &[&str]) -> usize {
        let name = |index: usize| Spanned::new(format!("r{index}").parse().unwrap(), Span::default());
        let routes: Vec<_> = matches.iter().enumerate().map(|(index, text)| (name(index), decoded(text).unwrap())).collect();
        let mut found = Report::default();
        report(&routes, &mut found);
        found.errors()
    }

    #[test]
    fn routes_that_differ_in_rank_can_be_told_apart() {
        assert_eq!(conflicts(&["{}", "{hosts: [a.com]}", "{hosts: ['*.a.com']}", "{paths: [/x]}", "{paths: [/x/*]}"]), 0);
        assert_eq!(conflicts(&["{paths: [/x]}", "{paths: [/x], methods: [GET]}", "{paths: [/x], methods: [POST]}"]), 0);
        assert_eq!(conflicts(&["{paths: [/x, /x]}"]), 0);
    }

    #[test]
    fn other_spellings_of_the_same_cannot() {
        assert_eq!(conflicts(&["{}", "{hosts: ['*'], paths: [/*]}"]), 1);
        assert_eq!(conflicts(&["{paths: [/a//%62]}", "{paths: [/a/b]}"]), 1);
        assert_eq!(conflicts(&["{hosts: [A.com]}", "{hosts: [a.com.]}"]), 1);
        assert_eq!(conflicts(&["{methods: [GET, POST]}", "{methods: [PUT, POST]}"]), 1);
    }

    #[test]
    fn a_pair_is_reported_once() {
        assert_eq!(conflicts(&["{paths: [/a, /b, /c]}", "{paths: [/c, /b, /a]}"]), 1);
        assert_eq!(conflicts(&["{}", "{}", "{}"]), 2);
    }
}
