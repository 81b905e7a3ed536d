//! What a filter, the proxy or an upstream did wrong, and what the client is told of it.

use std::borrow::Cow;
use std::fmt;

use crate::filter::InvalidField;

/// Who is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The request is wrong, or the client went away.
    Client,
    /// An endpoint failed.
    Upstream,
    /// The configuration asks for what cannot be.
    Operator,
    /// A fault in Ravelin or in a filter.
    Us,
}

impl Party {
    /// The word used in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Operator => "operator",
            Self::Us => "us",
        }
    }
}

/// Ends a request with a status. Made by [`Error::status`], or from any error by `?`, which is a 500: a filter that fails is closed.
///
/// The client sees the status, the phrase and the request's id; the message and the cause go to the log only.
pub struct Error {
    status: u16,
    party: Party,
    reason: &'static str,
    message: Cow<'static, str>,
    filter: Option<&'static str>,
}

impl Error {
    /// An answer with this status. A 4xx is the client's fault, all else ours. Statuses below 400 become 500.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let (status, party) = match status {
            400..=499 => (status, Party::Client),
            500..=599 => (status, Party::Us),
            _ => (500, Party::Us),
        };
        Self { status, party, reason: "filter", message: Cow::Borrowed(""), filter: None }
    }

    /// An answer with this status, the party at fault and a reason code for the log (`snake_case`, constant).
    #[must_use]
    pub fn new(status: u16, party: Party, reason: &'static str) -> Self {
        Self { status, party, reason, message: Cow::Borrowed(""), filter: None }
    }

    /// A 500: a fault of ours.
    #[must_use]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 500, party: Party::Us, reason: "internal", message: message.into(), filter: None }
    }

    /// A 413: the body is larger than `max` bytes.
    #[must_use]
    pub fn body_too_large(max: usize) -> Self {
        Self::new(413, Party::Client, "body_too_large").with_message(format!("the body is larger than {max} bytes"))
    }

    /// Puts a reason code in place: what logs and metrics count.
    #[must_use]
    pub fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = reason;
        self
    }

    /// Says more, for the log only.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }

    /// Says which filter it comes from.
    pub(crate) fn of_filter(mut self, name: &'static str) -> Self {
        self.filter = Some(name);
        self
    }

    /// The filter that it comes from.
    #[must_use]
    pub fn filter(&self) -> Option<&'static str> {
        self.filter
    }

    /// The status that the client gets.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.status
    }

    /// Who is at fault.
    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// The reason code.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// What the log says; may be empty.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self}, party {})", self.party.as_str())
    }
}

// Not `std::error::Error` itself, so that `?` takes any error: what a filter did not foresee is a 500.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        let any: &(dyn std::error::Error + 'static) = &error;
        let reason = if any.is::<InvalidField>() { "invalid_field" } else { "internal" };
        Self { status: 500, party: Party::Us, reason, message: Cow::Owned(message), filter: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_below_400_is_no_way_to_end_a_request_in_error() {
        assert_eq!(Error::status(200).code(), 500);
        assert_eq!(Error::status(403).party(), Party::Client);
        assert_eq!(Error::status(503).party(), Party::Us);
    }

    #[test]
    fn any_error_closes() {
        let error: Error = "x".parse::<u8>().unwrap_err().into();
        assert_eq!((error.code(), error.reason()), (500, "internal"));
        assert!(error.message().contains("invalid digit"));
    }
}
