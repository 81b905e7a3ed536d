//! A YAML document as an arena of nodes, each with its place: what the typed decoding walks over.

use crate::config::Span;

/// A node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u32);

/// All nodes of all files of a configuration. An alias is a second way to the same node, so this is a graph without cycles.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    /// Where the key stands under which the node was written.
    pub(crate) key: Option<Span>,
    pub(crate) kind: Kind,
    /// Its value could not be made out, and that has been reported: nobody reads it.
    pub(crate) broken: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Scalar(Scalar),
    List(Vec<NodeId>),
    Map(Map),
}

#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) entries: Vec<Entry>,
    /// Written with braces.
    pub(crate) flow: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: NodeId,
}

#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    /// As it was written (a plain `1.10` stays `1.10`), or what a quoted scalar stands for.
    pub(crate) text: String,
    pub(crate) form: Form,
}

/// What YAML's core schema makes of a scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    /// Anything quoted, and plain words.
    Text,
    Int,
    Float,
    Bool,
    /// A variable was expanded, so the key decides about the type. Holds the text as it was before: messages show that.
    Expanded(String),
}

impl Tree {
    pub(crate) fn add(&mut self, span: Span, kind: Kind) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(Node { span, key: None, kind, broken: false });
        id
    }

    /// A map that stands in no file as such: the merged sections of several, or a part of one.
    pub(crate) fn add_map(&mut self, span: Span, entries: Vec<Entry>) -> NodeId {
        self.add(span, Kind::Map(Map { entries, flow: false }))
    }

    pub(crate) fn add_list(&mut self, span: Span, elements: Vec<NodeId>) -> NodeId {
        self.add(span, Kind::List(elements))
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The nodes that were added since there were `from` of them.
    pub(crate) fn ids_from(&self, from: usize) -> impl Iterator<Item = NodeId> + use<> {
        (from..self.nodes.len()).filter_map(|index| u32::try_from(index).ok()).map(NodeId)
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The entries of a map; none of anything else.
    pub(crate) fn entries(&self, id: NodeId) -> &[Entry] {
        match &self.node(id).kind {
            Kind::Map(map) => &map.entries,
            _ => &[],
        }
    }

    /// The elements of a list; none of anything else.
    pub(crate) fn elements(&self, id: NodeId) -> &[NodeId] {
        match &self.node(id).kind {
            Kind::List(elements) => elements,
            _ => &[],
        }
    }

    pub(crate) fn entry(&self, id: NodeId, key: &str) -> Option<&Entry> {
        self.entries(id).iter().find(|entry| entry.key == key)
    }

    /// What stands under these keys, each within the one before.
    pub(crate) fn at(&self, id: NodeId, path: &[&str]) -> Option<NodeId> {
        path.iter().try_fold(id, |node, key| self.entry(node, key).map(|entry| entry.value))
    }

    /// Where to point for this node: at the key of what has no extent of its own or goes on over further lines.
    pub(crate) fn place(&self, id: NodeId) -> Span {
        let node = self.node(id);
        let by_key = match &node.kind {
            Kind::Map(map) => !map.flow,
            Kind::List(_) | Kind::Scalar(_) | Kind::Null => false,
        };
        match node.key {
            Some(key) if by_key || node.span.is_empty() => key,
            _ => node.span,
        }
    }

    /// The text of every scalar below (and at) this node.
    pub(crate) fn scalars(&self, id: NodeId) -> Vec<&str> {
        let mut found = Vec::new();
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            match &self.node(id).kind {
                Kind::Null => {}
                Kind::Scalar(scalar) => found.push(scalar.text.as_str()),
                Kind::List(elements) => todo.extend(elements),
                Kind::Map(map) => todo.extend(map.entries.iter().map(|entry| entry.value)),
            }
        }
        found
    }
}

/// What a plain scalar is by YAML 1.2's core schema (§10.3.2); `None`: null.
pub(crate) fn form_of_plain(text: &str) -> Option<Form> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => None,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Some(Form::Bool),
        _ if parse_int(text).is_some() => Some(Form::Int),
        _ if parse_float(text).is_some() => Some(Form::Float),
        _ => Some(Form::Text),
    }
}

/// `12`, `-12`, `0o14`, `0x0c`.
pub(crate) fn parse_int(text: &str) -> Option<i128> {
    let digits = |digits: &str, radix| {
        let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
        all.then(|| i128::from_str_radix(digits, radix).unwrap_or(i128::MAX))
    };
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16);
    }
    match text.strip_prefix('-') {
        Some(magnitude) => digits(magnitude, 10).map(|n| -n),
        None => digits(text.strip_prefix('+').unwrap_or(text), 10),
    }
}

/// `1.5`, `.5`, `1.`, `1e3`, `.inf`, `-.inf`, `.nan`.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    let (sign, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    match magnitude {
        ".inf" | ".Inf" | ".INF" => return Some(sign * f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let plain = magnitude.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && magnitude.chars().any(|c| c.is_ascii_digit())
        && magnitude.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    plain.then(|| magnitude.parse::<f64>().ok()).flatten().map(|n| sign * n)
}

pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_schema() {
        for null in ["", "~", "null", "NULL"] {
            assert_eq!(form_of_plain(null), None, "{null}");
        }
        for int in ["0", "-7", "+7", "0660", "0o14", "0x0C"] {
            assert_eq!(form_of_plain(int), Some(Form::Int), "{int}");
        }
        for float in ["1.10", "-.5", "1.", "1e3", "1.5E-3", ".inf", "-.INF", ".nan"] {
            assert_eq!(form_of_plain(float), Some(Form::Float), "{float}");
        }
        for text in ["yes", "no", "on", "off", "1.2.3", "10.0.0.1:80", "30s", "0x", "-", "+", ".", "e3", "1_000", "inf", "0o9"] {
            assert_eq!(form_of_plain(text), Some(Form::Text), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_int("0o17"), Some(15));
        assert_eq!(parse_int("-0"), Some(0));
        assert_eq!(parse_float("-1.5"), Some(-1.5));
        assert_eq!(parse_int(&"9".repeat(60)), Some(i128::MAX));
    }
}
