//! When endpoints are given requests, by Ravelin's own count.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{Ravelin, metrics};

/// How often it looks.
const STEP: Duration = Duration::from_millis(20);

/// Looks until it is asked what it saw.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Seen>,
}

/// By endpoint: how many requests it had been given, from time to time.
#[derive(Default)]
pub(crate) struct Seen(HashMap<String, Vec<(Instant, u64)>>);

impl Watch {
    pub(crate) fn start(ravelin: &Arc<Ravelin>) -> Self {
        let (stop, ravelin) = (Arc::new(AtomicBool::new(false)), ravelin.clone());
        let stopped = stop.clone();
        let watching = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                let (now, text) = (Instant::now(), metrics(&ravelin));
                for line in text.lines().filter_map(|line| line.strip_prefix("ravelin_endpoint_selections_total{")) {
                    let Some((labels, count)) = line.split_once("} ") else { continue };
                    let Some(endpoint) = labels.split('"').nth(3) else { continue };
                    seen.0.entry(endpoint.to_owned()).or_default().push((now, count.parse().unwrap()));
                }
                thread::sleep(STEP);
            }
            seen
        });
        Self { stop, watching }
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.watching.join().unwrap()
    }
}

impl Seen {
    /// Since `from`: after how long the endpoint was given nothing for a while, up to `until`.
    pub(crate) fn left_out(&self, endpoint: &str, from: Instant, until: Instant, quiet: Duration) -> Option<Duration> {
        let counts = self.0.get(endpoint)?;
        let mut last = counts.iter().rfind(|(at, _)| *at <= from).copied().or_else(|| counts.first().copied())?;
        for &(at, count) in counts.iter().filter(|(at, _)| *at > from && *at <= until) {
            if count > last.1 {
                last = (at, count);
            } else if at - last.0.max(from) >= quiet {
                return Some(last.0.saturating_duration_since(from));
            }
        }
        None
    }

    /// Since `from`: after how long it is given requests again.
    pub(crate) fn returned(&self, endpoint: &str, from: Instant) -> Option<Duration> {
        let counts = self.0.get(endpoint)?;
        let before = counts.iter().rfind(|(at, _)| *at <= from)?.1;
        counts.iter().find(|(at, count)| *at > from && *count > before).map(|(at, _)| *at - from)
    }
}
