//! URLs as they are typed to ask about a request.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The URL of a request: `http://` or `https://` (`http` if it is left out), a host, and what is asked for as it would be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    secure: bool,
    authority: String,
    target: String,
}

/// Text that is no [`Url`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme.
    #[error("`{0}` is no URL of HTTP: write one such as `https://example.com/path`")]
    Scheme(String),
    /// No host.
    #[error("the URL `{0}` names no host: write one such as `https://example.com/path`")]
    Host(String),
    /// `user@host`.
    #[error("no request carries the part before the `@`: give it as a header field `authorization`")]
    User,
    /// A space, or a control character.
    #[error("a URL can't hold spaces: write `%20`")]
    Space,
}

impl Url {
    /// Whether it is one of HTTPS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host and perhaps a port: as it was typed, but for an international name.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The port, given or by the scheme.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let after = self.authority.rsplit_once(']').map_or(self.authority.as_str(), |(_, after)| after);
        match after.rsplit_once(':') {
            Some((_, port)) => port.parse().ok(),
            None => Some(if self.secure { 443 } else { 80 }),
        }
    }

    /// Whether what is sent there stays on this machine: `localhost`, or an address of its loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = match self.authority.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.authority.split(':').next().unwrap_or_default(),
        };
        host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The path and the query, as they were typed.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (secure, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) if !scheme.contains(['/', '?', '#']) => return Err(UrlError::Scheme(text.to_owned())),
            _ => (false, text),
        };
        if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(UrlError::Space);
        }
        // What follows a `#` is never sent.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        match authority {
            "" => return Err(UrlError::Host(text.to_owned())),
            authority if authority.contains('@') => return Err(UrlError::User),
            _ => {}
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let (host, port) = authority.split_at(authority.find(':').filter(|_| !authority.is_ascii()).unwrap_or(authority.len()));
        // Every client sends an international name in this form.
        let host = match host.is_ascii() {
            true => Cow::Borrowed(host),
            // Some letters stand for others, a blank among them, which no host may have.
            false => idna::domain_to_ascii_cow(host.as_bytes(), idna::AsciiDenyList::URL)
                .map_err(|_| UrlError::Host(text.to_owned()))?,
        };
        Ok(Self { secure, authority: format!("{host}{port}"), target })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "https" } else { "http" }, self.authority, self.target)
    }
}

super::from_text!(Url, "Url", "a URL such as https://example.com/path");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_as_they_were_typed() {
        for (text, secure, authority, port, target) in [
            ("https://Example.com/a/../b?c=%41#d", true, "Example.com", 443, "/a/../b?c=%41"),
            ("http://[::1]:8080", false, "[::1]:8080", 8080, "/"),
            ("http://[::1]/", false, "[::1]", 80, "/"),
            ("example.com:81?x", false, "example.com:81", 81, "/?x"),
            ("example.com/to=http://x", false, "example.com", 80, "/to=http://x"),
            ("http://bücher.example/ä", false, "xn--bcher-kva.example", 80, "/ä"),
            ("http://BÜCHER.example:81", false, "xn--bcher-kva.example:81", 81, "/"),
        ] {
            let url: Url = text.parse().unwrap();
            let parts = (url.is_secure(), url.authority(), url.port(), url.target());
            assert_eq!(parts, (secure, authority, Some(port), target), "{text}");
        }
    }

    #[test]
    fn what_stays_on_this_machine_is_known() {
        for (text, loopback) in [
            ("http://localhost:14000/dir", true),
            ("http://127.0.0.2/", true),
            ("http://[::1]:80/", true),
            ("http://127.0.0.1.example/", false),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_no_request_could_be_is_refused() {
        for text in ["ftp://x/", "/path", "http:///x", "", "http://u:p@x/", "http://x/a b", "http://x/\n", "http://a\u{2dc}b/"] {
            assert!(text.parse::<Url>().is_err(), "{text:?}");
        }
    }
}
