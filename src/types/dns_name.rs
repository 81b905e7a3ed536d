//! Names of the domain name system.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::types::host;

/// A domain name in lower case and without a trailing dot: at most 253 characters, labels of at most 63. Never an IP address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Box<str>);

/// Text that is no [`DnsName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// An address.
    #[error("`{0}` is an IP address: a name is wanted here, such as api.internal")]
    Address(String),
    /// A port beside the name.
    #[error("`{0}` names a port: write the name alone")]
    Port(String),
    /// Nothing that can be a name.
    #[error("`{0}` is no name: write one such as api.internal")]
    Malformed(String),
}

impl DnsName {
    /// As text, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        let own = || text.to_owned();
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return Err(DnsNameError::Address(own()));
        }
        if text.contains(':') {
            return Err(DnsNameError::Port(own()));
        }
        let name = host::normalise(text).map_err(|_| DnsNameError::Malformed(own()))?;
        // A name whose last label is a number is read as an address by some (WHATWG URL §3.5).
        let last = name.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|byte| byte.is_ascii_digit());
        let whole = name.len() <= 253 && name.split('.').all(|label| label.len() <= 63);
        if number || !whole { Err(DnsNameError::Malformed(own())) } else { Ok(Self(name.into())) }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(DnsName, "DnsName", "a domain name such as api.internal", "minLength": 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_nothing_else() {
        for (text, name) in [("Api.Internal.", "api.internal"), ("_http._tcp.web", "_http._tcp.web"), ("a", "a")] {
            assert_eq!(text.parse::<DnsName>().unwrap().as_str(), name);
        }
        for text in ["10.0.0.1", "::1", "[::1]"] {
            assert!(matches!(text.parse::<DnsName>(), Err(DnsNameError::Address(_))), "{text}");
        }
        assert!(matches!("a:80".parse::<DnsName>(), Err(DnsNameError::Port(_))));
        let long = format!("{}.a", "x".repeat(64));
        for text in ["", ".", "a..b", "a b", "1.2.3", long.as_str()] {
            assert!(matches!(text.parse::<DnsName>(), Err(DnsNameError::Malformed(_))), "{text}");
        }
    }
}
