//! What runs beside requests while a configuration is in force: discovery, health checks, and the work of filters.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::task::JoinSet;

use crate::filter::TaskFuture;
use crate::runtime::Store;

/// How long listeners wait for endpoint names to be resolved for the first time.
const FIRST_RESOLUTION: Duration = Duration::from_secs(5);

/// The background service of a configuration.
pub(crate) struct Upkeep {
    store: std::sync::Arc<Store>,
    filters: Mutex<Vec<TaskFuture>>,
}

impl Upkeep {
    pub(crate) fn new(store: std::sync::Arc<Store>, filters: Vec<TaskFuture>) -> Self {
        Self { store, filters: Mutex::new(filters) }
    }
}

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let snapshot = self.store.load();
        let mut first = JoinSet::new();
        for upstream in snapshot.upstreams() {
            let upstream = upstream.clone();
            first.spawn(async move { upstream.prepare().await });
        }
        let resolved = async { while first.join_next().await.is_some() {} };
        if tokio::time::timeout(FIRST_RESOLUTION, resolved).await.is_err() {
            log::warn!("some endpoint names are not resolved yet; serving without them");
        }
        ready.notify_ready();

        let mut running = JoinSet::new();
        for upstream in snapshot.upstreams() {
            let (upstream, shutdown) = (upstream.clone(), shutdown.clone());
            running.spawn(async move { upstream.run(shutdown).await });
        }
        for task in std::mem::take(&mut *self.filters.lock().unwrap_or_else(PoisonError::into_inner)) {
            running.spawn(task);
        }
        // Until the process stops; an error means that nobody is left to say so.
        while !*shutdown.borrow() && shutdown.changed().await.is_ok() {}
    }
}
