//! Words of HTTP's grammar, such as the names of cookies.

use std::fmt;
use std::str::FromStr;

/// A token (RFC 9110 §5.6.2), in which case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Box<str>);

/// Text that is no [`Token`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a cookie: write letters, digits, `_` and `-`")]
pub struct TokenError(String);

impl Token {
    /// The cookie of `sticky`, unless the file names another.
    pub(crate) fn ravelin_lb() -> Self {
        Self("ravelin_lb".into())
    }

    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a byte may stand in a token (RFC 9110 §5.6.2): looked up, since a head has hundreds of them.
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut place = 0;
    while place < others.len() {
        table[others[place] as usize] = true;
        place += 1;
    }
    table
};

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if !text.is_empty() && text.bytes().all(is_token) { Ok(Self(text.into())) } else { Err(TokenError(text.to_owned())) }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(Token, "Token", "the name of a cookie", "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_separators() {
        assert_eq!("Sid_1".parse::<Token>().unwrap().as_str(), "Sid_1");
        for bad in ["", "a b", "a=b", "a;", "ä", "\"a\""] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }
}
