//! YAML text → [`Tree`].
//!
//! This reads the events of `granit-parser`, the parser inside `serde-saphyr`, instead of decoding through the latter: a typed walk
//! has already forgotten what good messages need — whether a scalar was quoted and how it was spelled, where a collection ends,
//! both places of a duplicate key — and it replays an alias as a copy, where here it is a second edge to the same node.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, StructureStyle, Tag};

use crate::config::Span;
use crate::config::report::{Diagnostic, Report};
use crate::config::tree::{Entry, Form, Kind, Map, NodeId, Scalar, Tree, form_of_plain};

/// The largest file, in bytes: far over any real one, far under what a span can hold.
pub(crate) const MAX_FILE: usize = 64 << 20;
/// How many nodes a document may stand for once its aliases are followed. Real files have thousands, and one
/// of 100,000 routes a million; an alias bomb has billions.
const MAX_NODES: u64 = 4_000_000;
/// How deep collections may nest.
const MAX_DEPTH: usize = 64;

/// Reads the document in source `file` of the report. `None` if its text is no YAML, which is then in the report.
/// An empty document is an empty map.
pub(crate) fn parse(tree: &mut Tree, report: &mut Report, file: u16) -> Option<NodeId> {
    let text = report.source(Span::whole(file)).map(|source| source.text.clone())?;
    if text.len() > MAX_FILE {
        let message = format!("the file is larger than {} MiB", MAX_FILE >> 20);
        report.push(Diagnostic::error(Span::whole(file), message));
        return None;
    }
    let mut builder =
        Builder { tree, report, file, stack: Vec::new(), root: None, anchors: HashMap::new(), weights: HashMap::new() };
    for event in Parser::new_from_str_with_options(&text, options()) {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(Box::new(syntax_error(&error, file, &text))),
        };
        if let Err(diagnostic) = step {
            report.push(*diagnostic);
            return None;
        }
    }
    let root = builder.root;
    Some(root.unwrap_or_else(|| tree.add_map(Span::whole(file), Vec::new())))
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

/// What stops the reading of a file.
type Stop = Box<Diagnostic>;

struct Builder<'a> {
    tree: &'a mut Tree,
    report: &'a mut Report,
    file: u16,
    stack: Vec<Open>,
    root: Option<NodeId>,
    /// By the parser's number of the anchor. Not there while the anchored collection is still open.
    anchors: HashMap<usize, NodeId>,
    /// The nodes that an anchored node stands for, aliases followed.
    weights: HashMap<NodeId, u64>,
}

/// A collection that has begun.
struct Open {
    span: Span,
    /// Where its last part so far ends.
    end: usize,
    anchor: usize,
    weight: u64,
    items: Items,
}

enum Items {
    List(Vec<NodeId>),
    Map { entries: Vec<Entry>, merged: Vec<NodeId>, key: Option<Key>, flow: bool, broken: bool },
}

struct Key {
    /// `None` where the key is no scalar, which has been reported: its value is dropped.
    text: Option<String>,
    span: Span,
    /// A plain `<<`.
    merge: bool,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: granit_parser::Span) -> Result<(), Stop> {
        let tag_span = span.tag_span().map(|span| self.span(span));
        let span = self.span(span);
        let tag_span = tag_span.unwrap_or(span);
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Box::new(Diagnostic::error(span, "a second document begins here: a configuration file holds one")))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                self.check_tag(tag.as_deref(), tag_span, "str");
                let textual = tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let form = if plain && !textual { form_of_plain(&text) } else { Some(Form::Text) };
                let merge = plain && text == "<<";
                let kind = form.map_or(Kind::Null, |form| Kind::Scalar(Scalar { text: text.clone().into_owned(), form }));
                let id = self.tree.add(span, kind);
                self.remember(anchor, id, 1);
                self.place(id, span, 1, Key { text: Some(text.into_owned()), span, merge })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_span, "seq");
                self.open(span, anchor, Items::List(Vec::new()));
                Ok(())
            }
            Event::MappingStart(style, anchor, tag) => {
                self.check_tag(tag.as_deref(), tag_span, "map");
                let flow = style == StructureStyle::Flow;
                self.open(span, anchor, Items::Map { entries: Vec::new(), merged: Vec::new(), key: None, flow, broken: false });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            _ => Ok(()),
        }
    }

    fn open(&mut self, span: Span, anchor: usize, items: Items) {
        self.stack.push(Open { span, end: span.end as usize, anchor, weight: 1, items });
    }

    fn close(&mut self, end: Span) -> Result<(), Stop> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        // A block collection has no closing token: its end event stands where the next token does.
        let end = if end.is_empty() { open.end } else { end.end as usize };
        let span = Span::new(self.file, open.span.start as usize, end);
        let (kind, broken) = match open.items {
            Items::List(elements) => (Kind::List(elements), false),
            Items::Map { entries, merged, flow, broken, .. } => {
                (Kind::Map(Map { entries: self.finish(entries, &merged), flow }), broken)
            }
        };
        let id = self.tree.add(span, kind);
        self.tree.node_mut(id).broken = broken;
        self.remember(open.anchor, id, open.weight);
        self.place(id, span, open.weight, Key { text: None, span, merge: false })
    }

    /// Reports keys that are given twice, and adds the entries of `merged` maps that are not given at all.
    fn finish(&mut self, given: Vec<Entry>, merged: &[NodeId]) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(given.len());
        let mut places: HashMap<String, Span> = HashMap::with_capacity(given.len());
        for entry in given {
            match places.get(&entry.key) {
                Some(first) => {
                    let message = format!("`{}` is given twice", entry.key);
                    self.report.push(Diagnostic::error(entry.key_span, message).related(*first, "first given here"));
                }
                None => {
                    places.insert(entry.key.clone(), entry.key_span);
                    entries.push(entry);
                }
            }
        }
        for source in merged {
            for entry in self.tree.entries(*source) {
                if !places.contains_key(&entry.key) {
                    places.insert(entry.key.clone(), entry.key_span);
                    entries.push(entry.clone());
                }
            }
        }
        entries
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let Some(id) = self.anchors.get(&anchor).copied() else {
            return Err(Box::new(Diagnostic::error(span, "this alias stands inside of what it names, and so has no end")));
        };
        let weight = self.weights.get(&id).copied().unwrap_or(1);
        let key = match &self.tree.node(id).kind {
            Kind::Scalar(scalar) => Key { text: Some(scalar.text.clone()), span, merge: false },
            _ => Key { text: None, span, merge: false },
        };
        self.place(id, span, weight, key)
    }

    fn remember(&mut self, anchor: usize, id: NodeId, weight: u64) {
        // The parser numbers anchors from 1; 0 is none.
        if anchor != 0 {
            self.anchors.insert(anchor, id);
            self.weights.insert(id, weight);
        }
    }

    /// Puts a finished node where it belongs; `key` is what it is if a key belongs there.
    fn place(&mut self, id: NodeId, span: Span, weight: u64, as_key: Key) -> Result<(), Stop> {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(id);
            // A file of comments only has a null in it.
            if matches!(self.tree.node(id).kind, Kind::Null) {
                self.root = None;
            }
            return Ok(());
        };
        open.end = span.end as usize;
        open.weight = open.weight.saturating_add(weight);
        if open.weight > MAX_NODES {
            return Err(Box::new(Diagnostic::error(
                span,
                format!("with its aliases followed, the file has more than {MAX_NODES} values"),
            )));
        }
        match &mut open.items {
            Items::List(elements) => elements.push(id),
            Items::Map { entries, merged, key, broken, .. } => match key.take() {
                None => {
                    if as_key.text.is_none() {
                        self.report.push(complex_key(as_key.span));
                        *broken = true;
                    }
                    *key = Some(as_key);
                }
                Some(key) if key.merge => {
                    let sources = merge_sources(self.tree, id);
                    if sources.is_empty() {
                        let message = "`<<` takes a map, or a list of maps, whose entries are put in here";
                        self.report.push(Diagnostic::error(span, message));
                        *broken = true;
                    }
                    merged.extend(sources);
                }
                Some(Key { text: Some(text), span: key_span, .. }) => {
                    if self.tree.node(id).key.is_none() {
                        self.tree.node_mut(id).key = Some(key_span);
                    }
                    entries.push(Entry { key: text, key_span, value: id });
                }
                Some(_) => {}
            },
        }
        Ok(())
    }

    fn span(&self, span: granit_parser::Span) -> Span {
        let range = span.byte_range().unwrap_or(0..0);
        Span::new(self.file, range.start, range.end)
    }

    /// Only YAML's own tags mean something, and only on what they name.
    fn check_tag(&mut self, tag: Option<&Tag>, span: Span, own: &str) {
        let Some(tag) = tag else { return };
        if !tag.is_yaml_core_schema_tag(own) {
            let message = format!("the tag `{}` has no meaning here", tag.original());
            self.report.push(Diagnostic::error(span, message).hint("leave it out"));
        }
    }
}

/// The maps that a `<<` names.
fn merge_sources(tree: &Tree, id: NodeId) -> Vec<NodeId> {
    let is_map = |id: &NodeId| matches!(tree.node(*id).kind, Kind::Map(_));
    match &tree.node(id).kind {
        Kind::Map(_) => vec![id],
        Kind::List(elements) if elements.iter().all(is_map) => elements.clone(),
        _ => Vec::new(),
    }
}

fn complex_key(span: Span) -> Diagnostic {
    Diagnostic::error(span, "a key must be a word, not a list or a map")
        .hint("a value that begins with `{{` or `${` inside of braces needs quotes: \"{{ … }}\"")
}

fn syntax_error(error: &ScanError, file: u16, text: &str) -> Diagnostic {
    let start = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let rest = text.get(start..).unwrap_or("");
    let length = rest.chars().next().filter(|c| *c != '\n').map_or(0, char::len_utf8);
    let span = Span::new(file, start, start + length.max(1));
    let (message, hint) = match error.kind() {
        ErrorKind::UnknownAnchor => {
            let name = rest.split([' ', ',', ']', '}', '\n']).next().unwrap_or("");
            let message = format!("`{name}` is an alias, and nothing before it is anchored with that name");
            (message, "a text that begins with `*` needs quotes: \"*.example.com\"")
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement => (
            "a `:` cannot stand here".to_owned(),
            "check the indentation and the brackets above; a text with `: ` in it needs quotes",
        ),
        ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabInPlainScalar => ("a tab cannot indent".to_owned(), "use spaces"),
        ErrorKind::UnclosedQuotedScalar => ("this quote is never closed".to_owned(), "add the closing quote"),
        ErrorKind::UnclosedFlowCollection { open } => (format!("this `{open}` is never closed"), "add the closing bracket"),
        ErrorKind::UnexpectedCharacter { character } => (format!("a text cannot begin with `{character}`"), "put it in quotes"),
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => (
            "expected `,` or the closing bracket".to_owned(),
            "inside of brackets, a text with `{`, `}`, `[`, `]` or `,` in it needs quotes: \"${NAME}\"",
        ),
        ErrorKind::ExpectedBlockSequenceEntry | ErrorKind::ExpectedBlockMappingKey => (
            "this does not go on with the list or map above".to_owned(),
            "check the indentation: entries that belong together begin in the same column",
        ),
        ErrorKind::RecursionLimitExceeded => (format!("nested deeper than {MAX_DEPTH} levels"), "flatten it"),
        other => return Diagnostic::error(span, format!("not valid YAML: {other}")),
    };
    Diagnostic::error(span, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tree, Report, Option<NodeId>) {
        let (mut tree, mut report) = (Tree::default(), Report::default());
        let file = report.add_source("a.yaml", text);
        let root = parse(&mut tree, &mut report, file);
        (tree, report, root)
    }

    /// The document in a compact form that shows what each scalar was taken for.
    fn outline(text: &str) -> String {
        let (tree, report, root) = read(text);
        assert!(!report.has_errors(), "{report}");
        root.map(|root| show(&tree, root)).unwrap_or_default()
    }

    fn show(tree: &Tree, id: NodeId) -> String {
        match &tree.node(id).kind {
            Kind::Null => "null".to_owned(),
            Kind::Scalar(scalar) => format!("{:?} {}", scalar.form, scalar.text),
            Kind::List(elements) => {
                let elements: Vec<_> = elements.iter().map(|id| show(tree, *id)).collect();
                format!("[{}]", elements.join(", "))
            }
            Kind::Map(map) => {
                let entries: Vec<_> = map.entries.iter().map(|e| format!("{}: {}", e.key, show(tree, e.value))).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }

    fn message(text: &str) -> String {
        let (_, report, _) = read(text);
        assert_eq!(report.errors(), 1, "{report}");
        report.diagnostics()[0].message().to_owned()
    }

    #[test]
    fn scalars_keep_their_text_and_tell_whether_they_were_quoted() {
        assert_eq!(
            outline("a: 1.10\nb: '1.10'\nc: 007\nd: yes\n404: true\n"),
            "{a: Float 1.10, b: Text 1.10, c: Int 007, d: Text yes, 404: Bool true}"
        );
        assert_eq!(outline("a:\nb: ~\nc: ''\nd: !!str 5\n"), "{a: null, b: null, c: Text , d: Text 5}");
    }

    #[test]
    fn an_empty_document_is_an_empty_map() {
        for text in ["", "# nothing\n", "---\n", "---\n...\n", "\u{feff}"] {
            assert_eq!(outline(text), "{}", "{text:?}");
        }
    }

    #[test]
    fn aliases_and_merge_keys() {
        assert_eq!(outline("a: &x [1]\nb: *x\n"), "{a: [Int 1], b: [Int 1]}");
        assert_eq!(
            outline("base: &base {a: 1, b: 2}\nmore: &more {b: 3, c: 4}\nall: {b: 0, <<: [*base, *more]}\n"),
            "{base: {a: Int 1, b: Int 2}, more: {b: Int 3, c: Int 4}, all: {b: Int 0, a: Int 1, c: Int 4}}"
        );
        assert_eq!(outline("'<<': 1\n"), "{<<: Int 1}");
    }

    #[test]
    fn spans_cover_what_was_written() {
        let text = "é: 1\nlist:\n  - x\n  - [y,\n     z]\n\n# end\nmap: {k: 'v'}\n";
        let (tree, report, root) = read(text);
        let at = |path: &[&str]| report.text(tree.node(tree.at(root.unwrap(), path).unwrap()).span).unwrap();
        assert_eq!(at(&["é"]), "1");
        assert_eq!(at(&["list"]), "- x\n  - [y,\n     z]");
        assert_eq!(at(&["map"]), "{k: 'v'}");
        assert_eq!(at(&["map", "k"]), "'v'");
    }

    #[test]
    fn an_alias_bomb_is_an_error() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = level - 1;
            let aliases = vec![format!("*a{before}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(message(&text).contains("aliases followed"));
        assert!(message("a: &a [*a]\n").contains("has no end"));
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(message(&format!("a: {}", "[".repeat(500))).contains("nested deeper"));
        let block: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        assert!(message(&block).contains("nested deeper"));
    }

    #[test]
    fn what_is_not_one_plain_document() {
        assert!(message("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(message("a: !secret x\n").contains("the tag `!secret`"));
        assert!(message("[a, b]: c\n").contains("a key must be a word"));
        assert!(message("a: {<<: 5}\n").contains("`<<` takes a map"));
        assert!(message("a: 1\na: 2\n").contains("`a` is given twice"));
    }

    #[test]
    fn the_parser_never_panics_and_every_span_is_within_the_text() {
        use proptest::prelude::*;
        proptest!(|(text in "[a-c:\\-\\[\\]{},&*#|>'\" \n\té!<~0]{0,60}")| {
            let (tree, report, _) = read(&text);
            for id in tree.ids_from(0) {
                prop_assert!(report.text(tree.node(id).span).is_some());
            }
            let _ = report.to_string();
        });
    }
}
