//! Paths in normal form (RFC 3986 §6.2.2), and patterns over them.
//!
//! What is matched is what is forwarded, so no rule can be slipped past by another spelling: unreserved characters are
//! decoded, hexadecimal digits are capitals, dot segments are resolved and `//` is `/`. `%2F` stays encoded and
//! separates nothing. What no two servers read alike is refused.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A path that has no normal form, or one that servers read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not beginning with `/`.
    #[error("a path begins with `/`")]
    NoSlash,
    /// More `..` than there are segments.
    #[error("the path climbs above the root")]
    AboveRoot,
    /// `..%2F` and the like.
    #[error("the path hides a dot segment behind an encoded slash")]
    HiddenDots,
    /// `\` or `%5C`.
    #[error("the path holds a backslash")]
    Backslash,
    /// `%00`.
    #[error("the path holds a NUL")]
    Nul,
    /// A `%` without two hexadecimal digits.
    #[error("the path holds a broken escape")]
    BrokenEscape,
    /// A space, a control, `?`, `#`, or a byte beyond ASCII.
    #[error("the path holds a character that must be encoded")]
    Unencoded,
}

/// The normal form of a path without its query; borrowed if it is in normal form. `*`, as in `OPTIONS *`, stays.
///
/// # Errors
/// Servers would not agree on it: see [`PathError`].
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    normal_form(path, Slashes::Merged)
}

/// As [`normalise`], but for empty segments, which stay: `//` is not `/`.
///
/// # Errors
/// As [`normalise`].
pub fn normalise_unmerged(path: &str) -> Result<Cow<'_, str>, PathError> {
    normal_form(path, Slashes::Kept)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slashes {
    Merged,
    Kept,
}

fn normal_form(path: &str, slashes: Slashes) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NoSlash);
    }
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let resolved = resolve_segments(&decoded, slashes)?;
    Ok(if resolved == path { Cow::Borrowed(path) } else { Cow::Owned(resolved) })
}

/// One scan that finds the common case: no escapes, no `//`, no segment that begins with a dot, nothing odd.
fn is_plain(path: &str) -> bool {
    let mut previous = 0;
    path.bytes().all(|byte| {
        let plain = match byte {
            b'/' | b'.' => previous != b'/',
            b'%' | b'\\' | b'?' | b'#' => false,
            _ => byte.is_ascii_graphic(),
        };
        previous = byte;
        plain
    })
}

fn decode_unreserved(path: &str) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(PathError::BrokenEscape) };
                match u8::try_from(high * 16 + low).map_err(|_| PathError::BrokenEscape)? {
                    0 => return Err(PathError::Nul),
                    b'\\' => return Err(PathError::Backslash),
                    byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
                    _ => {
                        out.push('%');
                        out.extend([bytes[at + 1], bytes[at + 2]].map(|byte| char::from(byte).to_ascii_uppercase()));
                    }
                }
                at += 3;
            }
            b'\\' => return Err(PathError::Backslash),
            0 => return Err(PathError::Nul),
            b'?' | b'#' => return Err(PathError::Unencoded),
            byte if byte.is_ascii_graphic() => {
                out.push(char::from(byte));
                at += 1;
            }
            _ => return Err(PathError::Unencoded),
        }
    }
    Ok(out)
}

fn resolve_segments(path: &str, slashes: Slashes) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." if last => out.push('/'),
            "" if slashes == Slashes::Kept => out.push('/'),
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent);
                if last {
                    out.push('/');
                }
            }
            segment => {
                if segment.split("%2F").any(|part| part == "." || part == "..") {
                    return Err(PathError::HiddenDots);
                }
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    Ok(out)
}

/// Paths that a route matches: `/x` is exact; `/x/*` is `/x`, `/x/` and everything below.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPattern {
    /// Exactly this path, in normal form.
    Exact(String),
    /// This path, without a slash at its end, and everything below; empty for `/*`.
    Prefix(String),
}

/// Text that is no [`PathPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// A `*` that is not the whole last segment.
    #[error("`{0}` has a `*` where none can be: only /x/* is a pattern, for /x and everything below it")]
    Wildcard(String),
    /// A query in a path.
    #[error("`{0}` holds a query: match the path alone")]
    Query(String),
    /// No path.
    #[error("`{text}` is no path: {reason}")]
    Malformed {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        reason: PathError,
    },
}

impl PathPattern {
    /// Whether a path in normal form matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && !prefix.is_empty())),
        }
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        Self::parse(text, Slashes::Merged)
    }
}

impl PathPattern {
    /// A pattern over paths whose empty segments count.
    ///
    /// # Errors
    /// As by [`FromStr`].
    pub fn unmerged(text: &str) -> Result<Self, PathPatternError> {
        Self::parse(text, Slashes::Kept)
    }

    fn parse(text: &str, slashes: Slashes) -> Result<Self, PathPatternError> {
        let (prefix, path) = match text.strip_suffix("/*") {
            Some("") => return Ok(Self::Prefix(String::new())),
            Some(path) => (true, path),
            None => (false, text),
        };
        if path.contains('*') {
            return Err(PathPatternError::Wildcard(text.to_owned()));
        }
        if path.contains('?') {
            return Err(PathPatternError::Query(text.to_owned()));
        }
        let malformed = |reason| PathPatternError::Malformed { text: text.to_owned(), reason };
        if !prefix {
            return Ok(Self::Exact(normal_form(path, slashes).map_err(malformed)?.into_owned()));
        }
        // With the slash, so that a dot segment at the end resolves as it does in what is below.
        let below = format!("{path}/");
        let normal = normal_form(&below, slashes).map_err(malformed)?;
        Ok(Self::Prefix(normal.strip_suffix('/').unwrap_or(&normal).to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) => write!(f, "{path}/*"),
        }
    }
}

super::from_text!(PathPattern, "PathPattern", "a path: /x is exact, /x/* is /x and everything below", "pattern": "^/");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_forms() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/%7Euser/%61", "/~user/a"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb/../c", "/c"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a;b=c,d@e:f!$&'()*+=", "/a;b=c,d@e:f!$&'()*+="),
            ("*", "*"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
        assert!(matches!(normalise("/a/b.html"), Ok(Cow::Borrowed(_))));
        assert!(matches!(normalise("/a%20b"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn empty_segments_can_stay() {
        for (path, normal) in [
            ("/a//b/", "/a//b/"),
            ("//a", "//a"),
            ("/a//../b", "/a/b"),
            ("/a/.//b/./c/..", "/a//b/"),
            ("/%61//%2f", "/a//%2F"),
            ("/a/b", "/a/b"),
        ] {
            assert_eq!(normalise_unmerged(path).as_deref(), Ok(normal), "{path}");
        }
        assert_eq!(normalise_unmerged("/a/../../b"), Err(PathError::AboveRoot));
        assert!(PathPattern::unmerged("/a//b").unwrap().matches("/a//b"));
        let prefix = PathPattern::unmerged("/a//*").unwrap();
        assert!(prefix.matches("/a/") && prefix.matches("/a//b") && !prefix.matches("/a/b") && !prefix.matches("/a"));
    }

    #[test]
    fn what_servers_read_differently_is_refused() {
        use PathError::{AboveRoot, Backslash, BrokenEscape, HiddenDots, NoSlash, Nul, Unencoded};
        for (path, error) in [
            ("", NoSlash),
            ("a", NoSlash),
            ("/..", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("//..", AboveRoot),
            ("/%2e%2e", AboveRoot),
            ("/a/..%2fb", HiddenDots),
            ("/a%2F..", HiddenDots),
            ("/a/%2e%2e%2fb", HiddenDots),
            ("/.%2Fa", HiddenDots),
            ("/a\\b", Backslash),
            ("/a%5cb", Backslash),
            ("/a%00", Nul),
            ("/a%", BrokenEscape),
            ("/a%2", BrokenEscape),
            ("/a%zz", BrokenEscape),
            ("/a b", Unencoded),
            ("/a\u{7f}", Unencoded),
            ("/ä", Unencoded),
            ("/a#b", Unencoded),
            ("/a?b", Unencoded),
        ] {
            assert_eq!(normalise(path), Err(error), "{path}");
        }
    }

    #[test]
    fn patterns() {
        let pattern = |text: &str| text.parse::<PathPattern>();
        assert_eq!(pattern("/x"), Ok(PathPattern::Exact("/x".to_owned())));
        assert_eq!(pattern("/x/*"), Ok(PathPattern::Prefix("/x".to_owned())));
        assert_eq!(pattern("/*"), Ok(PathPattern::Prefix(String::new())));
        assert_eq!(pattern("/a/../x/"), Ok(PathPattern::Exact("/x/".to_owned())));
        assert!(matches!(pattern("/x*"), Err(PathPatternError::Wildcard(_))));
        assert!(matches!(pattern("/*/x"), Err(PathPatternError::Wildcard(_))));
        assert!(matches!(pattern("/x?y"), Err(PathPatternError::Query(_))));
        assert!(matches!(pattern("x"), Err(PathPatternError::Malformed { .. })));
    }

    #[test]
    fn a_prefix_ends_on_a_segment_border() {
        let prefix: PathPattern = "/x/*".parse().unwrap();
        for (path, matches) in [("/x", true), ("/x/", true), ("/x/y", true), ("/xy", false), ("/", false)] {
            assert_eq!(prefix.matches(path), matches, "{path}");
        }
        assert!("/*".parse::<PathPattern>().unwrap().matches("/"));
        assert!(!"/*".parse::<PathPattern>().unwrap().matches("*"));
    }

    proptest! {
        #[test]
        fn normal_form_is_stable(path in "/([a-c./%25EF~\\\\-]|%2[eEfF]|%[46]1|\\.\\.){0,20}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.contains("//"));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
                prop_assert_eq!(normalise(&normal).map(Cow::into_owned), Ok(normal.clone().into_owned()));
                // What is fine merged is fine unmerged, and without `//` the two forms are one.
                let unmerged = normalise_unmerged(&path);
                prop_assert!(unmerged.is_ok());
                if !path.contains("//") {
                    prop_assert_eq!(unmerged.clone(), Ok(normal));
                }
                let unmerged = unmerged.map(Cow::into_owned);
                prop_assert_eq!(normalise_unmerged(unmerged.as_ref().unwrap()).map(Cow::into_owned), unmerged.clone());
            }
        }

        #[test]
        fn parsing_is_total(text in "\\PC{0,40}") {
            let _ = normalise(&text);
            if let Ok(pattern) = text.parse::<PathPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }
    }
}
