//! How the process stops: no new connections, idle ones close, exchanges in progress end.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const STARTING: u8 = 0;
const LISTENING: u8 = 1;
const STOPPING: u8 = 2;
const CLOSING: u8 = 3;

/// How long a client then has to end what it has begun: a head, a handshake.
pub(super) const UNFINISHED: Duration = Duration::from_secs(1);

/// The state of stopping, and the connections that are still open.
#[derive(Default)]
pub(crate) struct Drain {
    /// How far the process has come: one of the phases below, and never back.
    phase: AtomicU8,
    closing: AtomicBool,
    /// Wakes whoever would wait for a new connection.
    close: Notify,
    /// Set once connections should not wait for a request any more: until when one that has begun may come.
    last_moment: OnceLock<Instant>,
    /// Wakes connections that wait for a request.
    close_idle: Notify,
    /// Wakes whoever waits until every listener accepts.
    listen: Notify,
    /// A new process accepts in this one's place.
    handed_over: AtomicBool,
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
        self.listen.notify_waiters();
    }

    /// Waits until every listener accepts.
    pub(crate) async fn has_listened(&self) {
        wait_for(&self.listen, || self.phase.load(Ordering::Acquire) >= LISTENING).await;
    }

    /// A new process accepts, and answers for this one.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Waits until this process accepts no more because a new one does.
    pub(crate) async fn has_handed_over(&self) {
        self.closing().await;
        if !self.handed_over.load(Ordering::Acquire) {
            std::future::pending().await
        }
    }

    /// The process is about to stop: requests are still taken, but should go elsewhere.
    pub(crate) fn stopping(&self) {
        self.phase.fetch_max(STOPPING, Ordering::AcqRel);
    }

    /// Whether a stop was asked for: clients are told to leave with their next answer.
    pub(super) fn is_stopping(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= STOPPING
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

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Waits until the process stops.
    pub(super) async fn closing(&self) {
        wait_for(&self.close, || self.is_closing()).await;
    }

    /// Waits until no connection should wait for a request any more.
    pub(super) async fn closing_idle(&self) {
        wait_for(&self.close_idle, || self.last_moment().is_some()).await;
    }

    /// Waits until no connection should wait for the rest of what its client has begun.
    pub(super) async fn closing_unfinished(&self) {
        self.closing_idle().await;
        if let Some(last) = self.last_moment() {
            tokio::time::sleep_until(last).await;
        }
    }

    fn last_moment(&self) -> Option<Instant> {
        self.last_moment.get().copied()
    }

    /// Stops: returns once no connection is open, or after `limit`. For `linger`, connections may still bring the request that their
    /// client is about to send; what has begun by then has [`UNFINISHED`] more. Says how many were still open.
    pub(super) async fn run(&self, limit: Duration, linger: Duration) -> usize {
        self.phase.fetch_max(CLOSING, Ordering::AcqRel);
        self.closing.store(true, Ordering::Release);
        self.close.notify_waiters();
        let empty = || self.open.load(Ordering::Acquire) == 0;
        let ended = async {
            // On time-out the idle ones are still there.
            let _ = tokio::time::timeout(linger, wait_for(&self.empty, empty)).await;
            self.last_moment.get_or_init(|| Instant::now() + UNFINISHED);
            self.close_idle.notify_waiters();
            wait_for(&self.empty, empty).await;
        };
        // On time-out the number that is left says what there is to say.
        let _ = tokio::time::timeout(limit, ended).await;
        self.open.load(Ordering::Acquire)
    }
}

/// How one connection hears that it should not wait any more. It asks before each request, and enters itself into the list that all
/// connections share, under a lock, only the first time.
pub(super) struct Closing<'a, F> {
    drain: &'a Drain,
    waiting: Pin<&'a mut F>,
    /// Who is woken.
    entered: Option<Waker>,
}

impl<'a, F: Future<Output = ()>> Closing<'a, F> {
    /// `waiting` is [`Drain::closing_idle`].
    pub(super) fn new(drain: &'a Drain, waiting: Pin<&'a mut F>) -> Self {
        Self { drain, waiting, entered: None }
    }

    /// Whether it should: until when it may wait for what has begun, and for nothing else. If not, the task is woken once it should.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        let last = self.drain.last_moment();
        if last.is_some() || self.entered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return last;
        }
        self.entered = Some(cx.waker().clone());
        // It is over once there is such a moment: then it is not asked again.
        if self.waiting.as_mut().poll(cx).is_ready() { self.drain.last_moment() } else { None }
    }
}

/// Waits until this holds, which each notification says may be so.
async fn wait_for(notify: &Notify, holds: impl Fn() -> bool) {
    loop {
        let mut notified = std::pin::pin!(notify.notified());
        notified.as_mut().enable();
        if holds() {
            return;
        }
        notified.await;
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
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn ends_with_the_last_connection() {
        let drain = Arc::new(Drain::new());
        let open = drain.opened();
        let running = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(Duration::from_secs(60), Duration::ZERO).await }
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
        drain.run(Duration::ZERO, Duration::ZERO).await;
        drain.listening();
        assert_eq!(drain.readiness(), Err("stopping, and no longer accepting"));
    }

    #[tokio::test]
    async fn gives_up_after_its_limit() {
        let drain = Arc::new(Drain::new());
        let _open = drain.opened();
        assert_eq!(drain.run(Duration::ZERO, Duration::ZERO).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_may_linger() {
        let drain = Arc::new(Drain::new());
        let open = drain.opened();
        let idle = tokio::spawn({
            let drain = drain.clone();
            async move {
                drain.closing_idle().await;
                drop(open);
            }
        });
        let started = Instant::now();
        assert_eq!(drain.run(Duration::from_secs(60), Duration::from_secs(5)).await, 0);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
        idle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_may_take_a_while_longer() {
        let drain = Arc::new(Drain::new());
        let open = drain.opened();
        let begun = tokio::spawn({
            let drain = drain.clone();
            async move {
                drain.closing_unfinished().await;
                drop(open);
            }
        });
        let started = Instant::now();
        let linger = Duration::from_secs(5);
        assert_eq!(drain.run(Duration::from_secs(60), linger).await, 0);
        assert_eq!(started.elapsed(), linger + UNFINISHED);
        begun.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_waits_again_and_again_hears_of_the_end() {
        let drain = Arc::new(Drain::new());
        let (told, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let connection = tokio::spawn({
            let (drain, told, asked) = (drain.clone(), told.clone(), asked.clone());
            async move {
                let mut waiting = std::pin::pin!(drain.closing_idle());
                let mut closing = Closing::new(&drain, waiting.as_mut());
                for _ in 0..3 {
                    assert_eq!(poll_fn(|cx| Poll::Ready(closing.poll(cx))).await, None);
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
                told.notify_one();
                poll_fn(|cx| closing.poll(cx).map_or(Poll::Pending, |_| Poll::Ready(()))).await;
            }
        });
        told.notified().await;
        drain.run(Duration::from_secs(60), Duration::ZERO).await;
        connection.await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_answers_for_a_process_that_only_stops() {
        let drain = Drain::new();
        drain.run(Duration::ZERO, Duration::ZERO).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), drain.has_handed_over()).await.is_err());
        drain.hand_over();
        drain.has_handed_over().await;
    }
}
