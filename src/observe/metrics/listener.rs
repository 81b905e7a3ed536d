//! What is counted by listener.

use std::sync::Arc;
use std::time::Duration;

use super::cells::{Count, Sharded};
use super::text::Text;
use super::words::Words;

/// The numbers of a listener.
pub(crate) struct ListenerMeter {
    name: Box<str>,
    parts: Sharded<Part>,
    refused: Words,
    /// By version, and whether a session was resumed.
    handshakes: Words,
    /// By reason.
    handshake_failures: Words,
    /// By reason, in microseconds.
    paused: [Count; Pause::ALL.len()],
}

/// Why a listener accepts nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pause {
    /// As many are open as may be (`limits.connections`).
    Connections,
    /// Descriptors are scarce, or the system has no room for another connection.
    Descriptors,
}

impl Pause {
    const ALL: [Self; 2] = [Self::Connections, Self::Descriptors];

    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
        }
    }
}

#[derive(Default)]
struct Part {
    accepted: Count,
    open: Count,
}

/// An open connection, for as long as it lives.
pub(crate) struct OpenConnection(Arc<ListenerMeter>);

impl ListenerMeter {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            parts: Sharded::new(),
            refused: Words::new(16),
            handshakes: Words::new(8),
            handshake_failures: Words::new(32),
            paused: Default::default(),
        }
    }

    /// A connection was accepted.
    pub(crate) fn accepted(self: &Arc<Self>) -> OpenConnection {
        let part = self.parts.here();
        part.accepted.add(1);
        part.open.add(1);
        OpenConnection(self.clone())
    }

    /// A connection was closed before anything was read from it; the reason is a constant word, such as the limit's name.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.add((reason, ""));
    }

    /// A TLS handshake is done.
    pub(crate) fn handshaken(&self, version: &'static str, resumed: bool) {
        self.handshakes.add((version, if resumed { "yes" } else { "no" }));
    }

    /// A TLS handshake failed; the reason is a constant word.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.add((reason, ""));
    }

    /// Nothing was accepted for so long.
    pub(crate) fn paused(&self, why: Pause, time: Duration) {
        self.paused[why as usize].add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn write_paused(&self, out: &mut Text<'_>) {
        for why in Pause::ALL {
            let micros = self.paused[why as usize].get();
            let seconds = format_args!("{}.{:06}", micros / 1_000_000, micros % 1_000_000).to_string();
            out.sample(&[("listener", &self.name), ("reason", why.as_str())], seconds);
        }
    }

    pub(super) fn write_handshakes(&self, out: &mut Text<'_>) {
        for ((version, resumed), count) in self.handshakes.all() {
            out.sample(&[("listener", &self.name), ("version", version), ("resumed", resumed)], count);
        }
    }

    pub(super) fn write_handshake_failures(&self, out: &mut Text<'_>) {
        for ((reason, _), count) in self.handshake_failures.all() {
            out.sample(&[("listener", &self.name), ("reason", reason)], count);
        }
    }

    pub(super) fn write_accepted(&self, out: &mut Text<'_>) {
        out.sample(&[("listener", &self.name)], self.parts.sum(|part| part.accepted.get()));
    }

    pub(super) fn write_open(&self, out: &mut Text<'_>) {
        out.sample(&[("listener", &self.name)], self.parts.sum(|part| part.open.get()));
    }

    pub(super) fn write_refused(&self, out: &mut Text<'_>) {
        for ((reason, _), count) in self.refused.all() {
            out.sample(&[("listener", &self.name), ("reason", reason)], count);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.parts.here().open.take(1);
    }
}
