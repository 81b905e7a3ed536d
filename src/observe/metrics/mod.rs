//! What is counted, in numbers: the registry, and what it shows as Prometheus text.
//!
//! Requests never look a name up here. A route, an upstream, an endpoint and a listener hold their numbers from the moment they
//! are built (`identity`), and change them without locks, each thread its own (`cells`). Label values are names of the
//! configuration, addresses of endpoints, registered statuses (`status`) and words of the program (`words`): nothing that a
//! client says becomes a time series.
//!
//! Own code, since the `prometheus` crate would cost what a request must not: one cache line that all threads write, a locked map
//! for labels, and series that outlive their names.

mod acme;
mod cells;
mod histogram;
mod identity;
mod listener;
mod process;
mod route;
mod status;
mod tasks;
mod text;
mod upstream;
mod words;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

pub(crate) use self::acme::AcmeMeter;
pub(crate) use self::cells::shard;
pub(crate) use self::listener::{ListenerMeter, Pause};
pub(crate) use self::route::{Mirrored, RouteMeter};
pub(crate) use self::tasks::count_tasks_here;
pub(crate) use self::text::{CONTENT_TYPE, Text};
pub(crate) use self::upstream::{EndpointMeter, HEDGE, REASONS, UpstreamMeter};

use self::cells::{Count, Sharded};
use self::identity::Identities;
use self::words::Words;
use crate::observe::Event;

/// The numbers of this process.
pub(crate) fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// All numbers, of whatever lives now and of the process as a whole.
pub(crate) struct Metrics {
    routes: Identities<RouteMeter>,
    upstreams: Identities<UpstreamMeter>,
    listeners: Identities<ListenerMeter>,
    acme: Identities<AcmeMeter>,
    /// Requests without a route.
    unrouted: RouteMeter,
    in_flight: Sharded<Count>,
    /// By party and reason.
    failures: Words,
    /// By filter.
    panics: Words,
    /// Wherever they were.
    all_panics: Count,
    /// Which configuration is in force: the first is 1.
    generation: AtomicU64,
    reload_failures: Count,
    last_reload_failed: AtomicBool,
    snapshots: Count,
    certificates_refused: Count,
    log_lines_lost: Count,
}

/// A request that has begun, for as long as it lives.
pub(crate) struct InFlight(&'static Metrics);

/// A snapshot of a configuration, for as long as it lives.
pub(crate) struct LiveSnapshot(&'static Metrics);

impl Metrics {
    fn new() -> Self {
        Self {
            routes: Identities::new(),
            upstreams: Identities::new(),
            listeners: Identities::new(),
            acme: Identities::new(),
            unrouted: RouteMeter::unrouted(),
            in_flight: Sharded::new(),
            failures: Words::new(256),
            panics: Words::new(256),
            all_panics: Count::default(),
            generation: AtomicU64::new(1),
            reload_failures: Count::default(),
            last_reload_failed: AtomicBool::new(false),
            snapshots: Count::default(),
            certificates_refused: Count::default(),
            log_lines_lost: Count::default(),
        }
    }

    /// The numbers of the route of this name.
    pub(crate) fn route(&self, name: &str) -> Arc<RouteMeter> {
        self.routes.of(name, || RouteMeter::new(name))
    }

    /// The numbers of the upstream of this name.
    pub(crate) fn upstream(&self, name: &str) -> Arc<UpstreamMeter> {
        self.upstreams.of(name, || UpstreamMeter::new(name))
    }

    /// The numbers of the listener of this name.
    pub(crate) fn listener(&self, name: &str) -> Arc<ListenerMeter> {
        self.listeners.of(name, || ListenerMeter::new(name))
    }

    /// The numbers of the obtained certificate whose first name this is.
    pub(crate) fn acme(&self, name: &str) -> Arc<AcmeMeter> {
        self.acme.of(name, || AcmeMeter::new(name))
    }

    /// A request has come.
    pub(crate) fn began(&'static self) -> InFlight {
        self.in_flight.here().add(1);
        InFlight(self)
    }

    /// A request is over, or was refused before it was one. `route` and `upstream` are those that the event names.
    pub(crate) fn record(&self, event: &Event<'_>, route: Option<&RouteMeter>, upstream: Option<&Arc<UpstreamMeter>>) {
        route.unwrap_or(&self.unrouted).finished(upstream, event.status, event.duration);
        if let Some(upstream) = upstream {
            upstream.finished(event.timing.response);
        }
        if let Some(failure) = event.failure {
            self.failures.add((failure.party, failure.reason));
        }
    }

    /// How many requests have begun and are not over: those are not recorded yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.sum(Count::get)
    }

    /// A filter panicked, and was contained. Says how often that has happened, of all filters.
    pub(crate) fn filter_panicked(&self, filter: &'static str) -> u64 {
        self.panics.add((filter, ""));
        self.panics.all().iter().map(|(_, count)| count).sum()
    }

    /// Something panicked, be it a filter or not.
    pub(crate) fn panicked(&self) {
        self.all_panics.add(1);
    }

    /// Another configuration is in force.
    pub(crate) fn reloaded(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.last_reload_failed.store(false, Ordering::Relaxed);
    }

    /// A configuration was refused, and the old one stays in force.
    pub(crate) fn reload_failed(&self) {
        self.reload_failures.add(1);
        self.last_reload_failed.store(true, Ordering::Relaxed);
    }

    /// The files of a certificate have changed, and what is in them can't be served.
    pub(crate) fn certificate_refused(&self) {
        self.certificates_refused.add(1);
    }

    /// A snapshot was made.
    pub(crate) fn snapshot(&'static self) -> LiveSnapshot {
        self.snapshots.add(1);
        LiveSnapshot(self)
    }

    /// How many snapshots there are.
    pub(crate) fn live_snapshots(&self) -> u64 {
        self.snapshots.get()
    }

    /// Lines of a log could not be written.
    pub(crate) fn log_lines_lost(&self, lines: u64) {
        self.log_lines_lost.add(lines);
    }

    /// Writes all of it.
    pub(crate) fn write(&self, out: &mut Text<'_>) {
        self.write_requests(out);
        self.write_upstreams(out);
        self.write_connections(out);
        self.write_acme(out);
        self.write_configuration(out);
        out.single(
            "ravelin_log_lines_lost_total",
            "counter",
            "Lines of logs that could not be written.",
            self.log_lines_lost.get(),
        );
        out.family("ravelin_build_info", "gauge", "Always 1; the version is a label.");
        out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        process::write(out);
    }

    fn write_requests(&self, out: &mut Text<'_>) {
        let routes = self.routes.all();
        let routes = || routes.iter().map(Arc::as_ref).chain([&self.unrouted]);
        out.family("ravelin_requests_total", "counter", "Requests that are over.");
        routes().for_each(|route| route.write_requests(out));
        out.family("ravelin_request_duration_seconds", "histogram", "Time from a request's complete head to its end.");
        routes().for_each(|route| route.write_durations(out));
        out.family("ravelin_mirrored_requests_total", "counter", "Copies of requests for a mirror, by what became of them.");
        routes().for_each(|route| route.write_mirrored(out));
        out.single("ravelin_requests_in_flight", "gauge", "Requests that have begun and are not over.", self.in_flight());
        out.family("ravelin_failures_total", "counter", "Requests that ended in error, by who is at fault.");
        for ((party, reason), count) in self.failures.all() {
            out.sample(&[("party", party), ("reason", reason)], count);
        }
        out.family("ravelin_filter_panics_total", "counter", "Panics of filters; each was answered with a 500.");
        for ((filter, _), count) in self.panics.all() {
            out.sample(&[("filter", filter)], count);
        }
        out.single(
            "ravelin_panics_total",
            "counter",
            "Panics, of filters or elsewhere; none ended the process.",
            self.all_panics.get(),
        );
    }

    fn write_upstreams(&self, out: &mut Text<'_>) {
        let upstreams = self.upstreams.all();
        let mut family = |name, kind, help, write: fn(&UpstreamMeter, &mut Text<'_>)| {
            out.family(name, kind, help);
            upstreams.iter().for_each(|upstream| write(upstream, out));
        };
        family(
            "ravelin_upstream_response_seconds",
            "histogram",
            "Time from the connection to an endpoint to the head of its response.",
            UpstreamMeter::write_responses,
        );
        family("ravelin_upstream_retries_total", "counter", "Tries after the first, by reason.", UpstreamMeter::write_retries);
        family(
            "ravelin_upstream_retry_budget_exhausted_total",
            "counter",
            "Requests that were not tried again since the retry budget was spent.",
            UpstreamMeter::write_over_budget,
        );
        family(
            "ravelin_upstream_hedges_won_total",
            "counter",
            "Second endpoints that answered before the first that was asked.",
            UpstreamMeter::write_hedges_won,
        );
        family("ravelin_upstream_endpoints", "gauge", "Endpoints, healthy or not.", UpstreamMeter::write_count);
        family(
            "ravelin_discovery_failures_total",
            "counter",
            "Answers and files that could not be used to learn of endpoints.",
            UpstreamMeter::write_discovery_failures,
        );
        family(
            "ravelin_endpoint_selections_total",
            "counter",
            "Tries for which the endpoint was picked.",
            UpstreamMeter::write_selections,
        );
        family(
            "ravelin_endpoint_connect_failures_total",
            "counter",
            "Connections to the endpoint that could not be opened.",
            UpstreamMeter::write_connect_failures,
        );
        family(
            "ravelin_endpoint_failures_total",
            "counter",
            "Tries that the endpoint failed: no connection, no whole response in time, or a 5xx.",
            UpstreamMeter::write_failures,
        );
        family(
            "ravelin_endpoint_health_changes_total",
            "counter",
            "Times that health checks took the endpoint out or brought it back.",
            UpstreamMeter::write_health_changes,
        );
        family(
            "ravelin_endpoint_ejections_total",
            "counter",
            "Times that the endpoint was left out for how its requests ended.",
            UpstreamMeter::write_ejections,
        );
        family(
            "ravelin_endpoint_limit_hits_total",
            "counter",
            "Picks that passed the endpoint over since it had no room.",
            UpstreamMeter::write_limit_hits,
        );
        family("ravelin_upstream_queued_total", "counter", "Requests that waited for room.", UpstreamMeter::write_queued);
        family(
            "ravelin_upstream_queue_refused_total",
            "counter",
            "Requests that found no room, by reason; each was answered with a 503.",
            UpstreamMeter::write_queue_refused,
        );
    }

    fn write_connections(&self, out: &mut Text<'_>) {
        let listeners = self.listeners.all();
        let mut family = |name, kind, help, write: fn(&ListenerMeter, &mut Text<'_>)| {
            out.family(name, kind, help);
            listeners.iter().for_each(|listener| write(listener, out));
        };
        family("ravelin_connections_open", "gauge", "Connections of clients.", ListenerMeter::write_open);
        family("ravelin_connections_accepted_total", "counter", "Connections that were accepted.", ListenerMeter::write_accepted);
        family(
            "ravelin_connections_refused_total",
            "counter",
            "Connections that were closed unread, by reason.",
            ListenerMeter::write_refused,
        );
        family("ravelin_tls_handshakes_total", "counter", "TLS handshakes that are done.", ListenerMeter::write_handshakes);
        family(
            "ravelin_tls_handshake_failures_total",
            "counter",
            "TLS handshakes that failed, by reason.",
            ListenerMeter::write_handshake_failures,
        );
        family(
            "ravelin_accept_paused_seconds_total",
            "counter",
            "Time in which a listener accepted nothing, by reason.",
            ListenerMeter::write_paused,
        );
    }

    fn write_acme(&self, out: &mut Text<'_>) {
        let certificates = self.acme.all();
        let mut family = |name, kind, help, write: fn(&AcmeMeter, &mut Text<'_>)| {
            out.family(name, kind, help);
            certificates.iter().for_each(|certificate| write(certificate, out));
        };
        family("ravelin_acme_certificates_total", "counter", "Certificates that were obtained.", AcmeMeter::write_orders);
        family(
            "ravelin_acme_failures_total",
            "counter",
            "Orders that were not filled, by party and reason.",
            AcmeMeter::write_failures,
        );
        family(
            "ravelin_acme_next_order_timestamp_seconds",
            "gauge",
            "When the next order is made, in seconds since 1970: a renewal, or another try.",
            AcmeMeter::write_next,
        );
    }

    fn write_configuration(&self, out: &mut Text<'_>) {
        let generation = self.generation.load(Ordering::Relaxed);
        out.single("ravelin_config_generation", "gauge", "Which configuration is in force; the first is 1.", generation);
        let failures = self.reload_failures.get();
        out.single("ravelin_config_reload_failures_total", "counter", "Reloads that were refused.", failures);
        let success = u8::from(!self.last_reload_failed.load(Ordering::Relaxed));
        out.single("ravelin_config_last_reload_successful", "gauge", "0 after a reload that was refused, else 1.", success);
        let refused = self.certificates_refused.get();
        out.single(
            "ravelin_certificate_reload_failures_total",
            "counter",
            "Changed files of certificates that could not be used.",
            refused,
        );
        let snapshots = self.snapshots.get();
        out.single(
            "ravelin_config_snapshots",
            "gauge",
            "Configurations in memory: that in force, and those of old requests.",
            snapshots,
        );
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.here().take(1);
    }
}

impl Drop for LiveSnapshot {
    fn drop(&mut self) {
        self.0.snapshots.take(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::observe::{Failure, Timing};

    fn event<'a>(status: Option<u16>, failure: Option<Failure<'a>>) -> Event<'a> {
        Event {
            id: 0,
            time: SystemTime::UNIX_EPOCH,
            client: None,
            peer: None,
            listener: "main",
            scheme: "http",
            tls: None,
            protocol: "HTTP/1.1",
            method: "BREW\"} 1\nx 2",
            host: "evil\"} 1\nx 2",
            path: "/",
            query: None,
            user_agent: None,
            referer: None,
            status,
            received: 0,
            sent: 0,
            duration: Some(Duration::from_millis(3)),
            timing: Timing { response: Some(Duration::from_millis(2)), ..Timing::default() },
            route: None,
            upstream: None,
            endpoint: None,
            tries: 2,
            notes: &[],
            failure,
            own_answer: None,
        }
    }

    fn written(metrics: &Metrics) -> String {
        let mut text = String::new();
        metrics.write(&mut Text::new(&mut text));
        text
    }

    /// All but what differs between two runs.
    fn without_process(text: &str) -> String {
        text.split("# HELP process_").next().unwrap().to_owned()
    }

    #[test]
    fn the_whole_text() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()));
        let (route, upstream, listener) = (metrics.route("api"), metrics.upstream("app"), metrics.listener("main"));
        let endpoint = upstream.endpoint("10.0.0.1:80");
        upstream.began();
        route.mirrored(Mirrored::Sent);
        route.mirrored(Mirrored::Dropped);
        upstream.retried(1);
        upstream.over_budget();
        endpoint.selected();
        endpoint.selected();
        endpoint.connect_failed();
        endpoint.failed();
        let _open = listener.accepted();
        drop(listener.accepted());
        listener.refused("connections_per_client");
        listener.handshaken("TLSv1.3", true);
        listener.handshake_failed("timeout");
        let acme = metrics.acme("a.example");
        acme.obtained();
        acme.failed("operator", "dns");
        acme.next(SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        listener.paused(Pause::Descriptors, Duration::from_millis(1500));
        let (_in_flight, _snapshot) = (metrics.began(), metrics.snapshot());
        metrics.record(&event(Some(200), None), Some(&route), Some(&upstream));
        let failure = Failure { party: "client", reason: "no_route", message: "" };
        metrics.record(&event(Some(404), Some(failure)), None, None);
        metrics.reloaded();
        metrics.reload_failed();
        metrics.log_lines_lost(7);
        assert_eq!(metrics.filter_panicked("word"), 1);
        let text = without_process(&written(metrics)).replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn nothing_that_a_client_says_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.record(&event(Some(200), None), None, None);
        let text = written(&metrics);
        assert!(!text.contains("BREW") && !text.contains("evil"), "{text}");
    }

    #[test]
    fn numbers_survive_a_reload_that_keeps_their_name() {
        let metrics = Metrics::new();
        let old = (metrics.route("a"), metrics.upstream("u"));
        metrics.record(&event(Some(200), None), Some(&old.0), Some(&old.1));
        let new = (metrics.route("a"), metrics.upstream("u"));
        drop(old);
        metrics.record(&event(Some(200), None), Some(&new.0), Some(&new.1));
        assert!(written(&metrics).contains("ravelin_requests_total{route=\"a\",upstream=\"u\",code=\"200\"} 2\n"));
        drop(new);
        assert!(!written(&metrics).contains("route=\"a\""));
        assert!(!written(&metrics).contains("upstream=\"u\""));
    }
}
