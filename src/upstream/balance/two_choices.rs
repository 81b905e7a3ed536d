//! The power of two choices: of two places drawn by weight, the better one.
//!
//! Two that are drawn at random come close to the best of all (Mitzenmacher, 2001), without looking at all; and many proxies that
//! each know only their own requests do not all run to the same one.

use super::random::Shares;

/// Of two accepted places the one that was drawn first, so that shares follow weights, unless the second is `better` than it.
pub(super) fn pick(
    shares: &Shares,
    chance: impl Fn() -> u64,
    accept: impl Fn(usize) -> bool,
    better: impl Fn(usize, usize) -> bool,
) -> Option<usize> {
    let first = shares.pick(chance(), &accept)?;
    let Some(second) = shares.pick_other(chance(), first, accept) else { return Some(first) };
    Some(if better(second, first) { second } else { first })
}
