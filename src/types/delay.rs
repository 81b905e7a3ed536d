//! How long something is waited for: a time, or as long as most others take.

use std::fmt;
use std::str::FromStr;

use super::{Duration, Percent};

/// A time above zero, or the time within which this share of the others was done: `50ms`, `95%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// A time.
    Time(Duration),
    /// A share, from 1% to 99%.
    Share(Percent),
}

/// Text that is no [`Delay`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelayError {
    /// No time at all, or all of the time.
    #[error("`{0}` would be at once or never: write a time above zero, or a share from 1% to 99%")]
    Nothing(String),
    /// Something else.
    #[error("`{0}` is neither a time nor a share: write 50ms, or 95%")]
    Malformed(String),
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let nothing = || DelayError::Nothing(text.to_owned());
        if let Ok(share) = text.parse::<Percent>() {
            return if (1..=99).contains(&share.get()) { Ok(Self::Share(share)) } else { Err(nothing()) };
        }
        match text.parse::<Duration>() {
            Ok(time) if time.is_zero() => Err(nothing()),
            Ok(time) => Ok(Self::Time(time)),
            Err(_) => Err(DelayError::Malformed(text.to_owned())),
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => time.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

super::from_text!(Delay, "Delay", "a time such as 50ms, or a share such as 95%", "pattern": "^([0-9]+(ms|s|m|h|d)|[0-9]{1,2}%)$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_a_share() {
        for good in ["50ms", "1s", "95%", "1%"] {
            assert_eq!(good.parse::<Delay>().unwrap().to_string(), good);
        }
        for bad in ["", "0ms", "0%", "100%", "101%", "95", "5 %", "p95", "-1ms"] {
            assert!(bad.parse::<Delay>().is_err(), "{bad}");
        }
    }
}
