//! Addresses of people.

use std::fmt;
use std::str::FromStr;

use crate::types::host;

/// A mail address that can stand in a `mailto:` URL as it is (RFC 6068), and is one and no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email(Box<str>);

/// Text that is no [`Email`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// With the scheme in front.
    #[error("`{0}` is a URL: write the address alone, such as ops@example.com")]
    Url(String),
    /// Anything else.
    #[error("`{0}` is no mail address: write one, such as ops@example.com")]
    Malformed(String),
}

impl Email {
    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        if text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("mailto:")) {
            return Err(EmailError::Url(text.to_owned()));
        }
        let malformed = || EmailError::Malformed(text.to_owned());
        let (local, host) = text.rsplit_once('@').ok_or_else(malformed)?;
        // What mail allows beyond this has to be quoted or escaped, and nobody is called so.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-/=^_`{|}~.".contains(&byte);
        let is_local =
            (1..=64).contains(&local.len()) && local.bytes().all(plain) && local.split('.').all(|part| !part.is_empty());
        let is_host = !host.contains(':') && !host.ends_with('.') && host::normalise(host).is_ok();
        if is_local && is_host { Ok(Self(text.into())) } else { Err(malformed()) }
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(Email, "Email", "a mail address such as ops@example.com");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_and_nothing_else() {
        for good in ["ops@example.com", "o.p+s@a.b", "root@localhost"] {
            assert_eq!(good.parse::<Email>().unwrap().as_str(), good);
        }
        assert!(matches!("mailto:ops@example.com".parse::<Email>(), Err(EmailError::Url(_))));
        for bad in
            ["", "ops", "@a", "ops@", "a@b,c@d", "a@b?subject=x", "a b@c", "a@b c", "a..b@c", "a@b:25", "a%41@b", "\"a\"@b"]
        {
            assert!(matches!(bad.parse::<Email>(), Err(EmailError::Malformed(_))), "{bad}");
        }
    }
}
