//! What is counted by upstream and endpoint.

use std::sync::Arc;
use std::time::Duration;

use super::cells::{Count, Sharded};
use super::histogram::Buckets;
use super::identity::Identities;
use super::text::Text;

/// The numbers of an upstream.
pub(crate) struct UpstreamMeter {
    name: Box<str>,
    parts: Sharded<Part>,
    endpoints: Identities<EndpointMeter>,
}

#[derive(Default)]
struct Part {
    responses: Buckets,
    retries: Count,
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
}

impl UpstreamMeter {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), parts: Sharded::new(), endpoints: Identities::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The numbers of an endpoint, by its address: for as long as it has a place in this upstream.
    pub(crate) fn endpoint(&self, address: &str) -> Arc<EndpointMeter> {
        self.endpoints.of(address, || EndpointMeter { address: address.into(), parts: Sharded::new() })
    }

    /// A request is over that went here: how long the head of its response took, if one came, and how often it was tried.
    pub(super) fn finished(&self, response: Option<Duration>, tries: u32) {
        let part = self.parts.here();
        if let Some(response) = response {
            part.responses.observe(response);
        }
        if tries > 1 {
            part.retries.add(u64::from(tries - 1));
        }
    }

    pub(super) fn write_responses(&self, out: &mut Text<'_>) {
        Buckets::write(&self.parts, |part| &part.responses, out, &[("upstream", &self.name)]);
    }

    pub(super) fn write_retries(&self, out: &mut Text<'_>) {
        out.sample(&[("upstream", &self.name)], self.parts.sum(|part| part.retries.get()));
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
}
