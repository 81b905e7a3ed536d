//! Networks of addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network in CIDR notation (RFC 4632), such as `10.0.0.0/8` or `2001:db8::/32`; an address alone stands for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

/// Text that is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not an address, or not a prefix length of its kind.
    #[error("`{0}` is no network: write an address and a prefix length, such as 10.0.0.0/8, or an address")]
    Malformed(String),
    /// Bits are set that the prefix length says are free: one of the two is a slip.
    #[error("`{given}` has bits beyond its prefix: write `{network}`, or the address alone")]
    HostBits {
        /// As it was written.
        given: String,
        /// The network that the address is in.
        network: Cidr,
    },
    /// An IPv4 address in IPv6's clothes: clients are seen as IPv4, and it would never match.
    #[error("`{0}` is an IPv4 network written as IPv6: write it as IPv4, such as 10.0.0.0/8")]
    Mapped(String),
}

impl Cidr {
    /// Whether an address is in it. An IPv4 address that comes as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// The network's first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// How many leading bits its addresses share.
    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        // By the standard's parser: no leading zeros, which some read as octal.
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let net = match length {
            None => address.into(),
            Some(length) if (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| malformed())?;
                IpNet::new(address, length).map_err(|_| malformed())?
            }
            Some(_) => return Err(malformed()),
        };
        if matches!(net.network(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) {
            return Err(CidrError::Mapped(text.to_owned()));
        }
        let network = Self(net.trunc());
        if network.0 == net { Ok(network) } else { Err(CidrError::HostBits { given: text.to_owned(), network }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

super::from_text!(Cidr, "Cidr", "a network such as 10.0.0.0/8 or 2001:db8::/32, or an address");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses() {
        let within = |net: &str, ip: &str| net.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
        assert!(within("10.0.0.0/8", "10.255.0.1") && !within("10.0.0.0/8", "11.0.0.1"));
        assert!(within("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(within("2001:db8::/32", "2001:db8:1::2") && !within("2001:db8::/32", "2001:db9::"));
        assert!(within("192.0.2.1", "192.0.2.1") && !within("192.0.2.1", "192.0.2.2"));
        assert!(within("0.0.0.0/0", "8.8.8.8") && !within("0.0.0.0/0", "::1"));
        assert!(within("::/0", "::1") && !within("::/0", "8.8.8.8"));
        assert_eq!("192.0.2.1".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
    }

    #[test]
    fn what_can_only_be_a_slip_is_refused() {
        for bad in [
            "",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/33",
            "10.0.0/8",
            "010.0.0.0/8",
            "::/129",
            "[::1]/64",
            "10.0.0.1:80",
            "localhost",
            "/8",
        ] {
            assert!(matches!(bad.parse::<Cidr>(), Err(CidrError::Malformed(_))), "{bad}");
        }
        assert!(matches!("::ffff:10.0.0.0/104".parse::<Cidr>(), Err(CidrError::Mapped(_))));
        assert!("10.0.0.1/8".parse::<Cidr>().unwrap_err().to_string().contains("write `10.0.0.0/8`"));
    }
}
