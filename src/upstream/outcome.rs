//! How one try at an endpoint ended, as far as the endpoint is to blame. Whoever judges endpoints (outlier detection), and whoever
//! tries again, goes by this alone, whichever way the request was carried.

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The head of the final response has come, with this status.
    Answered(u16),
    /// A connection was refused by the endpoint's machine, or by the network: no process there has been troubled.
    Refused,
    /// A connection could not be opened otherwise.
    ConnectError,
    /// Nor within its time.
    ConnectTimeout,
    /// The connection broke before the response was whole.
    Reset,
    /// The response, or the next piece of it, did not come in time.
    Timeout,
    /// What came is no response that anybody could rely on.
    Invalid,
}

impl Outcome {
    /// Whether it speaks against the endpoint: all but an answer that is no 5xx.
    pub(crate) fn is_failure(self) -> bool {
        !matches!(self, Self::Answered(status) if !(500..=599).contains(&status))
    }

    /// Whether the endpoint has answered, whatever it said.
    pub(crate) fn is_answer(self) -> bool {
        matches!(self, Self::Answered(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_an_answer_below_500_speaks_against_an_endpoint() {
        let broken = [
            Outcome::Refused,
            Outcome::ConnectError,
            Outcome::ConnectTimeout,
            Outcome::Reset,
            Outcome::Timeout,
            Outcome::Invalid,
        ];
        assert!(broken.iter().all(|outcome| outcome.is_failure() && !outcome.is_answer()));
        let failures = [101, 200, 304, 404, 429, 499, 500, 503, 599].map(|status| Outcome::Answered(status).is_failure());
        assert_eq!(failures, [false, false, false, false, false, false, true, true, true]);
    }
}
