//! Connections to an endpoint that wait for their next request.
//!
//! Each thread keeps its own, and takes another's only where it has none: requests of different threads don't meet here, and none waits for a
//! lock. That an endpoint has closed one is known without asking the system, since the runtime is told of it: a read that has nothing to
//! read is pending. They belong to an endpoint's identity, and close with it.

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
    of: Use,
    until: Option<Instant>,
    _place: Place,
}

/// Which connections may be used for each other's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Use {
    /// Those with which it was opened: when a reload has changed them, nobody wants it any more.
    pub(super) settings: u64,
    /// Whom its endpoint was told that it is for; 0: nobody.
    pub(super) parties: u64,
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

    /// One for this use that the endpoint has not closed.
    pub(super) fn take(&self, of: Use, now: Instant) -> Option<Wire> {
        let own = shard() % self.0.len();
        // Those that came last are the warmest.
        let from = |shard: &mut Vec<Idle>| {
            for at in (0..shard.len()).rev() {
                if shard[at].of.settings == of.settings && shard[at].of.parties != of.parties {
                    continue;
                }
                let mut idle = shard.swap_remove(at);
                if idle.of == of && idle.is_fresh(now) {
                    return Some(idle.wire);
                }
            }
            None
        };
        self.0[own..].iter().chain(&self.0[..own]).find_map(|shard| from(&mut *shard.try_lock()?))
    }

    /// Keeps one for a next request, if there is room; else in the place of one that has waited longer.
    pub(super) fn put(&self, wire: Wire, of: Use, limit: Option<Duration>, now: Instant, room: &Room) {
        let until = limit.map(|limit| now + limit);
        let own = shard() % self.0.len();
        // Its own shard, as long as nobody looks into it.
        let Some(mut own) = self.0[own..].iter().chain(&self.0[..own]).find_map(Shard::try_lock) else { return };
        match room.enter() {
            Some(place) => own.push(Idle { wire, of, until, _place: place }),
            None if own.is_empty() => {}
            None => {
                let Idle { wire: old, _place: place, .. } = own.remove(0);
                own.push(Idle { wire, of, until, _place: place });
                drop(own);
                drop(old);
            }
        }
    }

    /// Closes those that were opened with other settings than these.
    pub(super) fn keep_only(&self, settings: u64) {
        for shard in &self.0 {
            let gone: Vec<Idle> = shard.lock().extract_if(.., |idle| idle.of.settings != settings).collect();
            drop(gone);
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

    const ANY: Use = Use { settings: 1, parties: 0 };
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
        pool.put(near, ANY, Some(LIMIT), now, &room);
        let taken = pool.take(ANY, now).unwrap();
        assert!(pool.take(ANY, now).is_none());
        pool.put(taken, ANY, Some(LIMIT), now, &room);
        assert!(pool.take(Use { settings: 2, parties: 0 }, now).is_none());
        assert!(pool.take(ANY, now).is_none(), "one of other settings is closed");
    }

    #[tokio::test]
    async fn a_client_s_connection_is_nobody_else_s_and_waits_for_its_client() {
        let (pool, room, now) = (Pool::new(), Room::new(8, 1), Instant::now());
        let of = |parties| Use { settings: 1, parties };
        let mut far = Vec::new();
        for parties in 1..4 {
            let (near, other) = pair().await;
            far.push((near.descriptor(), other));
            pool.put(near, of(parties), Some(LIMIT), now, &room);
        }
        assert!(pool.take(of(4), now).is_none());
        for (place, parties) in [(1, 2), (2, 3), (0, 1)] {
            let taken = pool.take(of(parties), now).unwrap();
            assert_eq!(taken.descriptor(), far[place].0);
        }
    }

    #[tokio::test]
    async fn a_thread_that_has_none_takes_another_s() {
        let (pool, room, now) = (Arc::new(Pool::new()), Room::new(8, 1), Instant::now());
        let (near, _far) = pair().await;
        pool.put(near, ANY, None, now, &room);
        let there = pool.clone();
        let taken = std::thread::spawn(move || (shard(), there.take(ANY, now).is_some())).join().unwrap();
        assert!(taken.0 != shard() && taken.1 && pool.take(ANY, now).is_none());
    }

    #[tokio::test]
    async fn other_settings_leave_nothing_behind() {
        let (pool, room, now) = (Pool::new(), Room::new(8, 1), Instant::now());
        let (near, mut far) = pair().await;
        pool.put(near, ANY, None, now, &room);
        pool.keep_only(ANY.settings);
        assert!(far.try_write(b"").is_ok() && pool.0.iter().any(|shard| !shard.lock().is_empty()));
        pool.keep_only(2);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut far, &mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_closed_or_speaks_unasked_is_not_used() {
        let (pool, room, now) = (Pool::new(), Room::new(8, 1), Instant::now());
        for speaks in [false, true] {
            let (near, far) = pair().await;
            pool.put(near, ANY, None, now, &room);
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
            assert!(ended && pool.take(ANY, now).is_none());
        }
    }

    #[tokio::test]
    async fn waiting_and_room_have_an_end() {
        let (pool, room, now) = (Pool::new(), Room::new(1, 1), Instant::now());
        let (one, mut closed) = pair().await;
        let (other, _far) = pair().await;
        pool.put(one, ANY, Some(LIMIT), now, &room);
        pool.put(other, ANY, Some(LIMIT), now, &room);
        assert_eq!(tokio::io::AsyncReadExt::read(&mut closed, &mut [0]).await.unwrap(), 0);
        pool.sweep(now + LIMIT / 2);
        assert!(pool.take(ANY, now + LIMIT).is_none());
        let (again, _far) = pair().await;
        pool.put(again, ANY, Some(LIMIT), now, &room);
        pool.sweep(now + LIMIT);
        assert!(pool.take(ANY, now).is_none());
        assert_eq!(room.0[0].left.load(Ordering::Relaxed), 1);
    }
}
