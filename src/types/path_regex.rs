//! Expressions over paths that no path in normal form meets: a rule that looks as if it were one.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::Regex;

/// Why an expression is never found in a path in normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unmet {
    /// `//`, where it is merged.
    #[error("`//` is merged to `/` before paths are matched")]
    Slashes,
    /// `/./` and `/../`.
    #[error("dot segments are resolved before paths are matched")]
    Dots,
    /// `%2f`
    #[error("escapes are in capitals before paths are matched: `%2F`, not `%2f`")]
    SmallEscape,
    /// `%61`
    #[error("letters, digits and `-._~` are decoded before paths are matched: `a`, not `%61`")]
    NeedlessEscape,
    /// `%` without two digits.
    #[error("a `%` is followed by two hexadecimal digits in every path")]
    BrokenEscape,
    /// `?`
    #[error("a path ends where its query begins: match that by `query`")]
    Query,
    /// `\`, a NUL, `%5C` and `%00`.
    #[error("a path with a backslash or a NUL is refused before it is matched")]
    Refused,
    /// `[^\s\S]`
    #[error("it asks for a character that is none")]
    Nothing,
    /// What must be encoded.
    #[error("spaces, control characters, `#` and what is not ASCII are encoded in paths, such as `%20`")]
    Unencoded,
}

/// Whether an expression can't be found in any path in normal form, as far as what it must find shows. `merged`: `//` is `/`.
pub(crate) fn unmet(regex: &Regex, merged: bool) -> Option<Unmet> {
    // It has been parsed once.
    let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(regex.as_str()).ok()?;
    within(&hir, merged)
}

fn within(hir: &Hir, merged: bool) -> Option<Unmet> {
    match hir.kind() {
        HirKind::Literal(literal) => in_text(&literal.0, merged),
        HirKind::Class(Class::Bytes(class)) => {
            let mut first = class.ranges().is_empty().then_some(Unmet::Nothing);
            for byte in class.iter().flat_map(|range| range.start()..=range.end()) {
                // What one byte of the class can be, the class can.
                let found = in_byte(byte)?;
                first.get_or_insert(found);
            }
            first
        }
        HirKind::Class(Class::Unicode(_)) | HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Repetition(repetition) if repetition.min > 0 => within(&repetition.sub, merged),
        HirKind::Repetition(_) => None,
        HirKind::Capture(capture) => within(&capture.sub, merged),
        HirKind::Concat(parts) => parts.iter().find_map(|part| within(part, merged)),
        HirKind::Alternation(ways) => {
            let mut first = None;
            for way in ways {
                let found = within(way, merged)?;
                first.get_or_insert(found);
            }
            first
        }
    }
}

/// A text that is found as a whole.
fn in_text(text: &[u8], merged: bool) -> Option<Unmet> {
    let holds = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    if merged && holds(b"//") {
        return Some(Unmet::Slashes);
    }
    if holds(b"/./") || holds(b"/../") {
        return Some(Unmet::Dots);
    }
    text.iter().enumerate().find_map(|(at, byte)| match byte {
        b'%' => in_escape(&text[at + 1..]),
        byte => in_byte(*byte),
    })
}

/// What follows a `%`, which may end before both of its digits.
fn in_escape(rest: &[u8]) -> Option<Unmet> {
    let digits = &rest[..rest.len().min(2)];
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Some(Unmet::BrokenEscape);
    }
    if digits.iter().any(u8::is_ascii_lowercase) {
        return Some(Unmet::SmallEscape);
    }
    let text = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
    match u8::from_str_radix(text, 16).ok()? {
        0 | b'\\' => Some(Unmet::Refused),
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => Some(Unmet::NeedlessEscape),
        _ => None,
    }
}

fn in_byte(byte: u8) -> Option<Unmet> {
    match byte {
        b'?' => Some(Unmet::Query),
        0 | b'\\' => Some(Unmet::Refused),
        b'#' => Some(Unmet::Unencoded),
        byte if byte.is_ascii_graphic() => None,
        _ => Some(Unmet::Unencoded),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::path;

    fn found(text: &str, merged: bool) -> Option<Unmet> {
        unmet(&text.parse().unwrap(), merged)
    }

    #[test]
    fn what_no_path_in_normal_form_holds() {
        for (text, unmet) in [
            ("^/a//b", Unmet::Slashes),
            (r"^/a/\./", Unmet::Dots),
            ("^/a%2f", Unmet::SmallEscape),
            ("^/%61", Unmet::NeedlessEscape),
            ("^/%zz", Unmet::BrokenEscape),
            (r"^/a\?b=1", Unmet::Query),
            (r"^/a\\b", Unmet::Refused),
            ("^/a%5C", Unmet::Refused),
            ("^/a b$", Unmet::Unencoded),
            ("^/ä", Unmet::Unencoded),
            ("^/a[ \t]+b", Unmet::Unencoded),
            ("^/(a b|c//d)$", Unmet::Unencoded),
            ("^/(x(y z))+", Unmet::Unencoded),
            (r"^/[^\s\S]$", Unmet::Nothing),
        ] {
            assert_eq!(found(text, true), Some(unmet), "{text}");
        }
    }

    #[test]
    fn what_some_path_holds() {
        for text in
            // A dot is any byte, unless it is escaped.
            [
                "^/a/b",
                "^/a%2Fb",
                "(?i)^/a%2fb",
                "^/a?b",
                "^/a[ b]c",
                "^/(a b|c)$",
                "^/(a b)?c",
                "^/a/../b",
                r"\.\./",
                "^/%E4",
                "^/a%",
            ]
        {
            assert_eq!(found(text, true), None, "{text}");
        }
        assert_eq!(found("^/a//b", false), None);
    }

    proptest! {
        /// What is found in a path in normal form was never said to be unmet.
        #[test]
        fn nothing_that_is_met_is_said_to_be_unmet(path in "/([a-c./%25EF~ ?-]|%[2-7][0-9A-Fa-f]){0,12}", from in 0..12usize) {
            if let Ok(normal) = path::normalise(&path) {
                let part = normal.get(from.min(normal.len())..).unwrap_or_default();
                if !part.is_empty() {
                    prop_assert_eq!(found(&regex::escape(part), true), None, "{}", part);
                }
            }
        }
    }
}
