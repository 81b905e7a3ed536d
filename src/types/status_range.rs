//! Status codes from one to another.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Status;

/// `200`, or `200-299`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRange(RangeInclusive<u16>);

/// Text that is no [`StatusRange`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no status, nor a range of them: write a number from 100 to 599, or two such as 200-299")]
pub struct StatusRangeError(String);

impl StatusRange {
    /// Whether the status is one of these.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.contains(&status)
    }

    /// Successes: 200 to 299.
    #[must_use]
    pub const fn success() -> Self {
        Self(200..=299)
    }
}

impl FromStr for StatusRange {
    type Err = StatusRangeError;

    fn from_str(text: &str) -> Result<Self, StatusRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<Status>(), last.trim().parse::<Status>()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self(first.get()..=last.get())),
            _ => Err(StatusRangeError(text.to_owned())),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}-{}", self.0.start(), self.0.end())
        }
    }
}

super::from_text!(StatusRange, "StatusRange", "a status, or a range such as 200-299", "pattern": "^[1-5][0-9]{2}( ?- ?[1-5][0-9]{2})?$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many() {
        let range = |text: &str| text.parse::<StatusRange>();
        assert_eq!(range("200-299"), Ok(StatusRange::success()));
        assert!(range("404").unwrap().contains(404) && !range("404").unwrap().contains(405));
        assert_eq!([range("204").unwrap().to_string(), range("200 - 204").unwrap().to_string()], ["204", "200-204"]);
        for bad in ["", "-", "200-", "-299", "299-200", "600", "200-600", "2xx", "200-250-299"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
