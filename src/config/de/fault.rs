//! What went wrong when a node was decoded: serde's errors, kept apart by kind until it is known where they belong.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use crate::config::Span;
use crate::config::tree::NodeId;

/// Boxed, for it travels through every `Result` of the decoding.
#[derive(Debug)]
pub(crate) struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: What,
    place: Option<Place>,
}

/// Where a fault belongs: the innermost node that serde was reading.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    /// Which entry of which collection leads to the node; `None` at the root of what is decoded.
    pub(crate) edge: Option<Edge>,
    pub(crate) span: Span,
    /// The nearest key above.
    pub(crate) key: String,
}

/// The nth entry of a list or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Edge {
    pub(crate) parent: NodeId,
    pub(crate) index: usize,
}

#[derive(Debug)]
pub(crate) enum What {
    /// A parser's own words.
    Said(String),
    /// Another kind of value was expected.
    Kind {
        expected: String,
        /// Of the map that is expected, if it is one with certain keys.
        keys: &'static [&'static str],
    },
    Missing(&'static str),
    UnknownKey {
        given: String,
        known: Vec<&'static str>,
    },
    UnknownWord {
        given: String,
        known: Vec<&'static str>,
    },
    /// A follow-on of something that is reported already.
    Known,
}

impl Fault {
    pub(crate) fn new(what: What) -> Self {
        Self(Box::new(Inner { what, place: None }))
    }

    pub(crate) fn kind(expected: impl Into<String>) -> Self {
        Self::new(What::Kind { expected: expected.into(), keys: &[] })
    }

    /// Tells which keys the expected map has.
    pub(crate) fn with_keys(mut self, fields: &'static [&'static str]) -> Self {
        if let What::Kind { keys, .. } = &mut self.0.what {
            *keys = fields;
        }
        self
    }

    /// Gives it its place, unless it has one further inside.
    pub(crate) fn at(mut self, place: impl FnOnce() -> Place) -> Self {
        self.0.place.get_or_insert_with(place);
        self
    }

    pub(crate) fn into_parts(self) -> (What, Option<Place>) {
        (self.0.what, self.0.place)
    }
}

/// Only seen where somebody formats the error of a nested `Deserialize`; reports are written from [`What`].
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            What::Said(text) => f.write_str(text),
            What::Kind { expected, .. } => write!(f, "expected {expected}"),
            What::Missing(key) => write!(f, "`{key}` is missing"),
            What::UnknownKey { given, .. } => write!(f, "unknown key `{given}`"),
            What::UnknownWord { given, .. } => write!(f, "`{given}` is not known here"),
            What::Known => f.write_str("reported elsewhere"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Said(message.to_string()))
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::kind(in_words(&expected.to_string()))
    }

    fn invalid_value(given: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_words(&expected.to_string());
        Self::new(What::Said(match given {
            Unexpected::Unsigned(n) => format!("expected {expected}, found {n}"),
            Unexpected::Signed(n) => format!("expected {expected}, found {n}"),
            Unexpected::Float(n) => format!("expected {expected}, found {n}"),
            Unexpected::Str(text) => format!("expected {expected}, found `{text}`"),
            _ => format!("expected {expected}"),
        }))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(What::Said(format!("expected {}, found {length}", in_words(&expected.to_string()))))
    }

    fn unknown_variant(given: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord { given: given.to_owned(), known: known.to_vec() })
    }

    fn unknown_field(given: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { given: given.to_owned(), known: known.to_vec() })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing(key))
    }
}

/// What visitors expect, in the words of somebody who writes YAML.
fn in_words(expected: &str) -> String {
    let text = match expected {
        "a boolean" => "`true` or `false`",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" | "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number",
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number above 0",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a borrowed string" | "a character" | "str" | "path string" => "a string",
        "unit" => "nothing",
        other if other.starts_with("struct ") || other.starts_with("enum ") => "a map",
        other => other,
    };
    text.to_owned()
}
