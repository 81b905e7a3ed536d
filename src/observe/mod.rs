//! Watching requests: one record of each, and those who are shown it.

mod access_log;
mod event;
mod metrics;

pub(crate) use self::access_log::{AccessLog, OpenError};
pub(crate) use self::event::{Connect, Event, Failure, Timing};
pub(crate) use self::metrics::{
    CONTENT_TYPE, EndpointMeter, InFlight, ListenerMeter, LiveSnapshot, Pause, RouteMeter, Text, UpstreamMeter, metrics,
};

/// All that are shown the requests of this process.
#[derive(Default)]
pub(crate) struct Observers {
    pub(crate) access_log: Option<AccessLog>,
}

impl Observers {
    /// A request is over. Takes no time to speak of: what does, happens elsewhere.
    pub(crate) fn record(&self, event: &Event<'_>) {
        if let Some(log) = &self.access_log {
            log.record(event);
        }
    }
}
