//! Hosts: what a request names, what a route matches, what an upstream is told.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Hosts that a route matches: a name, `*.example.com` (any depth below, not the name itself), or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this host, in normal form.
    Exact(String),
    /// Every host below this one.
    Wildcard(String),
    /// Every host.
    Any,
}

/// Text that is no [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPatternError {
    /// A host with a port.
    #[error("`{0}` names a port: routes match hosts whatever the port, write the name alone")]
    Port(String),
    /// A URL.
    #[error("`{0}` is a URL: write the host alone, such as example.com")]
    Url(String),
    /// A `*` that is not a whole first label.
    #[error("`{0}` has a `*` where none can be: write *.example.com or *")]
    Wildcard(String),
    /// Letters beyond ASCII that make no name (UTS 46).
    #[error(
        "`{0}` is no international domain name: it holds characters that no name can, or begins or ends with one that cannot"
    )]
    Idna(String),
    /// No host.
    #[error("`{0}` is no host: write a name such as example.com, *.example.com, or an IP address")]
    Malformed(String),
}

/// A `Host` or `:authority` that is none (RFC 9110 §7.2, RFC 3986 §3.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Characters that no host has, userinfo, or a comma.
    #[error("the host is malformed")]
    Malformed,
    /// A port that is no number up to 65535.
    #[error("the port is malformed")]
    Port,
    /// More than 255 characters.
    #[error("the host is too long")]
    TooLong,
}

/// The host of a `Host` or `:authority` value: lower case, without port and trailing dot. Borrowed if it is so already.
///
/// # Errors
/// It is no authority; an empty one is `Malformed` too.
pub fn normalise(authority: &str) -> Result<Cow<'_, str>, HostError> {
    let (host, port) = split_port(authority)?;
    if let Some(port) = port {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        // An empty port is allowed (RFC 3986 §3.2.3).
        if !digits || (!port.is_empty() && port.parse::<u16>().is_err()) {
            return Err(HostError::Port);
        }
    }
    if host.len() > 255 {
        return Err(HostError::TooLong);
    }
    if let Some(literal) = host.strip_prefix('[') {
        let address: Ipv6Addr = literal.strip_suffix(']').and_then(|text| text.parse().ok()).ok_or(HostError::Malformed)?;
        let canonical = format!("[{address}]");
        return Ok(if canonical == host { Cow::Borrowed(host) } else { Cow::Owned(canonical) });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let mut upper = false;
    // What stands before a dot, or at the end, must be a label.
    let mut before = DOT;
    for byte in host.bytes() {
        let class = CLASSES[usize::from(byte)];
        if class == OTHER || (class == DOT && before == DOT) {
            return Err(HostError::Malformed);
        }
        upper |= class == UPPER;
        before = class;
    }
    if before == DOT {
        return Err(HostError::Malformed);
    }
    Ok(if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

const OTHER: u8 = 0;
const LABEL: u8 = 1;
const UPPER: u8 = 2;
const DOT: u8 = 3;

/// Which bytes may stand in a host's name.
const CLASSES: [u8; 256] = {
    let mut classes = [OTHER; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => LABEL,
            b'A'..=b'Z' => UPPER,
            b'.' => DOT,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};

fn split_port(authority: &str) -> Result<(&str, Option<&str>), HostError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(HostError::Malformed)? + 1;
        let (host, rest) = authority.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HostError::Malformed),
        };
    }
    // Byte by byte: for so few of them a searcher costs more than it saves.
    let Some(at) = authority.bytes().position(|byte| byte == b':') else { return Ok((authority, None)) };
    let (host, port) = (&authority[..at], &authority[at + 1..]);
    if port.bytes().any(|byte| byte == b':') { Err(HostError::Malformed) } else { Ok((host, Some(port))) }
}

impl HostPattern {
    /// Whether a host in normal form matches.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            Self::Any => true,
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let own = || text.to_owned();
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.contains("://") || text.contains('/') {
            return Err(HostPatternError::Url(own()));
        }
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(HostPatternError::Wildcard(own()));
        }
        // A bare IPv6 address is what people write; a request has it in brackets.
        let bracketed = name.parse::<Ipv6Addr>().map(|address| format!("[{address}]"));
        let name = bracketed.as_deref().unwrap_or(name);
        if matches!(split_port(name), Ok((_, Some(_)))) {
            return Err(HostPatternError::Port(own()));
        }
        // What a client asks for is the name's ASCII form, whatever its user typed.
        let ascii = match name.is_ascii() {
            true => Cow::Borrowed(name),
            false => Cow::Owned(idna::domain_to_ascii(name).map_err(|_| HostPatternError::Idna(own()))?),
        };
        let host = normalise(&ascii).map_err(|_| HostPatternError::Malformed(own()))?.into_owned();
        let literal = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        match wildcard {
            true if literal => Err(HostPatternError::Malformed(own())),
            true => Ok(Self::Wildcard(host)),
            false => Ok(Self::Exact(host)),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

super::from_text!(HostPattern, "HostPattern", "a host such as example.com, *.example.com, or `*`");

/// `host` or `host:port`, as it is sent in `Host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority(Box<str>);

impl Authority {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        match normalise(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(_) => Err(AuthorityError(text.to_owned())),
        }
    }
}

/// Text that is no [`Authority`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host: write a name such as api.internal or api.internal:8080")]
pub struct AuthorityError(String);

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

super::from_text!(Authority, "Authority", "a host with an optional port, such as api.internal:8080");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts_lose_case_port_and_trailing_dot() {
        for (host, normal) in [
            ("example.com", "example.com"),
            ("EXAMPLE.com.:8080", "example.com"),
            ("a_b.example:", "a_b.example"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]:80", "[::1]"),
            ("[0:0::1]", "[::1]"),
        ] {
            assert_eq!(normalise(host).as_deref(), Ok(normal), "{host}");
        }
        assert!(matches!(normalise("example.com:80"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "user@host",
            "a/b",
            "a,b",
            "a b",
            "a\tb",
            "::1",
            "[::1",
            "[::1]x",
            "[v1.a]",
            "ä",
            "a%41",
            "a#",
        ] {
            assert_eq!(normalise(bad), Err(HostError::Malformed), "{bad}");
        }
        for bad in ["a:65536", "a:x", "a:-1", "a:+1", "[::1]:y"] {
            assert_eq!(normalise(bad), Err(HostError::Port), "{bad}");
        }
        assert_eq!(normalise(&"a".repeat(256)), Err(HostError::TooLong));
    }

    #[test]
    fn patterns() {
        let pattern = |text: &str| text.parse::<HostPattern>();
        assert_eq!(pattern("Example.COM."), Ok(HostPattern::Exact("example.com".to_owned())));
        assert_eq!(pattern("*.Example.com"), Ok(HostPattern::Wildcard("example.com".to_owned())));
        assert_eq!(pattern("*"), Ok(HostPattern::Any));
        assert_eq!(pattern("::1"), Ok(HostPattern::Exact("[::1]".to_owned())));
        assert!(matches!(pattern("a:80"), Err(HostPatternError::Port(_))));
        assert!(matches!(pattern("https://a"), Err(HostPatternError::Url(_))));
        assert!(matches!(pattern("a.*.b"), Err(HostPatternError::Wildcard(_))));
        assert!(matches!(pattern("*a.b"), Err(HostPatternError::Wildcard(_))));
        assert_eq!(pattern("*.BÜCHER.de"), Ok(HostPattern::Wildcard("xn--bcher-kva.de".to_owned())));
        assert!(matches!(pattern("a\u{ffff}.de"), Err(HostPatternError::Idna(_))));
        assert!(matches!(pattern("bü cher.de"), Err(HostPatternError::Malformed(_))));
        assert!(matches!(pattern("*.127.0.0.1"), Err(HostPatternError::Malformed(_))));
        assert!(matches!(pattern(""), Err(HostPatternError::Malformed(_))));
    }

    #[test]
    fn a_wildcard_matches_any_depth_but_not_the_name_itself() {
        let wildcard: HostPattern = "*.a.b".parse().unwrap();
        for (host, matches) in [("x.a.b", true), ("y.x.a.b", true), ("a.b", false), ("xa.b", false), (".a.b", false)] {
            assert_eq!(wildcard.matches(host), matches, "{host}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_stable_and_parsing_total(text in "\\PC{0,40}") {
            if let Ok(host) = normalise(&text) {
                prop_assert_eq!(normalise(&host).map(Cow::into_owned), Ok(host.clone().into_owned()));
            }
            if let Ok(pattern) = text.parse::<HostPattern>() {
                prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
            }
        }
    }
}
