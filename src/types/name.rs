//! Names that the operator gives to things.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// The name of a listener, upstream, route, chain or filter: 1 to 64 of `A-Z a-z 0-9 _ . -`, the first a letter, digit or `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Text that is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing at all.
    #[error("a name can't be empty")]
    Empty,
    /// More than 64 characters.
    #[error("`{0}` is too long for a name: at most 64 characters")]
    TooLong(String),
    /// A character that is not allowed, or not at the start.
    #[error("`{0}` is no name: write letters, digits, `_`, `-` and `.`, beginning with a letter, a digit or `_`")]
    Malformed(String),
}

impl Name {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        match text.as_bytes() {
            [] => Err(NameError::Empty),
            bytes if bytes.len() > 64 => Err(NameError::TooLong(text.to_owned())),
            [b'-' | b'.', ..] => Err(NameError::Malformed(text.to_owned())),
            bytes if bytes.iter().all(|byte| allowed(*byte)) => Ok(Self(text.into())),
            _ => Err(NameError::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

super::from_text!(Name, "Name", "a name of letters, digits, `_`, `-` and `.`", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["a", "_x", "api-v1.2", "0"] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["-a", ".a", "a b", "a/b", "ä"] {
            assert_eq!(bad.parse::<Name>(), Err(NameError::Malformed(bad.to_owned())));
        }
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert!("a".repeat(64).parse::<Name>().is_ok());
        assert!("a".repeat(65).parse::<Name>().is_err());
    }
}
