//! Descriptors are never all given to clients: connections to endpoints, the admin address, logs and reloads need some too.
//!
//! The system hands out the lowest number that is free. So the number of a new descriptor tells how many are in use, at least.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use rustix::process::{Resource, getrlimit};

/// What is left for others: an eighth of all, within these bounds.
const SPARE: std::ops::RangeInclusive<u64> = 8..=256;

/// How many descriptors clients may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptors {
    /// From this number on they are scarce.
    scarce: RawFd,
}

impl Descriptors {
    /// By the limit of this process as it is now.
    pub(super) fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::Nofile).current)
    }

    fn of(limit: Option<u64>) -> Self {
        let scarce = limit.map(|limit| limit - (limit / 8).clamp(*SPARE.start(), *SPARE.end()).min(limit));
        Self { scarce: scarce.and_then(|scarce| RawFd::try_from(scarce).ok()).unwrap_or(RawFd::MAX) }
    }

    /// Whether one that was just opened says so.
    pub(super) fn are_scarce_after(self, newest: RawFd) -> bool {
        newest >= self.scarce
    }

    /// Whether the next one would say so.
    pub(super) fn are_scarce(self) -> bool {
        File::open("/dev/null").map_or(true, |next| self.are_scarce_after(next.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_left_for_others() {
        let scarce = |limit| Descriptors::of(limit).scarce;
        assert_eq!((scarce(Some(1024)), scarce(Some(1_000_000))), (896, 999_744));
        assert_eq!((scarce(Some(32)), scarce(Some(4))), (24, 0));
        assert_eq!((scarce(None), scarce(Some(u64::MAX))), (RawFd::MAX, RawFd::MAX));
        assert!(Descriptors::of(Some(8)).are_scarce());
        assert!(!Descriptors::of_this_process().are_scarce());
    }
}
