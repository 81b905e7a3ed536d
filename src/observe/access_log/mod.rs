//! The access log: a line for each request, made where the request ends and written elsewhere.
//!
//! A worker writes its line into a buffer of its own thread ([`queue`], [`tray`]): it never waits for what reads the log, nor for another
//! worker. One thread takes what has gathered there and writes it to the [`sink`]. When that is slower than requests come, lines are
//! dropped and counted; the count is reported, and nothing else suffers.

mod digits;
mod json;
mod queue;
mod sink;
mod stamp;
mod text;
mod tray;

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::queue::{Own, Queue};
pub(crate) use self::sink::OpenError;
use self::sink::Sink;
use self::stamp::Stamp;
use crate::config::{self, LogFormat, LogOutput};
use crate::observe::Event;
use crate::observe::metrics::metrics;
use crate::types::LogTemplate;

/// How often losses are reported at most.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// A longer line leaves its buffer behind.
const KEEP: usize = 16 * 1024;

/// What a thread makes its lines with.
struct Desk {
    line: String,
    stamp: Stamp,
    /// Where they are put.
    own: Option<Own>,
}

impl Desk {
    const fn new() -> Self {
        Self { line: String::new(), stamp: Stamp::new(), own: None }
    }
}

thread_local! {
    static DESK: RefCell<Desk> = const { RefCell::new(Desk::new()) };
}

/// The access log of this process.
pub(crate) struct AccessLog {
    format: Format,
    queue: Arc<Queue>,
    /// Until writing starts.
    sink: Mutex<Option<Sink>>,
}

enum Format {
    Json,
    Common,
    Combined,
    Template(LogTemplate),
}

impl AccessLog {
    /// Opens what is to be written to. `None`: nothing is.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(crate) fn open(settings: &config::AccessLog) -> Result<Option<Self>, OpenError> {
        let sink = match &settings.output {
            LogOutput::None => return Ok(None),
            LogOutput::Stdout => Sink::Stdout,
            LogOutput::Stderr => Sink::Stderr,
            LogOutput::File(path) => Sink::file(path)?,
        };
        let format = match &settings.format {
            LogFormat::Json => Format::Json,
            LogFormat::Common => Format::Common,
            LogFormat::Combined => Format::Combined,
            LogFormat::Template(template) => Format::Template(template.value.clone()),
        };
        Ok(Some(Self { format, queue: Arc::new(Queue::new()), sink: Mutex::new(Some(sink)) }))
    }

    /// Starts the thread that writes; before, lines only gather. Not before the process has become a daemon: a fork takes no
    /// thread along.
    pub(crate) fn start(&self) {
        let Some(sink) = self.sink.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        self.queue.begin();
        let queue = self.queue.clone();
        let started = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || sink.write_all_of(&queue));
        if let Err(error) = started {
            log::error!("access log can't be written error={error}");
            self.queue.end();
        }
    }

    /// Hands over the line of a request.
    pub(crate) fn record(&self, event: &Event<'_>) {
        let at_desk = DESK.try_with(|desk| {
            let mut desk = desk.try_borrow_mut().ok()?;
            self.hand_over(event, &mut desk);
            desk.line.shrink_to(KEEP);
            Some(())
        });
        if !matches!(at_desk, Ok(Some(()))) {
            // A thread that ends has given its desk away already.
            self.hand_over(event, &mut Desk::new());
        }
    }

    fn hand_over(&self, event: &Event<'_>, desk: &mut Desk) {
        let Desk { line, stamp, own } = desk;
        let moment = stamp.at(event.time);
        line.clear();
        match &self.format {
            // An object is bytes: it takes no time to show that they are text.
            Format::Json => return self.queue.push(own, |out| json::write_line(event, moment, out)),
            Format::Common => text::common(event, moment, line),
            Format::Combined => text::combined(event, moment, line),
            Format::Template(template) => text::template(template, event, moment, line),
        }
        line.push('\n');
        self.queue.push(own, |out| out.extend_from_slice(line.as_bytes()));
    }

    /// Opens the file anew, once what was recorded until now is in the old one.
    pub(crate) fn reopen(&self) {
        self.queue.reopen();
    }

    /// Reports losses in the process log, once a second at most. Never ends.
    pub(crate) async fn watch_losses(&self) {
        loop {
            self.queue.lost().await;
            self.report();
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }

    /// Writes what is left, for as long as this may take, and reports what is lost. Nothing is recorded any more.
    pub(crate) fn finish(&self, limit: Duration) {
        self.queue.finish(Instant::now() + limit);
        self.report();
    }

    fn report(&self) {
        let (lost, in_all, why) = self.queue.take_losses();
        if lost > 0 {
            metrics().log_lines_lost(lost);
            log::warn!("access log lost lines lines={lost} in_all={in_all} reason={why:?}");
        }
    }
}

#[cfg(test)]
mod testing {
    //! Events to be shown.

    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::observe::{Connect, Timing};

    /// A request that went well, on the second of January 2026.
    pub(super) fn sound() -> Event<'static> {
        Event {
            id: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
            time: UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
            client: Some("[::ffff:192.0.2.7]:4711".parse().unwrap()),
            peer: Some("[::ffff:192.0.2.7]:4711".parse().unwrap()),
            listener: "main",
            scheme: "http",
            tls: None,
            protocol: "HTTP/1.1",
            method: "GET",
            host: "example.com",
            path: "/a%20b",
            query: Some("x=1&y"),
            user_agent: Some(b"curl/8.5.0"),
            referer: Some(b"https://example.org/?q=%22"),
            status: Some(200),
            received: 3,
            sent: 1234,
            duration: Some(Duration::from_micros(12_345)),
            timing: Timing {
                routed: Some(Duration::from_micros(21)),
                connect: Some(Connect::Opened(Duration::from_micros(304))),
                response: Some(Duration::from_micros(11_000)),
            },
            route: Some("all"),
            upstream: Some("api"),
            endpoint: Some("10.0.0.1:8080"),
            tries: 1,
            notes: &[],
            failure: None,
            own_answer: None,
        }
    }

    /// A request of which nothing is known but that it was refused.
    pub(super) fn refused() -> Event<'static> {
        use crate::observe::Failure;
        Event {
            client: None,
            peer: None,
            protocol: "",
            method: "",
            host: "",
            path: "",
            query: None,
            user_agent: None,
            referer: None,
            status: Some(400),
            received: 0,
            sent: 60,
            duration: None,
            timing: Timing::default(),
            route: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            failure: Some(Failure { party: "client", reason: "bad_request_line", message: "" }),
            ..sound()
        }
    }

    pub(super) fn line(event: &Event<'_>, write: impl FnOnce(&Event<'_>, stamp::Moment<'_>, &mut String)) -> String {
        let mut line = String::new();
        write(event, Stamp::new().at(event.time), &mut line);
        line
    }
}
