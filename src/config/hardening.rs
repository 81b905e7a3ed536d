//! `hardening`: what the process takes from itself before it serves.

use schemars::JsonSchema;
use serde::Deserialize;

/// Rights that the process gives up before it accepts a connection. Where the kernel lacks one of them, a warning says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hardening {
    /// Only the files and folders of the configuration can be opened. Default: `true`.
    pub landlock: bool,
    /// Programs can't be started, nor can what else a proxy never does. Default: `true`.
    pub seccomp: bool,
}

impl Default for Hardening {
    fn default() -> Self {
        Self { landlock: true, seccomp: true }
    }
}
