//! Addresses to listen on and to connect to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use crate::types::host;

/// Where an endpoint is: an address, a name that is resolved while running, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// A name and a port.
    Name {
        /// In lower case.
        host: String,
        /// 1 to 65535.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Text that is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A URL.
    #[error("`{0}` is a URL: write host:port alone, such as 10.0.0.1:8080")]
    Url(String),
    /// No port.
    #[error("`{0}` has no port: write host:port, such as 10.0.0.1:8080")]
    NoPort(String),
    /// A port that is no number from 1 to 65535.
    #[error("`{0}` has no port from 1 to 65535")]
    Port(String),
    /// A unix socket that can't be one.
    #[error("`{0}` is no unix socket: write unix:/path, of at most 107 characters")]
    Unix(String),
    /// No host.
    #[error("`{0}` is no address: write host:port, [::1]:port or unix:/path")]
    Malformed(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let own = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix).ok_or_else(|| AddressError::Unix(own()));
        }
        if text.contains("://") {
            return Err(AddressError::Url(own()));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(AddressError::Port(own())) } else { Ok(Self::Inet(address)) };
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(AddressError::NoPort(own()));
        }
        let Some((host, port)) = text.rsplit_once(':') else { return Err(AddressError::NoPort(own())) };
        let malformed = || AddressError::Malformed(own());
        if host.contains([':', '[']) {
            return Err(malformed());
        }
        let host = host::normalise(host).map_err(|_| malformed())?.into_owned();
        match port.parse() {
            Ok(port @ 1..) if !port_has_sign(text) => Ok(Self::Name { host, port }),
            _ => Err(AddressError::Port(own())),
        }
    }
}

fn port_has_sign(text: &str) -> bool {
    text.contains(":+")
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "{address}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

super::from_text!(Address, "Address", "host:port, [::1]:port or unix:/path");

/// Where clients connect: an IP address and a port, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Text that is no [`ListenAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenAddressError {
    /// `*:80` or `:80`.
    #[error("`{text}` is no address: for every interface write 0.0.0.0:{port}, or [::]:{port} for IPv6 too")]
    EveryInterface {
        /// As it was written.
        text: String,
        /// The port.
        port: String,
    },
    /// No port.
    #[error("`{0}` has no port: write 0.0.0.0:80 or 127.0.0.1:8080")]
    NoPort(String),
    /// A unix socket that can't be one.
    #[error("`{0}` is no unix socket: write unix:/path, of at most 107 characters")]
    Unix(String),
    /// A port that there can't be.
    #[error("`{0}` has a port over 65535, which there is not")]
    Port(String),
    /// A name.
    #[error("`{0}` is no IP address with a port: write 0.0.0.0:80, [::]:80 or unix:/path")]
    Malformed(String),
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let own = || text.to_owned();
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix).ok_or_else(|| ListenAddressError::Unix(own()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        if text.parse::<IpAddr>().is_ok() || text == "localhost" {
            return Err(ListenAddressError::NoPort(own()));
        }
        let too_large =
            |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() && port.parse::<u16>().is_err();
        let is_host = |host: &str| ["localhost", "*", ""].contains(&host) || format!("{host}:0").parse::<SocketAddr>().is_ok();
        match text.rsplit_once(':') {
            Some((host, port)) if too_large(port) && is_host(host) => Err(ListenAddressError::Port(own())),
            Some(("localhost", port)) => {
                let port = port.parse().map_err(|_| ListenAddressError::Malformed(own()))?;
                Ok(Self::Tcp((Ipv4Addr::LOCALHOST, port).into()))
            }
            Some(("*" | "", port)) if port.parse::<u16>().is_ok() => {
                Err(ListenAddressError::EveryInterface { text: own(), port: port.to_owned() })
            }
            _ => Err(ListenAddressError::Malformed(own())),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

super::from_text!(ListenAddress, "ListenAddress", "host:port with an IP address, [::]:port or unix:/path");

/// The system keeps a socket's path in 108 bytes, the last a NUL.
fn unix_path(path: &str) -> Option<PathBuf> {
    let fits = (1..=107).contains(&path.len()) && !path.contains('\0');
    fits.then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let address = |text: &str| text.parse::<Address>();
        assert_eq!(address("10.0.0.1:80").unwrap().to_string(), "10.0.0.1:80");
        assert_eq!(address("[::1]:80").unwrap(), Address::Inet("[::1]:80".parse().unwrap()));
        assert_eq!(address("App.internal:80").unwrap(), Address::Name { host: "app.internal".to_owned(), port: 80 });
        assert_eq!(address("unix:/run/a.sock").unwrap().to_string(), "unix:/run/a.sock");
        assert!(matches!(address("http://a:80"), Err(AddressError::Url(_))));
        for bad in ["10.0.0.1", "app", "::1"] {
            assert!(matches!(address(bad), Err(AddressError::NoPort(_))), "{bad}");
        }
        for bad in ["a:0", "a:65536", "a:x", "1.2.3.4:0", "a:+1", "a:"] {
            assert!(matches!(address(bad), Err(AddressError::Port(_))), "{bad}");
        }
        for bad in ["a b:80", ":80", "u@a:80", "[::x]:80"] {
            assert!(matches!(address(bad), Err(AddressError::Malformed(_))), "{bad}");
        }
        assert!(matches!(address(&format!("unix:/{}", "a".repeat(107))), Err(AddressError::Unix(_))));
    }

    #[test]
    fn listeners() {
        let address = |text: &str| text.parse::<ListenAddress>();
        assert_eq!(address("0.0.0.0:0").unwrap().to_string(), "0.0.0.0:0");
        assert_eq!(address("[::]:80").unwrap().to_string(), "[::]:80");
        assert_eq!(address("localhost:80").unwrap().to_string(), "127.0.0.1:80");
        assert_eq!(address("unix:/run/a.sock").unwrap().to_string(), "unix:/run/a.sock");
        assert!(matches!(address("*:80"), Err(ListenAddressError::EveryInterface { .. })));
        assert!(matches!(address(":80"), Err(ListenAddressError::EveryInterface { .. })));
        assert!(matches!(address("127.0.0.1"), Err(ListenAddressError::NoPort(_))));
        assert!(matches!(address("example.com:80"), Err(ListenAddressError::Malformed(_))));
        for bad in ["127.0.0.1:244430", "[::]:65536", "localhost:65536", ":99999", "*:99999999999999999999"] {
            assert_eq!(address(bad).unwrap_err().to_string(), format!("`{bad}` has a port over 65535, which there is not"));
        }
        assert!(matches!(address("127.0.0.1:"), Err(ListenAddressError::Malformed(_))));
        assert!(matches!(address("unix:"), Err(ListenAddressError::Unix(_))));
    }
}
