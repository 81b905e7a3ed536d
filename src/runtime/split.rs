//! Requests shared out among upstreams, by weight; a client may be kept on its side.

use std::sync::Arc;

use crate::types::Token;
use crate::upstream::Upstream;

/// The sides, and how they are told apart.
pub(crate) struct Split {
    sides: Box<[Side]>,
    /// Of all weights; not zero.
    total: u64,
    pub(crate) cookie: Option<Token>,
}

/// One side.
pub(crate) struct Side {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) weight: u32,
}

impl Split {
    /// Some weight must be above zero, which the configuration has seen to.
    pub(super) fn new(sides: Vec<Side>, cookie: Option<Token>) -> Self {
        let total = sides.iter().map(|side| u64::from(side.weight)).sum();
        Self { sides: sides.into(), total, cookie }
    }

    /// The side of a request: by a number below [`Split::total`].
    pub(crate) fn draw(&self, number: u64) -> Option<&Side> {
        drawn(self.sides.iter().map(|side| side.weight), number).map(|index| &self.sides[index])
    }

    pub(crate) fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// The bound of the numbers by which sides are drawn.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The side that a cookie names. One whose weight is zero keeps those that are on it.
    pub(crate) fn named(&self, name: &str) -> Option<&Side> {
        self.sides.iter().find(|side| side.upstream.name() == name)
    }
}

fn drawn(weights: impl Iterator<Item = u32>, mut number: u64) -> Option<usize> {
    for (index, weight) in weights.enumerate() {
        match number.checked_sub(weight.into()) {
            None => return Some(index),
            Some(left) => number = left,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_share_of_the_numbers() {
        let sides: Vec<_> = (0..6).map(|number| drawn([0, 3, 0, 1, 2].into_iter(), number)).collect();
        assert_eq!(sides, [Some(1), Some(1), Some(1), Some(3), Some(4), Some(4)]);
        assert_eq!(drawn([3, 1].into_iter(), 4), None);
        assert_eq!(drawn([u32::MAX, u32::MAX].into_iter(), u64::from(u32::MAX)), Some(1));
    }
}
