//! How often in a second or a minute.

use std::fmt;
use std::str::FromStr;

/// A rate: `10/s` or `20/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    times: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
}

/// Text that is no [`Rate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// A number without a unit.
    #[error("`{0}` has no unit: write 10/s or 20/m")]
    NoUnit(String),
    /// Something else.
    #[error("`{0}` is no rate: write a whole number and a unit, such as 10/s or 20/m")]
    Malformed(String),
}

impl Rate {
    /// So many times in a second.
    #[must_use]
    pub const fn per_second(times: u32) -> Self {
        Self { times, unit: Unit::Second }
    }

    /// Times in a minute.
    #[must_use]
    pub fn per_minute(self) -> u64 {
        match self.unit {
            Unit::Second => u64::from(self.times) * 60,
            Unit::Minute => u64::from(self.times),
        }
    }

    /// Whether it is never.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.times == 0
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let malformed = || RateError::Malformed(text.to_owned());
        let whole = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole(text) {
            return Err(RateError::NoUnit(text.to_owned()));
        }
        let (digits, unit) = text.split_once('/').filter(|(digits, _)| whole(digits)).ok_or_else(malformed)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            _ => return Err(malformed()),
        };
        Ok(Self { times: digits.parse().map_err(|_| malformed())?, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.times, if self.unit == Unit::Second { 's' } else { 'm' })
    }
}

super::from_text!(Rate, "Rate", "a rate such as 10/s or 20/m", "pattern": "^[0-9]+/[sm]$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, per_minute) in [("10/s", 600), ("20/m", 20), ("0/s", 0)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.per_minute(), rate.to_string().as_str(), rate.is_zero()), (per_minute, text, per_minute == 0));
        }
        assert_eq!("10".parse::<Rate>(), Err(RateError::NoUnit("10".to_owned())));
        for bad in ["", "/s", "-1/s", "+1/s", "1.5/s", "1/h", "1/", "1 /s", "9999999999/s"] {
            assert!(matches!(bad.parse::<Rate>(), Err(RateError::Malformed(_))), "{bad}");
        }
    }
}
