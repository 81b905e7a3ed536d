//! A number of bytes in a second.

use std::fmt;
use std::str::FromStr;

use crate::types::{ByteSize, ByteSizeError};

/// A rate: `256B/s` or `1MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(ByteSize);

/// Text that is no [`ByteRate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteRateError {
    /// It does not end in `/s`.
    #[error("`{0}` is no rate: write a size for each second, such as 256B/s or 1MiB/s")]
    NoSecond(String),
    /// What stands before `/s` is no size.
    #[error(transparent)]
    Size(#[from] ByteSizeError),
}

impl ByteRate {
    /// Bytes in a second.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl FromStr for ByteRate {
    type Err = ByteRateError;

    fn from_str(text: &str) -> Result<Self, ByteRateError> {
        let size = text.strip_suffix("/s").ok_or_else(|| ByteRateError::NoSecond(text.to_owned()))?;
        Ok(Self(size.parse()?))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

super::from_text!(ByteRate, "ByteRate", "a rate such as 256B/s or 1MiB/s", "pattern": "^[0-9]+(B|KiB|MiB|GiB)/s$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let rate: ByteRate = "256B/s".parse().unwrap();
        assert_eq!((rate.get(), rate.to_string()), (256, "256B/s".to_owned()));
        assert!(matches!("256B".parse::<ByteRate>(), Err(ByteRateError::NoSecond(_))));
        assert!(matches!("256/s".parse::<ByteRate>(), Err(ByteRateError::Size(_))));
    }
}
