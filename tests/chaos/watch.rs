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

/// By endpoint: how it stood, from time to time.
#[derive(Default)]
pub(crate) struct Seen(HashMap<String, Vec<Look>>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    /// Requests that it had been given.
    given: u64,
    /// Its probes or its requests speak against it.
    out: bool,
}

impl Watch {
    pub(crate) fn start(ravelin: &Arc<Ravelin>) -> Self {
        let (stop, ravelin) = (Arc::new(AtomicBool::new(false)), ravelin.clone());
        let stopped = stop.clone();
        let watching = thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopped.load(Ordering::Relaxed) {
                let (at, text) = (Instant::now(), metrics(&ravelin));
                let values = |name: &str| by_endpoint(&text, name);
                let (healthy, ejected) = (values("healthy"), values("ejected"));
                for (endpoint, given) in values("selections_total") {
                    let out = healthy.get(endpoint) == Some(&0) || ejected.get(endpoint) == Some(&1);
                    seen.0.entry(endpoint.to_owned()).or_default().push(Look { at, given, out });
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

fn by_endpoint<'a>(text: &'a str, name: &str) -> HashMap<&'a str, u64> {
    let prefix = format!("ravelin_endpoint_{name}{{");
    let values = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(&prefix)?.split_once("} ")?;
        Some((labels.split('"').nth(3)?, value.parse().ok()?))
    });
    values.collect()
}

impl Seen {
    /// Since `from`: after how long the endpoint was left out.
    pub(crate) fn left_out(&self, endpoint: &str, from: Instant) -> Option<Duration> {
        Some(self.0.get(endpoint)?.iter().find(|look| look.at > from && look.out)?.at - from)
    }

    /// Since `from`: after how long it is given requests again.
    pub(crate) fn returned(&self, endpoint: &str, from: Instant) -> Option<Duration> {
        let looks = self.0.get(endpoint)?;
        let before = looks.iter().rfind(|look| look.at <= from)?.given;
        Some(looks.iter().find(|look| look.at > from && look.given > before)?.at - from)
    }
}
