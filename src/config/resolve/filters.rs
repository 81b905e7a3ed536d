//! Lists of filters: `use: chain`, or a filter with its settings.

use std::collections::HashSet;

use super::Resolver;
use crate::config::catalog::Body;
use crate::config::de::{self, Scope};
use crate::config::file::{Chain, NamedEntry};
use crate::config::report::Diagnostic;
use crate::config::section::RawFilter;
use crate::config::tree::{Entry, Kind, NodeId};
use crate::config::{FilterEntry, Named, Spanned, Step, not_yet, suggest};
use crate::types::Name;

/// The keys of an entry that are no filter.
const RESERVED: [&str; 2] = ["id", "when"];

/// The chains that a list of filters uses.
pub(super) fn uses(steps: &[Step]) -> impl Iterator<Item = &Spanned<Name>> {
    steps.iter().filter_map(|step| match step {
        Step::Use(name) => Some(name),
        Step::Filter(_) => None,
    })
}

impl Resolver<'_> {
    pub(super) fn chains(&mut self, entries: Vec<NamedEntry<Chain>>) -> Vec<Named<Vec<Step>>> {
        let chain = |entry: NamedEntry<Chain>| {
            let steps = self.steps(&entry.decoded.value.unwrap_or_default());
            Named { name: entry.name, value: steps }
        };
        entries.into_iter().map(chain).collect()
    }

    /// The entries of a list, without those that are broken.
    pub(super) fn steps(&mut self, list: &[RawFilter]) -> Vec<Step> {
        list.iter().filter_map(|filter| self.step(filter.0)).collect()
    }

    /// Reports chains that use themselves, be it by way of others.
    pub(super) fn cycles(&mut self, chains: &[Named<Vec<Step>>]) {
        let mut done = HashSet::new();
        for chain in chains {
            let mut path = Vec::new();
            self.follow(chain, chains, &mut path, &mut done);
        }
    }

    fn follow<'c>(
        &mut self,
        chain: &'c Named<Vec<Step>>,
        chains: &'c [Named<Vec<Step>>],
        path: &mut Vec<&'c str>,
        done: &mut HashSet<&'c str>,
    ) {
        if !done.insert(chain.name.as_str()) {
            return;
        }
        path.push(chain.name.as_str());
        for used in uses(&chain.value) {
            if let Some(at) = path.iter().position(|name| *name == used.as_str()) {
                let round = path.get(at..).unwrap_or(&[]).join("` → `");
                let message = format!("this chain uses itself: `{round}` → `{}`", used.as_str());
                let mut diagnostic = Diagnostic::error(used.span, message);
                if let Some(start) = chains.iter().find(|chain| chain.name.as_str() == used.as_str()) {
                    diagnostic = diagnostic.related(start.name.span, "the chain begins here");
                }
                self.report.push(diagnostic);
            } else if let Some(next) = chains.iter().find(|chain| chain.name.as_str() == used.as_str()) {
                self.follow(next, chains, path, done);
            }
        }
        path.pop();
    }

    fn step(&mut self, node: NodeId) -> Option<Step> {
        let tree = self.tree;
        if tree.node(node).broken {
            return None;
        }
        let Kind::Map(map) = &tree.node(node).kind else {
            self.no_map(node);
            return None;
        };
        if let Some(entry) = tree.entry(node, "when") {
            let diagnostic = Diagnostic::error(entry.key_span, "`when` is not supported yet");
            self.report.push(diagnostic.hint("remove it: the filter would run on every request"));
        }
        let mut filters = map.entries.iter().filter(|entry| !RESERVED.contains(&entry.key.as_str()));
        let Some(filter) = filters.next() else {
            let diagnostic = Diagnostic::error(tree.place(node), "there is no filter in this entry");
            self.report.push(diagnostic.hint("an entry is a map with one filter in it, `- NAME: {…}`, or `- use: CHAIN`"));
            return None;
        };
        let mut single = true;
        for second in filters {
            single = false;
            let diagnostic =
                Diagnostic::error(second.key_span, format!("`{}` is a second filter in this entry, which takes one", second.key));
            let hint = format!("begin an entry of its own with `- {}:`", second.key);
            self.report.push(diagnostic.hint(hint).related(filter.key_span, "the first filter"));
        }
        let step = if filter.key == "use" { self.used(filter, node) } else { self.filter(filter, node) };
        step.filter(|_| single)
    }

    fn no_map(&mut self, node: NodeId) {
        let tree = self.tree;
        let place = tree.place(node);
        let diagnostic = Diagnostic::error(place, "a filter is a map with its name as the key");
        self.report.push(match &tree.node(node).kind {
            Kind::Scalar(scalar) if self.chains.names.contains(&scalar.text) => {
                diagnostic.hint(format!("for the chain of this name, write `- use: {}`", self.report.shown(place, &scalar.text)))
            }
            Kind::Scalar(scalar) => diagnostic.hint(format!("write `- {}: {{}}`", self.report.shown(place, &scalar.text))),
            _ => diagnostic.hint("write `- NAME: {…}`"),
        });
    }

    fn used(&mut self, filter: &Entry, node: NodeId) -> Option<Step> {
        if let Some(id) = self.tree.entry(node, "id") {
            let diagnostic = Diagnostic::error(id.key_span, "`id` is for a filter, not for the use of a chain");
            self.report.push(diagnostic.hint("give it to a filter in the chain"));
        }
        let name: Spanned<Name> = de::decode(self.tree, filter.value, Scope::Own, self.report).value?;
        self.chains.check(&name, self.report);
        self.used_chains.insert(name.as_str().to_owned());
        Some(Step::Use(name))
    }

    fn filter(&mut self, filter: &Entry, node: NodeId) -> Option<Step> {
        let id = self.tree.entry(node, "id").and_then(|id| self.id(id));
        self.mentioned.extend(self.tree.scalars(filter.value).into_iter().map(str::to_owned));
        let names = self.catalog.names();
        let Some(kind) = names.iter().find(|name| **name == filter.key) else {
            self.unknown_filter(filter, &names);
            return None;
        };
        if self.tree.node(filter.value).broken {
            return None;
        }
        let settings = self.catalog.decode(kind, Body::new(self.tree, filter.value, self.report))?;
        Some(Step::Filter(FilterEntry { span: filter.key_span, kind, id, settings }))
    }

    fn unknown_filter(&mut self, filter: &Entry, names: &[&'static str]) {
        let name = &filter.key;
        self.report.push(if not_yet::filter(name) {
            Diagnostic::error(filter.key_span, format!("the filter `{name}` is not supported yet"))
                .hint("remove it: what is not there must not look as if it were")
        } else {
            let diagnostic = Diagnostic::error(filter.key_span, format!("unknown filter `{name}`"));
            let hint = match not_yet::filter_meant(name) {
                Some(meant) if names.contains(&meant) => Some(format!("it is called `{meant}` here")),
                Some(meant) => Some(format!("it is called `{meant}` here, which is not supported yet")),
                None => suggest::hint(name, names.iter().copied().chain(["use"])),
            };
            match hint {
                Some(hint) => diagnostic.hint(hint),
                None => diagnostic,
            }
        });
    }

    fn id(&mut self, entry: &Entry) -> Option<Spanned<Name>> {
        let id: Spanned<Name> = de::decode(self.tree, entry.value, Scope::Own, self.report).value?;
        match self.ids.get(&id.value) {
            Some(first) => {
                let message = format!("another filter has the id `{}`", self.report.shown(id.span, id.as_str()));
                let diagnostic = Diagnostic::error(id.span, message)
                    .hint("an id is one filter's own: its state lives on under it after a reload");
                self.report.push(diagnostic.related(*first, "first given here"));
            }
            None => {
                self.ids.insert(id.value.clone(), id.span);
            }
        }
        Some(id)
    }
}
