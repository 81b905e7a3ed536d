//! `listeners`: where clients connect.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Limits, Spanned};
use crate::types::{FileMode, ListenAddress};

/// One address that clients connect to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `host:port`, `[::]:port` or `unix:/path`.
    pub address: Spanned<ListenAddress>,
    /// File mode of a unix socket, in octal and quoted: `"0660"` is the default.
    pub mode: Option<Spanned<FileMode>>,
    /// HTTP/2 by prior knowledge (h2c) beside HTTP/1.1 on a plaintext listener.
    #[serde(default)]
    pub http2: bool,
    /// Bounds on what a client may do; what is left out is taken from `defaults.limits`.
    #[serde(default)]
    pub limits: Limits,
}
