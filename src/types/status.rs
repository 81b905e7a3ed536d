//! Status codes.

use std::fmt;
use std::str::FromStr;

/// A status code (RFC 9110 §15): 100 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status(u16);

/// Text that is no [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no status code: write a number from 100 to 599")]
pub struct StatusError(String);

impl Status {
    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for Status {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        match text.parse() {
            Ok(code @ 100..=599) if text.len() == 3 => Ok(Self(code)),
            _ => Err(StatusError(text.to_owned())),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Status {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u64::deserialize(deserializer)?;
        code.to_string().parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for Status {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Status".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "integer", "minimum": 100, "maximum": 599, "description": "a status code"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_three_digits() {
        assert_eq!("404".parse::<Status>().unwrap().get(), 404);
        for bad in ["", "99", "600", "0200", "+20", "ok"] {
            assert!(bad.parse::<Status>().is_err(), "{bad}");
        }
    }
}
