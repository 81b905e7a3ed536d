//! Faults → diagnostics, in the words of somebody who writes YAML.

use super::fault::{Edge, Fault, Place, What};
use super::{Cx, Lost, Scope, Why};
use crate::config::Span;
use crate::config::not_yet::{self, unsupported};
use crate::config::pingora;
use crate::config::report::{Diagnostic, Report};
use crate::config::suggest::{self, unknown_key};
use crate::config::tree::{Form, Kind, NodeId, Scalar};

impl Cx<'_> {
    /// Turns a fault into a diagnostic, unless it is but a follow-on; tells which entry to leave out from now on.
    pub(super) fn record(&self, fault: Fault, report: &Report) -> Option<Edge> {
        let (what, place) = fault.into_parts();
        let mut place = place?;
        if let What::Said(message) = &what {
            place.span = narrowed(place.span, message, report);
        }
        if let Some(diagnostic) = self.diagnostic(what, &place) {
            self.found.borrow_mut().push(self.veiled(diagnostic, place.node));
        }
        place.edge
    }

    /// Reports the keys of a map that the struct does not have, and leaves them out.
    pub(super) fn leave_out_unknown_keys(&self, map: NodeId, structure: &str, fields: &[&'static str]) {
        for (index, entry) in self.tree.entries(map).iter().enumerate() {
            let edge = Edge { parent: map, index };
            if fields.contains(&entry.key.as_str()) || self.left_out.borrow().contains_key(&edge) {
                continue;
            }
            let coming = match self.scope {
                Scope::Own => not_yet::key(structure, &entry.key),
                Scope::Filter => not_yet::filter_key(structure, &entry.key),
            };
            let why = if coming {
                self.found.borrow_mut().push(unsupported(entry.key_span, &entry.key));
                Why::NotYet
            } else {
                // Beside the sections, the file holds Pingora's own keys, which are decoded apart.
                let beside = if structure == "File" { pingora::keys() } else { Vec::new() };
                let known = || fields.iter().copied().chain(beside.iter().copied());
                let meant = suggest::closest(&entry.key, known()).map(str::to_owned);
                let mut diagnostic = unknown_key(&entry.key, known(), entry.key_span);
                if structure == "File" && meant.is_none() {
                    diagnostic =
                        diagnostic.hint(format!("the sections are {}; beside them are Pingora's keys", suggest::listed(fields)));
                }
                self.found.borrow_mut().push(diagnostic);
                Why::Unknown { meant }
            };
            self.left_out.borrow_mut().insert(edge, why);
        }
    }

    fn diagnostic(&self, what: What, place: &Place) -> Option<Diagnostic> {
        let span = place.span;
        let own = self.scope == Scope::Own;
        Some(match what {
            What::Known => return None,
            // What is left of a list or map may be wrong only for the lack of what was left out.
            What::Said(_) if self.has_lost(place.node) => return None,
            What::Said(message) => Diagnostic::error(span, message),
            What::Missing(key) if self.explains_absence(place.node, key) => return None,
            What::Missing(key) => Diagnostic::error(span, format!("`{key}` is missing here")),
            What::UnknownKey { given, known } => unknown_key(&given, known, span),
            What::UnknownWord { given, .. } if own && not_yet::value(&place.key, &given) => unsupported(span, &given),
            What::UnknownWord { given, known } => {
                with_hint(Diagnostic::error(span, format!("`{given}` is not known here")), suggest::hint(&given, known))
            }
            What::Kind { .. } if self.has_lost(place.node) => return None,
            What::Kind { expected, keys } => {
                if let Some(key) = self.unsupported_shape(place).filter(|_| own) {
                    return Some(unsupported(span, key));
                }
                let hint = self.kind_hint(place.node, &expected, keys);
                let found = found(&self.tree.node(place.node).kind);
                let message = if expected.contains([',', ':']) {
                    format!("found {found}, where this is expected: {expected}")
                } else {
                    format!("expected {expected}, found {found}")
                };
                with_hint(Diagnostic::error(span, message), hint)
            }
        })
    }

    /// Whether something that was left out is why this key is missing.
    fn explains_absence(&self, map: NodeId, key: &str) -> bool {
        self.lost(map).iter().any(|lost: &Lost| lost.explains(&[key]))
    }

    fn has_lost(&self, node: NodeId) -> bool {
        let children: Vec<NodeId> = match &self.tree.node(node).kind {
            Kind::List(elements) => elements.clone(),
            Kind::Map(map) => map.entries.iter().map(|entry| entry.value).collect(),
            Kind::Null | Kind::Scalar(_) => return false,
        };
        let left_out = self.left_out.borrow();
        let is_lost = |(index, child): (usize, NodeId)| {
            self.tree.node(child).broken || left_out.contains_key(&Edge { parent: node, index })
        };
        children.into_iter().enumerate().any(is_lost)
    }

    /// `{regex: …}` where only words are supported so far.
    fn unsupported_shape(&self, place: &Place) -> Option<&str> {
        let entry = self.tree.entries(place.node).first()?;
        not_yet::value(&place.key, &entry.key).then_some(entry.key.as_str())
    }

    fn kind_hint(&self, node: NodeId, expected: &str, keys: &[&str]) -> Option<String> {
        if expected == "a map" && !keys.is_empty() {
            return Some(format!("its keys are {}", suggest::listed(keys)));
        }
        let Kind::Scalar(Scalar { text, form: Form::Text }) = &self.tree.node(node).kind else { return None };
        let number = expected.contains("number") && text.parse::<f64>().is_ok();
        match (expected, text.as_str()) {
            ("a list", text) => Some(format!("put it in brackets: [{text}]")),
            ("`true` or `false`", "yes" | "on" | "Yes" | "On" | "YES" | "ON") => Some("write `true`".to_owned()),
            ("`true` or `false`", "no" | "off" | "No" | "Off" | "NO" | "OFF") => Some("write `false`".to_owned()),
            ("`true` or `false`", "true" | "false") => Some("remove the quotes".to_owned()),
            _ if number => Some("remove the quotes".to_owned()),
            ("a whole number", text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Some("write the number alone, without a unit".to_owned())
            }
            _ => None,
        }
    }

    /// Where a variable was expanded, its value may be a secret: the message shows the variable.
    fn veiled(&self, mut diagnostic: Diagnostic, node: NodeId) -> Diagnostic {
        if let Kind::Scalar(Scalar { text, form: Form::Expanded(raw) }) = &self.tree.node(node).kind {
            diagnostic.message = veil(&diagnostic.message, text, raw);
            diagnostic.hint = diagnostic.hint.map(|hint| veil(&hint, text, raw));
        }
        diagnostic
    }
}

/// The part of a value that a message quotes first, such as a name in a longer text.
fn narrowed(span: Span, message: &str, report: &Report) -> Span {
    match message.split('`').nth(1) {
        // What is shorter stands in many places.
        Some(quoted) if quoted.len() > 2 => report.within(span, quoted),
        _ => span,
    }
}

/// Replaces what a message quotes of `value`: parsers quote in backticks, be it all of the value or a part of it.
fn veil(message: &str, value: &str, raw: &str) -> String {
    let lower = value.to_lowercase();
    let mut shown = String::with_capacity(message.len());
    for (nth, part) in message.split('`').enumerate() {
        if nth > 0 {
            shown.push('`');
        }
        let quoted = nth % 2 == 1;
        let from_value = !part.is_empty() && lower.contains(&part.to_lowercase());
        shown.push_str(if quoted && from_value { raw } else { part });
    }
    // Outside of backticks, a short value would be found in words that have nothing to do with it.
    if value.len() < 4 { shown } else { shown.replace(value, raw) }
}

fn with_hint(diagnostic: Diagnostic, hint: Option<String>) -> Diagnostic {
    match hint {
        Some(hint) => diagnostic.hint(hint),
        None => diagnostic,
    }
}

fn found(kind: &Kind) -> &'static str {
    match kind {
        Kind::Null => "nothing",
        Kind::List(_) => "a list",
        Kind::Map(_) => "a map",
        Kind::Scalar(Scalar { form, .. }) => match form {
            Form::Text | Form::Expanded(_) => "a string",
            Form::Int | Form::Float => "a number",
            Form::Bool => "`true` or `false`",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::veil;

    #[test]
    fn secrets_are_veiled() {
        assert_eq!(
            veil("`hunter2` is no duration: such as `30s`", "hunter2", "${SECRET}"),
            "`${SECRET}` is no duration: such as `30s`"
        );
        assert_eq!(veil("a host cannot hold `_`", "a_b", "${HOST}"), "a host cannot hold `${HOST}`");
        assert_eq!(veil("expected 1, found hunter2", "hunter2", "${N}"), "expected 1, found ${N}");
    }
}
