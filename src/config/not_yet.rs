//! What the configuration's reference describes and this version does not do yet.
//!
//! A key that does nothing must not exist, so these are errors; but somebody who wrote one spelled it right, and is told so.
//! Building a feature removes its line here.

use crate::config::Span;
use crate::config::report::Diagnostic;

/// Keys: by the name of the struct (as serde gives it) that will have them.
const KEYS: &[(&str, &[&str])] = &[
    ("File", &["tracing"]),
    ("Listener", &["http3"]),
    ("Route", &["files"]),
    ("Match", &["when"]),
    ("FilterEntry", &["when"]),
    ("AccessLog", &["when"]),
];

/// Keys of built-in filters: by the name of the struct of their settings.
const FILTER_KEYS: &[(&str, &[&str])] = &[];

/// Values, be it as a word or as the key of a map: by the key under which they stand.
const VALUES: &[(&str, &[&str])] = &[];

/// Filters.
const FILTERS: &[&str] = &[
    "basic_auth",
    "buffer",
    "cache",
    "compress",
    "concurrency",
    "cors",
    "csrf",
    "forward_auth",
    "geo_access",
    "headers",
    "ip_access",
    "jwt",
    "key_auth",
    "oidc",
    "rate_limit",
    "request_id",
    "rewrite",
    "script",
    "security_headers",
    "wasm",
];

/// Says so of a key or value.
pub(crate) fn unsupported(span: Span, word: &str) -> Diagnostic {
    Diagnostic::error(span, format!("`{word}` is not supported yet")).hint("remove it, or wait for a version that has it")
}

/// Whether the struct of this name will have this key.
pub(crate) fn key(structure: &str, key: &str) -> bool {
    holds(KEYS, structure, key)
}

/// Whether the settings of this name will have this key.
pub(crate) fn filter_key(structure: &str, key: &str) -> bool {
    holds(FILTER_KEYS, structure, key)
}

/// Whether this will be a value of the key.
pub(crate) fn value(of: &str, value: &str) -> bool {
    holds(VALUES, of, value)
}

/// Whether there will be a filter of this name.
pub(crate) fn filter(name: &str) -> bool {
    FILTERS.contains(&name)
}

/// What somebody calls a filter who knows it from elsewhere: its name here, be it there already or not.
pub(crate) fn filter_meant(name: &str) -> Option<&'static str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    let meant = match plain.as_str() {
        "gzip" | "brotli" | "br" | "zstd" | "compression" => "compress",
        "auth" | "auth_basic" | "authentication" | "basic" | "basicauth" | "htpasswd" => "basic_auth",
        "auth_request" | "ext_authz" | "forwardauth" => "forward_auth",
        "limit_req" | "ratelimit" | "limit" => "rate_limit",
        "limit_conn" => "concurrency",
        "ip_allow" | "ip_deny" | "ip_filter" | "ip_restriction" | "allow" | "deny" => "ip_access",
        "geoip" | "geo" => "geo_access",
        "header" | "add_header" | "set_header" | "proxy_set_header" | "request_headers" | "response_headers" => "headers",
        "strip_prefix" | "add_prefix" | "url_rewrite" | "replace_path" => "rewrite",
        "hsts" | "secure_headers" => "security_headers",
        "oauth" | "oauth2" | "openid" => "oidc",
        "lua" | "luau" => "script",
        "proxy_cache" => "cache",
        plain => plain,
    };
    FILTERS.iter().copied().find(|filter| *filter == meant)
}

fn holds(table: &[(&str, &[&str])], of: &str, word: &str) -> bool {
    table.iter().any(|(name, words)| *name == of && words.contains(&word))
}
