//! What proxies say of the connection that they passed on: `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Who reads these fields walks them from the right, where the nearest proxy wrote, and stops at the first thing that is not
//! exactly as it should be: all to the left of it may be a client's invention.

use std::net::{IpAddr, Ipv6Addr};

/// An address that a proxy named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// IPv4 as such, however it was written.
    pub ip: IpAddr,
    /// Rarely given.
    pub port: Option<u16>,
}

/// One hop of `Forwarded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Who was connected to the proxy. `None`: it would not say (`unknown`, `_hidden`), or said nothing.
    pub node: Option<Node>,
    /// What was spoken there: `Some(true)` for `https`, `Some(false)` for `http`.
    pub secure: Option<bool>,
}

impl Node {
    /// An element of `X-Forwarded-For`: an address, with or without a port, IPv6 with or without brackets.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let text = text.trim_matches([' ', '\t']);
        // IPv6 without brackets can't have a port.
        match text.parse::<Ipv6Addr>() {
            Ok(ip) => Some(Self::new(ip.into(), None)),
            Err(_) => Self::bracketed(text),
        }
    }

    /// A node of RFC 7239 §6 that is an address: `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]` or `[2001:db8::1]:80`. A port that
    /// is obfuscated (`_x`) is none.
    fn bracketed(text: &str) -> Option<Self> {
        let (ip, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let (ip, rest) = inner.split_once(']')?;
                (ip.parse::<Ipv6Addr>().ok()?.into(), rest)
            }
            None => {
                let end = text.find(':').unwrap_or(text.len());
                let ip: IpAddr = text[..end].parse().ok()?;
                (ip, &text[end..])
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some(hidden) if is_obfuscated(hidden) => None,
            Some(digits) if (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self::new(ip, port))
    }

    fn new(ip: IpAddr, port: Option<u16>) -> Self {
        Self { ip: ip.to_canonical(), port }
    }
}

impl Hop {
    /// An element of `Forwarded`: pairs of RFC 7239 §4, each name at most once. `None`: it is malformed.
    #[must_use]
    pub fn read(element: &str) -> Option<Self> {
        let mut hop = Self { node: None, secure: None };
        let mut seen: Vec<&str> = Vec::new();
        for pair in split(element, ';')? {
            let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
            if !is_token(name) || seen.iter().any(|before| before.eq_ignore_ascii_case(name)) {
                return None;
            }
            seen.push(name);
            let value = value_of(value)?;
            if name.eq_ignore_ascii_case("for") {
                hop.node = match &*value {
                    hidden if hidden.eq_ignore_ascii_case("unknown") || is_obfuscated(hidden) => None,
                    node => Some(Node::bracketed(node)?),
                };
            } else if name.eq_ignore_ascii_case("proto") {
                hop.secure = secure(&value);
            }
        }
        Some(hop)
    }
}

/// Whether a scheme is `https` (`Some(true)`) or `http`. Others are none that a client speaks to us.
#[must_use]
pub fn secure(scheme: &str) -> Option<bool> {
    match scheme {
        https if https.eq_ignore_ascii_case("https") => Some(true),
        http if http.eq_ignore_ascii_case("http") => Some(false),
        _ => None,
    }
}

/// The elements of a `Forwarded` field, from the right. Quotes are followed from there too: what a proxy appended is read as it wrote
/// it, whatever quotes a client has left open before it.
pub fn elements_from_right(field: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut quoted = false;
        for (at, byte) in text.bytes().enumerate().rev() {
            match byte {
                // After an odd number of `\` it is a character of the quoted string (RFC 9110 §5.6.4).
                b'"' if !quoted || text[..at].bytes().rev().take_while(|before| *before == b'\\').count() % 2 == 0 => {
                    quoted = !quoted;
                }
                b',' if !quoted => {
                    rest = Some(&text[..at]);
                    return Some(&text[at + 1..]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(text)
    })
}

/// Splits where a separator stands outside of quotes.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(&text[from..at]);
                from = at + c.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// A token, or what stands in a quoted string (RFC 9110 §5.6.4).
fn value_of(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('"') else { return is_token(text).then(|| text.to_owned()) };
    let inner = inner.strip_suffix('"')?;
    let (mut value, mut escaped) = (String::with_capacity(inner.len()), false);
    for c in inner.chars() {
        match c {
            _ if c.is_control() && c != '\t' => return None,
            c if std::mem::take(&mut escaped) => value.push(c),
            '\\' => escaped = true,
            '"' => return None,
            c => value.push(c),
        }
    }
    (!escaped).then_some(value)
}

/// `_` and then letters, digits, `.`, `_` or `-` (RFC 7239 §6.3).
fn is_obfuscated(text: &str) -> bool {
    let rest = text.strip_prefix('_').unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(ip: &str, port: Option<u16>) -> Option<Node> {
        Some(Node { ip: ip.parse().unwrap(), port })
    }

    #[test]
    fn addresses_as_proxies_write_them() {
        assert_eq!(Node::read(" 192.0.2.1\t"), node("192.0.2.1", None));
        assert_eq!(Node::read("192.0.2.1:65535"), node("192.0.2.1", Some(65535)));
        assert_eq!(Node::read("2001:db8::1"), node("2001:db8::1", None));
        assert_eq!(Node::read("[2001:db8::1]:80"), node("2001:db8::1", Some(80)));
        assert_eq!(Node::read("[::ffff:192.0.2.1]"), node("192.0.2.1", None));
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "unknown",
            "_hidden",
            "localhost",
            "192.0.2",
            "192.0.2.256",
            "0192.0.2.1",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:+80",
            "192.0.2.1 6.6.6.6",
            "[192.0.2.1]",
            "[::1",
            "::1]",
            "[::1]80",
            "[fe80::1%eth0]",
            "\"192.0.2.1\"",
            "192.0.2.1:80:80",
        ] {
            assert_eq!(Node::read(text), None, "{text}");
        }
    }

    #[test]
    fn elements_as_rfc_7239_writes_them() {
        let hop = |text| Hop::read(text).unwrap();
        assert_eq!(hop("for=192.0.2.60;proto=http;by=203.0.113.43"), Hop { node: node("192.0.2.60", None), secure: Some(false) });
        assert_eq!(hop(" For=\"[2001:db8:cafe::17]:4711\" ").node, node("2001:db8:cafe::17", Some(4711)));
        assert_eq!(hop("for=\"192.0.2.43:_p\";Proto=HTTPS"), Hop { node: node("192.0.2.43", None), secure: Some(true) });
        assert_eq!(hop("for=\"\\1\\92.0.2.1\";ext=\"a,b;c\\\"\"").node, node("192.0.2.1", None));
        for hidden in ["for=unknown", "for=_gazonk", "for=\"_SEVKISEK\"", "by=203.0.113.43", "proto=gopher"] {
            assert_eq!(hop(hidden), Hop { node: None, secure: None }, "{hidden}");
        }
    }

    #[test]
    fn malformed_elements() {
        for text in [
            "",
            "for",
            "for=",
            "=1",
            "for=[::1]",
            "for=\"::1\"",
            "for=1.2.3.4;for=5.6.7.8",
            "for=1.2.3.4;",
            "for =1.2.3.4",
            "for= 1.2.3.4",
            "for=\"1.2.3.4",
            "for=\"1.2.3.4\"x",
            "for=1.2.3.4:80",
            "for=_",
            "for=\"_a b\"",
            "f r=1",
            "for=\"\\\"",
        ] {
            assert_eq!(Hop::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_comma_in_quotes_is_no_border() {
        let split = |text| elements_from_right(text).collect::<Vec<_>>();
        assert_eq!(split("for=a, x=\"b,\\\"c\", d"), [" d", " x=\"b,\\\"c\"", "for=a"]);
        assert_eq!(split("x=\"a,\\\\\",y=\",\""), ["y=\",\"", "x=\"a,\\\\\""]);
        assert_eq!(split(""), [""]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (Node::read(&text), Hop::read(&text));
            prop_assert!(elements_from_right(&text).count() <= text.len() + 1);
            for element in elements_from_right(&text) {
                let _ = Hop::read(element);
            }
        }

        #[test]
        fn what_is_appended_is_read_as_it_is(junk in "[ -~]{0,40}") {
            for own in ["for=192.0.2.1", "for=\"[2001:db8::1]:80\";proto=https;x=\"\\\",\\\\\""] {
                let field = format!("{junk}, {own}, for=10.0.0.1");
                let read: Vec<_> = elements_from_right(&field).take(2).map(Hop::read).collect();
                prop_assert_eq!(read, [Hop::read("for=10.0.0.1"), Hop::read(own)]);
                prop_assert!(Hop::read(own).is_some());
            }
        }
    }
}
