//! What is counted by route.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::cells::{Count, Sharded};
use super::histogram::Buckets;
use super::status;
use super::text::Text;
use super::upstream::UpstreamMeter;

/// Stands for the route of a request that matched none, and for the upstream of one that went nowhere. No name is like it.
const NONE: &str = "-";

/// The numbers of a route; those of requests that found none are a route's too.
pub(crate) struct RouteMeter {
    name: Box<str>,
    durations: Sharded<Buckets>,
    mirrored: Sharded<Copies>,
    /// By upstream, the first without one. Grows when a filter diverts a request to an upstream for the first time.
    answers: ArcSwap<Vec<Arc<Answers>>>,
    growing: Mutex<()>,
}

/// The answers to requests that went to one upstream.
struct Answers {
    /// Not kept alive by its numbers here; `None`: requests that went to none.
    upstream: Option<Weak<UpstreamMeter>>,
    name: Box<str>,
    codes: Sharded<Codes>,
}

struct Codes([Count; status::SLOTS]);

impl Default for Codes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Count::default()))
    }
}

/// What became of the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mirrored {
    /// It went out, and was answered.
    Sent,
    /// It went out, or should have, and was not answered.
    Failed,
    /// There were as many as may be.
    Dropped,
    /// It can't be copied, or there is nobody to send it to.
    Skipped,
}

/// By what became of them.
#[derive(Default)]
struct Copies([Count; Mirrored::ALL.len()]);

impl Mirrored {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Sent, "sent"), (Self::Failed, "failed"), (Self::Dropped, "dropped"), (Self::Skipped, "skipped")];
}

impl RouteMeter {
    /// This became of a copy of one of its requests.
    pub(crate) fn mirrored(&self, outcome: Mirrored) {
        self.mirrored.here().0[outcome as usize].add(1);
    }

    pub(super) fn write_mirrored(&self, out: &mut Text<'_>) {
        for (outcome, word) in Mirrored::ALL {
            let count = self.mirrored.sum(|copies| copies.0[outcome as usize].get());
            if count > 0 {
                out.sample(&[("route", &self.name), ("result", word)], count);
            }
        }
    }

    pub(super) fn new(name: &str) -> Self {
        let nowhere = Answers { upstream: None, name: NONE.into(), codes: Sharded::new() };
        Self {
            name: name.into(),
            durations: Sharded::new(),
            mirrored: Sharded::new(),
            answers: ArcSwap::from_pointee(vec![Arc::new(nowhere)]),
            growing: Mutex::new(()),
        }
    }

    /// Of requests that match no route, or are none.
    pub(super) fn unrouted() -> Self {
        Self::new(NONE)
    }

    /// A request is over. `duration`: unless it was refused before it was one.
    pub(super) fn finished(&self, upstream: Option<&Arc<UpstreamMeter>>, status: Option<u16>, duration: Option<Duration>) {
        let slot = status::slot(status);
        let answers = self.answers.load();
        match answers.iter().find(|answers| answers.is_of(upstream)) {
            Some(answers) => answers.codes.here().0[slot].add(1),
            None => self.grow(upstream).codes.here().0[slot].add(1),
        }
        if let Some(duration) = duration {
            self.durations.here().observe(duration);
        }
    }

    /// Makes room for an upstream, and gives up that of upstreams which are gone.
    fn grow(&self, upstream: Option<&Arc<UpstreamMeter>>) -> Arc<Answers> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.answers.load();
        if let Some(found) = now.iter().find(|answers| answers.is_of(upstream)) {
            return found.clone();
        }
        let name = upstream.map_or(NONE, |upstream| upstream.name());
        let made = Arc::new(Answers { upstream: upstream.map(Arc::downgrade), name: name.into(), codes: Sharded::new() });
        let mut grown: Vec<Arc<Answers>> = now.iter().filter(|answers| answers.is_alive()).cloned().collect();
        grown.push(made.clone());
        self.answers.store(Arc::new(grown));
        made
    }

    pub(super) fn write_requests(&self, out: &mut Text<'_>) {
        let answers = self.answers.load();
        let mut alive: Vec<&Arc<Answers>> = answers.iter().filter(|answers| answers.is_alive()).collect();
        alive.sort_by(|one, other| one.name.cmp(&other.name));
        for answers in alive {
            for slot in 0..status::SLOTS {
                let count = answers.codes.sum(|codes| codes.0[slot].get());
                if count > 0 {
                    let code = status::label(slot);
                    out.sample(&[("route", &self.name), ("upstream", &answers.name), ("code", &code)], count);
                }
            }
        }
    }

    pub(super) fn write_durations(&self, out: &mut Text<'_>) {
        Buckets::write(&self.durations, |durations| durations, out, &[("route", &self.name)]);
    }
}

impl Answers {
    fn is_of(&self, upstream: Option<&Arc<UpstreamMeter>>) -> bool {
        match (&self.upstream, upstream) {
            (None, None) => true,
            // Memory that a weak reference points to is not given to anybody else.
            (Some(own), Some(other)) => std::ptr::eq(own.as_ptr(), Arc::as_ptr(other)),
            _ => false,
        }
    }

    fn is_alive(&self) -> bool {
        self.upstream.as_ref().is_none_or(|upstream| upstream.strong_count() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(route: &RouteMeter) -> String {
        let mut text = String::new();
        let mut out = Text::new(&mut text);
        out.family("r", "counter", "R.");
        route.write_requests(&mut out);
        text.lines().skip(2).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn requests_are_counted_by_upstream_and_status() {
        let route = RouteMeter::new("a");
        let (one, two) = (Arc::new(UpstreamMeter::new("one")), Arc::new(UpstreamMeter::new("two")));
        route.finished(None, Some(404), None);
        route.finished(Some(&two), Some(200), None);
        route.finished(Some(&one), Some(200), None);
        route.finished(Some(&one), Some(299), None);
        route.finished(Some(&one), None, None);
        route.finished(Some(&one), Some(200), None);
        let expected = "r{route=\"a\",upstream=\"-\",code=\"404\"} 1\n\
                        r{route=\"a\",upstream=\"one\",code=\"200\"} 2\n\
                        r{route=\"a\",upstream=\"one\",code=\"2xx\"} 1\n\
                        r{route=\"a\",upstream=\"one\",code=\"none\"} 1\n\
                        r{route=\"a\",upstream=\"two\",code=\"200\"} 1";
        assert_eq!(requests(&route), expected);
    }

    #[test]
    fn an_upstream_that_is_gone_is_forgotten() {
        let route = RouteMeter::new("a");
        for _ in 0..100 {
            route.finished(Some(&Arc::new(UpstreamMeter::new("one"))), Some(200), None);
        }
        assert_eq!(requests(&route), "");
        assert!(route.answers.load().len() <= 2);
    }

    #[test]
    fn threads_that_see_an_upstream_first_lose_nothing() {
        let route = RouteMeter::new("a");
        let one = Arc::new(UpstreamMeter::new("one"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| route.finished(Some(&one), Some(200), None)));
            }
        });
        assert_eq!(requests(&route), "r{route=\"a\",upstream=\"one\",code=\"200\"} 400");
    }
}
