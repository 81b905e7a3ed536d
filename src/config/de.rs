//! [`Tree`] → typed values, by serde, with every mistake and not only the first.
//!
//! A serde `Deserialize` stops at its first error. So decoding is tried again: the entry that holds the mistake is reported, then
//! left out, and the next try gets further. What cannot be built for the lack of such an entry is left out without a word. Keys that a
//! struct does not have are found without a retry, from the list of fields that serde hands over. Thus every struct is read as if
//! it said `deny_unknown_fields`, and a `Vec` or map may come back without its broken entries: the report tells.

mod access;
mod decoder;
mod fault;
mod record;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde::de::DeserializeOwned;

use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{NodeId, Tree};
use decoder::Decoder;
use fault::Edge;

/// The newtype name by which a value asks for its node instead of what is in it.
pub(crate) const NODE: &str = "$ravelin::Node";

/// Mistakes that are reported already do not count as errors, so their number must be bounded apart.
const MAX_TRIES: usize = 1000;

/// Whose keys are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This crate's own sections.
    Own,
    /// A filter's settings, of which the list of unsupported keys knows nothing.
    Filter,
}

/// What came of a node.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    /// `None` if too much was wrong; that is in the report.
    pub(crate) value: Option<T>,
    /// Whether nothing at all was left out of the value.
    pub(crate) whole: bool,
    lost: Vec<Lost>,
}

/// A key of the decoded map that was left out.
#[derive(Debug)]
struct Lost {
    key: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// Its value is broken.
    Broken,
    /// No such key; it may have been meant as this one.
    Unknown { meant: Option<String> },
    /// It stands in for keys that this version has, perhaps.
    NotYet,
}

impl<T> Decoded<T> {
    /// Whether the absence of all these keys may be due to what was left out: then nobody should complain about it.
    pub(crate) fn may_have_lost(&self, keys: &[&str]) -> bool {
        self.lost.iter().any(|lost| lost.explains(keys))
    }

    /// The value, if nothing was left out.
    pub(crate) fn intact(self) -> Option<T> {
        self.value.filter(|_| self.whole)
    }
}

impl Lost {
    fn explains(&self, keys: &[&str]) -> bool {
        match &self.why {
            Why::Broken => keys.contains(&self.key.as_str()),
            Why::Unknown { meant } => meant.as_deref().is_some_and(|meant| keys.contains(&meant)),
            Why::NotYet => true,
        }
    }
}

/// Decodes a node; every mistake goes to the report.
pub(crate) fn decode<T: DeserializeOwned>(tree: &Tree, node: NodeId, scope: Scope, report: &mut Report) -> Decoded<T> {
    let cx = Cx { tree, scope, left_out: RefCell::default(), found: RefCell::default(), skipped: Cell::new(false) };
    let root = Decoder { cx: &cx, node, edge: None, key: "" };
    if tree.node(node).broken {
        return Decoded { value: None, whole: false, lost: Vec::new() };
    }
    let mut tries = 0;
    loop {
        tries += 1;
        cx.skipped.set(false);
        let attempt = T::deserialize(root).map_err(|fault| fault.at(|| root.place()));
        let again = attempt.is_err() && !report.is_full() && tries < MAX_TRIES;
        let (value, edge) = match attempt {
            Ok(value) => (Some(value), None),
            Err(fault) => (None, cx.record(fault, report)),
        };
        cx.found.take().into_iter().for_each(|diagnostic| report.push(diagnostic));
        match edge {
            Some(edge) if again => {
                cx.left_out.borrow_mut().insert(edge, Why::Broken);
            }
            _ => {
                let whole = value.is_some() && !cx.skipped.get();
                return Decoded { value, whole, lost: cx.lost(node) };
            }
        }
    }
}

/// What the decoders of one [`decode`] share.
struct Cx<'t> {
    tree: &'t Tree,
    scope: Scope,
    left_out: RefCell<HashMap<Edge, Why>>,
    found: RefCell<Vec<Diagnostic>>,
    /// Whether this try left anything out.
    skipped: Cell<bool>,
}

impl Cx<'_> {
    fn skips(&self, edge: Edge, child: NodeId) -> bool {
        let skips = self.tree.node(child).broken || self.left_out.borrow().contains_key(&edge);
        if skips {
            self.skipped.set(true);
        }
        skips
    }

    /// The entries of a map that were left out.
    fn lost(&self, map: NodeId) -> Vec<Lost> {
        let left_out = self.left_out.borrow();
        let entries = self.tree.entries(map).iter().enumerate();
        entries
            .filter_map(|(index, entry)| {
                let broken = self.tree.node(entry.value).broken.then_some(Why::Broken);
                let why = left_out.get(&Edge { parent: map, index }).cloned().or(broken)?;
                Some(Lost { key: entry.key.clone(), why })
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "de/tests.rs"]
mod tests;
