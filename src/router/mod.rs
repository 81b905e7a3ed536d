//! Which route a request takes.
//!
//! The most specific match wins, whatever the order in the file: exact host over longest wildcard over any host; exact path over
//! regular expression over longest prefix over any path; a route that names methods; more conditions on header fields, on the query,
//! on cookies; a route that names client addresses; at last the order in the file. A host is found by hashing, a path by walking down
//! a tree of segments: neither depends on the number of routes. What else a route asks for is looked at only where host and path
//! match, most specific first, until all holds.
//!
//! [`Router::find`] answers live requests, [`Router::explain`] says why: both walk the same tables and ask the same conditions.

mod condition;
mod explain;
mod rank;
mod table;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::config::{Match, PathMatch};
use crate::router::condition::{Condition, conditions};
use crate::router::rank::{Rank, Standing};
use crate::router::table::{List, Table, Target};
use crate::types::HostPattern;

pub(crate) use explain::Verdict;

/// All routes of a configuration, found by what they match.
#[derive(Default)]
pub(crate) struct Router {
    table: Table,
    rules: Vec<Rule>,
    /// What routes say of host and path, in the same order: the tables answer with it, explanations show it.
    patterns: Vec<Patterns>,
    /// The names of the listeners, by index.
    listeners: Box<[Arc<str>]>,
    keeps_slashes: bool,
}

/// What of a request decides on its route; host and paths are in normal form.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// Without a host (HTTP/1.0): empty.
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// The path with `//` kept, if that is another. Only needed where [`Router::keeps_slashes`].
    pub(crate) unmerged: Option<&'a str>,
    pub(crate) method: &'a http::Method,
    /// As it was sent, without the `?`.
    pub(crate) query: Option<&'a str>,
    /// `None`: over a unix socket.
    pub(crate) client: Option<IpAddr>,
    /// The index of the listener that the request came through, if it came through one.
    pub(crate) listener: Option<usize>,
    pub(crate) headers: &'a dyn Headers,
}

/// Header fields of a request, in whatever form they are kept.
pub(crate) trait Headers {
    /// Whether a test holds for the value of a field of this name, asked one after the other.
    fn any(&self, name: &http::HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool;
}

impl Headers for http::HeaderMap {
    fn any(&self, name: &http::HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.get_all(name).iter().any(|value| test(value.as_bytes()))
    }
}

/// The route that a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// In the order in which the routes were added.
    pub(crate) route: usize,
    /// It was matched by its path with `//` kept: that is what is forwarded.
    pub(crate) keeps_slashes: bool,
}

/// A route, as it is asked about.
struct Rule {
    rank: Rank,
    keeps_slashes: bool,
    /// What must hold beside host and path.
    conditions: Box<[Condition]>,
}

/// Where a route is found.
struct Patterns {
    hosts: Box<[HostPattern]>,
    paths: Box<[PathMatch]>,
}

impl Router {
    /// `listeners`: the names of all, in their order.
    pub(crate) fn new(listeners: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { listeners: listeners.into_iter().collect(), ..Self::default() }
    }

    /// Adds a route; they come in the order of the file. `listeners`: the names of those whose requests may take it, or none for all.
    pub(crate) fn add<'a>(&mut self, matches: Match, listeners: impl Iterator<Item = &'a str>, keeps_slashes: bool) {
        let order = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        let index = |name: &str| self.listeners.iter().position(|listener| **listener == *name);
        let mut listeners = listeners.peekable();
        // Were none of them known, none would do: never all.
        let listeners =
            listeners.peek().is_some().then(|| listeners.filter_map(|name| Some((index(name)?, name.into()))).collect());
        let count = |conditions: usize| Reverse(u16::try_from(conditions).unwrap_or(u16::MAX));
        let rank = Rank {
            any_method: matches.methods.is_empty(),
            headers: count(matches.headers.0.len()),
            query: count(matches.query.0.len()),
            cookies: count(matches.cookies.0.len()),
            any_client: matches.client_ips.is_empty(),
            order,
        };
        let conditions = conditions(&matches, listeners);
        let hosts: Box<[HostPattern]> = matches.hosts.into_iter().map(|host| host.value).collect();
        let paths: Box<[PathMatch]> = matches.paths.into_iter().map(|path| path.value).collect();
        self.table.add(Target::new(order, conditions.is_empty()), hosts.iter(), paths.iter());
        self.keeps_slashes |= keeps_slashes;
        self.rules.push(Rule { rank, keeps_slashes, conditions });
        self.patterns.push(Patterns { hosts, paths });
    }

    /// Makes ready for questions, once all routes are added.
    pub(crate) fn finish(&mut self) {
        let rules = &self.rules;
        self.table.sort(|target| rules.get(target.route() as usize).map(|rule| rule.rank));
        self.rules.shrink_to_fit();
        self.patterns.shrink_to_fit();
    }

    /// The names of the listeners, by index.
    pub(crate) fn listeners(&self) -> &[Arc<str>] {
        &self.listeners
    }

    /// Whether a route has its paths matched with `//` kept.
    pub(crate) fn keeps_slashes(&self) -> bool {
        self.keeps_slashes
    }

    /// The most specific route that matches.
    pub(crate) fn find(&self, question: &Question<'_>) -> Option<Found> {
        // Where there is but one form of the path, lists come in the order of rank: the first that holds wins.
        let one_form = question.unmerged.is_none() || !self.keeps_slashes;
        let mut best: Option<Standing> = None;
        let mut decided: Option<u32> = None;
        self.walk(question, |list, path, keeps_slashes| {
            if best.is_some_and(|best| (best.host, best.path) < (list.host, list.path)) {
                return ControlFlow::Break(());
            }
            for (target, regex) in list.routes() {
                let route = target.route();
                if one_form && regex.is_none() && best.is_none() {
                    // Of one that asks for nothing more no more need be fetched.
                    if target.is_plain() || self.rule(route).holds(question) {
                        decided = Some(route);
                        return ControlFlow::Break(());
                    }
                    continue;
                }
                let rule = self.rule(route);
                let standing = Standing { host: list.host, path: list.path, rank: rule.rank };
                if best.is_some_and(|best| best < standing) {
                    break;
                }
                if rule.reads(question, keeps_slashes)
                    && regex.is_none_or(|regex| regex.is_match(path.as_bytes()))
                    && rule.holds(question)
                {
                    best = Some(standing);
                    break;
                }
            }
            ControlFlow::Continue(())
        });
        let route = decided.or_else(|| best.map(|best| best.rank.order))?;
        Some(Found { route: route as usize, keeps_slashes: self.keeps_slashes && self.rule(route).keeps_slashes })
    }

    /// Visits what matches by host and path; for the path with `//` kept anew, if that is another.
    fn walk(&self, question: &Question<'_>, mut visit: impl FnMut(&List<'_>, &str, bool) -> ControlFlow<()>) {
        // A walk that ends early is over.
        let _ = self.table.walk(question.host, question.path, &mut |list| visit(&list, question.path, false));
        if let Some(path) = question.unmerged.filter(|_| self.keeps_slashes) {
            let _ = self.table.walk(question.host, path, &mut |list| visit(&list, path, true));
        }
    }

    fn rule(&self, route: u32) -> &Rule {
        &self.rules[route as usize]
    }
}

impl Rule {
    /// Whether this is the form of the path that the route is about. Where there is but one, it is.
    fn reads(&self, question: &Question<'_>, keeps_slashes: bool) -> bool {
        question.unmerged.is_none() || self.keeps_slashes == keeps_slashes
    }

    /// Whether all holds that it asks for beside host and path.
    fn holds(&self, question: &Question<'_>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(question))
    }
}
