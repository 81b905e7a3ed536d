//! Limits of an endpoint, and the line of requests that wait for one with room.
//!
//! Without limits nothing of this is touched. With them, a request that finds room takes it by one atomic step; only who must wait, and
//! who ends while somebody waits, takes a lock. The line is first come, first served: who comes while somebody waits goes behind. Whoever
//! gives up leaves it, and a place at an endpoint that was on its way to them goes to the next. Whoever has been failed by an endpoint is
//! passed over where that one has room: it is no use to them that nobody else wants to be there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pingora_core::protocols::l4::socket::SocketAddr;
use tokio::sync::oneshot;

use super::endpoint::Endpoint;
use crate::config::EndpointLimits;

/// What an endpoint may be given at once.
pub(super) struct Gate {
    pub(super) capacity: u32,
    queue: Arc<Queue>,
}

/// How long the line may be, and how long one waits in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// For each endpoint that is given requests.
    pub(super) queue: usize,
    pub(super) timeout: Duration,
}

impl Patience {
    pub(super) fn new(limits: &EndpointLimits) -> Self {
        Self { queue: limits.queue as usize, timeout: limits.queue_timeout.get() }
    }
}

/// Requests under way at an endpoint at most. `streams`: how many a connection carries.
pub(super) fn capacity(limits: &EndpointLimits, streams: u32) -> Option<u32> {
    let connections = limits.connections.get().map(|count| count.get().saturating_mul(streams));
    limits.requests.get().map(crate::types::Count::get).into_iter().chain(connections).min()
}

impl Gate {
    pub(super) fn new(capacity: u32, queue: Arc<Queue>) -> Self {
        Self { capacity, queue }
    }

    /// This endpoint may have room: who waits may have it.
    pub(super) fn call(&self, endpoint: &Arc<Endpoint>) {
        while self.queue.is_waiting() && endpoint.vitals().is_open() && endpoint.vitals().try_begin(self.capacity) {
            // Who joined the line while a place was held for nobody found it taken.
            if !self.queue.hand(endpoint) && !self.queue.is_wanted(endpoint) {
                return;
            }
        }
    }
}

/// The line.
#[derive(Default)]
pub(super) struct Queue {
    /// How many wait: whoever ends looks at this first.
    length: AtomicUsize,
    numbers: AtomicU64,
    line: Mutex<VecDeque<Waiter>>,
}

struct Waiter {
    number: u64,
    /// Endpoints that have failed this request, while there is another.
    tried: Box<[SocketAddr]>,
    place: oneshot::Sender<Held>,
}

/// A place at an endpoint that was taken for somebody; it is given back unless they take it over.
pub(super) struct Held(Option<Arc<Endpoint>>);

/// A place in the line, until it is dropped.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    place: oneshot::Receiver<Held>,
}

impl Queue {
    pub(super) fn is_waiting(&self) -> bool {
        self.length.load(Ordering::SeqCst) > 0
    }

    pub(super) fn length(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// A place at the end; `None`: the line is as long as it may be. `tried`: where it is of no use.
    pub(super) fn join(self: &Arc<Self>, most: usize, tried: &[SocketAddr]) -> Option<Ticket> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, place) = oneshot::channel();
        let mut line = self.line();
        if line.len() >= most {
            return None;
        }
        line.push_back(Waiter { number, tried: tried.into(), place: sender });
        self.length.store(line.len(), Ordering::SeqCst);
        drop(line);
        Some(Ticket { queue: self.clone(), number, place })
    }

    /// Whether somebody waits for whom this endpoint is of use.
    pub(super) fn is_wanted(&self, endpoint: &Endpoint) -> bool {
        self.line().iter().any(|waiter| waiter.takes(endpoint))
    }

    /// Who has no other endpoint any more takes those too that have failed it.
    pub(super) fn relent(&self, has_other: impl Fn(&[SocketAddr]) -> bool) {
        for waiter in self.line().iter_mut().filter(|waiter| !waiter.tried.is_empty()) {
            if !has_other(&waiter.tried) {
                waiter.tried = Box::default();
            }
        }
    }

    /// Gives a place at this endpoint, which is taken already, to the first in the line for whom it is of use. `false`: there was none, and it is
    /// given back.
    pub(super) fn hand(&self, endpoint: &Arc<Endpoint>) -> bool {
        let mut held = Held(Some(endpoint.clone()));
        loop {
            let first = {
                let mut line = self.line();
                let first = line.iter().position(|waiter| waiter.takes(endpoint)).and_then(|place| line.remove(place));
                self.length.store(line.len(), Ordering::SeqCst);
                first
            };
            let Some(first) = first else {
                if let Some(endpoint) = held.0.take() {
                    endpoint.vitals().end();
                }
                return false;
            };
            match first.place.send(held) {
                Ok(()) => return true,
                // They have just given up.
                Err(back) => held = back,
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn takes(&self, endpoint: &Endpoint) -> bool {
        self.tried.is_empty() || !self.tried.contains(endpoint.address())
    }
}

impl Ticket {
    /// Waits for a place at an endpoint.
    pub(super) async fn called(&mut self) -> Option<Arc<Endpoint>> {
        (&mut self.place).await.ok().and_then(|mut held| held.0.take())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        line.retain(|waiter| waiter.number != self.number);
        self.queue.length.store(line.len(), Ordering::SeqCst);
        drop(line);
        // Should a place be on its way, it is dropped with the receiver, and goes on.
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.take() {
            endpoint.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    #[test]
    fn the_narrower_limit_holds() {
        let capacity = |limits: &str, streams| capacity(&decoded(limits).unwrap(), streams);
        assert_eq!(capacity("{}", 1), None);
        assert_eq!(capacity("{requests: 7}", 1), Some(7));
        assert_eq!(capacity("{requests: 7, connections: 3}", 1), Some(3));
        assert_eq!(capacity("{requests: 7, connections: 3}", 100), Some(7));
        assert_eq!(capacity("{connections: 4294967295}", 100), Some(u32::MAX));
    }

    fn endpoint(queue: &Arc<Queue>, capacity: u32) -> Arc<Endpoint> {
        let endpoint = Arc::new(Endpoint::testing(1).with_gate(Gate::new(capacity, queue.clone())));
        endpoint.vitals().open_up();
        endpoint
    }

    #[tokio::test]
    async fn first_come_first_served() {
        let queue = Arc::<Queue>::default();
        let endpoint = endpoint(&queue, 1);
        assert!(endpoint.vitals().try_begin(1));
        let mut tickets = [queue.join(2, &[]).unwrap(), queue.join(2, &[]).unwrap()];
        assert!(queue.join(2, &[]).is_none() && queue.length() == 2);
        endpoint.leave();
        assert!(tickets[1].place.try_recv().is_err(), "it is not its turn");
        assert!(tickets[0].called().await.is_some());
        assert_eq!((queue.length(), endpoint.vitals().in_flight()), (1, 1));
        endpoint.leave();
        assert!(tickets[1].called().await.is_some());
        endpoint.leave();
        assert_eq!((queue.length(), endpoint.vitals().in_flight()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_gives_up_holds_up_nobody() {
        let queue = Arc::<Queue>::default();
        let endpoint = endpoint(&queue, 1);
        assert!(endpoint.vitals().try_begin(1));
        let (first, second, mut third) = (queue.join(9, &[]).unwrap(), queue.join(9, &[]).unwrap(), queue.join(9, &[]).unwrap());
        drop(second);
        endpoint.leave();
        // The place is on its way to the first, who is gone before it takes it.
        drop(first);
        assert!(third.called().await.is_some());
        drop(third);
        endpoint.leave();
        assert_eq!((queue.length(), endpoint.vitals().in_flight()), (0, 0));
    }

    #[tokio::test]
    async fn whom_an_endpoint_has_failed_it_does_not_call() {
        let queue = Arc::<Queue>::default();
        let endpoint = endpoint(&queue, 1);
        let failed = [endpoint.address().clone()];
        let mut first = queue.join(9, &failed).unwrap();
        assert!(endpoint.vitals().try_begin(1));
        endpoint.leave();
        assert!(first.place.try_recv().is_err(), "it has room, and is of no use");
        // Who comes behind is.
        let mut second = queue.join(9, &[]).unwrap();
        endpoint.call();
        assert!(second.called().await.is_some());
        endpoint.leave();
        assert_eq!(endpoint.vitals().in_flight(), 0);
        // Where there is no other, it is better than none.
        queue.relent(|_| true);
        endpoint.call();
        assert!(first.place.try_recv().is_err());
        queue.relent(|_| false);
        endpoint.call();
        assert!(first.called().await.is_some());
        endpoint.leave();
        assert_eq!((queue.length(), endpoint.vitals().in_flight()), (0, 0));
    }

    #[tokio::test]
    async fn a_place_at_an_endpoint_that_is_given_nothing_more_is_given_to_nobody() {
        let queue = Arc::<Queue>::default();
        let closed = Arc::new(Endpoint::testing(1).with_gate(Gate::new(1, queue.clone())));
        assert!(closed.vitals().try_begin(1));
        let mut ticket = queue.join(1, &[]).unwrap();
        closed.leave();
        assert!(ticket.place.try_recv().is_err());
        assert_eq!(closed.vitals().in_flight(), 0);
    }

    #[test]
    fn under_many_threads_no_place_is_lost_and_none_is_made() {
        let queue = Arc::<Queue>::default();
        let endpoint = endpoint(&queue, 2);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        runtime.block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for number in 0..400_u64 {
                let (queue, endpoint) = (queue.clone(), endpoint.clone());
                all.spawn(async move {
                    if queue.is_waiting() || !endpoint.vitals().try_begin(2) {
                        let mut ticket = queue.join(1_000, &[]).unwrap();
                        // As a request that has joined the line looks once more for room.
                        while queue.is_waiting() && endpoint.vitals().try_begin(2) && queue.hand(&endpoint) {}
                        let patience = Duration::from_micros(if number % 7 == 0 { 50 } else { 60_000_000 });
                        if tokio::time::timeout(patience, ticket.called()).await.is_err() {
                            return;
                        }
                    }
                    assert!(endpoint.vitals().in_flight() <= 2);
                    tokio::task::yield_now().await;
                    endpoint.leave();
                });
            }
            while let Some(ended) = all.join_next().await {
                ended.unwrap();
            }
        });
        assert_eq!((queue.length(), endpoint.vitals().in_flight()), (0, 0));
    }
}
