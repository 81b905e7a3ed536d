//! Named events, by which a test holds an origin and lets it go.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// A set of events that have happened. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Events(Arc<watch::Sender<BTreeSet<String>>>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }

    /// The event has happened: whoever waits for it goes on, and so does whoever comes later.
    pub(crate) fn release(&self, event: &str) {
        self.0.send_modify(|happened| {
            happened.insert(event.to_owned());
        });
    }

    pub(crate) async fn wait(&self, event: &str) {
        // An error means that the sender is gone; `self` holds it.
        let _ = self.0.subscribe().wait_for(|happened| happened.contains(event)).await;
    }
}
