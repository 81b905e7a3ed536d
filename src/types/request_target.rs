//! What a request of Ravelin's own asks for.

use std::fmt;
use std::str::FromStr;

/// A path, and a query if it has one: visible ASCII that begins with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestTarget(Box<str>);

/// Text that is no [`RequestTarget`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no path: write `/` and what follows it, without spaces or `#`, other characters than ASCII as %XX")]
pub struct RequestTargetError(String);

impl RequestTarget {
    /// Where most services say how they are.
    #[must_use]
    pub fn healthz() -> Self {
        Self("/healthz".into())
    }

    /// As it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RequestTarget {
    type Err = RequestTargetError;

    fn from_str(text: &str) -> Result<Self, RequestTargetError> {
        let sound = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if sound { Ok(Self(text.into())) } else { Err(RequestTargetError(text.to_owned())) }
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(RequestTarget, "RequestTarget", "a path such as /healthz", "pattern": "^/[!-~]*$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_perhaps_a_query() {
        assert_eq!("/healthz?deep=1".parse::<RequestTarget>().unwrap().as_str(), "/healthz?deep=1");
        for bad in ["", "healthz", "http://a/", "/a b", "/a\r\nx: y", "/ä", "/a#b"] {
            assert!(bad.parse::<RequestTarget>().is_err(), "{bad}");
        }
    }
}
