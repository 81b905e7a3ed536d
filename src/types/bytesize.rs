//! A number of bytes with a unit.

use std::fmt;
use std::str::FromStr;

/// A size: `512B`, `8KiB`, `10MiB` or `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Text that is no [`ByteSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// A number without a unit.
    #[error("`{0}` has no unit: write 512B, 8KiB, 10MiB or 1GiB")]
    NoUnit(String),
    /// Something else.
    #[error("`{0}` is no size: write a whole number and a unit, such as 512B, 8KiB, 10MiB or 1GiB")]
    Malformed(String),
    /// More than a machine has.
    #[error("`{0}` is too large: at most 1048576GiB")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const MAX: u64 = 1 << 50;

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let malformed = || ByteSizeError::Malformed(text.to_owned());
        if digits.is_empty() {
            return Err(malformed());
        }
        if unit.is_empty() {
            return Err(ByteSizeError::NoUnit(text.to_owned()));
        }
        let (_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(*size).filter(|bytes| *bytes <= MAX).map(Self).ok_or_else(too_large)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS.iter().find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size)).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

super::from_text!(ByteSize, "ByteSize", "a size such as 512B, 8KiB, 10MiB or 1GiB", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("8KiB", 8192), ("10MiB", 10 << 20), ("1GiB", 1 << 30)] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.get(), size.to_string()), (bytes, text.to_owned()));
        }
        assert_eq!("1024KiB".parse::<ByteSize>().unwrap().to_string(), "1MiB");
    }

    #[test]
    fn refuses_what_has_no_plain_meaning() {
        assert_eq!("8".parse::<ByteSize>(), Err(ByteSizeError::NoUnit("8".to_owned())));
        for text in ["", "KiB", "8 KiB", "8kb", "8K", "1.5MiB", "-1B"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::Malformed(text.to_owned())), "{text}");
        }
        for text in ["1048577GiB", "99999999999999999999B"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ByteSizeError::TooLarge(text.to_owned())), "{text}");
        }
    }
}
