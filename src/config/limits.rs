//! `limits`: bounds on what a client may do, of one listener or of all.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::bounds::{body_rate, body_size, head_fields, head_size, positive_limit};
use crate::types::{ByteRate, ByteSize, Count, Duration, Limit};

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
    /// Between two reads of a request's body, until the response begins; over it 408. Default: `30s`.
    #[serde(deserialize_with = "some_limit")]
    pub body_timeout: Option<Limit<Duration>>,
    /// Of a request's body on average over `body_timeout`, until the response begins; below it 408. Default: `256B/s`.
    #[serde(deserialize_with = "body_rate")]
    pub min_body_rate: Option<Limit<ByteRate>>,
    /// A client that takes nothing for this long is dropped. Default: `30s`.
    #[serde(deserialize_with = "some_limit")]
    pub write_timeout: Option<Limit<Duration>>,
    /// What a client must take of what waits for it, on average over `write_timeout`; below it, it is dropped. Default: `256B/s`.
    #[serde(deserialize_with = "body_rate")]
    pub min_write_rate: Option<Limit<ByteRate>>,
    /// For a whole TLS handshake, from the connection on. Default: `10s`.
    #[serde(deserialize_with = "some_limit")]
    pub tls_handshake_timeout: Option<Limit<Duration>>,
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
    /// Of a request's body; over it 413. Default: `100MiB`.
    #[serde(deserialize_with = "body_size")]
    pub body_size: Option<Limit<ByteSize>>,
    /// Open at once on a listener; over it the next ones wait to be accepted. Default: `20000`.
    pub connections: Option<Limit<Count>>,
    /// Open at once from one address (IPv6: one /64); over it a new one is closed. Default: `256`.
    pub connections_per_client: Option<Limit<Count>>,
    /// TLS handshakes in progress at once from one address (IPv6: one /64); over it a new connection is closed. Default: `32`.
    pub handshakes_per_client: Option<Limit<Count>>,
    /// After so many a connection is closed. Default: `10000`.
    pub requests_per_connection: Option<Limit<Count>>,
    /// HTTP/2 streams open at once on a connection; over it they are refused. Default: `100`.
    pub concurrent_streams: Option<Count>,
}

/// The bounds in force on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerLimits {
    /// For a whole head.
    pub header_timeout: Option<StdDuration>,
    /// Between requests.
    pub idle_timeout: Option<StdDuration>,
    /// Between two reads of a body.
    pub body_timeout: Option<StdDuration>,
    /// Of a body, in bytes a second.
    pub min_body_rate: Option<u64>,
    /// For a client that takes nothing.
    pub write_timeout: Option<StdDuration>,
    /// Of what a client takes, in bytes a second.
    pub min_write_rate: Option<u64>,
    /// For a whole TLS handshake.
    pub tls_handshake_timeout: Option<StdDuration>,
    /// For a tunnel that carries nothing.
    pub websocket_idle_timeout: Option<StdDuration>,
    /// Of a head, in bytes.
    pub header_size: usize,
    /// Of a target, in bytes.
    pub uri_size: usize,
    /// Fields of a head.
    pub headers: usize,
    /// Of a body, in bytes.
    pub body_size: Option<u64>,
    /// Open at once.
    pub connections: Option<u32>,
    /// Open at once from one client.
    pub connections_per_client: Option<u32>,
    /// TLS handshakes in progress at once from one client.
    pub handshakes_per_client: Option<u32>,
    /// Requests of a connection.
    pub requests_per_connection: Option<u32>,
    /// HTTP/2 streams of a connection.
    pub concurrent_streams: u32,
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
        let rate = |own: Option<Limit<ByteRate>>, other: Option<Limit<ByteRate>>, default: u64| match own.or(other) {
            Some(limit) => limit.get().map(ByteRate::get),
            None => Some(default),
        };
        let body_size = self.body_size.or(others.body_size);
        ListenerLimits {
            body_timeout: time(self.body_timeout, others.body_timeout, 30),
            min_body_rate: rate(self.min_body_rate, others.min_body_rate, 256),
            min_write_rate: rate(self.min_write_rate, others.min_write_rate, 256),
            body_size: body_size.map_or(Some(100 << 20), |limit| limit.get().map(ByteSize::get)),
            concurrent_streams: self.concurrent_streams.or(others.concurrent_streams).map_or(100, Count::get),
            header_timeout: time(self.header_timeout, others.header_timeout, 10),
            idle_timeout: time(self.idle_timeout, others.idle_timeout, 60),
            write_timeout: time(self.write_timeout, others.write_timeout, 30),
            tls_handshake_timeout: time(self.tls_handshake_timeout, others.tls_handshake_timeout, 10),
            websocket_idle_timeout: time(self.websocket_idle_timeout, others.websocket_idle_timeout, 3600),
            header_size: size(self.header_size, others.header_size, 32 << 10),
            uri_size: size(self.uri_size, others.uri_size, 8 << 10),
            headers: self.headers.or(others.headers).map_or(100, |count| count.get() as usize),
            connections: number(self.connections, others.connections, 20_000),
            connections_per_client: number(self.connections_per_client, others.connections_per_client, 256),
            handshakes_per_client: number(self.handshakes_per_client, others.handshakes_per_client, 32),
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

    /// As the reference states them.
    #[test]
    fn the_defaults_are_these() {
        let seconds = |seconds| Some(StdDuration::from_secs(seconds));
        let defaults = ListenerLimits {
            header_timeout: seconds(10),
            idle_timeout: seconds(60),
            body_timeout: seconds(30),
            min_body_rate: Some(256),
            write_timeout: seconds(30),
            min_write_rate: Some(256),
            tls_handshake_timeout: seconds(10),
            websocket_idle_timeout: seconds(3600),
            header_size: 32 * 1024,
            uri_size: 8 * 1024,
            headers: 100,
            body_size: Some(100 * 1024 * 1024),
            connections: Some(20_000),
            connections_per_client: Some(256),
            handshakes_per_client: Some(32),
            requests_per_connection: Some(10_000),
            concurrent_streams: 100,
        };
        assert_eq!(Limits::default().or(&Limits::default()), defaults);
    }

    #[test]
    fn bounds_that_would_refuse_everything_are_refused() {
        for text in [
            "{body_timeout: 0s}",
            "{min_body_rate: 0B/s}",
            "{min_write_rate: 0B/s}",
            "{body_size: 0B}",
            "{concurrent_streams: 0}",
        ] {
            assert!(decoded::<Limits>(text).is_err(), "{text}");
        }
        for text in ["{header_timeout: 0s}", "{header_size: 0B}", "{headers: 0}", "{connections: 0}"] {
            assert!(decoded::<Limits>(text).is_err(), "{text}");
        }
        for text in ["{header_size: 2MiB}", "{headers: 257}"] {
            assert!(decoded::<Limits>(text).is_err(), "{text}");
        }
    }
}
