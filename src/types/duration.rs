//! A length of time with a unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

/// A length of time: `250ms`, `30s`, `5m`, `1h` or `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

/// Text that is no [`Duration`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number without a unit.
    #[error("`{0}` has no unit: write 250ms, 30s, 5m, 1h or 1d")]
    NoUnit(String),
    /// Something else.
    #[error("`{0}` is no duration: write a whole number and a unit, such as 250ms, 30s, 5m, 1h or 1d")]
    Malformed(String),
    /// More than a century.
    #[error("`{0}` is too long: at most 36500d")]
    TooLong(String),
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const MAX_MILLIS: u64 = 36_500 * 86_400_000;

impl Duration {
    /// As the standard library has it.
    #[must_use]
    pub fn get(self) -> StdDuration {
        self.0
    }

    /// Whether it is no time at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<StdDuration> for Duration {
    fn from(duration: StdDuration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let malformed = || DurationError::Malformed(text.to_owned());
        if digits.is_empty() {
            return Err(malformed());
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let too_long = || DurationError::TooLong(text.to_owned());
        let number: u64 = digits.parse().map_err(|_| too_long())?;
        match number.checked_mul(*millis) {
            Some(total) if total <= MAX_MILLIS => Ok(Self(StdDuration::from_millis(total))),
            _ => Err(too_long()),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (unit, size) =
            UNITS.iter().find(|(_, size)| millis > 0 && millis.is_multiple_of(u128::from(*size))).unwrap_or(&("s", 1000));
        write!(f, "{}{unit}", millis / u128::from(*size))
    }
}

super::from_text!(Duration, "Duration", "a duration such as 250ms, 30s, 5m, 1h or 1d", "pattern": "^[0-9]+(ms|s|m|h|d)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("2d", 172_800_000), ("0s", 0)]
        {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.get().as_millis(), millis);
            assert_eq!(duration.to_string(), text);
        }
        assert_eq!("90s".parse::<Duration>().unwrap().to_string(), "90s");
        assert_eq!("120s".parse::<Duration>().unwrap().to_string(), "2m");
    }

    #[test]
    fn refuses_what_has_no_plain_meaning() {
        assert_eq!("30".parse::<Duration>(), Err(DurationError::NoUnit("30".to_owned())));
        for text in ["", "s", "1.5s", "-1s", "1 s", "10 parsecs", "1S", "1s2s"] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError::Malformed(text.to_owned())), "{text}");
        }
        for text in ["36501d", "99999999999999999999s"] {
            assert_eq!(text.parse::<Duration>(), Err(DurationError::TooLong(text.to_owned())), "{text}");
        }
    }
}
