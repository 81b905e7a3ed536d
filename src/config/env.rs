//! `${NAME}` and `${NAME:-default}` inside of scalars.
//!
//! Expansion comes after parsing, so a value can never change the shape of the file: whatever it holds, it is one scalar.

use crate::config::Span;
use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{Form, Kind, NodeId, Tree};

/// Where variables come from: the process's environment, or a test's.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands the variables in all scalars that were added to the tree since it had `from` nodes. Keys are left alone.
///
/// A scalar whose variable is unset is reported and marked as broken.
pub(crate) fn expand(tree: &mut Tree, from: usize, environment: Environment<'_>, report: &mut Report) {
    for id in tree.ids_from(from) {
        expand_node(tree, id, environment, report);
    }
}

fn expand_node(tree: &mut Tree, id: NodeId, environment: Environment<'_>, report: &mut Report) {
    let node = tree.node_mut(id);
    let Kind::Scalar(scalar) = &mut node.kind else { return };
    if !scalar.text.contains("${") {
        return;
    }
    match expand_text(&scalar.text, environment) {
        Ok(Expanded { text, variables: true }) => {
            let raw = std::mem::replace(&mut scalar.text, text);
            scalar.form = Form::Expanded(raw);
        }
        Ok(Expanded { text, variables: false }) => scalar.text = text,
        Err(mistakes) => {
            node.broken = true;
            let span = node.span;
            for mistake in mistakes {
                report.push(mistake.diagnostic(span, report));
            }
        }
    }
}

#[derive(Debug)]
struct Expanded {
    text: String,
    /// Whether there was more than escapes.
    variables: bool,
}

#[derive(Debug)]
enum Mistake {
    Unset { reference: String, name: String },
    Unclosed { reference: String },
    BadName { reference: String, name: String },
    Nested { reference: String },
}

fn expand_text(text: &str, environment: Environment<'_>) -> Result<Expanded, Vec<Mistake>> {
    let mut out = String::with_capacity(text.len());
    let mut variables = false;
    let mut mistakes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let escaped = rest.get(..at).is_some_and(|before| before.ends_with('$'));
        let Some(length) = rest.get(at..).and_then(|reference| reference.find('}')) else {
            mistakes.push(Mistake::Unclosed { reference: rest.get(at..).unwrap_or("").to_owned() });
            break;
        };
        let before = rest.get(..at).unwrap_or("");
        let reference = rest.get(at..=at + length).unwrap_or("");
        rest = rest.get(at + length + 1..).unwrap_or("");
        if escaped {
            out.push_str(before.strip_suffix('$').unwrap_or(before));
            out.push_str(reference);
            continue;
        }
        out.push_str(before);
        variables = true;
        match value_of(reference, environment) {
            Ok(value) => out.push_str(&value),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    out.push_str(rest);
    if mistakes.is_empty() { Ok(Expanded { text: out, variables }) } else { Err(mistakes) }
}

/// As in a shell: with `:-`, an empty variable takes the default too.
fn value_of(reference: &str, environment: Environment<'_>) -> Result<String, Mistake> {
    let inner = reference.strip_prefix("${").and_then(|inner| inner.strip_suffix('}')).unwrap_or("");
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let reference = reference.to_owned();
    if !is_name(name) {
        return Err(Mistake::BadName { reference, name: name.to_owned() });
    }
    match (environment(name), default) {
        (_, Some(default)) if default.contains("${") => Err(Mistake::Nested { reference }),
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Mistake::Unset { reference, name: name.to_owned() }),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

impl Mistake {
    fn diagnostic(&self, scalar: Span, report: &Report) -> Diagnostic {
        match self {
            Self::Unset { reference, name } => {
                Diagnostic::error(report.within(scalar, reference), format!("the environment variable `{name}` is not set"))
                    .hint(format!("set it, or give a default: ${{{name}:-default}}"))
            }
            Self::Unclosed { reference } => Diagnostic::error(report.within(scalar, reference), "this `${` is never closed")
                .hint("add the `}`, or write `$${` for a literal `${`"),
            Self::BadName { reference, name } => {
                let message = format!("`{name}` is no name of a variable: it takes capital letters, digits and `_`");
                let hint = if is_name(&name.to_ascii_uppercase()) {
                    format!("write ${{{}}}, or $${{{name}}} for the literal text", name.to_ascii_uppercase())
                } else {
                    "write `$${` for a literal `${`".to_owned()
                };
                Diagnostic::error(report.within(scalar, reference), message).hint(hint)
            }
            Self::Nested { reference } => Diagnostic::error(report.within(scalar, reference), "a default cannot hold a variable")
                .hint("give it as plain text"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${HOST}: [x".to_owned()),
            _ => None,
        }
    }

    fn expanded(text: &str) -> String {
        expand_text(text, &environment).unwrap().text
    }

    #[test]
    fn variables_defaults_and_escapes() {
        assert_eq!(expanded("${HOST}:80"), "example.com:80");
        assert_eq!(expanded("${UNSET:-a b}${HOST:-x}"), "a bexample.com");
        assert_eq!(expanded("${EMPTY}|${EMPTY:-x}|${UNSET:-}"), "|x|");
        assert_eq!(expanded("$${HOST} $HOST $$ ${HOST}"), "${HOST} $HOST $$ example.com");
        assert_eq!(expanded("${NESTED}"), "${HOST}: [x");
    }

    #[test]
    fn an_escape_alone_leaves_the_type_as_it_was() {
        assert!(!expand_text("$${HOST}", &environment).unwrap().variables);
    }

    #[test]
    fn mistakes_are_all_found() {
        let mistakes = expand_text("${UNSET} ${lower} ${A:-${B}} ${", &environment).unwrap_err();
        assert!(matches!(
            mistakes.as_slice(),
            [Mistake::Unset { .. }, Mistake::BadName { .. }, Mistake::Nested { .. }, Mistake::Unclosed { .. }]
        ));
    }
}
