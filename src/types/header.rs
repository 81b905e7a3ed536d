//! Names of header fields.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The name of a header field (RFC 9110 §5.1), in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(Box<str>);

/// Text that is no [`HeaderName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no header name: write letters, digits and `-`, such as `x-request-id`")]
pub struct HeaderNameError(String);

impl HeaderName {
    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = HeaderNameError;

    fn from_str(text: &str) -> Result<Self, HeaderNameError> {
        let name = http::HeaderName::from_bytes(text.as_bytes()).map_err(|_| HeaderNameError(text.to_owned()))?;
        Ok(Self(name.as_str().into()))
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(HeaderName, "HeaderName", "the name of a header field", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$");

/// Whether fields of this name carry what is for two parties alone: explanations don't show it.
pub(crate) fn carries_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "cookie", "token", "secret", "password", "api-key", "api_key", "apikey", "signature", "session"]
        .iter()
        .any(|word| name.contains(word))
}

/// A query as explanations show it: values that are secrets, and that `typed` has not in the same place, are `***`.
pub(crate) fn without_secrets<'a>(query: &'a str, typed: Option<&str>) -> Cow<'a, str> {
    let is_secret = |pair: &str| {
        let name = pair.split_once('=').map(|(name, _)| name);
        name.is_some_and(carries_a_secret) && !typed.is_some_and(|typed| typed.split('&').any(|known| known == pair))
    };
    if !query.split('&').any(is_secret) {
        return Cow::Borrowed(query);
    }
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret(pair) => Cow::Owned(format!("{name}=***")),
        _ => Cow::Borrowed(pair),
    });
    Cow::Owned(shown.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_in_lower_case() {
        assert_eq!("X-Request-Id".parse::<HeaderName>().unwrap().as_str(), "x-request-id");
        for bad in ["", "a b", "a:", "ä", "a\n"] {
            assert!(bad.parse::<HeaderName>().is_err(), "{bad}");
        }
    }
}
