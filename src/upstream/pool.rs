//! Connections to an endpoint that wait for their next request.
//!
//! Each thread keeps its own, and takes another's only where it has none: requests of different threads don't meet here. That an
//! endpoint has closed one is known without asking the system, since the runtime is told of it: a read that has nothing to read is
//! pending. They belong to an endpoint's identity, and close with it.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};

use super::wire::Wire;
use crate::observe::shard;

/// More than there are threads that serve, so that hardly two of these have one in common, whatever other threads there are.
fn shards() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    (threads * 8).min(64)
}

/// How many connections may wait in all (`upstream_keepalive_pool_size`), a share for each thread that serves.
pub(crate) struct Room(Box<[Arc<Share>]>);

/// No two have a cache line in common.
#[repr(align(128))]
struct Share {
    left: AtomicUsize,
}

/// A place for a connection that waits.
struct Place(Arc<Share>);

/// Those of an endpoint.
pub(super) struct Pool(Box<[Shard]>);

#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Vec<Idle>>);

struct Idle {
    wire: Wire,
    /// Of the settings with which it was opened.
    key: u64,
    until: Option<Instant>,
    _place: Place,
}

impl Room {
    pub(crate) fn new(size: usize, threads: usize) -> Self {
        let share = size.div_ceil(threads.max(1));
        Self((0..shards()).map(|_| Arc::new(Share { left: AtomicUsize::new(share) })).collect())
    }

    fn enter(&self) -> Option<Place> {
        let share = &self.0[shard() % self.0.len()];
        let taken = share.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        taken.is_ok().then(|| Place(share.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new() -> Self {
        Self((0..shards()).map(|_| Shard::default()).collect())
    }

    /// One that was opened with these settings, and that the endpoint has not closed.
    pub(super) fn take(&self, key: u64, now: Instant) -> Option<Wire> {
        let own = shard() % self.0.len();
        let from = |shard: &mut Vec<Idle>| {
            while let Some(mut idle) = shard.pop() {
                if idle.key == key && idle.is_fresh(now) {
                    return Some(idle.wire);
                }
            }
            None
        };
        if let Some(wire) = from(&mut self.0[own].lock()) {
            return Some(wire);
        }
        (1..self.0.len()).find_map(|next| from(&mut *self.0[(own + next) % self.0.len()].try_lock()?))
    }

    /// Keeps one for a next request, if there is room.
    pub(super) fn put(&self, wire: Wire, key: u64, limit: Option<Duration>, now: Instant, room: &Room) {
        if let Some(place) = room.enter() {
            let idle = Idle { wire, key, until: limit.map(|limit| now + limit), _place: place };
            self.0[shard() % self.0.len()].lock().push(idle);
        }
    }

    /// Closes what has waited too long, and what the endpoint has closed.
    pub(super) fn sweep(&self, now: Instant) {
        for shard in &self.0 {
            let gone: Vec<Idle> = shard.lock().extract_if(.., |idle| !idle.is_fresh(now)).collect();
            // Closing takes its time, and nobody has to wait for it.
            drop(gone);
        }
    }
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Vec<Idle>>> {
        match self.0.try_lock() {
            Ok(shard) => Some(shard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Idle {
    /// An endpoint that says something now says nothing that anybody asked for.
    fn is_fresh(&mut self, now: Instant) -> bool {
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        self.until.is_none_or(|until| now < until)
            && Pin::new(&mut self.wire).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Wire::Tcp(near), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_by_those_with_the_same_settings() {
        let (pool, room, now) = (Pool::new(), Room::new(8, 1), Instant::now());
        let (near, _far) = pair().await;
        pool.put(near, 1, Some(LIMIT), now, &room);
        let taken = pool.take(1, now).unwrap();
        assert!(pool.take(1, now).is_none());
        pool.put(taken, 1, Some(LIMIT), now, &room);
        assert!(pool.take(2, now).is_none());
        assert!(pool.take(1, now).is_none(), "one of other settings is closed");
    }

    #[tokio::test]
    async fn what_is_closed_or_speaks_unasked_is_not_used() {
        let (pool, room, now) = (Pool::new(), Room::new(8, 1), Instant::now());
        for speaks in [false, true] {
            let (near, far) = pair().await;
            pool.put(near, 1, None, now, &room);
            if speaks {
                far.try_write(b"x").unwrap();
            } else {
                drop(far);
            }
            // The runtime learns of it.
            let mut ended = false;
            for _ in 0..1000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                pool.sweep(now);
                ended = pool.0.iter().all(|shard| shard.lock().is_empty());
                if ended {
                    break;
                }
            }
            assert!(ended && pool.take(1, now).is_none());
        }
    }

    #[tokio::test]
    async fn waiting_and_room_have_an_end() {
        let (pool, room, now) = (Pool::new(), Room::new(1, 1), Instant::now());
        let (one, _far) = pair().await;
        let (other, mut closed) = pair().await;
        pool.put(one, 1, Some(LIMIT), now, &room);
        pool.put(other, 1, Some(LIMIT), now, &room);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut closed, &mut [0]).await.unwrap(), 0);
        pool.sweep(now + LIMIT / 2);
        assert!(pool.take(1, now + LIMIT).is_none());
        let (again, _far) = pair().await;
        pool.put(again, 1, Some(LIMIT), now, &room);
        pool.sweep(now + LIMIT);
        assert!(pool.take(1, now).is_none());
        assert_eq!(room.0[0].left.load(Ordering::Relaxed), 1);
    }
}
