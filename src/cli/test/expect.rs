//! Where what became of a request is not what was expected.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::config::{Expect, ExpectRequest, Spanned};
use crate::proxy::offline::{Carried, Forwarded};
use crate::types::{HeaderName, Name, carries_a_secret, without_secrets};

/// One expectation that was not met.
pub(super) struct Mismatch {
    /// The key of the expectation.
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Mismatch {
    pub(super) fn of(what: &str, expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { what: what.to_owned(), expected: expected.into(), got: got.into() }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n      expected  {}\n      got       {}", self.what, self.expected, self.got)
    }
}

/// What is not there.
const NOTHING: &str = "(none)";

pub(super) fn mismatches(expect: &Expect, carried: &Carried) -> Vec<Mismatch> {
    let Expect { route, upstream, endpoint, upstream_request, status, headers, body } = expect;
    let mut found = Found(Vec::new());
    found.name_or_none("route", route.as_ref(), carried.route.as_deref());
    let asked = carried.upstream.as_deref().filter(|_| carried.sent.is_some());
    found.name_or_none("upstream", upstream.as_ref(), asked);
    // The path of a unix socket is an address without a scheme.
    let endpoint = endpoint.as_deref().map(|endpoint| endpoint.strip_prefix("unix:").unwrap_or(endpoint));
    found.name("endpoint", endpoint, carried.endpoint.as_deref());
    match (upstream_request, &carried.sent) {
        (Some(expected), Some(sent)) => found.request(expected, sent),
        (Some(_), None) => found.push("upstream_request", "a request to an upstream", "nothing was forwarded"),
        (None, _) => {}
    }
    if let Some(status) = status.map(crate::types::Status::get).filter(|status| *status != carried.status) {
        let failure = carried.failure.as_ref().map(|failure| format!(" ({failure})")).unwrap_or_default();
        found.push("status", &status.to_string(), &format!("{}{failure}", carried.status));
    }
    headers.iter().for_each(|(name, value)| found.field("headers", name, value.as_deref(), &carried.headers));
    found.text("body", body.as_deref(), &carried.body);
    found.0
}

struct Found(Vec<Mismatch>);

impl Found {
    fn push(&mut self, what: &str, expected: &str, got: &str) {
        self.0.push(Mismatch::of(what, expected, got));
    }

    fn name(&mut self, what: &str, expected: Option<&str>, got: Option<&str>) {
        if let Some(expected) = expected.filter(|expected| Some(*expected) != got) {
            self.push(what, expected, got.unwrap_or(NOTHING));
        }
    }

    fn name_or_none(&mut self, what: &str, expected: Option<&Option<Spanned<Name>>>, got: Option<&str>) {
        match (expected, got) {
            (Some(Some(expected)), got) => self.name(what, Some(expected.as_str()), got),
            (Some(None), Some(got)) => self.push(what, NOTHING, got),
            _ => {}
        }
    }

    fn request(&mut self, expected: &ExpectRequest, sent: &Forwarded) {
        let ExpectRequest { method, path, query, host, headers, body } = expected;
        let head = &sent.head;
        self.name("upstream_request.method", method.as_ref().map(|method| method.as_str()), Some(head.method.as_str()));
        self.name("upstream_request.path", path.as_deref(), Some(head.uri.path()));
        let got = head.uri.query().unwrap_or("");
        if let Some(expected) = query.as_deref().filter(|expected| *expected != got) {
            // What was expected stands in the file that is tested.
            self.push("upstream_request.query", expected, &without_secrets(got, None));
        }
        let own = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        self.name("upstream_request.host", host.as_deref(), own);
        headers.iter().for_each(|(name, value)| self.field("upstream_request.headers", name, value.as_deref(), &head.headers));
        self.text("upstream_request.body", body.as_deref(), &sent.body);
    }

    /// Of several fields of a name one is enough, or all of them as one list.
    fn field(&mut self, what: &str, name: &HeaderName, expected: Option<&str>, headers: &HeaderMap) {
        let values: Vec<&HeaderValue> = headers.get_all(name.as_str()).iter().collect();
        let texts: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let met = match expected {
            None => texts.is_empty(),
            Some(expected) => texts.iter().any(|text| text == expected) || (!texts.is_empty() && texts.join(", ") == expected),
        };
        if met {
            return;
        }
        // What the configuration adds may be a secret of its own.
        let got = match texts.as_slice() {
            [] => NOTHING.to_owned(),
            _ if carries_a_secret(name.as_str()) => "another (***)".to_owned(),
            texts => texts.join(", "),
        };
        self.push(&format!("{what}.{name}"), expected.unwrap_or(NOTHING), &got);
    }

    fn text(&mut self, what: &str, expected: Option<&str>, got: &[u8]) {
        if let Some(expected) = expected.filter(|expected| expected.as_bytes() != got) {
            self.push(what, &format!("{expected:?}"), &format!("{:?}", String::from_utf8_lossy(got)));
        }
    }
}
