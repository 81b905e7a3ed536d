//! Secrets: they are compared, and never shown.

use std::fmt;
use std::str::FromStr;

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// A secret, such as a token. Nothing prints or serialises it: `Debug` and `Display` show that there is one, and no more.
#[derive(Clone)]
pub struct Secret(Box<str>);

/// Text that is no [`Secret`]. It does not hold the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing at all: often a variable that is set to nothing.
    #[error("a secret can't be empty")]
    Empty,
}

impl Secret {
    /// Whether this is the secret. How long the answer takes depends on the length of `candidate` alone: it tells neither how
    /// much of it was right nor how long the secret is.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        let secret = self.0.as_bytes();
        let mut same = Choice::from(1);
        // Bytes beyond the secret's end are compared too, with its beginning: the lengths decide at last.
        let (length, mut at) = (secret.len() as u64, 0_u64);
        for byte in candidate {
            same &= secret[at as usize].ct_eq(byte);
            // Selected without a branch, nor by a remainder, whose time may depend on its operands.
            at += 1;
            at.conditional_assign(&0, at.ct_eq(&length));
        }
        same &= length.ct_eq(&(candidate.len() as u64));
        same.into()
    }

    /// The secret itself, for where it is used or kept: to be neither logged nor copied.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether an `Authorization` header can carry it: visible ASCII without spaces (RFC 6750 §2.1 allows a little less).
    pub(crate) fn fits_a_header(&self) -> bool {
        self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        if text.is_empty() { Err(SecretError::Empty) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([secret])")
    }
}

super::from_text!(Secret, "Secret", "a secret", "minLength": 1, "writeOnly": true);

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_secret_matches() {
        let secret = secret("open sesame");
        assert!(secret.matches(b"open sesame"));
        for other in ["", "o", "open sesam", "open sesamE", "Open sesame", "open sesame\0", "open sesameopen sesame"] {
            assert!(!secret.matches(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn it_is_never_shown() {
        let secret = secret("hunter2");
        let shown = format!("{secret} {secret:?} {secret:#?} {:?}", Some(&secret));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn an_empty_one_is_none() {
        assert_eq!("".parse::<Secret>().unwrap_err(), SecretError::Empty);
    }

    #[test]
    fn a_header_carries_visible_characters() {
        assert!(secret("a-b_c.d~e+f/g=").fits_a_header());
        for bad in ["a b", "a\n", "ä"] {
            assert!(!secret(bad).fits_a_header(), "{bad:?}");
        }
    }
}
