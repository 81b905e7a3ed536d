//! What keeps the logs going beside requests: the writer's start, SIGUSR1, and reports of losses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal::SIGUSR1;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceReadyNotifier;
use pingora_core::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::observe::{AccessLog, Observers};
use crate::server::signals::release;

/// How often lines that were held back are told of.
const HELD: Duration = Duration::from_secs(5);

/// The background service of logs. It is there without an access log too: whoever rotates logs may send SIGUSR1 in any case, and
/// unheard it would end the process.
pub(super) struct Logs {
    observers: Arc<Observers>,
}

impl Logs {
    pub(super) fn new(observers: Arc<Observers>) -> Self {
        Self { observers }
    }
}

#[async_trait]
impl BackgroundService for Logs {
    async fn start_with_ready_notifier(&self, mut shutdown: ShutdownWatch, ready: ServiceReadyNotifier) {
        let access_log = self.observers.access_log.as_ref();
        if let Some(log) = access_log {
            log.start();
        }
        let rotate = signal(SignalKind::user_defined1());
        if rotate.is_ok() {
            release(&[SIGUSR1]);
        }
        ready.notify_ready();
        let rotating = async {
            match rotate {
                Ok(rotate) => reopen(rotate, access_log).await,
                Err(error) => {
                    log::error!("SIGUSR1 can't be handled error={error}");
                    std::future::pending().await
                }
            }
        };
        let remembering = async {
            let mut tick = tokio::time::interval(HELD);
            loop {
                tick.tick().await;
                self.observers.say_rest();
            }
        };
        let reporting = async {
            match access_log {
                Some(log) => log.watch_losses().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = rotating => {}
            () = reporting => {}
            () = remembering => {}
            // An error means that nobody is left to say so.
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
    }
}

async fn reopen(mut rotate: Signal, access_log: Option<&AccessLog>) {
    while rotate.recv().await.is_some() {
        if let Some(log) = access_log {
            log.reopen();
        }
    }
}
