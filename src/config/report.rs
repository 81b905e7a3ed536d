//! What is wrong with a configuration: every mistake at once, each with its place.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::Span;
use crate::config::render::Renderer;

/// More errors than this, or warnings, help nobody: the rest is counted, not kept. Apart, so that warnings never hide an error.
const LIMIT: usize = 100;
/// Stands for what is concealed; its length tells nothing.
const VEIL: &str = "***";

/// The mistakes of a configuration, with the text of its files so that they can be shown.
#[derive(Debug, Clone, Default)]
pub struct Report {
    sources: Vec<Source>,
    /// Files beside the sources that were read, such as bodies of errors.
    others: Vec<PathBuf>,
    /// Patterns by which files were found.
    patterns: Vec<String>,
    /// Files that are followed by themselves, whatever becomes of the configuration: certificates and the like.
    followed: Vec<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    /// How many are not kept.
    left_out: usize,
    /// How many errors have become warnings.
    softened: usize,
    /// What no message and no snippet may show.
    concealed: Vec<Span>,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// Its path, from wherever it is looked at: a daemon goes to another directory.
    path: PathBuf,
}

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but it will hardly do what was meant.
    Warning,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) span: Span,
    pub(crate) label: Option<String>,
    pub(crate) hint: Option<String>,
    pub(crate) related: Vec<(Span, String)>,
}

impl Diagnostic {
    /// An error at this place.
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span, message.into())
    }

    /// A warning at this place.
    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span, message.into())
    }

    /// A few words beside the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Another place that has to do with it, and how.
    #[must_use]
    pub fn related(mut self, span: Span, note: impl Into<String>) -> Self {
        self.related.push((span, note.into()));
        self
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where.
    pub fn span(&self) -> Span {
        self.span
    }

    fn new(severity: Severity, span: Span, message: String) -> Self {
        Self { severity, message, span, label: None, hint: None, related: Vec::new() }
    }
}

impl Report {
    /// Adds a diagnostic, unless the same is there already (an anchored value is read once for each alias).
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let known = |other: &Diagnostic| other.span == diagnostic.span && other.message == diagnostic.message;
        if self.diagnostics.iter().any(known) {
            return;
        }
        if self.count(diagnostic.severity) >= LIMIT {
            self.left_out += 1;
            return;
        }
        self.diagnostics.push(diagnostic);
    }

    /// Whether the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// The number of warnings.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    /// Every diagnostic, by file and place.
    pub fn diagnostics(&self) -> Vec<&Diagnostic> {
        let mut sorted: Vec<&Diagnostic> = self.diagnostics.iter().collect();
        sorted.sort_by_key(|diagnostic| (diagnostic.span, diagnostic.severity));
        sorted
    }

    /// `file:line:column` of a place; `None` if it is nowhere.
    pub fn locate(&self, span: Span) -> Option<String> {
        let (line, column) = self.line_and_column(span)?;
        self.source(span).map(|source| format!("{}:{line}:{column}", source.name))
    }

    /// The whole report as text for people, with ANSI colours or without.
    pub fn render(&self, colours: bool) -> String {
        Renderer { report: self, colours }.report()
    }

    /// The files that were read: absolute paths.
    pub fn files(&self) -> Vec<PathBuf> {
        self.sources.iter().map(|source| source.path.clone()).chain(self.others.iter().cloned()).collect()
    }

    /// Notes that a file was read that is no source: nothing points into it.
    pub(crate) fn also_read(&mut self, file: PathBuf) {
        self.others.push(absolute(&file));
    }

    /// Notes an absolute pattern by which files are found: there may be others another time.
    pub(crate) fn searched(&mut self, pattern: String) {
        self.patterns.push(pattern);
    }

    /// The patterns by which files were found.
    pub(crate) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Notes a file that is looked at again and again while the configuration is in force.
    pub(crate) fn follows(&mut self, file: PathBuf) {
        self.followed.push(file);
    }

    /// Files that are followed by themselves.
    pub(crate) fn followed(&self) -> &[PathBuf] {
        &self.followed
    }

    /// Takes in a file; its index goes into the spans.
    pub(crate) fn add_source(&mut self, name: impl Into<String>, text: impl Into<String>) -> u16 {
        let index = self.sources.len();
        let name = name.into();
        let path = absolute(Path::new(&name));
        self.sources.push(Source { name, text: text.into(), path });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    /// How many files were read.
    pub(crate) fn sources(&self) -> usize {
        self.sources.len()
    }

    pub(crate) fn source(&self, span: Span) -> Option<&Source> {
        self.sources.get(usize::from(span.file))
    }

    /// The text at a place.
    pub(crate) fn text(&self, span: Span) -> Option<&str> {
        self.source(span)?.text.get(span.start as usize..span.end as usize)
    }

    /// Keeps the text at this place out of whatever is shown.
    pub(crate) fn conceal(&mut self, span: Span) {
        if !span.is_empty() {
            self.concealed.push(span);
        }
    }

    /// A part of a line as it may be shown: `***` stands for what is concealed.
    pub(crate) fn revealed(&self, span: Span) -> String {
        let mut hidden: Vec<&Span> = self.concealed.iter().filter(|hidden| hidden.file == span.file).collect();
        hidden.sort();
        let (mut out, mut at) = (String::new(), span.start);
        for hidden in hidden {
            if hidden.end <= at || hidden.start >= span.end {
                continue;
            }
            out.push_str(self.text(Span { start: at, end: hidden.start.max(at), ..span }).unwrap_or(""));
            out.push_str(VEIL);
            at = hidden.end.min(span.end);
        }
        out.push_str(self.text(Span { start: at, ..span }).unwrap_or(""));
        out
    }

    /// A message as it may be shown.
    pub(crate) fn veiled<'a>(&self, message: &'a str) -> Cow<'a, str> {
        let mut message = Cow::Borrowed(message);
        for secret in self.concealed.iter().filter_map(|span| self.text(*span)) {
            let secret = secret.trim_matches(['"', '\'']);
            // What is shorter is in every second word, and no secret.
            if secret.len() >= 4 && message.contains(secret) {
                message = Cow::Owned(message.replace(secret, VEIL));
            }
        }
        message
    }

    /// The first occurrence of `needle` within `span`, or all of `span`: points at a part of a value.
    pub(crate) fn within(&self, span: Span, needle: &str) -> Span {
        match self.text(span).and_then(|text| text.find(needle)) {
            Some(at) if !needle.is_empty() => {
                let start = span.start as usize + at;
                Span::new(span.file, start, start + needle.len())
            }
            _ => span,
        }
    }

    /// A value as messages may show it: what stands in the file where a variable was expanded, for that may be a secret.
    pub(crate) fn shown(&self, span: Span, value: &str) -> String {
        match self.text(span) {
            Some(text) if text.contains("${") => text.trim_matches(['"', '\'']).to_owned(),
            _ => value.to_owned(),
        }
    }

    /// What goes wrong in there is no more than a warning: it matters to others than who asks now.
    pub(crate) fn softened<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.diagnostics.len();
        let read = read(self);
        for diagnostic in self.diagnostics.iter_mut().skip(before).filter(|diagnostic| diagnostic.severity == Severity::Error) {
            diagnostic.severity = Severity::Warning;
            self.softened += 1;
        }
        read
    }

    /// How many errors have become warnings by that.
    pub(crate) fn soft(&self) -> usize {
        self.softened
    }

    /// Whether further errors are only counted.
    pub(crate) fn is_full(&self) -> bool {
        self.errors() >= LIMIT
    }

    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Both count from 1; a column is a character.
    pub(crate) fn line_and_column(&self, span: Span) -> Option<(usize, usize)> {
        let before = self.source(span)?.text.get(..span.start as usize)?;
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        Some((line, column))
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }
}

/// The report in plain text.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sorts() {
        let mut report = Report::default();
        report.add_source("a.yaml", "one\ntwo\n");
        report.push(Diagnostic::error(Span::new(0, 4, 7), "second"));
        report.push(Diagnostic::warning(Span::new(0, 0, 3), "first"));
        report.push(Diagnostic::warning(Span::new(0, 0, 3), "first"));
        let messages: Vec<_> = report.diagnostics().into_iter().map(Diagnostic::message).collect();
        assert_eq!(messages, ["first", "second"]);
        assert_eq!((report.errors(), report.warnings()), (1, 1));
        assert_eq!(report.locate(Span::new(0, 5, 6)).as_deref(), Some("a.yaml:2:2"));
    }

    #[test]
    fn what_is_over_the_limit_is_counted() {
        let mut report = Report::default();
        for number in 0..LIMIT + 1 {
            report.push(Diagnostic::warning(Span::default(), format!("oddity {number}")));
        }
        assert!(!report.has_errors());
        for number in 0..LIMIT + 2 {
            report.push(Diagnostic::error(Span::default(), format!("mistake {number}")));
        }
        assert_eq!(report.errors(), LIMIT);
        assert!(report.to_string().contains("3 further"));
    }

    #[test]
    fn an_expanded_value_is_shown_as_it_stands_in_the_file() {
        let mut report = Report::default();
        report.add_source("a.yaml", "a: \"${WHERE}\"\nb: plain\n");
        assert_eq!(report.shown(Span::new(0, 3, 13), "secret"), "${WHERE}");
        assert_eq!(report.shown(Span::new(0, 17, 22), "plain"), "plain");
    }
}
