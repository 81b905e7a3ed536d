//! `limits`: bounds on what a client may do, of one listener or of all.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::{head_fields, head_size, positive_limit};
use crate::types::{ByteSize, Count, Duration, Limit};

/// Bounds on what a client may do; `none` switches one off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// For a whole request head, from its first byte; over it 408. Default: `10s`.
    #[serde(deserialize_with = "some_limit")]
    pub header_timeout: Option<Limit<Duration>>,
    /// Between requests, and on an idle HTTP/2 connection. Default: `60s`.
    #[serde(deserialize_with = "some_limit")]
    pub idle_timeout: Option<Limit<Duration>>,
    /// A client that takes nothing for this long is dropped. Default: `30s`.
    #[serde(deserialize_with = "some_limit")]
    pub write_timeout: Option<Limit<Duration>>,
    /// How long a WebSocket may carry nothing in either direction. Default: `1h`.
    #[serde(deserialize_with = "some_limit")]
    pub websocket_idle_timeout: Option<Limit<Duration>>,
    /// Of a request's head; over it 431. At most `1MiB`. Default: `32KiB`.
    #[serde(deserialize_with = "head_size")]
    pub header_size: Option<ByteSize>,
    /// Of a request's target; over it 414. Default: `8KiB`.
    #[serde(deserialize_with = "head_size")]
    pub uri_size: Option<ByteSize>,
    /// Header fields of a request; over it 431. At most 256. Default: `100`.
    #[serde(deserialize_with = "head_fields")]
    pub headers: Option<Count>,
    /// Open at once on a listener; over it the next ones wait to be accepted. Default: `20000`.
    pub connections: Option<Limit<Count>>,
    /// Open at once from one address (IPv6: one /64); over it a new one is closed. Default: `256`.
    pub connections_per_client: Option<Limit<Count>>,
    /// After so many a connection is closed. Default: `10000`.
    pub requests_per_connection: Option<Limit<Count>>,
}

/// The bounds in force on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// For a whole head.
    pub header_timeout: Option<StdDuration>,
    /// Between requests.
    pub idle_timeout: Option<StdDuration>,
    /// For a client that takes nothing.
    pub write_timeout: Option<StdDuration>,
    /// For a tunnel that carries nothing.
    pub websocket_idle_timeout: Option<StdDuration>,
    /// Of a head, in bytes.
    pub header_size: usize,
    /// Of a target, in bytes.
    pub uri_size: usize,
    /// Fields of a head.
    pub headers: usize,
    /// Open at once.
    pub connections: Option<u32>,
    /// Open at once from one client.
    pub connections_per_client: Option<u32>,
    /// Requests of a connection.
    pub requests_per_connection: Option<u32>,
}

impl Limits {
    /// These bounds; what they leave out is taken from `others`, then from Ravelin's own.
    #[must_use]
    pub fn or(&self, others: &Self) -> ListenerLimits {
        let time = |own: Option<Limit<Duration>>, other: Option<Limit<Duration>>, default: u64| match own.or(other) {
            Some(limit) => limit.get().map(Duration::get),
            None => Some(StdDuration::from_secs(default)),
        };
        let number = |own: Option<Limit<Count>>, other: Option<Limit<Count>>, default: u32| match own.or(other) {
            Some(limit) => limit.get().map(Count::get),
            None => Some(default),
        };
        let size = |own: Option<ByteSize>, other: Option<ByteSize>, default: usize| {
            own.or(other).map_or(default, |size| usize::try_from(size.get()).unwrap_or(usize::MAX))
        };
        ListenerLimits {
            header_timeout: time(self.header_timeout, others.header_timeout, 10),
            idle_timeout: time(self.idle_timeout, others.idle_timeout, 60),
            write_timeout: time(self.write_timeout, others.write_timeout, 30),
            websocket_idle_timeout: time(self.websocket_idle_timeout, others.websocket_idle_timeout, 3600),
            header_size: size(self.header_size, others.header_size, 32 << 10),
            uri_size: size(self.uri_size, others.uri_size, 8 << 10),
            headers: self.headers.or(others.headers).map_or(100, |count| count.get() as usize),
            connections: number(self.connections, others.connections, 20_000),
            connections_per_client: number(self.connections_per_client, others.connections_per_client, 256),
            requests_per_connection: number(self.requests_per_connection, others.requests_per_connection, 10_000),
        }
    }
}

fn some_limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<Duration>>, D::Error> {
    positive_limit(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn a_listener_overrides_the_defaults_which_override_ours() {
        let own: Limits = decoded("{header_timeout: 1s, connections: none}").unwrap();
        let others: Limits = decoded("{header_timeout: 2s, connections: 5, idle_timeout: none, headers: 7}").unwrap();
        let limits = own.or(&others);
        assert_eq!(limits.header_timeout, Some(StdDuration::from_secs(1)));
        assert_eq!((limits.connections, limits.idle_timeout, limits.headers), (None, None, 7));
        assert_eq!((limits.write_timeout, limits.uri_size), (Some(StdDuration::from_secs(30)), 8192));
    }

    #[test]
    fn bounds_that_would_refuse_everything_are_refused() {
        for text in ["{header_timeout: 0s}", "{header_size: 0B}", "{headers: 0}", "{connections: 0}"] {
            assert!(decoded::<Limits>(text).is_err(), "{text}");
        }
        for text in ["{header_size: 2MiB}", "{headers: 257}"] {
            assert!(decoded::<Limits>(text).is_err(), "{text}");
        }
    }
}
