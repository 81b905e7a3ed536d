//! Why there is no certificate: in a constant word, whose fault it is, and when to try again.

use std::fmt;
use std::time::SystemTime;

use instant_acme::{Error, Problem};

use crate::tls::acme::storage::StorageError;
use crate::tls::acme::wire::{Refusal, WireError};

/// Why an order was not filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// A constant word.
    pub(crate) reason: &'static str,
    pub(crate) party: Party,
    /// For people.
    pub(crate) detail: String,
    pub(crate) cost: Cost,
    /// Not before this, says the authority.
    pub(crate) retry_after: Option<SystemTime>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    /// The certificate authority.
    Authority,
    Operator,
    Us,
}

/// What it has taken of what an authority grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    None,
    Order,
    /// It grants no more for now.
    Limit,
}

impl Party {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Operator => "operator",
            Self::Us => "us",
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Failure {
    pub(crate) fn new(reason: &'static str, party: Party, cost: Cost, detail: impl Into<String>) -> Self {
        Self { reason, party, detail: detail.into(), cost, retry_after: None }
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new("internal", Party::Us, Cost::Order, detail)
    }

    /// Of what went over the wire last: an error of the library does not say it.
    pub(crate) fn of(error: &Error, refusal: Option<Refusal>) -> Self {
        let failure = match error {
            Error::Api(problem) => Self::of_problem(problem),
            Error::Timeout(_) => Self::new("timeout", Party::Authority, Cost::Order, "the order was not worked on in time"),
            Error::Json(_) | Error::Str(_) | Error::InvalidUri(_) | Error::Http(_) | Error::Unsupported(_) => {
                Self::new("bad_answer", Party::Authority, Cost::Order, error.to_string())
            }
            Error::Other(inner) => match inner.downcast_ref::<WireError>() {
                Some(error) => Self::of_wire(error),
                None => Self::new("bad_answer", Party::Authority, Cost::Order, error.to_string()),
            },
            _ => Self::internal(error.to_string()),
        };
        let Some(refusal) = refusal else { return failure };
        let failure = match (failure.reason, refusal.status) {
            ("bad_answer", 429) => {
                Self { reason: "rate_limited", cost: Cost::Limit, detail: format!("status {}", refusal.status), ..failure }
            }
            ("bad_answer", status) => Self { detail: format!("status {status}: {}", failure.detail), ..failure },
            _ => failure,
        };
        Self { retry_after: refusal.retry_after, ..failure }
    }

    /// RFC 8555 §6.7.
    fn of_problem(problem: &Problem) -> Self {
        let name =
            problem.r#type.as_deref().and_then(|name| name.strip_prefix("urn:ietf:params:acme:error:")).unwrap_or_default();
        let (reason, party) = match name {
            "accountDoesNotExist" => (NO_ACCOUNT, Party::Authority),
            "badCSR" => ("bad_csr", Party::Us),
            "badNonce" => ("bad_nonce", Party::Authority),
            "badPublicKey" => ("bad_public_key", Party::Us),
            "badSignatureAlgorithm" => ("bad_signature_algorithm", Party::Us),
            "caa" => ("caa", Party::Operator),
            "compound" => ("several", Party::Operator),
            "connection" => ("connection", Party::Operator),
            "dns" => ("dns", Party::Operator),
            "externalAccountRequired" => ("external_account_required", Party::Operator),
            "incorrectResponse" => ("incorrect_response", Party::Operator),
            "invalidContact" => ("invalid_contact", Party::Operator),
            "malformed" => ("malformed", Party::Us),
            "orderNotReady" => ("order_not_ready", Party::Authority),
            "rateLimited" => ("rate_limited", Party::Operator),
            "rejectedIdentifier" => ("rejected_identifier", Party::Operator),
            "serverInternal" => ("server_internal", Party::Authority),
            "tls" => ("tls", Party::Operator),
            "unauthorized" => ("unauthorized", Party::Operator),
            "unsupportedContact" => ("unsupported_contact", Party::Operator),
            "unsupportedIdentifier" => ("unsupported_identifier", Party::Operator),
            "userActionRequired" => ("user_action_required", Party::Operator),
            _ => ("refused", Party::Authority),
        };
        let cost = if reason == "rate_limited" { Cost::Limit } else { Cost::Order };
        let mut detail = problem.detail.clone().unwrap_or_default();
        for part in &problem.subproblems {
            detail.push_str(&format!("; {part}"));
        }
        Self::new(reason, party, cost, detail)
    }

    fn of_wire(error: &WireError) -> Self {
        let (reason, party, cost) = match error {
            WireError::Unreachable(_) => ("unreachable", Party::Authority, Cost::None),
            WireError::Timeout => ("unreachable", Party::Authority, Cost::None),
            WireError::Untrusted(_) => ("untrusted", Party::Operator, Cost::None),
            WireError::Roots(_) => ("no_roots", Party::Operator, Cost::None),
            WireError::Insecure(_) => ("insecure", Party::Authority, Cost::Order),
            WireError::TooLarge | WireError::Broken(_) => ("bad_answer", Party::Authority, Cost::None),
        };
        Self::new(reason, party, cost, error.to_string())
    }

    /// What an authority has found when it asked for a name.
    pub(crate) fn of_challenge(name: &str, problem: Option<&Problem>) -> Self {
        let failure = match problem {
            Some(problem) => Self::of_problem(problem),
            None => Self::new("unauthorized", Party::Operator, Cost::Order, "the authority says no more"),
        };
        Self { detail: format!("{name}: {}", failure.detail), ..failure }
    }
}

/// The authority has forgotten, or never known, the account that is stored.
pub(crate) const NO_ACCOUNT: &str = "account_does_not_exist";

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new("storage", Party::Operator, Cost::None, error.to_string())
    }
}

impl From<rcgen::Error> for Failure {
    fn from(error: rcgen::Error) -> Self {
        Self::internal(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_problem_is_told_by_its_type() {
        let of = |name: &str| {
            let json = format!(r#"{{"type": "urn:ietf:params:acme:error:{name}", "detail": "why"}}"#);
            let failure = Failure::of(&Error::Api(problem(&json)), None);
            assert_eq!(failure.detail, "why");
            (failure.reason, failure.party, failure.cost)
        };
        assert_eq!(of("rateLimited"), ("rate_limited", Party::Operator, Cost::Limit));
        assert_eq!(of("dns"), ("dns", Party::Operator, Cost::Order));
        assert_eq!(of("serverInternal"), ("server_internal", Party::Authority, Cost::Order));
        assert_eq!(of("new in 2031"), ("refused", Party::Authority, Cost::Order));
    }

    #[test]
    fn what_is_no_problem_document_is_told_by_its_status() {
        let html = || Error::Json(serde_json::from_str::<u8>("<html>").unwrap_err());
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let limited = Failure::of(&html(), Some(Refusal { status: 429, retry_after: Some(until) }));
        assert_eq!((limited.reason, limited.cost, limited.retry_after), ("rate_limited", Cost::Limit, Some(until)));
        let down = Failure::of(&html(), Some(Refusal { status: 503, retry_after: None }));
        assert!(down.reason == "bad_answer" && down.detail.starts_with("status 503"), "{down:?}");
    }

    #[test]
    fn a_challenge_that_failed_names_the_name() {
        let found = problem(r#"{"type": "urn:ietf:params:acme:error:connection", "detail": "refused"}"#);
        let failure = Failure::of_challenge("a.example", Some(&found));
        assert_eq!((failure.reason, &*failure.detail), ("connection", "a.example: refused"));
        assert_eq!(Failure::of_challenge("a.example", None).reason, "unauthorized");
    }
}
