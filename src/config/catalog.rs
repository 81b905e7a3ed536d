//! The filters that exist: how the configuration learns of them without knowing the floors below.

use std::any::Any;

use serde::de::DeserializeOwned;

use crate::config::Span;
use crate::config::de::{self, Scope};
use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{NodeId, Tree};

/// The filters that exist.
pub trait Catalog {
    /// Every filter's name, sorted.
    fn names(&self) -> Vec<&'static str>;
    /// Decodes `body` to the settings type of the filter `name`; mistakes go to the body's report. `None`: none such, or broken.
    fn decode(&self, name: &str, body: Body<'_, '_>) -> Option<Box<dyn Any + Send>>;
    /// The JSON Schema of the settings of the filter `name`.
    fn schema(&self, name: &str, generator: &mut schemars::SchemaGenerator) -> Option<schemars::Schema>;
}

/// A catalog of no filters.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFilters;

impl Catalog for NoFilters {
    fn names(&self) -> Vec<&'static str> {
        Vec::new()
    }
    fn decode(&self, _: &str, _: Body<'_, '_>) -> Option<Box<dyn Any + Send>> {
        None
    }
    fn schema(&self, _: &str, _: &mut schemars::SchemaGenerator) -> Option<schemars::Schema> {
        None
    }
}

/// A filter's settings as they stand in the file, for the filter's own type to be made of them.
pub struct Body<'t, 'r> {
    tree: &'t Tree,
    node: NodeId,
    report: &'r mut Report,
}

impl<'t, 'r> Body<'t, 'r> {
    pub(crate) fn new(tree: &'t Tree, node: NodeId, report: &'r mut Report) -> Self {
        Self { tree, node, report }
    }

    /// Makes a `T` of the settings. Every mistake goes to the report; `None` if there was one.
    ///
    /// A struct takes no keys but its own, whether or not it says `deny_unknown_fields`.
    pub fn decode<T: DeserializeOwned>(self) -> Option<T> {
        de::decode(self.tree, self.node, Scope::Filter, self.report).intact()
    }

    /// Where the settings stand.
    pub fn span(&self) -> Span {
        self.tree.place(self.node)
    }

    /// Adds a mistake that the settings' type cannot see.
    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.report.push(diagnostic);
    }
}
