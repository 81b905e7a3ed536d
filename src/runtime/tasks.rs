//! What runs beside requests while a configuration is in force: discovery, health checks, and the work of filters.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::filter::TaskFuture;
use crate::runtime::Snapshot;
use crate::runtime::snapshot::Work;
use crate::tls::acme::Client;
use crate::upstream::Upstream;

/// How long a configuration waits for its endpoints to be looked up and probed for the first time.
const PREPARATION: Duration = Duration::from_secs(5);

/// The tasks of the snapshot in force. An upstream that a new snapshot keeps is not disturbed.
pub(crate) struct Upkeep {
    shutdown: ShutdownWatch,
    /// Turns true once no process before this one accepts connections.
    settled: watch::Receiver<bool>,
    upstreams: Vec<Kept>,
    certificates: Vec<Obtained>,
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

/// A certificate that is obtained.
struct Obtained {
    client: Arc<Client>,
    task: AbortHandle,
}

impl Drop for Obtained {
    fn drop(&mut self) {
        self.task.abort();
        self.client.retire();
    }
}

impl Upkeep {
    pub(crate) fn new(shutdown: ShutdownWatch, settled: watch::Receiver<bool>) -> Self {
        Self { shutdown, settled, upstreams: Vec::new(), certificates: Vec::new() }
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
        snapshot.lend_certificates();
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
        let (mut certificates, mut new) = (Vec::new(), Vec::new());
        for client in snapshot.acme_clients() {
            let at = self.certificates.iter().position(|obtained| Arc::ptr_eq(&obtained.client, client));
            match at {
                Some(at) => certificates.push(self.certificates.swap_remove(at)),
                None => new.push(client.clone()),
            }
        }
        // Those that are over serve nothing any more before others do, which order nothing before they know where they serve.
        self.certificates = certificates;
        snapshot.serve_certificates();
        for client in new {
            let obtained = self.obtain(client);
            self.certificates.push(obtained);
        }
        snapshot.keep(tasks.into_iter().map(|task| Work(tokio::spawn(task).abort_handle())).collect());
    }

    fn obtain(&self, client: Arc<Client>) -> Obtained {
        let (running, settled) = (client.clone(), self.settled.clone());
        Obtained { client, task: tokio::spawn(running.run(settled)).abort_handle() }
    }

    fn keeps(&self, upstream: &Arc<Upstream>) -> bool {
        self.upstreams.iter().any(|kept| Arc::ptr_eq(&kept.upstream, upstream))
    }

    fn keep(&self, upstream: Arc<Upstream>) -> Kept {
        let (running, shutdown) = (upstream.clone(), self.shutdown.clone());
        Kept { upstream, task: tokio::spawn(async move { running.run(shutdown).await }).abort_handle() }
    }
}
