//! A number of things, at least one.

use std::fmt;
use std::str::FromStr;

/// A whole number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(u32);

/// Text that is no [`Count`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no count: write a whole number from 1 to 4294967295")]
pub struct CountError(String);

impl Count {
    /// Five.
    pub(crate) const FIVE: Self = Self(5);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Count {
    type Err = CountError;

    fn from_str(text: &str) -> Result<Self, CountError> {
        match text.parse() {
            Ok(number @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(number)),
            _ => Err(CountError(text.to_owned())),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                text.parse().map_err(E::custom)
            }
        }
        // As text, so that it can stand where a word such as `none` may stand too.
        deserializer.deserialize_str(Text)
    }
}

impl schemars::JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 1, "maximum": 4_294_967_295_u32, "description": "a whole number from 1"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_at_least_one() {
        assert_eq!("20000".parse::<Count>().unwrap().get(), 20_000);
        for bad in ["", "0", "-1", "+1", "1.0", "4294967296", "many"] {
            assert!(bad.parse::<Count>().is_err(), "{bad}");
        }
    }
}
