//! A share of a hundred.

use std::fmt;
use std::str::FromStr;

/// `0%` to `100%`, in whole steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

/// Text that is no [`Percent`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no share: write a whole number from 0 to 100 and `%`, such as 30%")]
pub struct PercentError(String);

impl Percent {
    /// 50%.
    pub(crate) const HALF: Self = Self(50);

    /// This share; one of more than the whole is the whole.
    pub(crate) const fn of(number: u8) -> Self {
        if number > 100 { Self(100) } else { Self(number) }
    }

    /// From 0 to 100.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether `part` is less than this share of `whole`.
    #[must_use]
    pub fn is_above(self, part: usize, whole: usize) -> bool {
        (part as u128) * 100 < (whole as u128) * u128::from(self.0)
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(number @ 0..=100) => Ok(Self(number)),
            _ => Err(PercentError(text.to_owned())),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

super::from_text!(Percent, "Percent", "a share such as 30%", "pattern": "^(100|[0-9]{1,2})%$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_hundred() {
        assert_eq!("30%".parse::<Percent>().unwrap().to_string(), "30%");
        for bad in ["", "%", "30", "101%", "-1%", "+1%", "1.5%", "1 %", "256%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_is_below_a_share_or_not() {
        let half: Percent = "50%".parse().unwrap();
        assert!(half.is_above(1, 3) && !half.is_above(2, 4) && !half.is_above(0, 0));
        assert!(!Percent::default().is_above(0, 3));
    }
}
