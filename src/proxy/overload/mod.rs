//! How many requests are in flight, and who is turned away when that is too many. Nobody waits: a queue would only make every answer late.
//!
//! A request costs an atomic addition and a subtraction, of numbers that only its thread touches as long as the limit is far (`room`). An
//! adaptive limit is counted in one place, and costs two additions more at a request's end.

mod gradient;
mod room;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use self::gradient::{Gradient, Window};
pub(crate) use self::room::Admitted;
use self::room::Room;
use crate::config::{Overload, Priority};

/// How often an adaptive limit is thought over.
const WINDOW: Duration = Duration::from_millis(100);
/// With fewer answers than this a window says nothing, and goes on.
const LEAST: u64 = 16;

/// What is in flight in this process.
pub(crate) struct Load {
    room: Room,
    /// The most that were in flight in this window.
    peak: AtomicU64,
    /// Answers of endpoints in this window, and what they took in microseconds.
    answers: AtomicU64,
    micros: AtomicU64,
    /// What an adaptive limit is now.
    limit: AtomicU64,
    adapting: Mutex<Adapting>,
}

struct Adapting {
    gradient: Gradient,
    began: Instant,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self {
            room: Room::new(),
            peak: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            adapting: Mutex::new(Adapting { gradient: Gradient::new(), began: Instant::now() }),
        }
    }

    /// Lets a request in, unless there are too many for its kind.
    pub(crate) fn enter(&self, settings: &Overload, priority: Priority) -> Option<Admitted> {
        let Some(fixed) = settings.limit().map(u64::from) else { return self.room.enter(u64::MAX, u64::MAX).ok() };
        if !settings.adaptive {
            return self.room.enter(share(fixed, priority), fixed).ok();
        }
        let limit = fixed.min(self.limit.load(Ordering::Relaxed));
        // Counted one by one, since the most in flight is what the limit follows.
        let entered = self.room.enter(share(limit, priority), 0);
        let (Ok(count) | Err(count)) = entered.as_ref().map_or_else(|full| Err(*full), |admitted| Ok(admitted.count));
        self.peak.fetch_max(count, Ordering::Relaxed);
        entered.ok()
    }

    /// An endpoint has answered after this time.
    pub(crate) fn answered(&self, settings: &Overload, took: Duration, now: Instant) {
        let Some(most) = settings.limit().filter(|_| settings.adaptive) else { return };
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.answers.fetch_add(1, Ordering::Relaxed) + 1 < LEAST {
            return;
        }
        let mut adapting = match self.adapting.try_lock() {
            Ok(adapting) => adapting,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody else thinks it over.
            Err(TryLockError::WouldBlock) => return,
        };
        if now.saturating_duration_since(adapting.began) < WINDOW {
            return;
        }
        adapting.began = now;
        let window = Window {
            answers: self.answers.swap(0, Ordering::Relaxed),
            micros: self.micros.swap(0, Ordering::Relaxed),
            peak: self.peak.swap(0, Ordering::Relaxed),
        };
        self.limit.store(adapting.gradient.after(&window, u64::from(most)), Ordering::Relaxed);
    }
}

/// How much of the limit a priority may fill: what is above it is left to those who are more important.
fn share(limit: u64, priority: Priority) -> u64 {
    let tenths = match priority {
        Priority::Critical => 10,
        Priority::Normal => 9,
        Priority::Sheddable => 8,
    };
    limit.saturating_mul(tenths).div_ceil(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::decoded;

    fn admitted(load: &Load, settings: &Overload, priority: Priority) -> Vec<Admitted> {
        std::iter::from_fn(|| load.enter(settings, priority)).take(1000).collect()
    }

    #[test]
    fn the_less_important_go_first() {
        let settings: Overload = decoded("{requests: 100}").unwrap();
        let load = Load::new();
        let shed = admitted(&load, &settings, Priority::Sheddable);
        let normal = admitted(&load, &settings, Priority::Normal);
        let critical = admitted(&load, &settings, Priority::Critical);
        assert_eq!((shed.len(), normal.len(), critical.len()), (80, 10, 10));
        drop(critical);
        assert!(load.enter(&settings, Priority::Normal).is_none());
        assert!(load.enter(&settings, Priority::Critical).is_some());
        drop((shed, normal));
        assert_eq!(load.room.in_flight(), 0);
    }

    #[test]
    fn one_is_enough_for_everybody() {
        let settings: Overload = decoded("{requests: 1}").unwrap();
        for priority in [Priority::Critical, Priority::Normal, Priority::Sheddable] {
            assert_eq!(admitted(&Load::new(), &settings, priority).len(), 1);
        }
    }

    #[test]
    fn without_a_limit_nobody_is_turned_away() {
        let settings: Overload = decoded("{requests: none, adaptive: true}").unwrap();
        assert_eq!(admitted(&Load::new(), &settings, Priority::Sheddable).len(), 1000);
    }

    #[test]
    fn an_adaptive_limit_follows_what_endpoints_take() {
        let settings: Overload = decoded("{requests: 1000, adaptive: true}").unwrap();
        let load = Load::new();
        let (start, mut window) = (Instant::now(), 0);
        let mut windows = |count: u32, took: Duration| {
            for _ in 0..count {
                window += 1;
                drop(admitted(&load, &settings, Priority::Normal));
                for _ in 0..LEAST + 1 {
                    load.answered(&settings, took, start + window * WINDOW);
                }
            }
            load.limit.load(Ordering::Relaxed)
        };
        assert_eq!(windows(20, Duration::from_millis(10)), 1000);
        let low = windows(20, Duration::from_millis(200));
        assert!(low < 300, "{low}");
        assert!(windows(200, Duration::from_millis(10)) > 2 * low);
    }
}
