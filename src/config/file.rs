//! What was typed: the sections of the file, Pingora's own keys apart.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::de::{self, Scope};
use crate::config::report::{Diagnostic, Report};
use crate::config::section::{RawFilter, Section};
use crate::config::span::Spanned;
use crate::config::tree::{Entry, NodeId, Tree};
use crate::config::{AccessLog, Admin, ErrorPage, Hardening, Limits, Listener, Overload, Test, Upstream, pingora, route};
use crate::types::Name;

/// A configuration file of Ravelin. Beside these sections it holds Pingora's own keys, such as `threads`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    /// Further files with listeners, upstreams, routes, chains and tests: paths relative to this one; `*` matches within a name.
    pub(crate) include: Vec<Spanned<String>>,
    /// Where clients connect.
    pub(crate) listeners: Section<Listener>,
    /// The services behind the proxy.
    pub(crate) upstreams: Section<Upstream>,
    /// Which request goes where.
    pub(crate) routes: Section<route::Route>,
    /// Lists of filters that routes share.
    pub(crate) chains: Section<Chain>,
    /// What holds for every route or listener.
    pub(crate) defaults: Defaults,
    /// Bodies of errors that Ravelin answers with itself, by status, `4xx` or `5xx`. Default: short text, or JSON where accepted.
    pub(crate) errors: Section<ErrorPage>,
    /// When the file is read anew.
    pub(crate) reload: Reload,
    /// What is written of each request.
    pub(crate) access_log: Option<AccessLog>,
    /// Where the process is watched. Default: nowhere.
    pub(crate) admin: Option<Admin>,
    /// How much the process takes on at once.
    pub(crate) overload: Overload,
    /// What the process takes from itself before it serves.
    pub(crate) hardening: Hardening,
    /// Requests, and what should become of them: `ravelin test` sees whether it does.
    pub(crate) tests: Vec<Test>,
}

/// Filters, in the order in which they see the request.
pub(crate) type Chain = Vec<RawFilter>;

/// What holds for every route or listener that does not say otherwise.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Defaults {
    /// In front of the filters of every route that does not say `skip_defaults: true`.
    pub(crate) filters: Vec<RawFilter>,
    /// For every listener, where it says nothing of its own.
    pub(crate) limits: Limits,
}

/// When the file is read anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reload {
    /// On SIGHUP.
    #[default]
    Signal,
    /// On SIGHUP, and when a file that was read changes.
    Watch,
}

/// The sections that may be spread over several files.
pub(crate) const SHARED_SECTIONS: [&str; 4] = ["listeners", "upstreams", "routes", "chains"];

/// Likewise, and a list.
pub(crate) const TESTS: &str = "tests";

/// An entry of a section.
pub(crate) struct NamedEntry<T> {
    pub(crate) name: Spanned<Name>,
    pub(crate) node: NodeId,
    pub(crate) decoded: de::Decoded<T>,
}

impl<T> fmt::Debug for NamedEntry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedEntry").field("name", &self.name.value).finish_non_exhaustive()
    }
}

/// Splits the top level into Pingora's keys and the rest: two maps in place of one.
pub(crate) fn split(tree: &mut Tree, root: NodeId) -> (NodeId, NodeId) {
    let span = tree.node(root).span;
    let keys = pingora::keys();
    let (theirs, ours): (Vec<Entry>, Vec<Entry>) =
        tree.entries(root).iter().cloned().partition(|entry| keys.contains(&entry.key.as_str()));
    (tree.add_map(span, theirs), tree.add_map(span, ours))
}

impl<T: serde::de::DeserializeOwned> Section<T> {
    /// Decodes each entry apart. An entry whose name is none is reported and left out; one that is broken stays, for its name.
    pub(crate) fn decode(&self, tree: &Tree, report: &mut Report) -> Vec<NamedEntry<T>> {
        let entries = self.node.map_or(&[][..], |node| tree.entries(node));
        let decode_entry = |entry: &Entry| {
            let name: Name = match entry.key.parse() {
                Ok(name) => name,
                Err(error) => {
                    report.push(Diagnostic::error(entry.key_span, crate::types::NameError::to_string(&error)));
                    return None;
                }
            };
            let decoded = de::decode(tree, entry.value, Scope::Own, report);
            Some(NamedEntry { name: Spanned::new(name, entry.key_span), node: entry.value, decoded })
        };
        entries.iter().filter_map(decode_entry).collect()
    }
}
