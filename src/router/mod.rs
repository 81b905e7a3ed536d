//! Which route a request takes.
//!
//! The most specific match wins, whatever the order in the file: exact host over longest wildcard over any host; then
//! exact path over longest prefix over any path; then a route that names methods; at last the order in the file. A host
//! is found by hashing, a path by walking down a tree of segments: neither depends on the number of routes.

mod path_tree;

use std::collections::HashMap;

use crate::config::Match;
use crate::router::path_tree::PathTree;
use crate::types::HostPattern;

/// No host name is longer (RFC 1035 §2.3.4); a longer one is no key of any table.
const MAX_HOST: usize = 255;

/// All routes of a configuration, found by what they match.
#[derive(Default)]
pub(crate) struct Router {
    exact: HashMap<Box<str>, PathTree>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, PathTree>,
    any: PathTree,
}

/// What of a request decides on its route; host and path are in normal form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) method: &'a http::Method,
}

impl Router {
    /// Routes are added in the order of the file; `index` is what [`Router::find`] gives back.
    pub(crate) fn add(&mut self, index: usize, matches: &Match) {
        let methods: Box<[http::Method]> = matches.methods.iter().map(|method| method.value.as_http().clone()).collect();
        let hosts = matches.hosts.iter().map(|host| &host.value);
        let mut trees: Vec<&HostPattern> = hosts.collect();
        if trees.is_empty() {
            trees.push(&HostPattern::Any);
        }
        for host in trees {
            let tree = match host {
                HostPattern::Exact(host) => self.exact.entry(host.as_str().into()).or_default(),
                HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.as_str().into()).or_default(),
                HostPattern::Any => &mut self.any,
            };
            tree.add(index, matches.paths.iter().map(|path| &path.value), &methods);
        }
    }

    /// The index of the most specific route that matches.
    pub(crate) fn find(&self, question: &Question<'_>) -> Option<usize> {
        self.trees(question.host).find_map(|tree| tree.find(question.path, question.method))
    }

    /// The tables for a host, the most specific first.
    fn trees<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a PathTree> {
        let host = if host.len() > MAX_HOST { "" } else { host };
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let suffixes = if self.wildcard.is_empty() { "" } else { host };
        let wildcards = parents(suffixes).filter_map(|suffix| self.wildcard.get(suffix));
        exact.into_iter().chain(wildcards).chain(std::iter::once(&self.any))
    }
}

/// `b.c` and `c` of `a.b.c`.
fn parents(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(host), |host| host.split_once('.').map(|(_, parent)| parent)).skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::spanned;

    struct Table(Vec<Match>);

    impl Table {
        fn find(&self, method: &str, host: &str, path: &str) -> Option<usize> {
            let mut router = Router::default();
            for (index, matches) in self.0.iter().enumerate() {
                router.add(index, matches);
            }
            let method = method.parse().unwrap();
            router.find(&Question { host, path, method: &method })
        }
    }

    fn matching(hosts: &[&str], paths: &[&str], methods: &[&str]) -> Match {
        Match {
            hosts: hosts.iter().map(|host| spanned(host.parse().unwrap())).collect(),
            paths: paths.iter().map(|path| spanned(path.parse().unwrap())).collect(),
            methods: methods.iter().map(|method| spanned(method.parse().unwrap())).collect(),
        }
    }

    #[test]
    fn the_most_specific_host_wins_even_with_a_vaguer_path() {
        let table = Table(vec![
            matching(&[], &["/a"], &[]),
            matching(&["*.example.com"], &["/a/*"], &[]),
            matching(&["*.b.example.com"], &["/*"], &[]),
            matching(&["x.b.example.com"], &[], &[]),
        ]);
        assert_eq!(table.find("GET", "x.b.example.com", "/a"), Some(3));
        assert_eq!(table.find("GET", "y.b.example.com", "/a"), Some(2));
        assert_eq!(table.find("GET", "z.example.com", "/a/b"), Some(1));
        assert_eq!(table.find("GET", "example.com", "/a"), Some(0));
        assert_eq!(table.find("GET", "example.com", "/b"), None);
    }

    #[test]
    fn a_route_that_does_not_match_in_full_makes_way_for_a_vaguer_one() {
        let table = Table(vec![matching(&["a.example"], &["/x"], &["POST"]), matching(&[], &[], &[])]);
        assert_eq!(table.find("POST", "a.example", "/x"), Some(0));
        assert_eq!(table.find("GET", "a.example", "/x"), Some(1));
    }

    #[test]
    fn exact_beats_longest_prefix_beats_any() {
        let table = Table(vec![
            matching(&[], &[], &[]),
            matching(&[], &["/*"], &[]),
            matching(&[], &["/a/*"], &[]),
            matching(&[], &["/a/b/*"], &[]),
            matching(&[], &["/a/b"], &[]),
        ]);
        let cases =
            [("/a/b", 4), ("/a/b/", 3), ("/a/b/c/d", 3), ("/a/bc", 2), ("/a", 2), ("/a/", 2), ("/ab", 1), ("/", 1), ("*", 0)];
        for (path, index) in cases {
            assert_eq!(table.find("GET", "h", path), Some(index), "{path}");
        }
    }

    #[test]
    fn a_named_method_beats_none_then_the_file_decides() {
        let table =
            Table(vec![matching(&[], &["/a"], &[]), matching(&[], &["/a"], &["GET", "HEAD"]), matching(&[], &["/a"], &["GET"])]);
        assert_eq!(table.find("GET", "h", "/a"), Some(1));
        assert_eq!(table.find("PUT", "h", "/a"), Some(0));
    }

    #[test]
    fn a_host_longer_than_any_name_costs_nothing() {
        let table = Table(vec![matching(&["*.a"], &[], &[]), matching(&[], &[], &[])]);
        let host = "a.".repeat(4000) + "a";
        assert_eq!(table.find("GET", &host, "/"), Some(1));
    }
}
