//! `regex` and `with` of `rewrite`: a part of the path made anew out of what was captured.

use regex::{Captures, Regex, RegexBuilder};

use crate::config::Spanned;
use crate::filter::BuildError;
use crate::types::{Piece, Template, path};

/// What an expression may take in memory.
const MAX_SIZE: usize = 1 << 20;

/// An expression, and what stands in the place of what it matches.
pub(super) struct Replace {
    regex: Regex,
    with: Vec<Part>,
    /// As it was written.
    shown: String,
}

enum Part {
    Text(String),
    Capture(usize),
    Value(Template),
}

impl Replace {
    pub(super) fn new(regex: &Spanned<String>, with: &Spanned<Template>) -> Result<Self, BuildError> {
        let expression = expression(regex)?;
        let mut parts = Vec::new();
        for piece in with.pieces() {
            match piece {
                Piece::Text(text) => read(text, &expression, &mut parts).map_err(|error| error.at(with.span))?,
                Piece::Variable(variable) => parts.push(Part::Value((*variable).into())),
            }
        }
        gives_a_path(&expression, &parts).map_err(|error| error.at(with.span))?;
        let shown = format!("{} → {}", regex.value, with.value);
        Ok(Self { regex: expression, with: parts, shown })
    }

    /// The path with the first match replaced; `None`: there is none.
    pub(super) fn apply(&self, path: &str, render: impl Fn(&Template) -> String) -> Option<String> {
        let found = self.regex.captures(path)?;
        let whole = found.get_match();
        let mut new = path[..whole.start()].to_owned();
        self.expand(&found, &render, &mut new);
        new.push_str(&path[whole.end()..]);
        if !new.starts_with('/') {
            new.insert(0, '/');
        }
        Some(new)
    }

    fn expand(&self, found: &Captures<'_>, render: &impl Fn(&Template) -> String, out: &mut String) {
        for part in &self.with {
            match part {
                Part::Text(text) => out.push_str(text),
                // A group that took no part in the match is empty.
                Part::Capture(group) => out.push_str(found.get(*group).map_or("", |group| group.as_str())),
                Part::Value(template) => out.push_str(&render(template)),
            }
        }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }
}

fn expression(text: &Spanned<String>) -> Result<Regex, BuildError> {
    if text.is_empty() {
        return Err(BuildError::new("`regex` is empty: it would match everywhere").at(text.span));
    }
    RegexBuilder::new(text).size_limit(MAX_SIZE).dfa_size_limit(MAX_SIZE).build().map_err(|error| {
        let reason = match &error {
            regex::Error::CompiledTooBig(_) => "it is too large once compiled: repeat less".to_owned(),
            other => other.to_string().rsplit("error: ").next().unwrap_or_default().trim().to_owned(),
        };
        BuildError::new(format!("`{}` is no regular expression: {reason}", text.value)).at(text.span)
    })
}

/// Whether what is put in place can be part of a path, whatever is captured: each request whose path is made anew would be refused
/// otherwise. What is captured is taken for digits, which spoil nothing.
fn gives_a_path(regex: &Regex, parts: &[Part]) -> Result<(), BuildError> {
    let mut sample = String::new();
    for part in parts {
        match part {
            Part::Text(text) => sample.push_str(text),
            Part::Capture(_) | Part::Value(_) => sample.push('0'),
        }
    }
    // What stands before it may be deep enough to climb out of.
    let before = if regex.as_str().starts_with('^') { "" } else { "/0/0/0/0/0/0/0/0" };
    let slash = if sample.starts_with('/') { "" } else { "/" };
    match path::normalise(&format!("{before}{slash}{sample}")) {
        Ok(_) => Ok(()),
        Err(error) => Err(BuildError::new(format!("`with` never makes a path: {error}"))),
    }
}

/// Reads `$1`, `$name`, `${name}` and `$$`.
fn read(text: &str, regex: &Regex, parts: &mut Vec<Part>) -> Result<(), BuildError> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        parts.push(Part::Text(before.to_owned()));
        if let Some(after) = after.strip_prefix('$') {
            parts.push(Part::Text("$".to_owned()));
            rest = after;
            continue;
        }
        let (name, left) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let digits = after.starts_with(|c: char| c.is_ascii_digit());
                let belongs = |c: char| c.is_ascii_digit() || (!digits && (c.is_ascii_alphabetic() || c == '_'));
                after.split_at(after.find(|c| !belongs(c)).unwrap_or(after.len()))
            }
        };
        if name.is_empty() {
            return Err(BuildError::new("`$` is followed by no group: write `$1`, or `$$` for the sign itself"));
        }
        parts.push(Part::Capture(group(name, regex)?));
        rest = left;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(())
}

fn group(name: &str, regex: &Regex) -> Result<usize, BuildError> {
    let found = match name.parse::<usize>() {
        Ok(number) => (number < regex.captures_len()).then_some(number),
        Err(_) => regex.capture_names().position(|group| group == Some(name)),
    };
    found.ok_or_else(|| {
        let groups = match regex.captures_len() - 1 {
            0 => "it has none: put what to keep in ( )".to_owned(),
            1 => "it has one, `$1`".to_owned(),
            many => format!("it has `$1` to `${many}`"),
        };
        BuildError::new(format!("the expression has no group `${name}`: {groups}"))
    })
}
