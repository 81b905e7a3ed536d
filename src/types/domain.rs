//! Names that a certificate can be obtained for.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::types::host::{HostPattern, HostPatternError};

/// A host name of which its owner can prove that it leads here: in lower case, an international one in its ASCII form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

/// Text that is no [`Domain`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// `*.example.com`, or `*`.
    #[error(
        "`{0}` is a wildcard: only the challenge dns-01, which is not supported, gets a certificate for it (RFC 8555 §8.4); \
         name each host, or give a certificate by `certificates`"
    )]
    Wildcard(String),
    /// An IP address.
    #[error("`{0}` is an IP address: certificates are obtained for names")]
    Address(String),
    /// A host, but none that the DNS can hold (RFC 1035 §2.3).
    #[error("`{0}` is no name of the DNS: labels of letters, digits and hyphens, of at most 63 characters each and 253 in all")]
    Label(String),
    /// No host at all.
    #[error(transparent)]
    Host(#[from] HostPatternError),
}

impl Domain {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let own = || text.to_owned();
        let name = match text.parse()? {
            HostPattern::Exact(name) => name,
            HostPattern::Wildcard(_) | HostPattern::Any => return Err(DomainError::Wildcard(own())),
        };
        if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
            return Err(DomainError::Address(own()));
        }
        let label = |label: &str| {
            let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(DomainError::Label(own()));
        }
        Ok(Self(name.into()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(Domain, "Domain", "a host name such as www.example.com");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_normal_form() {
        for (text, name) in
            [("WWW.Example.com.", "www.example.com"), ("localhost", "localhost"), ("bücher.example", "xn--bcher-kva.example")]
        {
            assert_eq!(text.parse::<Domain>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_no_certificate_is_obtained_for_is_told_apart() {
        let parse = |text: &str| text.parse::<Domain>().unwrap_err();
        assert!(matches!(parse("*.example.com"), DomainError::Wildcard(_)));
        assert!(matches!(parse("*"), DomainError::Wildcard(_)));
        assert!(matches!(parse("127.0.0.1"), DomainError::Address(_)));
        assert!(matches!(parse("::1"), DomainError::Address(_)));
        for bad in ["a_b.example", "-a.example", "a-.example", &format!("{}.example", "a".repeat(64)), &["abcdefg"; 32].join(".")]
        {
            assert!(matches!(parse(bad), DomainError::Label(_)), "{bad}");
        }
        for bad in ["", "a:443", "https://a", "a b"] {
            assert!(matches!(parse(bad), DomainError::Host(_)), "{bad}");
        }
    }
}
