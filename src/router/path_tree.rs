//! Routes by path: a tree of segments.

use std::collections::HashMap;

use crate::types::PathPattern;

/// The routes of one host, by path.
#[derive(Default)]
pub(super) struct PathTree {
    root: Node,
    /// Routes that say nothing of paths.
    any: Candidates,
}

#[derive(Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Routes for exactly this path.
    exact: Candidates,
    /// Routes for this path and all below it.
    prefix: Candidates,
}

/// Routes that differ at most in their methods: those that name some first, each group in the order of the file.
#[derive(Default)]
struct Candidates {
    with_methods: Vec<(Box<[http::Method]>, usize)>,
    /// The first route for every method; later ones can never be taken.
    for_all: Option<usize>,
}

impl PathTree {
    pub(super) fn add<'a>(&mut self, index: usize, paths: impl Iterator<Item = &'a PathPattern>, methods: &[http::Method]) {
        let mut any = true;
        for path in paths {
            any = false;
            match path {
                PathPattern::Exact(path) => self.root.descend(path).exact.add(index, methods),
                PathPattern::Prefix(path) => self.root.descend(path).prefix.add(index, methods),
            }
        }
        if any {
            self.any.add(index, methods);
        }
    }

    pub(super) fn find(&self, path: &str, method: &http::Method) -> Option<usize> {
        self.root.find(path, method).or_else(|| self.any.find(method))
    }
}

impl Node {
    /// The node of a path: one level for each `/`.
    fn descend(&mut self, path: &str) -> &mut Self {
        let mut node = self;
        for segment in path.split('/').skip(1) {
            node = node.children.entry(segment.into()).or_default();
        }
        node
    }

    fn find(&self, path: &str, method: &http::Method) -> Option<usize> {
        // `OPTIONS *` asks for no path at all.
        let mut rest = path.strip_prefix('/');
        if rest.is_none() && !path.is_empty() {
            return None;
        }
        let mut node = self;
        let mut best = node.prefix.find(method);
        while let Some(text) = rest {
            let (segment, below) = match text.split_once('/') {
                Some((segment, below)) => (segment, Some(below)),
                None => (text, None),
            };
            match node.children.get(segment) {
                Some(child) => node = child,
                None => return best,
            }
            best = node.prefix.find(method).or(best);
            rest = below;
        }
        node.exact.find(method).or(best)
    }
}

impl Candidates {
    fn add(&mut self, index: usize, methods: &[http::Method]) {
        if methods.is_empty() {
            self.for_all.get_or_insert(index);
        } else {
            self.with_methods.push((methods.into(), index));
        }
    }

    fn find(&self, method: &http::Method) -> Option<usize> {
        let named = self.with_methods.iter().find(|(methods, _)| methods.contains(method));
        named.map(|(_, index)| *index).or(self.for_all)
    }
}
