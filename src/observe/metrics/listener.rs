//! What is counted by listener.

use std::sync::Arc;

use super::cells::{Count, Sharded};
use super::text::Text;
use super::words::Words;

/// The numbers of a listener.
pub(crate) struct ListenerMeter {
    name: Box<str>,
    parts: Sharded<Part>,
    refused: Words,
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
        Self { name: name.into(), parts: Sharded::new(), refused: Words::new(16) }
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
