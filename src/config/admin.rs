//! `admin`: where the process is watched.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::config::Spanned;
use crate::types::{ListenAddress, Secret};

/// An address for operators and their machines: `/metrics`, `/healthz` and `/readyz`. Default: none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `host:port` or `unix:/path`. Anything but loopback and unix sockets needs a `token`.
    pub address: Spanned<ListenAddress>,
    /// What `/metrics` and `/readyz` ask for, as `Authorization: Bearer …`; `/healthz` asks for nothing. Best taken
    /// from the environment: `"${NAME}"`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Secret")]
    pub token: Option<Spanned<Secret>>,
    /// What a request sends in `x-ravelin-explain` to be answered with its own trace, as `ravelin explain --json` prints it, in place of
    /// being forwarded. Best taken from the environment. Default: no request is.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Secret")]
    pub explain_token: Option<Spanned<Secret>>,
}

/// A key without a value is no token, and must not pass for none: whoever wrote it wants to be asked for one.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Spanned<Secret>>, D::Error> {
    Spanned::deserialize(deserializer).map(Some)
}
