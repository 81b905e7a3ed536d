//! How long a retry waits: a random time up to a bound that doubles ("full jitter"), so that requests which failed together do not
//! come back together.

use std::time::Duration;

use crate::config;

#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(settings: &config::Backoff) -> Self {
        Self { base: settings.base.get(), max: settings.max.get() }
    }

    /// Before the retry of this number, from 1 on. `chance`: any number, at random.
    pub(super) fn wait(&self, retry: u32, chance: u64) -> Duration {
        let bound = self.base.saturating_mul(1 << retry.saturating_sub(1).min(20)).min(self.max);
        let nanos = u128::from(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX));
        Duration::from_nanos(((nanos * u128::from(chance)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backoff(base: u64, max: u64) -> Backoff {
        Backoff { base: Duration::from_millis(base), max: Duration::from_millis(max) }
    }

    #[test]
    fn the_bound_doubles_up_to_the_maximum() {
        let backoff = backoff(25, 250);
        let longest: Vec<u128> = (1..=6).map(|retry| backoff.wait(retry, u64::MAX).as_micros()).collect();
        assert_eq!(longest, [24_999, 49_999, 99_999, 199_999, 249_999, 249_999]);
        assert_eq!(backoff.wait(3, u64::MAX / 2).as_micros(), 49_999);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_maximum(base in 0_u64..1 << 40, max in 0_u64..1 << 40, retry in any::<u32>(), chance in any::<u64>()) {
            let backoff = backoff(base, max);
            prop_assert!(backoff.wait(retry, chance) <= backoff.max);
            prop_assert!(backoff.wait(retry, 0).is_zero());
        }
    }
}
