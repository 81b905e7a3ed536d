//! `sticky`: a client stays at the endpoint that it was given first.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::config::bounds::positive_duration;
use crate::types::{Duration, Secret, Token};

/// A cookie that keeps a client at its endpoint. What stands in it is sealed.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    #[serde(default = "cookie")]
    pub cookie: Token,
    /// The secret that the cookie is sealed with, of at least 16 characters; whoever has the same one reads the same cookies. Best taken
    /// from the environment: `"${NAME}"`.
    pub key: Spanned<Secret>,
    /// How long a client that does not come stays at its endpoint.
    #[serde(default = "ttl", deserialize_with = "positive_duration")]
    #[schemars(with = "Duration")]
    pub ttl: Duration,
}

fn cookie() -> Token {
    Token::ravelin_lb()
}

fn ttl() -> Duration {
    Duration::from(StdDuration::from_secs(3600))
}
