//! `errors`: the bodies of errors that Ravelin answers with itself.

use std::path::PathBuf;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::types::Template;

/// A body: `file`, or `body`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ErrorPage {
    /// A file with the body, relative to the configuration; may hold `{{ … }}`.
    pub file: Option<Spanned<PathBuf>>,
    /// The body; may hold `{{ … }}`.
    pub body: Option<Spanned<Template>>,
    /// Its type. Default: what the name of the file says, else `text/plain; charset=utf-8`.
    pub content_type: Option<Spanned<String>>,
}

/// Which errors a body is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errors {
    /// This status.
    Status(u16),
    /// All from 400 to 499 (`4`), or from 500 to 599 (`5`).
    Class(u16),
}

impl FromStr for Errors {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "4xx" => Ok(Self::Class(4)),
            "5xx" => Ok(Self::Class(5)),
            _ => match text.parse() {
                Ok(status @ 400..=599) if text.len() == 3 => Ok(Self::Status(status)),
                _ => Err(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_or_a_class() {
        assert_eq!("404".parse(), Ok(Errors::Status(404)));
        assert_eq!("5xx".parse(), Ok(Errors::Class(5)));
        for bad in ["", "399", "600", "3xx", "5XX", "0404", "+40", "all"] {
            assert_eq!(bad.parse::<Errors>(), Err(()), "{bad}");
        }
    }
}
