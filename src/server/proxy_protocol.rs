//! The PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2, as a receiver: who the client is, said by a proxy in
//! front of us before the client's first byte.
//!
//! Only peers that are trusted come here, and they must send it: nothing is guessed from what a connection begins with. Of version 2
//! the addresses are read; what follows them (TLVs, a checksum among them) is skipped.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

/// The longest header of version 2 that is read: room for addresses, names and a client's certificate.
const MAX: usize = 16 * 1024;
/// The longest header of version 1, by its specification.
const MAX_V1: usize = 107;
/// What version 2 has in front of its addresses.
const FIXED: usize = 16;
const V1: &[u8] = b"PROXY ";

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Preamble {
    /// Not a whole header yet.
    Partial,
    /// A header of this length.
    Header {
        length: usize,
        /// `None`: the proxy speaks for itself, or does not know.
        client: Option<SocketAddr>,
    },
    /// Nothing that can be believed: the reason code.
    Refused(&'static str),
}

/// Reads the header at the beginning of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Preamble {
    if begins(bytes, v2::PROTOCOL_PREFIX) {
        read_v2(bytes)
    } else if begins(bytes, V1) {
        read_v1(bytes)
    } else {
        Preamble::Refused("proxy_header_missing")
    }
}

/// Whether there is nothing in `bytes` yet that is not so in `with`.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let both = bytes.len().min(with.len());
    bytes[..both] == with[..both]
}

fn read_v1(bytes: &[u8]) -> Preamble {
    let Some(end) = bytes.iter().take(MAX_V1).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_V1 { Preamble::Partial } else { Preamble::Refused("bad_proxy_header") };
    };
    let line = &bytes[..=end];
    let client = match v1::Header::try_from(line) {
        Ok(header) if header.header.len() == line.len() => match header.addresses {
            v1::Addresses::Unknown => None,
            _ if !is_plain(line) => return Preamble::Refused("bad_proxy_header"),
            v1::Addresses::Tcp4(tcp) => Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port)),
            v1::Addresses::Tcp6(tcp) => Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port)),
        },
        _ => return Preamble::Refused("bad_proxy_header"),
    };
    Preamble::Header { length: line.len(), client }
}

/// Whether a line holds nothing but what addresses and ports are written with: the parsers of the standard library take `+80`.
fn is_plain(line: &[u8]) -> bool {
    let text = line.strip_suffix(b"\r\n").unwrap_or(line);
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b' '))
}

fn read_v2(bytes: &[u8]) -> Preamble {
    if bytes.len() < FIXED {
        return Preamble::Partial;
    }
    // Known before the rest has come, and so refused before it is waited for.
    let length = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > MAX {
        return Preamble::Refused("proxy_header_too_large");
    }
    let whole = &bytes[..length.min(bytes.len())];
    match v2::Header::try_from(whole) {
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => Preamble::Partial,
        Err(_) => Preamble::Refused("bad_proxy_header"),
        Ok(header) => match (header.command, header.protocol, header.addresses) {
            // A check of the proxy's own: its addresses mean nothing.
            (v2::Command::Local, ..) => Preamble::Header { length, client: None },
            // Nobody sends datagrams over this connection.
            (_, v2::Protocol::Datagram, _) => Preamble::Refused("bad_proxy_header"),
            (_, _, v2::Addresses::IPv4(tcp)) => {
                Preamble::Header { length, client: Some(SocketAddr::new(IpAddr::V4(tcp.source_address), tcp.source_port)) }
            }
            (_, _, v2::Addresses::IPv6(tcp)) => {
                Preamble::Header { length, client: Some(SocketAddr::new(IpAddr::V6(tcp.source_address), tcp.source_port)) }
            }
            (_, _, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => Preamble::Header { length, client: None },
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn v2_header(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        [v2::PROTOCOL_PREFIX, &[command, family], &length.to_be_bytes(), rest].concat()
    }

    const TCP4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0xdc, 0x04, 0, 80];

    #[test]
    fn version_1() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n", client("192.0.2.1:56324")),
            ("PROXY TCP6 2001:db8::1 ::1 56324 443\r\n", client("[2001:db8::1]:56324")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:f...f whatever\r\n", None),
        ] {
            let bytes = format!("{line}GET / HTTP/1.1\r\n\r\n");
            assert_eq!(read(bytes.as_bytes()), Preamble::Header { length: line.len(), client: expected }, "{line}");
            for cut in 0..line.len() {
                assert_eq!(read(&line.as_bytes()[..cut]), Preamble::Partial, "{line} at {cut}");
            }
        }
    }

    #[test]
    fn version_1_that_is_not_exact() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1));
        for line in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443 9\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +56324 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 66324 443\r\n",
            "PROXY TCP4 192.0.2.001 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 56324 443\r\n",
            "PROXY TCP6 fe80::1%1 ::1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1\r10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\rX\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 56324 443\r\n",
            "PROXY UNKNOWN\rx\r\n",
            "PROXY \r\n",
            "PROXY\r\n",
            &long,
        ] {
            let expected = if line == "PROXY\r\n" { "proxy_header_missing" } else { "bad_proxy_header" };
            assert_eq!(read(line.as_bytes()), Preamble::Refused(expected), "{line:?}");
        }
        for other in ["GET / HTTP/1.1\r\n", "proxy TCP4 ", "PROXX", "\r\nGET", "\x16\x03\x01"] {
            assert_eq!(read(other.as_bytes()), Preamble::Refused("proxy_header_missing"), "{other:?}");
        }
    }

    #[test]
    fn version_2() {
        let tcp4 = v2_header(0x21, 0x11, 12, &TCP4);
        assert_eq!(read(&[&tcp4, &b"GET"[..]].concat()), Preamble::Header { length: 28, client: client("192.0.2.1:56324") });
        for cut in 0..tcp4.len() {
            assert_eq!(read(&tcp4[..cut]), Preamble::Partial, "{cut}");
        }
        let mut tcp6 = [0; 36];
        tcp6[15] = 1;
        assert_eq!(read(&v2_header(0x21, 0x21, 36, &tcp6)), Preamble::Header { length: 52, client: client("[::1]:0") });
        // Whatever TLVs hold, they are not looked at.
        let with_tlvs = [&TCP4[..], &[0x03, 0xff, 0xff, 1]].concat();
        assert_eq!(
            read(&v2_header(0x21, 0x11, 16, &with_tlvs)),
            Preamble::Header { length: 32, client: client("192.0.2.1:56324") }
        );
        for (command, family, rest) in
            [(0x20, 0x11, &TCP4[..]), (0x20, 0, &[][..]), (0x21, 0, &[1, 2][..]), (0x21, 0x31, &[7; 216][..])]
        {
            let header = v2_header(command, family, rest.len().try_into().unwrap(), rest);
            assert_eq!(read(&header), Preamble::Header { length: header.len(), client: None }, "{command} {family}");
        }
    }

    #[test]
    fn version_2_with_hostile_lengths_and_words() {
        for (command, family, length, reason) in [
            (0x21, 0x11, 65535, "proxy_header_too_large"),
            (0x21, 0x11, 11, "bad_proxy_header"),
            (0x21, 0x11, 0, "bad_proxy_header"),
            (0x21, 0x21, 12, "bad_proxy_header"),
            (0x21, 0x31, 12, "bad_proxy_header"),
            (0x21, 0x12, 12, "bad_proxy_header"),
            (0x21, 0x41, 12, "bad_proxy_header"),
            (0x21, 0x13, 12, "bad_proxy_header"),
            (0x11, 0x11, 12, "bad_proxy_header"),
            (0x22, 0x11, 12, "bad_proxy_header"),
        ] {
            assert_eq!(
                read(&v2_header(command, family, length, &TCP4)),
                Preamble::Refused(reason),
                "{command} {family} {length}"
            );
        }
    }

    fn beginnings() -> impl Strategy<Value = Vec<u8>> {
        let fixed = prop_oneof![
            Just(Vec::new()),
            Just(V1.to_vec()),
            Just(b"PROXY TCP4 192.0.2.1 ".to_vec()),
            Just(b"PROXY TCP6 ::".to_vec()),
            Just(v2::PROTOCOL_PREFIX.to_vec()),
            Just(v2_header(0x21, 0x11, 12, &[])),
            (0..300_u16).prop_map(|length| v2_header(0x21, 0x21, length, &[])),
        ];
        (fixed, prop_oneof![any::<Vec<u8>>(), "[0-9a-f.: \r\n]{0,120}".prop_map(String::into_bytes)])
            .prop_map(|(start, rest)| [start, rest].concat())
    }

    proptest! {
        #[test]
        fn nothing_beyond_the_header_is_taken(bytes in beginnings(), more in any::<Vec<u8>>()) {
            if let Preamble::Header { length, client } = read(&bytes) {
                prop_assert!(length <= bytes.len());
                // What follows changes nothing, and without its last byte it is no header.
                prop_assert_eq!(read(&[&bytes[..length], &more].concat()), Preamble::Header { length, client });
                prop_assert_eq!(read(&bytes[..length - 1]), Preamble::Partial);
            }
        }

        #[test]
        fn a_refusal_stands_whatever_comes(bytes in beginnings(), more in any::<Vec<u8>>()) {
            let first = read(&bytes);
            if matches!(first, Preamble::Refused(_)) {
                prop_assert!(matches!(read(&[bytes, more].concat()), Preamble::Refused(_)));
            } else if first == Preamble::Partial {
                prop_assert!(bytes.len() < MAX);
            }
        }
    }
}
