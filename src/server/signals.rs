//! Signals: SIGTERM and SIGINT stop the process once its exchanges have ended, SIGQUIT once a new process has taken its place; a second
//! one of the first two stops it at once.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::server::engine::Engine;
use async_trait::async_trait;
use nix::sys::signal::{SigSet, Signal as HeldSignal};
use pingora_core::apps::HttpServerApp;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::server::drain::Drain;
use crate::server::supervisor;
use crate::server::upgrade::{Successors, Tenure};

/// How long an idle connection waits for the request that its client may be about to send, when a new process takes others: nobody is
/// in a hurry then, and to close it in that moment would lose the request.
const LINGER: Duration = Duration::from_secs(5);
/// The same where somebody waits for the end: as long as a request may be under way from a client that can't know yet.
const STOP_LINGER: Duration = Duration::from_millis(50);

/// What ends the process, and how.
pub(super) struct Signals {
    pub(super) caught: Mutex<Option<oneshot::Receiver<Caught>>>,
    pub(super) drain: Arc<Drain>,
    pub(super) successors: Arc<Successors>,
    pub(super) tenure: Tenure,
    pub(super) times: Times,
    pub(super) proxy: Arc<Engine>,
}

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// To go on accepting after the first signal (`grace_period_seconds`).
    pub(super) lame_duck: Duration,
    /// For exchanges to end (`graceful_shutdown_timeout_seconds`).
    pub(super) drain: Duration,
    /// To wait for a successor (`upgrade_sock_connect_accept_max_retries`, a second each).
    pub(super) successor: Duration,
}

/// The signals, from the moment when they are no longer left to the system.
pub(super) struct Caught {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// Signals that end a process which does not handle them yet. One that comes before it does waits instead; SIGINT, which comes from whoever
/// sits there, does not.
const HELD: [HeldSignal; 4] = [HeldSignal::SIGHUP, HeldSignal::SIGTERM, HeldSignal::SIGQUIT, HeldSignal::SIGUSR1];

/// Keeps signals waiting. All threads that are started from here on do so too.
pub(super) fn hold() {
    if let Err(error) = HELD.into_iter().collect::<SigSet>().thread_block() {
        log::warn!("signals can't be held back until they are handled error={error}");
    }
}

/// Lets these come, by way of this thread, which goes on as long as the process: they are handled now.
pub(super) fn release(signals: &[HeldSignal]) {
    if let Err(error) = signals.iter().copied().collect::<SigSet>().thread_unblock() {
        log::error!("signals can't be received error={error}");
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    HandOver,
}

impl Caught {
    /// Catches them. This comes before the first listener accepts.
    pub(super) fn new() -> io::Result<Self> {
        let [terminate, interrupt, quit] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        let caught = Self { terminate: terminate?, interrupt: interrupt?, quit: quit? };
        release(&[HeldSignal::SIGTERM, HeldSignal::SIGQUIT]);
        Ok(caught)
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            () = either(&mut self.terminate, &mut self.interrupt) => Asked::Stop,
            _ = self.quit.recv() => Asked::HandOver,
        }
    }

    async fn stop(&mut self) {
        either(&mut self.terminate, &mut self.interrupt).await;
    }
}

impl Signals {
    /// Returns once the process should end because everything else has.
    async fn follow(&self, mut caught: Caught) {
        loop {
            match caught.next().await {
                Asked::Stop => break,
                Asked::HandOver => {
                    log::info!("SIGQUIT: waiting for a new process to be ready limit={:?}", self.times.successor);
                    let found = tokio::select! {
                        found = self.successors.within(self.times.successor) => found,
                        () = caught.stop() => break,
                    };
                    match found {
                        Some(successor) => return self.hand_over(successor.pid, &mut caught).await,
                        None => log::error!(
                            "SIGQUIT, but no new process is there to take over; this one goes on. Start one with `ravelin run -u`, or \
                             stop this one with SIGTERM"
                        ),
                    }
                }
            }
        }
        match self.successors.now() {
            // Somebody meant SIGQUIT: the new process must not lose its files to this one.
            Some(successor) => self.hand_over(successor.pid, &mut caught).await,
            None => self.stop(&mut caught).await,
        }
    }

    async fn stop(&self, caught: &mut Caught) {
        let Times { lame_duck, drain, .. } = self.times;
        self.drain.stopping();
        supervisor::stopping();
        log::info!("stopping lame_duck={lame_duck:?} limit={drain:?}");
        self.end(lame_duck, STOP_LINGER, caught).await;
    }

    /// The new process accepts already.
    async fn hand_over(&self, pid: u32, caught: &mut Caught) {
        log::info!("handing over to={pid} limit={:?}", self.times.drain);
        self.tenure.end();
        self.drain.stopping();
        self.drain.hand_over();
        self.end(Duration::ZERO, LINGER, caught).await;
    }

    async fn end(&self, lame_duck: Duration, linger: Duration, caught: &mut Caught) {
        let ended = async {
            tokio::time::sleep(lame_duck).await;
            // From here on every answer says that its connection closes.
            self.proxy.http_cleanup().await;
            // First, for whoever waits at a socket is reset when its last descriptor is closed: that is to be the listener's, which looks
            // for them.
            self.successors.let_go();
            tokio::join!(self.drain.run(self.times.drain, linger), async { self.successors.leave() }).0
        };
        tokio::select! {
            left = ended => {
                if left > 0 {
                    log::warn!("connections cut at the end of graceful_shutdown_timeout_seconds connections={left}");
                }
            }
            () = caught.stop() => log::warn!("second signal: stopping at once"),
        }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner).take();
        match caught {
            Some(caught) => match caught.await {
                Ok(caught) => self.follow(caught).await,
                Err(_) => log::error!("signals can't be handled"),
            },
            None => std::future::pending().await,
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
