//! Conditions of a route beside host and path. Live requests and explanations go through the same code.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{COOKIE, HeaderName};

use crate::config::{Match, ValueMatch};
use crate::router::{Headers, Question};
use crate::types::{Cidr, carries_a_secret};

/// How much of a value is shown.
const SHOWN: usize = 200;

/// One condition.
pub(super) enum Condition {
    Listeners(Places),
    Methods(Box<[http::Method]>),
    /// Of several fields of the name, one is enough.
    Header(HeaderName, ValueMatch),
    /// Likewise of parameters.
    Query(Box<str>, ValueMatch),
    /// Likewise of cookies.
    Cookie(Box<str>, ValueMatch),
    ClientIps(Box<[Cidr]>),
}

/// Listeners, by their index and name.
type Places = Box<[(usize, Arc<str>)]>;

/// The conditions of a route, in the order in which they are looked at.
pub(super) fn conditions(matches: &Match, listeners: Option<Places>) -> Box<[Condition]> {
    let mut all: Vec<Condition> = listeners.map(Condition::Listeners).into_iter().collect();
    if !matches.methods.is_empty() {
        all.push(Condition::Methods(matches.methods.iter().map(|method| method.value.as_http().clone()).collect()));
    }
    // A `HeaderName` of the configuration is one of the crate `http`.
    all.extend(matches.headers.0.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        Some(Condition::Header(name, value.value.clone()))
    }));
    let query = matches.query.0.iter();
    all.extend(query.map(|(name, value)| Condition::Query(name.as_str().into(), value.value.clone())));
    let cookies = matches.cookies.0.iter();
    all.extend(cookies.map(|(name, value)| Condition::Cookie(name.as_str().into(), value.value.clone())));
    if !matches.client_ips.is_empty() {
        all.push(Condition::ClientIps(matches.client_ips.iter().map(|network| network.value).collect()));
    }
    all.into()
}

impl Condition {
    pub(super) fn holds(&self, question: &Question<'_>) -> bool {
        match self {
            Self::Listeners(listeners) => {
                question.listener.is_some_and(|asked| listeners.iter().any(|(listener, _)| *listener == asked))
            }
            Self::Methods(methods) => methods.contains(question.method),
            Self::Header(name, value) => value.holds(|test| question.headers.any(name, test)),
            Self::Query(name, value) => value.holds(|test| parameters(question.query, name).any(|value| test(&value))),
            Self::Cookie(name, value) => value.holds(|test| any_cookie(question.headers, name, test)),
            Self::ClientIps(networks) => {
                question.client.is_some_and(|client| networks.iter().any(|network| network.contains(client)))
            }
        }
    }

    /// As it stands in the file, but for secrets.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Listeners(listeners) => format!("listeners: {}", list(listeners.iter().map(|(_, name)| name))),
            Self::Methods(methods) => format!("methods: {}", list(methods.iter())),
            Self::Header(name, value) => format!("headers: {{{}}}", named(name.as_str(), value)),
            Self::Query(name, value) => format!("query: {{{}}}", named(name, value)),
            Self::Cookie(name, value) => format!("cookies: {{{}}}", named(name, value)),
            Self::ClientIps(networks) => format!("client_ips: {}", list(networks.iter())),
        }
    }

    /// What a request has where this looks; `None`: nothing. `listeners`: all names, by index.
    pub(super) fn saw(&self, question: &Question<'_>, listeners: &[Arc<str>]) -> Option<String> {
        let mut seen: Vec<String> = Vec::new();
        let mut note = |value: &[u8]| {
            seen.push(shown(value));
            false
        };
        match self {
            Self::Listeners(_) => return question.listener.and_then(|index| listeners.get(index)).map(|name| name.to_string()),
            Self::Methods(_) => return Some(question.method.to_string()),
            Self::ClientIps(_) => return question.client.as_ref().map(IpAddr::to_string),
            Self::Header(name, _) => _ = question.headers.any(name, &mut note),
            Self::Query(name, _) => parameters(question.query, name).for_each(|value| _ = note(&value)),
            Self::Cookie(name, _) => _ = any_cookie(question.headers, name, &mut note),
        }
        (!seen.is_empty()).then(|| seen.join(", "))
    }
}

fn named(name: &str, value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(_) | ValueMatch::Regex(_) if carries_a_secret(name) => format!("{name}: ***"),
        _ => format!("{name}: {value}"),
    }
}

impl ValueMatch {
    /// `any` tells whether a test holds for one of the values that there are.
    fn holds(&self, any: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> bool) -> bool {
        match self {
            Self::Exact(text) => any(&mut |value| value == text.as_bytes()),
            Self::Regex(regex) => any(&mut |value| regex.is_match(value)),
            Self::Present(present) => any(&mut |_| true) == *present,
        }
    }
}

/// The values of a parameter of a query, decoded as forms are (`+` is a space). Borrowed if nothing in them is encoded.
fn parameters<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(move |(given, _)| decode(given).eq(name.bytes())).map(|(_, value)| {
        if value.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
            Cow::Owned(decode(value).collect())
        } else {
            Cow::Borrowed(value.as_bytes())
        }
    })
}

/// Broken escapes stand for themselves.
fn decode(text: &str) -> impl Iterator<Item = u8> {
    let bytes = text.as_bytes();
    let digit = move |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        Some(match byte {
            b'+' => b' ',
            b'%' => match (digit(at), digit(at + 1)) {
                (Some(high), Some(low)) => {
                    at += 2;
                    high << 4 | low
                }
                _ => byte,
            },
            _ => byte,
        })
    })
}

/// Whether a test holds for a cookie of this name (RFC 6265 §5.4), be it in one `Cookie` field or in several, as HTTP/2 has them.
fn any_cookie(headers: &dyn Headers, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    headers.any(&COOKIE, &mut |field| {
        field.split(|byte| *byte == b';').any(|pair| {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let (given, value) = (parts.next().unwrap_or_default(), parts.next());
            given.trim_ascii() == name.as_bytes() && value.is_some_and(|value| test(value.trim_ascii()))
        })
    })
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    format!("[{}]", items.map(|item| item.to_string()).collect::<Vec<_>>().join(", "))
}

/// A value as a person can read it.
pub(super) fn shown(value: &[u8]) -> String {
    let part = &value[..value.len().min(SHOWN)];
    let text = part.escape_ascii().to_string();
    if part.len() < value.len() { text + "…" } else { text }
}
