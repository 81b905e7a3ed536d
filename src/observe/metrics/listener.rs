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
        Self { name: name.into(), parts: Sharded::new(), refused: Words::new(16), paused: Default::default() }
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
