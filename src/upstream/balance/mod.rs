//! Balancing algorithms, one file each: in which order endpoints are offered to a request.
//!
//! They are pure: an endpoint is its place in the upstream's table, a turn and a chance are arguments, and whom this request may
//! not have is the caller's to say. What can be computed of them is computed once per table, so that a pick neither allocates
//! nor locks. An endpoint of weight 0 is never picked: so the table takes out those that are not healthy.

mod random;
mod round_robin;

use self::random::Shares;
use self::round_robin::Turns;
use crate::config::Balance;

/// The order of an upstream's endpoints, for one set of weights.
pub(super) enum Order {
    RoundRobin(Turns),
    Random(Shares),
}

impl Order {
    pub(super) fn new(balance: Balance, weights: &[u32]) -> Self {
        match balance {
            Balance::RoundRobin => Self::RoundRobin(Turns::new(weights)),
            Balance::Random => Self::Random(Shares::new(weights)),
        }
    }

    /// The first place in this order that is accepted. `turn` counts picks, `chance` is 64 random bits: each is asked for only by
    /// an algorithm that needs it.
    pub(super) fn pick(
        &self,
        turn: impl FnOnce() -> usize,
        chance: impl FnOnce() -> u64,
        accept: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(turns) => turns.pick(turn(), accept),
            Self::Random(shares) => shares.pick(chance(), accept),
        }
    }
}
