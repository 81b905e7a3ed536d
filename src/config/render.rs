//! A report as text, in the manner of rustc.

use std::fmt::Write as _;

use crate::config::Span;
use crate::config::report::{Diagnostic, Report, Severity, Source};

/// The longest stretch of a line that a snippet shows.
const WIDTH: usize = 120;
/// How much of a longer line stands in front of the caret.
const BEFORE_CARET: usize = 40;

pub(crate) struct Renderer<'a> {
    pub(crate) report: &'a Report,
    pub(crate) colours: bool,
}

#[derive(Clone, Copy)]
enum Paint {
    Error,
    Warning,
    Note,
    Bold,
    Frame,
}

impl Renderer<'_> {
    pub(crate) fn report(&self) -> String {
        let mut out = String::new();
        for diagnostic in self.report.diagnostics() {
            self.diagnostic(&mut out, diagnostic);
            out.push('\n');
        }
        self.summary(&mut out);
        out
    }

    fn diagnostic(&self, out: &mut String, diagnostic: &Diagnostic) {
        let (word, paint) = match diagnostic.severity {
            Severity::Error => ("error", Paint::Error),
            Severity::Warning => ("warning", Paint::Warning),
        };
        self.headline(out, diagnostic.span, word, paint, &diagnostic.message);
        self.snippet(out, diagnostic.span, paint, diagnostic.label.as_deref());
        if let Some(hint) = &diagnostic.hint {
            let hint = clean(&self.report.veiled(hint));
            let _ = writeln!(out, "  {} {}: {hint}", self.paint(Paint::Frame, "="), self.paint(Paint::Bold, "hint"));
        }
        for (span, note) in &diagnostic.related {
            self.headline(out, *span, "note", Paint::Note, note);
            self.snippet(out, *span, Paint::Note, None);
        }
    }

    fn headline(&self, out: &mut String, span: Span, word: &str, paint: Paint, message: &str) {
        if let Some(source) = self.report.source(span) {
            let place = match self.report.line_and_column(span) {
                Some((line, column)) if !is_whole(span) => format!("{}:{line}:{column}:", source.name),
                _ => format!("{}:", source.name),
            };
            let _ = write!(out, "{} ", self.paint(Paint::Bold, &place));
        }
        let word = self.paint(paint, &format!("{word}:"));
        let _ = writeln!(out, "{word} {}", self.paint(Paint::Bold, &clean(&self.report.veiled(message))));
    }

    /// The line of `span`, and carets below the part of it that is meant.
    fn snippet(&self, out: &mut String, span: Span, paint: Paint, label: Option<&str>) {
        let (Some(source), Some((number, _))) = (self.report.source(span), self.report.line_and_column(span)) else {
            return;
        };
        if is_whole(span) {
            return;
        }
        let Some(line) = Line::of(self.report, source, span) else { return };
        let number = number.to_string();
        let margin = " ".repeat(number.len());
        let bar = self.paint(Paint::Frame, "|");
        let mut carets = "^".repeat(line.carets);
        if let Some(label) = label {
            let _ = write!(carets, " {}", clean(label));
        }
        let _ = writeln!(out, " {margin} {bar}");
        let _ = writeln!(out, " {} {bar} {}", self.paint(Paint::Frame, &number), line.text);
        let _ = writeln!(out, " {margin} {bar} {}{}", " ".repeat(line.indent), self.paint(paint, &carets));
    }

    fn summary(&self, out: &mut String) {
        let (errors, warnings) = (self.report.errors(), self.report.warnings());
        let parts: Vec<String> = [(errors, "error"), (warnings, "warning")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}{}", if count == 1 { "" } else { "s" }))
            .collect();
        if parts.is_empty() {
            return;
        }
        out.push_str(&parts.join(", "));
        match self.report.left_out() {
            0 => {}
            more => {
                let _ = write!(out, " (and {more} further, not shown)");
            }
        }
        out.push('\n');
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Error => "1;31",
            Paint::Warning => "1;33",
            Paint::Note => "1;36",
            Paint::Bold => "1",
            Paint::Frame => "1;34",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// One line of a snippet; lengths are in characters.
struct Line {
    text: String,
    indent: usize,
    carets: usize,
}

impl Line {
    fn of(report: &Report, source: &Source, span: Span) -> Option<Self> {
        let (start, end) = (span.start as usize, span.end as usize);
        let first = source.text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
        let last = source.text.get(start..)?.find('\n').map_or(source.text.len(), |at| start + at);
        let revealed = |from: usize, to: usize| report.revealed(Span::new(span.file, from, to));
        // A span may begin at the very end of its line, and may end on a later one.
        let middle = end.clamp(start, last);
        let (before, marked) = (revealed(first, start), revealed(start, middle));
        let line = format!("{before}{marked}{}", revealed(middle, last));
        let line = line.trim_end();
        let indent = line.chars().count().min(before.chars().count());
        let carets = marked.trim_end().chars().count().max(1);

        let skipped = if line.chars().count() > WIDTH { indent.saturating_sub(BEFORE_CARET) } else { 0 };
        let mut shown: Vec<char> = line.chars().skip(skipped).take(WIDTH).collect();
        let cut = skipped + shown.len() < line.chars().count();
        if let Some(first) = shown.first_mut().filter(|_| skipped > 0) {
            *first = '…';
        }
        if let Some(last) = shown.last_mut().filter(|_| cut) {
            *last = '…';
        }
        let text = clean(&shown.into_iter().collect::<String>());
        let indent = indent - skipped;
        let carets = carets.min(WIDTH.saturating_sub(indent).max(1));
        Some(Self { text, indent, carets })
    }
}

fn is_whole(span: Span) -> bool {
    span.start == 0 && span.end == 0
}

/// Control characters would move the cursor or paint the terminal; each becomes one visible character, so that carets stay in line.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\n' | '\r' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, diagnostics: Vec<Diagnostic>, colours: bool) -> String {
        let mut report = Report::default();
        report.add_source("a.yaml", text);
        for diagnostic in diagnostics {
            report.push(diagnostic);
        }
        report.render(colours)
    }

    #[test]
    fn everything_a_diagnostic_can_hold() {
        let diagnostic = Diagnostic::error(Span::new(0, 8, 11), "a word is missing")
            .label("here")
            .hint("write it")
            .related(Span::new(0, 0, 3), "first given here");
        insta::assert_snapshot!(rendered("one: 1\n\ttwo: 2\n", vec![diagnostic], false), @r"
        a.yaml:2:2: error: a word is missing
           |
         2 |  two: 2
           |  ^^^ here
          = hint: write it
        a.yaml:1:1: note: first given here
           |
         1 | one: 1
           | ^^^

        1 error
        ");
    }

    #[test]
    fn a_span_over_several_lines_is_marked_on_its_first() {
        let text = "a: [1,\n  2]\n";
        insta::assert_snapshot!(rendered(text, vec![Diagnostic::warning(Span::new(0, 3, 12), "long")], false), @r"
        a.yaml:1:4: warning: long
           |
         1 | a: [1,
           |    ^^^

        1 warning
        ");
    }

    #[test]
    fn a_file_as_a_whole_and_no_file_at_all() {
        let diagnostics = vec![Diagnostic::error(Span::whole(0), "empty"), Diagnostic::error(Span::default(), "gone")];
        insta::assert_snapshot!(rendered("", diagnostics, false), @r"
        a.yaml: error: empty

        error: gone

        2 errors
        ");
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let text = format!("{}X{}", "a".repeat(300), "b".repeat(300));
        let out = rendered(&text, vec![Diagnostic::error(Span::new(0, 300, 301), "x")], false);
        let lines: Vec<&str> = out.lines().collect();
        let column = |line: &str, c| line.chars().position(|other| other == c);
        assert_eq!(column(lines[2], 'X'), column(lines[3], '^'));
        assert!(lines[2].contains("| …a") && lines[2].ends_with("b…"));
        assert!(lines[2].chars().count() < 140, "{out}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let out = rendered("a: \x1b[2J\r\n", vec![Diagnostic::error(Span::new(0, 3, 7), "bad \x1b[2J")], false);
        assert!(!out.contains('\x1b') && !out.contains('\r'), "{out:?}");
    }

    #[test]
    fn colours_only_if_asked_for() {
        let diagnostic = || vec![Diagnostic::error(Span::whole(0), "x")];
        assert!(rendered("", diagnostic(), true).contains("\x1b[1;31merror:"));
        assert!(!rendered("", diagnostic(), false).contains('\x1b'));
    }
}
