//! Balancing algorithms, one file each: in which order endpoints are offered to a request.
//!
//! They plug into Pingora's `LoadBalancer` as `BackendSelection`; health and earlier tries are the caller's filter.

mod random;
mod round_robin;

pub(super) use self::random::Random;
pub(super) use self::round_robin::SmoothRoundRobin;

/// No selection walks further than this: the longest schedule plus every endpoint.
pub(super) const MAX_STEPS: usize = 1 << 17;
