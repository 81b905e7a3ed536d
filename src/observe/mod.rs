//! Watching requests: one record of each, and those who are shown it.

mod access_log;
mod budget;
mod event;
mod metrics;

pub(crate) use self::access_log::{AccessLog, OpenError};
pub(crate) use self::budget::Budget;
pub(crate) use self::event::{Connect, Event, Failure, Timing};
pub(crate) use self::metrics::{
    AcmeMeter, CONTENT_TYPE, EndpointMeter, HEDGE, InFlight, ListenerMeter, LiveSnapshot, Mirrored, Pause, REASONS, RouteMeter,
    Text, UpstreamMeter, count_tasks_here, metrics, shard,
};

use std::time::Instant;

/// All that are shown the requests of this process.
#[derive(Default)]
pub(crate) struct Observers {
    pub(crate) access_log: Option<AccessLog>,
    /// What the process log says of failures.
    pub(crate) budget: Budget,
}

impl Observers {
    /// Whether the process log may have a line more for this reason.
    pub(crate) fn may_say(&self, reason: &'static str) -> bool {
        match self.budget.spend((reason, 0), Instant::now()) {
            None => false,
            Some(held) => {
                if held > 0 {
                    say_held(reason, held);
                }
                true
            }
        }
    }

    /// Says what was held back of what has stopped since.
    pub(crate) fn say_rest(&self) {
        for ((reason, _), held) in self.budget.held(Instant::now()) {
            say_held(reason, held);
        }
    }

    /// A request is over. Takes no time to speak of: what does, happens elsewhere.
    pub(crate) fn record(&self, event: &Event<'_>) {
        if let Some(log) = &self.access_log {
            log.record(event);
        }
    }
}

fn say_held(reason: &str, held: u64) {
    log::info!("lines held back reason={reason} count={held}: the metrics have all of them, and of requests the access log");
}
