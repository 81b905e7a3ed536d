//! The configuration in force, and the next: read anew on SIGHUP, or when a file changes.
//!
//! A reload comes through the same parse and compile as a start. It is taken whole or not at all: a file with a mistake, or one that
//! changes what only a new process can, leaves everything as it was and says why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use nix::sys::signal::Signal::SIGHUP;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::config::{self, Report};
use crate::filter::TaskFuture;
use crate::observe::metrics;
use crate::runtime::{Compiled, InForce, Snapshot, Store, Upkeep};
use crate::server::sandbox::Sandbox;
use crate::server::signals::{Caught, release};
use crate::server::supervisor;
use crate::tls::Change;

/// Reads and compiles the configuration, given the snapshot in force.
pub(crate) type Load = Arc<dyn Fn(Option<&Snapshot>) -> (Option<Compiled>, Report) + Send + Sync>;

/// How often files are looked at (`reload: watch`).
const WATCH: Duration = Duration::from_secs(1);

/// Keeps the configuration in force, and replaces it.
pub(super) struct Configuration {
    load: Load,
    in_force: InForce,
    store: Arc<Store>,
    /// What the first snapshot needs started.
    first: Mutex<Option<First>>,
    /// Turns true once no process before this one accepts connections.
    settled: watch::Receiver<bool>,
    /// Where the signals go that end the process.
    signals: Mutex<Option<oneshot::Sender<Caught>>>,
}

/// What was compiled at start.
pub(super) struct First {
    pub(super) tasks: Vec<TaskFuture>,
    pub(super) reload: config::Reload,
    pub(super) files: Vec<PathBuf>,
    pub(super) patterns: Vec<String>,
    pub(super) sandbox: Sandbox,
}

/// What is in force now.
struct Current {
    upkeep: Upkeep,
    reload: config::Reload,
    files: Vec<PathBuf>,
    /// By which further files are found.
    patterns: Vec<String>,
    sandbox: Sandbox,
    stamps: Stamps,
    /// Files that a pattern had found and that were not there when last looked at.
    gone: BTreeSet<PathBuf>,
    /// Counts configurations: 1 is the one of the start.
    generation: u64,
}

/// When each file was last changed, and its length; `None` if it can't be read.
type Stamps = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

impl Configuration {
    pub(super) fn new(
        load: Load,
        in_force: InForce,
        store: Arc<Store>,
        first: First,
        settled: watch::Receiver<bool>,
        signals: oneshot::Sender<Caught>,
    ) -> Self {
        Self { load, in_force, store, first: Mutex::new(Some(first)), settled, signals: Mutex::new(Some(signals)) }
    }

    async fn reload(&self, current: &mut Current, cause: &str) {
        supervisor::reloading();
        self.replace(current, cause).await;
        supervisor::ready(false);
    }

    /// Takes up certificates whose files have changed. They belong to the configuration in force, which stays as it is.
    async fn refresh(&self) {
        let snapshot = self.store.load();
        if snapshot.terminators().next().is_none() {
            return;
        }
        let look = move || {
            for (listener, tls) in snapshot.terminators() {
                tls.refresh(SystemTime::now()).iter().for_each(|change| tell(listener, change));
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(look).await {
            log::error!("certificates can't be followed error={error}");
        }
    }

    async fn replace(&self, current: &mut Current, cause: &str) {
        let started = Instant::now();
        let (load, snapshot) = (self.load.clone(), self.store.load());
        // Reading and compiling takes its time: not on a thread that has other work.
        let (compiled, report) = match tokio::task::spawn_blocking(move || load(Some(&snapshot))).await {
            Ok(loaded) => loaded,
            Err(error) => {
                metrics().reload_failed();
                return log::error!("reload failed, nothing has changed cause={cause} error={error}");
            }
        };
        current.files = report.files();
        current.patterns = report.patterns().to_vec();
        current.stamps = stamps(&current.files, &current.patterns);
        let followed = report.followed().to_vec();
        for file in current.sandbox.outside(&current.files).into_iter().chain(current.sandbox.outside(&followed)) {
            log::error!(
                "reload names a file outside of what this process may read, which `hardening.landlock` settled at its start: for this \
                 configuration start a new process with `ravelin run -u` file={}",
                file.display()
            );
        }
        let Some(Compiled { boot, reload, snapshot, tasks, tests: _ }) = compiled else {
            metrics().reload_failed();
            return log::error!("reload refused, nothing has changed cause={cause} errors={}\n{report}", report.errors());
        };
        let differences = boot.differences(&self.in_force);
        if !differences.is_empty() {
            metrics().reload_failed();
            let what = differences.join(", ");
            return log::error!(
                "reload refused, nothing has changed cause={cause} reason=\"needs a new process: `ravelin run -u`\" changed={what:?}"
            );
        }
        let snapshot = Arc::new(snapshot);
        if let Some(folder) =
            snapshot.acme_clients().map(|client| client.folder()).find(|folder| !current.sandbox.lets_write(folder))
        {
            metrics().reload_failed();
            return log::error!(
                "reload refused, nothing has changed cause={cause} reason=\"`storage` is outside of what this process may write to, which \
                 `hardening.landlock` settled at its start: it needs a new process, `ravelin run -u`\" folder={}",
                folder.display()
            );
        }
        current.upkeep.prepare(&snapshot, true).await;
        self.store.replace(snapshot.clone());
        current.upkeep.follow(&snapshot, tasks);
        current.reload = reload;
        current.generation += 1;
        metrics().reloaded();
        if report.warnings() > 0 {
            log::warn!("configuration has warnings\n{report}");
        }
        log::info!(
            "configuration reloaded cause={cause} generation={} routes={} upstreams={} took={:?} snapshots={}",
            current.generation,
            snapshot.route_count(),
            snapshot.upstreams().len(),
            started.elapsed(),
            Snapshot::live(),
        );
    }
}

#[async_trait]
impl BackgroundService for Configuration {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        // Before the first listener accepts, so that no SIGHUP ends the process, and no other signal at once.
        let (mut hangup, caught) = match (signal(SignalKind::hangup()), Caught::new()) {
            (Ok(hangup), Ok(caught)) => (hangup, caught),
            (Err(error), _) | (_, Err(error)) => return log::error!("signals can't be handled error={error}"),
        };
        release(&[SIGHUP]);
        if let Some(signals) = self.signals.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // If nobody takes them the process is about to end.
            let _ = signals.send(caught);
        }
        let Some(First { tasks, reload, files, patterns, sandbox }) =
            self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
        else {
            return;
        };
        let stamps = stamps(&files, &patterns);
        let mut current = Current {
            upkeep: Upkeep::new(shutdown.clone(), self.settled.clone()),
            reload,
            files,
            patterns,
            sandbox,
            stamps,
            gone: BTreeSet::new(),
            generation: 1,
        };
        let snapshot = self.store.load();
        current.upkeep.prepare(&snapshot, false).await;
        current.upkeep.follow(&snapshot, tasks);
        drop(snapshot);
        ready.notify_ready();

        let mut tick = tokio::time::interval(WATCH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !*shutdown.borrow() {
            tokio::select! {
                _ = hangup.recv() => self.reload(&mut current, "SIGHUP").await,
                _ = tick.tick() => {
                    if current.reload == config::Reload::Watch && current.changed() {
                        self.reload(&mut current, "watch").await;
                    } else {
                        self.refresh().await;
                    }
                }
                changed = shutdown.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Current {
    /// Whether a file has changed and is at rest: one that is being written is looked at again. Where files are found by a pattern they may
    /// come and go; one that is missing twice is gone, and is not about to be replaced.
    fn changed(&mut self) -> bool {
        let mut now = stamps(&self.files, &self.patterns);
        let found = |path: &PathBuf| self.patterns.iter().any(|pattern| config::would_find(pattern, path));
        let missing: BTreeSet<PathBuf> =
            now.iter().filter(|(path, stamp)| stamp.is_none() && found(path)).map(|(path, _)| path.clone()).collect();
        now.retain(|path, _| !(missing.contains(path) && self.gone.contains(path)));
        self.gone = missing;
        if now == self.stamps {
            return false;
        }
        now.values().all(|stamp| stamp.is_some_and(|(modified, _)| modified.elapsed().is_ok_and(|age| age >= WATCH / 2)))
    }
}

fn tell(listener: &str, change: &Change) {
    match change {
        Change::Taken { file, worry: None } => log::info!("certificate renewed listener={listener} file={}", file.display()),
        Change::Taken { file, worry: Some(worry) } => {
            log::warn!("certificate renewed, but {worry} listener={listener} file={}", file.display());
        }
        Change::TakenIssuers { file } => {
            log::info!("issuers of client certificates renewed listener={listener} file={}", file.display())
        }
        Change::Refused { file, reason } => {
            metrics().certificate_refused();
            log::error!(
                "certificate can't be renewed, the one before stays in force listener={listener} file={} reason={reason:?}",
                file.display()
            );
        }
    }
}

fn stamps(files: &[PathBuf], patterns: &[String]) -> Stamps {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let found = patterns.iter().flat_map(|pattern| config::found_by(pattern));
    files.iter().cloned().chain(found).map(|path| (path.clone(), stamp(&path))).collect()
}
