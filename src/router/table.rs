//! Routes by host and path: hosts by hashing, paths in a tree of segments.
//!
//! All trees share one arena of nodes, and one hash table (`edges`) leads from a node and a text to what is below. A host's tree hangs from
//! an edge of its own; below it is the root `/`, which is an empty segment, and below that what is between slashes. What hangs at the host
//! itself says nothing of paths. Where there is but one route and nothing below it, as for most hosts of many, it is in the edge, and there
//! is no node.

mod edges;

use std::cmp::Reverse;
use std::ops::ControlFlow;

use self::edges::Edges;
use crate::config::PathMatch;
use crate::router::rank::{HostRank, PathRank};
use crate::types::{HostPattern, PathPattern, Regex};

/// No host name is longer (RFC 1035 §2.3.4); a longer one is no key of any table.
const MAX_HOST: usize = 255;
/// The tree of every host.
const ANY_HOST: u32 = 0;
/// Whence edges lead to the trees of hosts: there are never as many nodes.
const HOSTS: u32 = u32::MAX;
/// Likewise by what follows `*.`.
const WILDCARDS: u32 = u32::MAX - 1;

/// All routes by what they say of host and path.
pub(super) struct Table {
    /// Whether some route names a host.
    exact: bool,
    /// The most labels that any wildcard has: longer ends of a host need not be looked up.
    wildcard_labels: usize,
    edges: Edges,
    nodes: Vec<Node>,
    /// Expressions, each with its route.
    regexes: Vec<(Regex, Target)>,
}

/// Routes that differ at most in what is neither host nor path; the most specific first.
pub(super) struct List<'a> {
    pub(super) host: HostRank,
    pub(super) path: PathRank,
    entries: &'a [Target],
    table: &'a Table,
}

/// A route, and whether it asks for nothing but host and path: then nothing more of it is looked at. Or an expression's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target(u32);

/// What is at the end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node(u32),
    /// One route for exactly this path, and nothing else.
    Exact(Target),
    /// One for this path and all below it.
    Prefix(Target),
}

/// One line of the processor's cache: with very many routes, what a lookup costs is how many of them it must fetch.
#[derive(Default)]
#[repr(align(64))]
struct Node {
    parent: Option<u32>,
    /// Of the path that leads here.
    length: u32,
    /// Whether an edge leads further down.
    inner: bool,
    /// Routes for exactly this path.
    exact: Entries,
    /// Routes for this path and all below it.
    prefix: Entries,
    /// Expressions that can only match this path and what is below it.
    regexes: Entries,
}

/// Mostly one.
#[expect(clippy::box_collection, reason = "two words in place of three: three of these and the rest of a node fit one line")]
#[derive(Default)]
enum Entries {
    #[default]
    None,
    One(Target),
    Many(Box<Vec<Target>>),
}

/// What of a path a route is about.
#[derive(Clone, Copy)]
enum Reach {
    Exact,
    Prefix,
}

/// An edge, and the length of the path that it leads to.
#[derive(Clone, Copy)]
struct Way<'a> {
    from: u32,
    text: &'a str,
    length: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { exact: false, wildcard_labels: 0, edges: Edges::default(), nodes: vec![Node::default()], regexes: Vec::new() }
    }
}

impl Table {
    /// Adds a route; it need not come in the order of its rank, if [`Table::sort`] follows.
    pub(super) fn add<'a>(
        &mut self,
        route: Target,
        hosts: impl Iterator<Item = &'a HostPattern>,
        paths: impl Iterator<Item = &'a PathMatch> + Clone,
    ) {
        let mut trees: Vec<Option<Way<'_>>> = hosts.map(|host| self.tree(host)).collect();
        if trees.is_empty() {
            trees.push(None);
        }
        for tree in trees {
            let mut any = true;
            for path in paths.clone() {
                any = false;
                self.add_path(tree, path, route);
            }
            match tree {
                _ if !any => {}
                Some(way) => self.attach(way, Reach::Prefix, route),
                None => self.node_mut(ANY_HOST).prefix.push(route),
            }
        }
    }

    /// Puts every list in the order of the routes' ranks.
    pub(super) fn sort<K: Ord>(&mut self, rank: impl Fn(Target) -> K) {
        for node in &mut self.nodes {
            for entries in [&mut node.exact, &mut node.prefix] {
                if let Entries::Many(list) = entries {
                    list.sort_by_key(|route| rank(*route));
                    list.dedup();
                }
            }
            if let Entries::Many(list) = &mut node.regexes {
                list.sort_by_key(|regex| self.regexes.get(regex.0 as usize).map(|(_, route)| rank(*route)));
            }
        }
        self.nodes.shrink_to_fit();
    }

    /// Visits lists of routes that match host and path (in normal form), most specific first. Only regexes may come in several lists
    /// of the same rank.
    pub(super) fn walk(&self, host: &str, path: &str, visit: &mut impl FnMut(List<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let host = if host.len() > MAX_HOST { "" } else { host };
        if self.exact
            && let Some(tree) = self.edges.get(HOSTS, host)
        {
            self.walk_tree(tree, HostRank::Exact, path, visit)?;
        }
        if self.wildcard_labels > 0 {
            for suffix in self.suffixes(host) {
                if let Some(tree) = self.edges.get(WILDCARDS, suffix) {
                    self.walk_tree(tree, HostRank::Wildcard(Reverse(suffix.len())), path, visit)?;
                }
            }
        }
        self.walk_tree(Place::Node(ANY_HOST), HostRank::Any, path, visit)
    }

    fn walk_tree(
        &self,
        tree: Place,
        host: HostRank,
        path: &str,
        visit: &mut impl FnMut(List<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut show = |path: PathRank, entries: &[Target]| match entries {
            [] => ControlFlow::Continue(()),
            entries => visit(List { host, path, entries, table: self }),
        };
        // Where the way ends, how much of the path leads there, and the last node on it.
        let (mut end, mut length, mut node) = (tree, 0, None);
        let mut whole = true;
        for segment in path.split('/') {
            let Place::Node(index) = end else {
                whole = false;
                break;
            };
            node = Some(index);
            match self.node(index).inner.then(|| self.edges.get(index, segment)).flatten() {
                Some(below) => {
                    end = below;
                    length += segment.len() + 1;
                }
                None => {
                    whole = false;
                    break;
                }
            }
        }
        if let Place::Node(index) = end {
            node = Some(index);
        }
        if whole {
            match end {
                Place::Node(index) => show(PathRank::Exact, self.node(index).exact.as_slice())?,
                Place::Exact(route) => show(PathRank::Exact, &[route])?,
                Place::Prefix(_) => {}
            }
        }
        if !self.regexes.is_empty() {
            for node in self.upwards(node) {
                show(PathRank::Regex, node.regexes.as_slice())?;
            }
        }
        if let Place::Prefix(route) = end {
            show(prefix_rank(length), &[route])?;
        }
        for node in self.upwards(node) {
            show(prefix_rank(node.length as usize), node.prefix.as_slice())?;
        }
        ControlFlow::Continue(())
    }

    /// A node and those above it.
    fn upwards(&self, node: Option<u32>) -> impl Iterator<Item = &Node> {
        std::iter::successors(node.map(|node| self.node(node)), |node| node.parent.map(|parent| self.node(parent)))
    }

    /// `b.c` and `c` of `a.b.c`, without those that have more labels than any wildcard.
    fn suffixes<'h>(&self, host: &'h str) -> impl Iterator<Item = &'h str> {
        let from = host.rmatch_indices('.').nth(self.wildcard_labels - 1).map_or(0, |(at, _)| at);
        let parent = |host: &&'h str| host.split_once('.').map(|(_, parent)| parent);
        std::iter::successors(host.get(from..), parent).skip(1)
    }

    /// The edge from which a host's tree hangs; `None`: that of every host hangs from none.
    fn tree<'h>(&mut self, host: &'h HostPattern) -> Option<Way<'h>> {
        match host {
            HostPattern::Exact(name) => {
                self.exact = true;
                Some(Way { from: HOSTS, text: name, length: 0 })
            }
            HostPattern::Wildcard(suffix) => {
                self.wildcard_labels = self.wildcard_labels.max(suffix.split('.').count());
                Some(Way { from: WILDCARDS, text: suffix, length: 0 })
            }
            HostPattern::Any => None,
        }
    }

    fn add_path(&mut self, tree: Option<Way<'_>>, path: &PathMatch, route: Target) {
        let tree = tree.map_or(ANY_HOST, |way| self.branch(way));
        match path {
            PathMatch::Pattern { pattern: PathPattern::Exact(path), .. } => {
                let way = self.descend(tree, path);
                self.attach(way, Reach::Exact, route);
            }
            PathMatch::Pattern { pattern: PathPattern::Prefix(path), .. } => {
                let way = self.descend(tree, path);
                self.attach(way, Reach::Prefix, route);
            }
            PathMatch::Regex(regex) => {
                // Whole segments that every match begins with.
                let node = match regex.prefix().rsplit_once('/') {
                    Some((segments, _)) => {
                        let way = self.descend(tree, segments);
                        self.branch(way)
                    }
                    None => tree,
                };
                let index = u32::try_from(self.regexes.len()).unwrap_or(u32::MAX);
                self.regexes.push((regex.clone(), route));
                self.node_mut(node).regexes.push(Target(index));
            }
        }
    }

    /// The edge to a path, with a node for each level above it.
    fn descend<'p>(&mut self, tree: u32, path: &'p str) -> Way<'p> {
        let mut segments = path.split('/');
        let first = segments.next().unwrap_or_default();
        let mut way = Way { from: tree, text: first, length: first.len() + 1 };
        for segment in segments {
            let node = self.branch(way);
            way = Way { from: node, text: segment, length: way.length + segment.len() + 1 };
        }
        way
    }

    /// Puts a route at the end of an edge: into the edge, if it is the first there.
    fn attach(&mut self, way: Way<'_>, reach: Reach, route: Target) {
        if self.edges.get(way.from, way.text).is_none() {
            let place = match reach {
                Reach::Exact => Place::Exact(route),
                Reach::Prefix => Place::Prefix(route),
            };
            self.lead(way, place);
            return;
        }
        let node = self.branch(way);
        let node = self.node_mut(node);
        match reach {
            Reach::Exact => node.exact.push(route),
            Reach::Prefix => node.prefix.push(route),
        }
    }

    /// The node at the end of an edge; what was in the edge is in the node from then on.
    fn branch(&mut self, way: Way<'_>) -> u32 {
        let found = self.edges.get(way.from, way.text);
        if let Some(Place::Node(node)) = found {
            return node;
        }
        let parent = (!matches!(way.from, HOSTS | WILDCARDS)).then_some(way.from);
        let mut node = Node { parent, length: u32::try_from(way.length).unwrap_or(u32::MAX), ..Node::default() };
        match found {
            Some(Place::Exact(route)) => node.exact.push(route),
            Some(Place::Prefix(route)) => node.prefix.push(route),
            Some(Place::Node(_)) | None => {}
        }
        self.nodes.push(node);
        // A file holds far fewer than 2³² characters, and so segments.
        let index = u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX);
        self.lead(way, Place::Node(index));
        index
    }

    fn lead(&mut self, way: Way<'_>, to: Place) {
        self.edges.set(way.from, way.text, to);
        if let Some(node) = self.nodes.get_mut(way.from as usize) {
            node.inner = true;
        }
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }
}

/// Of a prefix by its length; what hangs at the host itself has none.
fn prefix_rank(length: usize) -> PathRank {
    if length == 0 { PathRank::Any } else { PathRank::Prefix(Reverse(u32::try_from(length).unwrap_or(u32::MAX))) }
}

impl Target {
    const PLAIN: u32 = 1 << 31;

    pub(super) fn new(route: u32, is_plain: bool) -> Self {
        Self(if is_plain { route | Self::PLAIN } else { route })
    }

    /// In the order in which they were added.
    pub(super) fn route(self) -> u32 {
        self.0 & !Self::PLAIN
    }

    /// Whether it asks for nothing but host and path.
    pub(super) fn is_plain(self) -> bool {
        self.0 & Self::PLAIN != 0
    }
}

impl Entries {
    fn push(&mut self, entry: Target) {
        match self {
            Self::None => *self = Self::One(entry),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, entry])),
            Self::Many(list) => list.push(entry),
        }
    }

    fn as_slice(&self) -> &[Target] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(list) => list,
        }
    }
}

impl<'a> List<'a> {
    /// Each route, with the expression that has yet to be found in the path.
    pub(super) fn routes(&self) -> impl Iterator<Item = (Target, Option<&'a Regex>)> + use<'a> {
        let (table, by_regex) = (self.table, self.path == PathRank::Regex);
        self.entries.iter().filter_map(move |entry| {
            if by_regex {
                table.regexes.get(entry.0 as usize).map(|(regex, route)| (*route, Some(regex)))
            } else {
                Some((*entry, None))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_of_a_host_that_a_wildcard_can_name_are_looked_up() {
        let table = Table { wildcard_labels: 2, ..Table::default() };
        let suffixes = |host| table.suffixes(host).collect::<Vec<_>>();
        assert_eq!(suffixes("a.a.a.b.c"), ["b.c", "c"]);
        assert_eq!(suffixes("a.b.c"), ["b.c", "c"]);
        assert_eq!(suffixes("b.c"), ["c"]);
        assert!(suffixes("c").is_empty() && suffixes("").is_empty());
    }

    #[test]
    fn a_node_is_one_line() {
        assert_eq!(std::mem::size_of::<Node>(), 64);
    }

    #[test]
    fn an_expression_is_tried_only_where_its_beginning_leads() {
        let mut table = Table::default();
        let paths: Vec<PathMatch> = ["^/a/b/[0-9]", "^/a/[a-z]", "x$"].map(|text| PathMatch::Regex(text.parse().unwrap())).into();
        for (route, path) in (0..).zip(&paths) {
            table.add(Target::new(route, false), std::iter::empty(), std::iter::once(path));
        }
        table.sort(Target::route);
        let tried = |path: &str| {
            let mut tried = Vec::new();
            let _ = table.walk("h", path, &mut |list| {
                tried.extend(list.routes().map(|(route, _)| route.route()));
                ControlFlow::Continue(())
            });
            tried
        };
        assert_eq!(tried("/a/b/1"), [0, 1, 2]);
        assert_eq!(tried("/a/c"), [1, 2]);
        assert_eq!(tried("/b"), [2]);
    }
}
