//! What runs beside requests while a configuration is in force: discovery, health checks, and the work of filters.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::task::{AbortHandle, JoinSet};

use crate::filter::TaskFuture;
use crate::runtime::Snapshot;
use crate::runtime::snapshot::Work;
use crate::upstream::Upstream;

/// How long a configuration waits for its endpoints to be looked up and probed for the first time.
const PREPARATION: Duration = Duration::from_secs(5);

/// The tasks of the snapshot in force. An upstream that a new snapshot keeps is not disturbed.
pub(crate) struct Upkeep {
    shutdown: ShutdownWatch,
    upstreams: Vec<Kept>,
}

/// An upstream whose endpoints are looked up and probed.
struct Kept {
    upstream: Arc<Upstream>,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upkeep {
    pub(crate) fn new(shutdown: ShutdownWatch) -> Self {
        Self { shutdown, upstreams: Vec::new() }
    }

    /// Looks up the endpoints of upstreams that are new, and probes them if `probe`, so that the snapshot can serve from its first request.
    pub(crate) async fn prepare(&self, snapshot: &Snapshot, probe: bool) {
        let mut preparing = JoinSet::new();
        for upstream in snapshot.upstreams().iter().filter(|upstream| !self.keeps(upstream)) {
            let upstream = upstream.clone();
            preparing.spawn(async move { upstream.prepare(probe).await });
        }
        let prepared = async { while preparing.join_next().await.is_some() {} };
        if tokio::time::timeout(PREPARATION, prepared).await.is_err() {
            log::warn!("some endpoints are not known yet; serving without them");
        }
    }

    /// Starts what a snapshot needs, and ends what it no longer does.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, tasks: Vec<TaskFuture>) {
        let mut upstreams = Vec::with_capacity(snapshot.upstreams().len());
        for upstream in snapshot.upstreams() {
            let at = self.upstreams.iter().position(|kept| Arc::ptr_eq(&kept.upstream, upstream));
            upstreams.push(match at {
                Some(at) => self.upstreams.swap_remove(at),
                None => self.keep(upstream.clone()),
            });
        }
        // What is left over is dropped, and so ends.
        self.upstreams = upstreams;
        snapshot.keep(tasks.into_iter().map(|task| Work(tokio::spawn(task).abort_handle())).collect());
    }

    fn keeps(&self, upstream: &Arc<Upstream>) -> bool {
        self.upstreams.iter().any(|kept| Arc::ptr_eq(&kept.upstream, upstream))
    }

    fn keep(&self, upstream: Arc<Upstream>) -> Kept {
        let (running, shutdown) = (upstream.clone(), self.shutdown.clone());
        Kept { upstream, task: tokio::spawn(async move { running.run(shutdown).await }).abort_handle() }
    }
}
