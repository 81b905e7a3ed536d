//! The settings of one filter, from text that holds nothing else.

use std::any::Any;

use crate::config::report::{Diagnostic, Report};
use crate::config::tree::Tree;
use crate::config::{Body, Catalog, yaml};

/// Decodes settings as if they stood under the filter's key in a file. The error is the report.
pub(crate) fn decode_filter(settings: &str, name: &str, catalog: &dyn Catalog) -> Result<Box<dyn Any + Send>, String> {
    let (mut tree, mut report) = (Tree::default(), Report::default());
    let file = report.add_source(name, settings);
    let decoded =
        yaml::parse(&mut tree, &mut report, file).and_then(|root| catalog.decode(name, Body::new(&tree, root, &mut report)));
    match decoded {
        Some(decoded) if !report.has_errors() => Ok(decoded),
        decoded => {
            if decoded.is_none() && !report.has_errors() {
                report.push(Diagnostic::error(crate::config::Span::whole(file), format!("unknown filter `{name}`")));
            }
            Err(report.to_string())
        }
    }
}
