//! What is counted by upstream and endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::cells::{Count, Sharded};
use super::histogram::Buckets;
use super::identity::Identities;
use super::text::Text;

/// Why a request is tried again.
pub(crate) const REASONS: [&str; 10] =
    ["stale_connection", "connect_error", "reset", "timeout", "429", "500", "502", "503", "504", "hedge"];
/// The place of the last of them: another endpoint is asked beside one that is slow.
pub(crate) const HEDGE: usize = REASONS.len() - 1;

/// The numbers of an upstream.
pub(crate) struct UpstreamMeter {
    name: Box<str>,
    parts: Sharded<Part>,
    endpoints: Identities<EndpointMeter>,
    /// How many endpoints it has.
    count: AtomicUsize,
}

#[derive(Default)]
struct Part {
    discovery_failures: Count,
    responses: Buckets,
    requests: Count,
    /// By reason.
    retries: [Count; REASONS.len()],
    over_budget: Count,
    hedges_won: Count,
    queued: Count,
    queue_full: Count,
    queue_timeouts: Count,
}

/// The numbers of one endpoint.
pub(crate) struct EndpointMeter {
    address: Box<str>,
    parts: Sharded<EndpointPart>,
}

#[derive(Default)]
struct EndpointPart {
    selections: Count,
    connect_failures: Count,
    failures: Count,
    limit_hits: Count,
    ejections: Count,
    health_changes: Count,
}

impl UpstreamMeter {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), parts: Sharded::new(), endpoints: Identities::new(), count: AtomicUsize::new(0) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The numbers of an endpoint, by its address: for as long as it has a place in this upstream.
    pub(crate) fn endpoint(&self, address: &str) -> Arc<EndpointMeter> {
        self.endpoints.of(address, || EndpointMeter { address: address.into(), parts: Sharded::new() })
    }

    /// A request is given to it, for the first time.
    pub(crate) fn began(&self) {
        self.parts.here().requests.add(1);
    }

    /// How many requests it has been given.
    pub(crate) fn requests(&self) -> u64 {
        self.parts.sum(|part| part.requests.get())
    }

    /// A request is tried again, for the reason at this place in [`REASONS`].
    pub(crate) fn retried(&self, reason: usize) {
        if let Some(count) = self.parts.here().retries.get(reason) {
            count.add(1);
        }
    }

    /// A request is not tried again since the budget for that is spent.
    pub(crate) fn over_budget(&self) {
        self.parts.here().over_budget.add(1);
    }

    /// The second of two endpoints that were asked at once has answered first.
    pub(crate) fn hedge_won(&self) {
        self.parts.here().hedges_won.add(1);
    }

    /// A request is over that went here: how long the head of its response took, if one came.
    pub(super) fn finished(&self, response: Option<Duration>) {
        if let Some(response) = response {
            self.parts.here().responses.observe(response);
        }
    }

    /// Nobody could tell which endpoints it has.
    pub(crate) fn discovery_failed(&self) {
        self.parts.here().discovery_failures.add(1);
    }

    /// It has so many endpoints from now on.
    pub(crate) fn has_endpoints(&self, count: usize) {
        self.count.store(count, Ordering::Relaxed);
    }

    pub(super) fn write_discovery_failures(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.parts.sum(|part| part.discovery_failures.get()));
    }

    pub(super) fn write_count(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.count.load(Ordering::Relaxed));
    }

    pub(super) fn write_responses(&self, out: &mut Text<'_>) {
        Buckets::write(&self.parts, |part| &part.responses, out, &[("upstream", &self.name)]);
    }

    pub(super) fn write_retries(&self, out: &mut Text<'_>) {
        for (place, reason) in REASONS.iter().enumerate() {
            let count = self.parts.sum(|part| part.retries[place].get());
            if count > 0 {
                out.sample(&[("upstream", &self.name), ("reason", reason)], count);
            }
        }
    }

    pub(super) fn write_over_budget(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.parts.sum(|part| part.over_budget.get()));
    }

    pub(super) fn write_hedges_won(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.parts.sum(|part| part.hedges_won.get()));
    }

    pub(super) fn write_selections(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.selections);
    }

    pub(super) fn write_connect_failures(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.connect_failures);
    }

    pub(super) fn write_failures(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.failures);
    }

    pub(super) fn write_limit_hits(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.limit_hits);
    }

    pub(super) fn write_ejections(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.ejections);
    }

    pub(super) fn write_health_changes(&self, out: &mut Text<'_>) {
        self.write_endpoints(out, |part| &part.health_changes);
    }

    pub(super) fn write_queued(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.parts.sum(|part| part.queued.get()));
    }

    pub(super) fn write_queue_refused(&self, out: &mut Text<'_>) {
        let reason = |reason| [("upstream", &*self.name), ("reason", reason)];
        out.sample(&reason("queue_full"), self.parts.sum(|part| part.queue_full.get()));
        out.sample(&reason("queue_timeout"), self.parts.sum(|part| part.queue_timeouts.get()));
    }

    /// A request waits for an endpoint with room.
    pub(crate) fn queued(&self) {
        self.parts.here().queued.add(1);
    }

    /// One that would have to is one too many.
    pub(crate) fn queue_full(&self) {
        self.parts.here().queue_full.add(1);
    }

    /// One has waited in vain.
    pub(crate) fn queue_timeout(&self) {
        self.parts.here().queue_timeouts.add(1);
    }

    fn write_endpoints(&self, out: &mut Text<'_>, count: impl Fn(&EndpointPart) -> &Count) {
        for endpoint in self.endpoints.all() {
            let labels = [("upstream", &*self.name), ("endpoint", &*endpoint.address)];
            out.sample(&labels, endpoint.parts.sum(|part| count(part).get()));
        }
    }
}

impl EndpointMeter {
    /// It was picked for a try.
    pub(crate) fn selected(&self) {
        self.parts.here().selections.add(1);
    }

    /// A connection to it could not be opened.
    pub(crate) fn connect_failed(&self) {
        self.parts.here().connect_failures.add(1);
    }

    /// A try ended in a way that speaks against it.
    pub(crate) fn failed(&self) {
        self.parts.here().failures.add(1);
    }

    /// A request would have gone there, had there been room.
    pub(crate) fn limit_hit(&self) {
        self.parts.here().limit_hits.add(1);
    }

    /// It is left out for how its requests ended.
    pub(crate) fn ejected(&self) {
        self.parts.here().ejections.add(1);
    }

    /// Its health check says otherwise than before.
    pub(crate) fn health_changed(&self) {
        self.parts.here().health_changes.add(1);
    }
}
