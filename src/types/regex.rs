//! Regular expressions over what clients send.

use std::fmt;
use std::str::FromStr;

use regex::bytes;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::Look;
use regex_syntax::hir::literal::Extractor;

/// What an expression may take in memory once it is compiled, and again what a thread may keep for it.
const MAX_SIZE: usize = 1 << 20;

/// A regular expression, in the syntax of the crate [`regex`](https://docs.rs/regex): the time that it takes is linear in the text.
///
/// It is searched for, so `^` and `$` are written where they are meant. It works on bytes: `.` is any byte but a line break,
/// and `\w`, `\d` and `(?i)` are about ASCII, so that no byte that is not UTF-8 slips past a rule.
#[derive(Debug, Clone)]
pub struct Regex {
    compiled: bytes::Regex,
    prefix: Box<str>,
}

/// Text that is no [`Regex`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It breaks the rules of expressions.
    #[error("`{text}` is no regular expression: {reason}, at character {at}")]
    Syntax {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        reason: String,
        /// Where, counted from 1.
        at: usize,
    },
    /// It would take too much memory.
    #[error("`{0}` is too large once it is compiled: repeat less, such as {{1,50}} in place of {{1,5000}}")]
    TooLarge(String),
    /// Nothing.
    #[error("an empty expression matches everything: leave it out")]
    Empty,
}

impl Regex {
    /// Whether it is found anywhere in the text.
    #[must_use]
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.compiled.as_str()
    }

    /// What every text begins with in which it is found; perhaps nothing.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl FromStr for Regex {
    type Err = RegexError;

    fn from_str(text: &str) -> Result<Self, RegexError> {
        if text.is_empty() {
            return Err(RegexError::Empty);
        }
        let syntax = |reason: String, at: usize| RegexError::Syntax { text: text.to_owned(), reason, at };
        let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(text).map_err(|error| match error {
            regex_syntax::Error::Parse(error) => syntax(error.kind().to_string(), error.span().start.column),
            regex_syntax::Error::Translate(error) => syntax(error.kind().to_string(), error.span().start.column),
            other => syntax(other.to_string(), 1),
        })?;
        let mut builder = bytes::RegexBuilder::new(text);
        let compiled =
            builder.unicode(false).size_limit(MAX_SIZE).dfa_size_limit(MAX_SIZE).build().map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => RegexError::TooLarge(text.to_owned()),
                other => syntax(other.to_string(), 1),
            })?;
        let anchored = hir.properties().look_set_prefix().contains(Look::Start);
        let prefix = if anchored {
            let literals = Extractor::new().extract(&hir);
            let prefix = literals.longest_common_prefix().and_then(|prefix| std::str::from_utf8(prefix).ok());
            prefix.unwrap_or_default().into()
        } else {
            "".into()
        };
        Ok(Self { compiled, prefix })
    }
}

/// Two are equal if they are written alike.
impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Regex {}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

super::from_text!(Regex, "Regex", "a regular expression in the syntax of https://docs.rs/regex", "minLength": 1);

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(text: &str) -> Regex {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_searched_for_unless_it_is_anchored() {
        assert!(regex("b").is_match(b"abc") && !regex("^b$").is_match(b"abc"));
        assert!(regex("(?i)BOT").is_match(b"a robot") && regex("^.$").is_match(b"\xff"));
    }

    #[test]
    fn what_every_match_begins_with() {
        for (text, prefix) in [
            ("^/u/[0-9]+$", "/u/"),
            ("^/u/(a|b)", "/u/"),
            ("^(/ab|/ac)", "/a"),
            ("^/a?b", "/"),
            ("/u/", ""),
            ("^/u|/v", ""),
            ("(?i)^/u", "/"),
            ("(?m)^/u", ""),
            ("^.*", ""),
            ("^/a\\.b", "/a.b"),
        ] {
            assert_eq!(regex(text).prefix(), prefix, "{text}");
        }
    }

    #[test]
    fn mistakes_say_what_and_where() {
        let error = |text: &str| text.parse::<Regex>().unwrap_err().to_string();
        assert_eq!(error("^/u/([0-9]+$"), "`^/u/([0-9]+$` is no regular expression: unclosed group, at character 5");
        assert!(error("(?=a)").contains("look-around"));
        assert!(error("(a)\\1").contains("backreferences are not supported"));
        assert!(error("\\pL").contains("Unicode"));
        assert!(error("(a{1,1000}){1,1000}").contains("too large"));
        assert_eq!(error(""), "an empty expression matches everything: leave it out");
    }
}
