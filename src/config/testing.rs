//! Helps for the tests of this module's files.

use serde::de::DeserializeOwned;

use crate::config::de::{Scope, decode};
use crate::config::report::Report;
use crate::config::tree::Tree;
use crate::config::{env, yaml};

/// A value of YAML text; `HOME_PORT` is a variable. The error is the rendered report.
pub(crate) fn decoded<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let (mut tree, mut report) = (Tree::default(), Report::default());
    let file = report.add_source("a.yaml", text);
    let value = yaml::parse(&mut tree, &mut report, file).and_then(|root| {
        env::expand(&mut tree, 0, &|name| (name == "HOME_PORT").then(|| "8080".to_owned()), &mut report);
        decode(&tree, root, Scope::Own, &mut report).value
    });
    match value {
        Some(value) if !report.has_errors() => Ok(value),
        _ => Err(report.to_string()),
    }
}

/// An upstream's section.
pub(crate) fn upstream(text: &str) -> crate::config::Upstream {
    decoded(text).unwrap_or_else(|report| panic!("{report}"))
}
