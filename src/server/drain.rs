//! How the process stops: no new connections, idle ones close, exchanges in progress end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

const STARTING: u8 = 0;
const LISTENING: u8 = 1;
const STOPPING: u8 = 2;
const CLOSING: u8 = 3;

/// The state of stopping, and the connections that are still open.
#[derive(Default)]
pub(crate) struct Drain {
    /// How far the process has come: one of the phases below, and never back.
    phase: AtomicU8,
    closing: AtomicBool,
    /// Wakes whoever would wait for a new connection or request.
    close: Notify,
    open: AtomicUsize,
    empty: Notify,
}

/// An open connection; it counts for as long as it lives.
pub(super) struct Open(Arc<Drain>);

impl Drain {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Every listener accepts.
    pub(crate) fn listening(&self) {
        self.phase.fetch_max(LISTENING, Ordering::AcqRel);
    }

    /// The process is about to stop: requests are still taken, but should go elsewhere.
    pub(crate) fn stopping(&self) {
        self.phase.fetch_max(STOPPING, Ordering::AcqRel);
    }

    /// Whether requests should be sent here, and if not, why.
    pub(crate) fn readiness(&self) -> Result<(), &'static str> {
        match self.phase.load(Ordering::Acquire) {
            STARTING => Err("starting"),
            LISTENING => Ok(()),
            STOPPING => Err("stopping"),
            _ => Err("stopping, and no longer accepting"),
        }
    }

    /// A connection was accepted.
    pub(super) fn opened(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::AcqRel);
        Open(self.clone())
    }

    /// Whether no new request should be waited for.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until the process stops.
    pub(super) async fn closing(&self) {
        let close = self.close.notified();
        tokio::pin!(close);
        close.as_mut().enable();
        if !self.is_closing() {
            close.await;
        }
    }

    /// Stops: returns once no connection is open, or after `limit`. Says how many were still open.
    pub(super) async fn run(&self, limit: Duration) -> usize {
        self.phase.fetch_max(CLOSING, Ordering::AcqRel);
        self.closing.store(true, Ordering::Release);
        self.close.notify_waiters();
        let empty = async {
            loop {
                let empty = self.empty.notified();
                tokio::pin!(empty);
                empty.as_mut().enable();
                if self.open.load(Ordering::Acquire) == 0 {
                    return;
                }
                empty.await;
            }
        };
        // On time-out the number that is left says what there is to say.
        let _ = tokio::time::timeout(limit, empty).await;
        self.open.load(Ordering::Acquire)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_with_the_last_connection() {
        let drain = Arc::new(Drain::new());
        let open = drain.opened();
        let running = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(Duration::from_secs(60)).await }
        });
        drain.closing().await;
        drop(open);
        assert_eq!(running.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn requests_should_come_between_start_and_stop() {
        let drain = Arc::new(Drain::new());
        assert_eq!(drain.readiness(), Err("starting"));
        drain.listening();
        assert_eq!(drain.readiness(), Ok(()));
        drain.stopping();
        assert_eq!(drain.readiness(), Err("stopping"));
        drain.run(Duration::ZERO).await;
        drain.listening();
        assert_eq!(drain.readiness(), Err("stopping, and no longer accepting"));
    }

    #[tokio::test]
    async fn gives_up_after_its_limit() {
        let drain = Arc::new(Drain::new());
        let _open = drain.opened();
        assert_eq!(drain.run(Duration::ZERO).await, 1);
    }
}
