//! Routes by host and path: hosts by hashing, paths in a tree of segments.
//!
//! All trees share one arena of nodes, and one hash table leads from a node and a segment to the node below. A host's tree hangs
//! from a node of its own; below it is the root `/`, which is an empty segment, and below that what is between slashes. What hangs at
//! the host itself says nothing of paths.

use std::cmp::Reverse;
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;

use hashbrown::{Equivalent, HashMap};

use crate::config::PathMatch;
use crate::router::rank::{HostRank, PathRank};
use crate::types::{HostPattern, PathPattern, Regex};

/// No host name is longer (RFC 1035 §2.3.4); a longer one is no key of any table.
const MAX_HOST: usize = 255;
/// The tree of every host.
const ANY_HOST: u32 = 0;

/// All routes by what they say of host and path.
pub(super) struct Table {
    exact: HashMap<Box<str>, u32>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, u32>,
    /// The most labels that any of these has: longer ends of a host need not be looked up.
    wildcard_labels: usize,
    edges: HashMap<Edge, u32>,
    nodes: Vec<Node>,
    /// Expressions, each with its route.
    regexes: Vec<(Regex, u32)>,
}

/// Routes that differ at most in what is neither host nor path; the most specific first.
pub(super) struct List<'a> {
    pub(super) host: HostRank,
    pub(super) path: PathRank,
    entries: &'a [u32],
    table: &'a Table,
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
    One(u32),
    Many(Box<Vec<u32>>),
}

#[derive(PartialEq, Eq)]
struct Edge {
    parent: u32,
    segment: Box<str>,
}

/// An [`Edge`] to look up.
#[derive(Hash)]
struct EdgeRef<'a> {
    parent: u32,
    segment: &'a str,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        EdgeRef { parent: self.parent, segment: &self.segment }.hash(state);
    }
}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.parent == edge.parent && *self.segment == *edge.segment
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            wildcard_labels: 0,
            edges: HashMap::new(),
            nodes: vec![Node::default()],
            regexes: Vec::new(),
        }
    }
}

impl Table {
    /// Adds a route; it need not come in the order of its rank, if [`Table::sort`] follows.
    pub(super) fn add<'a>(
        &mut self,
        route: u32,
        hosts: impl Iterator<Item = &'a HostPattern>,
        paths: impl Iterator<Item = &'a PathMatch> + Clone,
    ) {
        let mut trees: Vec<u32> = hosts.map(|host| self.tree(host)).collect();
        if trees.is_empty() {
            trees.push(ANY_HOST);
        }
        for tree in trees {
            let mut any = true;
            for path in paths.clone() {
                any = false;
                self.add_path(tree, path, route);
            }
            if any {
                self.node_mut(tree).prefix.push(route);
            }
        }
    }

    /// Puts every list in the order of the routes' ranks.
    pub(super) fn sort<K: Ord>(&mut self, rank: impl Fn(u32) -> K) {
        for node in &mut self.nodes {
            for entries in [&mut node.exact, &mut node.prefix] {
                if let Entries::Many(list) = entries {
                    list.sort_by_key(|route| rank(*route));
                    list.dedup();
                }
            }
            if let Entries::Many(list) = &mut node.regexes {
                list.sort_by_key(|regex| self.regexes.get(*regex as usize).map(|(_, route)| rank(*route)));
            }
        }
        self.edges.shrink_to_fit();
        self.nodes.shrink_to_fit();
    }

    /// Visits lists of routes that match host and path (in normal form), most specific first. Only regexes may come in several lists
    /// of the same rank.
    pub(super) fn walk(&self, host: &str, path: &str, visit: &mut impl FnMut(List<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let host = if host.len() > MAX_HOST { "" } else { host };
        if !self.exact.is_empty()
            && let Some(tree) = self.exact.get(host)
        {
            self.walk_tree(*tree, HostRank::Exact, path, visit)?;
        }
        if self.wildcard_labels > 0 {
            for suffix in self.suffixes(host) {
                if let Some(tree) = self.wildcard.get(suffix) {
                    self.walk_tree(*tree, HostRank::Wildcard(Reverse(suffix.len())), path, visit)?;
                }
            }
        }
        self.walk_tree(ANY_HOST, HostRank::Any, path, visit)
    }

    fn walk_tree(
        &self,
        tree: u32,
        host: HostRank,
        path: &str,
        visit: &mut impl FnMut(List<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut show = |path: PathRank, entries: &Entries| match entries.as_slice() {
            [] => ControlFlow::Continue(()),
            entries => visit(List { host, path, entries, table: self }),
        };
        let mut deepest = tree;
        let mut whole = true;
        for segment in path.split('/') {
            let edge = EdgeRef { parent: deepest, segment };
            match self.node(deepest).inner.then(|| self.edges.get(&edge)).flatten() {
                Some(below) => deepest = *below,
                None => {
                    whole = false;
                    break;
                }
            }
        }
        if whole {
            show(PathRank::Exact, &self.node(deepest).exact)?;
        }
        if !self.regexes.is_empty() {
            for node in self.upwards(deepest) {
                show(PathRank::Regex, &node.regexes)?;
            }
        }
        for node in self.upwards(deepest) {
            let rank = if node.parent.is_some() { PathRank::Prefix(Reverse(node.length)) } else { PathRank::Any };
            show(rank, &node.prefix)?;
        }
        ControlFlow::Continue(())
    }

    /// A node and those above it.
    fn upwards(&self, node: u32) -> impl Iterator<Item = &Node> {
        std::iter::successors(Some(self.node(node)), |node| node.parent.map(|parent| self.node(parent)))
    }

    /// `b.c` and `c` of `a.b.c`, without those that have more labels than any wildcard.
    fn suffixes<'h>(&self, host: &'h str) -> impl Iterator<Item = &'h str> {
        let from = host.rmatch_indices('.').nth(self.wildcard_labels - 1).map_or(0, |(at, _)| at);
        let parent = |host: &&'h str| host.split_once('.').map(|(_, parent)| parent);
        std::iter::successors(host.get(from..), parent).skip(1)
    }

    /// The node from which a host's tree hangs.
    fn tree(&mut self, host: &HostPattern) -> u32 {
        let (map, name) = match host {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(suffix) => {
                self.wildcard_labels = self.wildcard_labels.max(suffix.split('.').count());
                (&mut self.wildcard, suffix)
            }
            HostPattern::Any => return ANY_HOST,
        };
        let nodes = &mut self.nodes;
        match map.get(name.as_str()) {
            Some(tree) => *tree,
            None => {
                let tree = push(nodes, Node::default());
                map.insert(name.as_str().into(), tree);
                tree
            }
        }
    }

    fn add_path(&mut self, tree: u32, path: &PathMatch, route: u32) {
        match path {
            PathMatch::Pattern { pattern: PathPattern::Exact(path), .. } => {
                let node = self.descend(tree, path);
                self.node_mut(node).exact.push(route);
            }
            PathMatch::Pattern { pattern: PathPattern::Prefix(path), .. } => {
                let node = self.descend(tree, path);
                self.node_mut(node).prefix.push(route);
            }
            PathMatch::Regex(regex) => {
                // Whole segments that every match begins with.
                let node = match regex.prefix().rsplit_once('/') {
                    Some((segments, _)) => self.descend(tree, segments),
                    None => tree,
                };
                let index = u32::try_from(self.regexes.len()).unwrap_or(u32::MAX);
                self.regexes.push((regex.clone(), route));
                self.node_mut(node).regexes.push(index);
            }
        }
    }

    /// The node of a path, one level for each segment.
    fn descend(&mut self, tree: u32, path: &str) -> u32 {
        let mut node = tree;
        let mut length = 0;
        for segment in path.split('/') {
            length += segment.len() + 1;
            let found = self.edges.get(&EdgeRef { parent: node, segment }).copied();
            node = found.unwrap_or_else(|| {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                let below = push(&mut self.nodes, Node { parent: Some(node), length, ..Node::default() });
                self.edges.insert(Edge { parent: node, segment: segment.into() }, below);
                self.node_mut(node).inner = true;
                below
            });
        }
        node
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index as usize]
    }
}

/// The index of a new node. A file holds far fewer than 2³² characters, and so segments.
fn push(nodes: &mut Vec<Node>, node: Node) -> u32 {
    nodes.push(node);
    u32::try_from(nodes.len() - 1).unwrap_or(u32::MAX)
}

impl Entries {
    fn push(&mut self, entry: u32) {
        match self {
            Self::None => *self = Self::One(entry),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, entry])),
            Self::Many(list) => list.push(entry),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Self::None => &[],
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Many(list) => list,
        }
    }
}

impl<'a> List<'a> {
    /// Each route, with the expression that has yet to be found in the path.
    pub(super) fn routes(&self) -> impl Iterator<Item = (u32, Option<&'a Regex>)> + use<'a> {
        let (table, by_regex) = (self.table, self.path == PathRank::Regex);
        self.entries.iter().filter_map(move |entry| {
            if by_regex {
                table.regexes.get(*entry as usize).map(|(regex, route)| (*route, Some(regex)))
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
            table.add(route, std::iter::empty(), std::iter::once(path));
        }
        table.sort(|route| route);
        let tried = |path: &str| {
            let mut tried = Vec::new();
            let _ = table.walk("h", path, &mut |list| {
                tried.extend(list.routes().map(|(route, _)| route));
                ControlFlow::Continue(())
            });
            tried
        };
        assert_eq!(tried("/a/b/1"), [0, 1, 2]);
        assert_eq!(tried("/a/c"), [1, 2]);
        assert_eq!(tried("/b"), [2]);
    }
}
