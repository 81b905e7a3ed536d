//! `access_log`: what is written of each request, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::Spanned;
use crate::types::LogTemplate;

/// One line for each request that is over, refused ones included. Off unless it is given; `access_log: {}` takes the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// What a line looks like.
    pub format: LogFormat,
    /// Where lines go.
    pub output: LogOutput,
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A JSON object.
    #[default]
    Json,
    /// The Common Log Format of NCSA's httpd.
    Common,
    /// The same with referer and user agent.
    Combined,
    /// Text with `{{ … }}` in it.
    Template(Spanned<LogTemplate>),
}

/// Where the access log is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogOutput {
    /// Standard output.
    #[default]
    Stdout,
    /// Standard error, where the process log goes too.
    Stderr,
    /// Nowhere.
    None,
    /// A file, relative to the configuration: created with mode 0640, appended to, opened anew on SIGUSR1.
    File(Spanned<PathBuf>),
}
