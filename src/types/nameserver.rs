//! Servers that are asked for names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Where names are asked for: an IP address, with a port unless it is 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nameserver(SocketAddr);

/// Text that is no [`Nameserver`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no resolver: write its IP address, such as 10.0.0.10 or 10.0.0.10:53")]
pub struct NameserverError(String);

impl Nameserver {
    /// Its address and port.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for Nameserver {
    type Err = NameserverError;

    fn from_str(text: &str) -> Result<Self, NameserverError> {
        let address = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (_, Ok(ip)) => SocketAddr::new(ip, 53),
            _ => return Err(NameserverError(text.to_owned())),
        };
        if address.port() == 0 { Err(NameserverError(text.to_owned())) } else { Ok(Self(address)) }
    }
}

impl fmt::Display for Nameserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

super::from_text!(Nameserver, "Nameserver", "the address of a resolver, such as 10.0.0.10:53", "minLength": 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_or_without_a_port() {
        for (text, shown) in [("10.0.0.1", "10.0.0.1:53"), ("10.0.0.1:5353", "10.0.0.1:5353"), ("::1", "[::1]:53")] {
            assert_eq!(text.parse::<Nameserver>().unwrap().to_string(), shown);
        }
        for text in ["", "dns.internal", "10.0.0.1:0", "10.0.0.1:x"] {
            assert!(text.parse::<Nameserver>().is_err(), "{text}");
        }
    }
}
