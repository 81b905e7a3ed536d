//! The fewest requests in flight for its weight, of two choices.

use super::random::Shares;
use super::{Moment, two_choices};

pub(super) fn pick(shares: &Shares, moment: &impl Moment, accept: impl Fn(usize) -> bool) -> Option<usize> {
    let load = |requests: u32, place| requests as f32 / shares.relative(place);
    // With the request the other must be no busier than the first is without it: else heavy and light ones would take turns while
    // there is little to do.
    let better = |other, first| load(moment.in_flight(other).saturating_add(1), other) <= load(moment.in_flight(first), first);
    two_choices::pick(shares, || moment.chance(), accept, better)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scene;
    use super::*;

    #[test]
    fn the_less_busy_of_two_is_picked() {
        let (shares, scene) = (Shares::new(&[1, 1]), Scene::of(2));
        *scene.in_flight.borrow_mut() = vec![2, 1];
        assert!((0..50).all(|_| pick(&shares, &scene, |_| true) == Some(1)));
        *scene.in_flight.borrow_mut() = vec![2, 3];
        assert!((0..50).all(|_| pick(&shares, &scene, |_| true) == Some(0)));
    }

    #[test]
    fn a_weight_is_a_capacity() {
        let (shares, scene) = (Shares::new(&[1, 4]), Scene::of(2));
        *scene.in_flight.borrow_mut() = vec![1, 2];
        assert!((0..50).all(|_| pick(&shares, &scene, |_| true) == Some(1)));
    }

    #[test]
    fn one_that_hangs_gets_no_more() {
        let (shares, scene) = (Shares::new(&[1, 1, 1]), Scene::of(3));
        scene.in_flight.borrow_mut()[0] = 100;
        assert!((0..200).all(|_| pick(&shares, &scene, |_| true) != Some(0)));
    }
}
