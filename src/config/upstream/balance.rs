//! `balance`: how an endpoint is chosen.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::types::{HeaderName, Token};

/// How an endpoint is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, smoothly by weight.
    #[default]
    RoundRobin,
    /// At random, by weight.
    Random,
    /// Of two drawn by weight, the one with fewer requests in flight for its weight.
    LeastRequests,
    /// Of two drawn by weight, the one that is expected to answer sooner: by how long it took of late, and what it has in flight.
    PeakEwma,
    /// The same endpoint for the same key.
    Hash(HashBalance),
}

/// Settings of `balance: {hash: {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashBalance {
    /// What of a request decides.
    pub key: HashKey,
}

/// What of a request decides to which endpoint it goes. A request that has no such thing goes to one by chance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The path and the query.
    Uri,
    /// The value of a header field.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Token),
}
