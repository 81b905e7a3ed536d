//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write as _};

/// What the format is called in `Content-Type`.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes metrics, family by family.
pub(crate) struct Text<'a> {
    out: &'a mut String,
    family: &'static str,
}

impl<'a> Text<'a> {
    pub(crate) fn new(out: &'a mut String) -> Self {
        Self { out, family: "" }
    }

    /// Begins a family: its samples follow. `help` is a line of plain words.
    pub(crate) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a String can't fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    /// A sample whose name goes on after the family's.
    pub(crate) fn part(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(self.family);
        self.out.push_str(suffix);
        for (nth, (name, value)) in labels.iter().enumerate() {
            self.out.push(if nth == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape(value, self.out);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A family of one sample.
    pub(crate) fn single(&mut self, name: &'static str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }
}

/// A label value may hold any text: these three characters would end it.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_by_byte() {
        let mut text = String::new();
        let mut out = Text::new(&mut text);
        out.family("a_total", "counter", "What is counted.");
        out.sample(&[], 1);
        out.sample(&[("x", "1"), ("y", "")], 2.5);
        out.single("b", "gauge", "Another.", 0);
        let expected = "# HELP a_total What is counted.\n# TYPE a_total counter\na_total 1\na_total{x=\"1\",y=\"\"} 2.5\n\
                        # HELP b Another.\n# TYPE b gauge\nb 0\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_label_value_ends_its_line_or_its_quotes() {
        let mut text = String::new();
        let mut out = Text::new(&mut text);
        out.family("a", "gauge", "A.");
        out.sample(&[("x", "a\\b\"c\nd\re ü")], 1);
        assert_eq!(text.lines().nth(2), Some("a{x=\"a\\\\b\\\"c\\nd\re ü\"} 1"));
    }
}
