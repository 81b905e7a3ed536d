//! How long things took, in buckets.

use std::time::Duration;

use super::cells::{Count, Sharded};
use super::text::Text;

/// Upper bounds in microseconds: from a lookup in a cache on the same machine to a request that somebody has given up on. Each
/// is 2 to 2.5 times the one before, so that a quantile is never further off than that.
const BOUNDS: [u64; 14] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000, 60_000_000];
/// The same as label values, in seconds.
const LABELS: [&str; 14] =
    ["0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "10", "60"];

/// Durations, counted by bucket. Each thread adds to its own part.
#[derive(Default)]
pub(super) struct Buckets {
    /// Those that are no longer than the bound, and longer than the one before; the last is without one.
    counts: [Count; BOUNDS.len() + 1],
    /// In microseconds: enough for half a million years.
    sum: Count,
}

impl Buckets {
    pub(super) fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].add(1);
        self.sum.add(micros);
    }

    /// Writes the samples of a histogram: what all parts have together.
    pub(super) fn write<'a, T: Default + 'a>(
        parts: &Sharded<T>,
        of: impl Fn(&T) -> &Self,
        out: &mut Text<'_>,
        labels: &[(&str, &str)],
    ) {
        let mut total = 0;
        let mut bounds: Vec<(&str, &str)> = labels.to_vec();
        for (bucket, bound) in LABELS.into_iter().chain(["+Inf"]).enumerate() {
            total += parts.sum(|part| of(part).counts[bucket].get());
            bounds.push(("le", bound));
            out.part("_bucket", &bounds, total);
            bounds.pop();
        }
        let micros = parts.sum(|part| of(part).sum.get());
        out.part("_sum", labels, format_args!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
        out.part("_count", labels, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_the_bounds_in_seconds() {
        for (bound, label) in BOUNDS.iter().zip(LABELS) {
            let seconds: f64 = label.parse().unwrap();
            assert_eq!((seconds * 1e6).round() as u64, *bound);
        }
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let parts = Sharded::<Buckets>::new();
        for micros in [0, 500, 501, 60_000_000, 60_000_001] {
            parts.here().observe(Duration::from_micros(micros));
        }
        let mut text = String::new();
        let mut out = Text::new(&mut text);
        out.family("t_seconds", "histogram", "Time.");
        Buckets::write(&parts, |part| part, &mut out, &[("route", "a")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2], "t_seconds_bucket{route=\"a\",le=\"0.0005\"} 2");
        assert_eq!(lines[3], "t_seconds_bucket{route=\"a\",le=\"0.001\"} 3");
        assert_eq!(lines[15], "t_seconds_bucket{route=\"a\",le=\"60\"} 4");
        assert_eq!(lines[16], "t_seconds_bucket{route=\"a\",le=\"+Inf\"} 5");
        assert_eq!(lines[17], "t_seconds_sum{route=\"a\"} 120.001002");
        assert_eq!(lines[18], "t_seconds_count{route=\"a\"} 5");
    }
}
