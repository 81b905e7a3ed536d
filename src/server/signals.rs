//! Signals: SIGTERM and SIGINT stop the process once its exchanges have ended; a second one stops it at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use pingora_proxy::HttpProxy;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::proxy::Proxy;
use crate::server::drain::Drain;

pub(super) struct Signals {
    pub(super) drain: Arc<Drain>,
    /// How long to go on accepting after the first signal (`grace_period_seconds`).
    pub(super) lame_duck: Duration,
    /// How long exchanges may take to end (`graceful_shutdown_timeout_seconds`).
    pub(super) drain_limit: Duration,
    pub(super) proxy: Arc<HttpProxy<Proxy>>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
            (Err(error), _) | (_, Err(error)) => {
                log::error!("signals can't be handled error={error}");
                return ShutdownSignal::FastShutdown;
            }
        };
        either(&mut terminate, &mut interrupt).await;
        self.drain.stopping();
        log::info!("stopping lame_duck={:?} limit={:?}", self.lame_duck, self.drain_limit);
        let ended = async {
            tokio::time::sleep(self.lame_duck).await;
            // From here on every answer says that its connection closes.
            self.proxy.http_cleanup().await;
            self.drain.run(self.drain_limit).await
        };
        tokio::select! {
            left = ended => {
                if left > 0 {
                    log::warn!("connections cut at the end of graceful_shutdown_timeout_seconds connections={left}");
                }
            }
            () = either(&mut terminate, &mut interrupt) => log::warn!("second signal: stopping at once"),
        }
        // All that should end has ended: Pingora need not wait for anything.
        ShutdownSignal::FastShutdown
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
