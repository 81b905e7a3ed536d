//! Text of a case file: placeholders, escapes, wildcards and regular expressions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use regex::bytes::Regex;

/// What placeholders stand for when a case runs.
pub(crate) type Variables = BTreeMap<String, String>;

/// The placeholders that a case may use, and those that it does.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) origins: BTreeSet<String>,
    /// Named groups of the regular expressions so far.
    captures: RefCell<BTreeSet<String>>,
    used: RefCell<BTreeSet<String>>,
}

impl Known {
    pub(crate) fn with(origins: BTreeSet<String>) -> Self {
        Self { origins, ..Self::default() }
    }

    pub(crate) fn used(&self) -> BTreeSet<String> {
        self.used.borrow().clone()
    }

    fn note(&self, name: &str) -> Result<(), String> {
        let (kind, rest) = name.split_once('.').unwrap_or((name, ""));
        let origin = rest.strip_suffix(".port").unwrap_or(rest);
        let known = match kind {
            "origin" if rest.is_empty() => self.origins.len() == 1,
            "origin" => self.origins.contains(origin),
            "dead" | "port" | "listener" => true,
            "admin" | "dir" => rest.is_empty(),
            _ => self.captures.borrow().contains(name),
        };
        if !known {
            let origins = self.origins.iter().map(|name| format!("{{origin.{name}}}")).collect::<Vec<_>>().join(" ");
            return Err(format!(
                "unknown placeholder `{{{name}}}`; there are {{dir}} {{admin}} {{dead}} {{port}} {{listener}} {{repeat N TEXT}} \
                 {origins} and the named groups of earlier regular expressions"
            ));
        }
        self.used.borrow_mut().insert(name.to_owned());
        Ok(())
    }
}

/// How a text is read. Placeholders are known in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// As it stands.
    Literal,
    /// With the escapes `\r \n \t \0 \\ \* \{ \xHH`.
    Escaped,
    /// With escapes, and `*` for any run of bytes.
    Pattern,
}

/// A text to be completed when the case runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Variable(String),
    Anything,
}

impl Text {
    pub(crate) fn parse(raw: &str, style: Style, known: &Known) -> Result<Self, String> {
        let mut pieces = Pieces::default();
        let mut rest = raw;
        while let Some(character) = rest.chars().next() {
            let after = &rest[character.len_utf8()..];
            rest = match character {
                '\\' if style != Style::Literal => pieces.escape(after)?,
                '*' if style == Style::Pattern => {
                    pieces.put(Piece::Anything);
                    after
                }
                '{' => pieces.brace(rest, known)?,
                '$' if after.starts_with('{') => {
                    pieces.push(b"${");
                    &after[1..]
                }
                _ => {
                    pieces.push(&rest.as_bytes()[..character.len_utf8()]);
                    after
                }
            };
        }
        Ok(Self(pieces.done))
    }

    pub(crate) fn bytes(&self, variables: &Variables) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(bytes),
                Piece::Variable(name) => out.extend_from_slice(value(variables, name)?.as_bytes()),
                Piece::Anything => out.push(b'*'),
            }
        }
        Ok(out)
    }

    pub(crate) fn string(&self, variables: &Variables) -> Result<String, String> {
        String::from_utf8(self.bytes(variables)?).map_err(|error| error.to_string())
    }

    pub(crate) fn pattern(&self, variables: &Variables) -> Result<Pattern, String> {
        let mut parts = vec![Vec::new()];
        for piece in &self.0 {
            let bytes = match piece {
                Piece::Bytes(bytes) => bytes.as_slice(),
                Piece::Variable(name) => value(variables, name)?.as_bytes(),
                Piece::Anything => {
                    parts.push(Vec::new());
                    continue;
                }
            };
            if let Some(last) = parts.last_mut() {
                last.extend_from_slice(bytes);
            }
        }
        Ok(Pattern(parts))
    }

    /// This text and then `other`.
    pub(crate) fn then(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

fn value<'a>(variables: &'a Variables, name: &str) -> Result<&'a str, String> {
    variables.get(name).map(String::as_str).ok_or_else(|| format!("`{{{name}}}` has no value here"))
}

#[derive(Default)]
struct Pieces {
    done: Vec<Piece>,
}

impl Pieces {
    fn put(&mut self, piece: Piece) {
        self.done.push(piece);
    }

    fn push(&mut self, bytes: &[u8]) {
        match self.done.last_mut() {
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.put(Piece::Bytes(bytes.to_vec())),
        }
    }

    /// `rest` follows a backslash.
    fn escape<'a>(&mut self, rest: &'a str) -> Result<&'a str, String> {
        let Some(character) = rest.chars().next() else {
            return Err("a backslash ends the line; write \\\\ for the character".into());
        };
        let byte = match character {
            'r' => b'\r',
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            '\\' | '*' | '{' => character as u8,
            'x' => {
                let digits = rest.get(1..3).ok_or("\\x needs two hexadecimal digits")?;
                let byte = u8::from_str_radix(digits, 16).map_err(|_| format!("`\\x{digits}` is no byte"))?;
                self.push(&[byte]);
                return Ok(&rest[3..]);
            }
            other => {
                return Err(format!("unknown escape `\\{other}`; there are \\r \\n \\t \\0 \\\\ \\* \\{{ \\xHH"));
            }
        };
        self.push(&[byte]);
        Ok(&rest[character.len_utf8()..])
    }

    /// `rest` begins with a brace: a placeholder, or just a brace.
    fn brace<'a>(&mut self, rest: &'a str, known: &Known) -> Result<&'a str, String> {
        if let Some(after) = rest.strip_prefix("{{") {
            self.push(b"{{");
            return Ok(after);
        }
        let Some((inner, after)) = rest[1..].split_once('}') else {
            self.push(b"{");
            return Ok(&rest[1..]);
        };
        if let Some(arguments) = inner.strip_prefix("repeat ") {
            let (times, text) = arguments.split_once(' ').ok_or("write {repeat N TEXT}")?;
            let times: usize = times.parse().map_err(|_| format!("`{times}` is no number: write {{repeat N TEXT}}"))?;
            self.push(text.repeat(times).as_bytes());
            return Ok(after);
        }
        let lower = inner.starts_with(|c: char| c.is_ascii_lowercase());
        if lower && inner.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c)) {
            known.note(inner)?;
            self.put(Piece::Variable(inner.to_owned()));
            return Ok(after);
        }
        self.push(b"{");
        Ok(&rest[1..])
    }
}

/// Bytes with wildcards: what stands between two parts does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Vec<u8>>);

impl Pattern {
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        let Some((first, others)) = self.0.split_first() else { return bytes.is_empty() };
        let Some(mut rest) = bytes.strip_prefix(first.as_slice()) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        for part in middle {
            match find(rest, part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// How many bytes match, if there is no wildcard.
    pub(crate) fn length(&self) -> Option<usize> {
        (self.0.len() == 1).then(|| self.0[0].len())
    }

    /// As it was written, its bytes not escaped.
    pub(crate) fn text(&self) -> Vec<u8> {
        self.0.join(&b'*')
    }
}

/// Where `part` first stands in `bytes`.
pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    bytes.windows(part.len()).position(|window| window == part)
}

/// A regular expression; its named groups become placeholders.
#[derive(Debug, Clone)]
pub(crate) struct Expression(Text);

impl Expression {
    pub(crate) fn parse(raw: &str, known: &Known) -> Result<Self, String> {
        let text = Text::parse(raw, Style::Literal, known)?;
        let dummies = known.used().into_iter().map(|name| (name, String::new())).collect();
        let expression = Self(text);
        let compiled = expression.compile(&dummies)?;
        known.captures.borrow_mut().extend(compiled.capture_names().flatten().map(str::to_owned));
        Ok(expression)
    }

    pub(crate) fn compile(&self, variables: &Variables) -> Result<Regex, String> {
        let escaped = variables.iter().map(|(name, value)| (name.clone(), regex::escape(value))).collect();
        Regex::new(&self.0.string(&escaped)?).map_err(|error| error.to_string())
    }

    /// Whether it matches; if so its named groups are put into `variables`.
    pub(crate) fn matches(&self, bytes: &[u8], variables: &mut Variables) -> Result<bool, String> {
        let regex = self.compile(variables)?;
        let Some(captures) = regex.captures(bytes) else { return Ok(false) };
        for name in regex.capture_names().flatten() {
            if let Some(group) = captures.name(name) {
                variables.insert(name.to_owned(), String::from_utf8_lossy(group.as_bytes()).into_owned());
            }
        }
        Ok(true)
    }
}
