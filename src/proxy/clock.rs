//! The deadlines of one exchange: set by the proxy's hooks, kept by the connection that carries it.
//!
//! Pingora knows no deadline for a whole exchange and one read timeout for a response's head and body alike. So the
//! client's connection, which Pingora polls while it waits for an endpoint, looks at this clock: when a deadline passes, its
//! read fails, and the failure becomes a 504 or an abort.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// What was waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The head of the endpoint's response.
    Response,
    /// Likewise, in the time that one try has.
    Try,
    /// The next piece of the response's body.
    Read,
    /// The endpoint, to take more of the request.
    Write,
    /// The end of the whole exchange.
    Exchange,
    /// A body that the client was to send only if it was asked for (`Expect`), and that its answer has made idle. No failure.
    Unasked,
    /// Anything at all in a tunnel.
    Tunnel,
    /// The client, to take what is sent.
    Client,
    /// Likewise: it takes it too slowly.
    ClientRate,
    /// The client, to send more of its body.
    Body,
    /// Likewise: it comes too slowly.
    BodyRate,
    /// The end of a head, over HTTP/2.
    Head,
    /// Nothing: an HTTP/2 client sends frames that ask for work and carry nothing.
    Flood,
    /// Not a deadline, but as final: the framing of the request's body is broken.
    Broken,
}

impl Expired {
    const ALL: [Self; 14] = [
        Self::Response,
        Self::Try,
        Self::Read,
        Self::Write,
        Self::Exchange,
        Self::Tunnel,
        Self::Client,
        Self::Body,
        Self::BodyRate,
        Self::Flood,
        Self::Broken,
        Self::ClientRate,
        Self::Unasked,
        Self::Head,
    ];

    /// Above zero, which stands for none.
    fn code(self) -> u8 {
        match self {
            Self::Response => 1,
            Self::Read => 2,
            Self::Exchange => 3,
            Self::Tunnel => 4,
            Self::Client => 5,
            Self::Body => 6,
            Self::BodyRate => 7,
            Self::Flood => 8,
            Self::Broken => 9,
            Self::Try => 10,
            Self::ClientRate => 11,
            Self::Write => 12,
            Self::Unasked => 13,
            Self::Head => 14,
        }
    }
}

/// A step that does not run for now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paused {
    kind: u8,
    length: u64,
}

/// Deadlines of the exchange that a connection carries now. Shared by its hooks and the connection: all fields are atomics
/// that only one task writes at a time.
pub(crate) struct Clock {
    base: Instant,
    /// Milliseconds since `base`; `NEVER` if there is none.
    exchange: AtomicU64,
    step: AtomicU64,
    /// How long the current step may take, to start it anew.
    step_length: AtomicU64,
    step_kind: AtomicU8,
    /// The client takes nothing: the endpoint can't be blamed for the pause.
    client_stalls: AtomicBool,
    expired: AtomicU8,
    /// The response is on its way: the client may take its time for the rest of its request.
    responding: AtomicBool,
    /// The proxy has taken the exchange on.
    taken: AtomicBool,
    /// The client has a part of its answer and will get no more.
    cut: AtomicBool,
}

const NEVER: u64 = u64::MAX;
/// Later than any deadline.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            base: Instant::now(),
            exchange: AtomicU64::new(NEVER),
            step: AtomicU64::new(NEVER),
            step_length: AtomicU64::new(NEVER),
            step_kind: AtomicU8::new(0),
            client_stalls: AtomicBool::new(false),
            expired: AtomicU8::new(0),
            responding: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    /// A new exchange: no deadline yet.
    pub(crate) fn reset(&self) {
        self.exchange.store(NEVER, Ordering::Relaxed);
        self.clear_step();
        self.expired.store(0, Ordering::Relaxed);
        self.taken.store(false, Ordering::Relaxed);
        self.responding.store(false, Ordering::Relaxed);
        self.client_stalls.store(false, Ordering::Relaxed);
    }

    /// The proxy takes the exchange on, and will record how it ends.
    pub(crate) fn take(&self) {
        self.taken.store(true, Ordering::Relaxed);
    }

    /// Whether it has. A request that Pingora refuses never gets there.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// The answer ends in its middle, which the client must be able to tell.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The whole exchange ends within this time from `now`. Here and below the time is the caller's to read, who mostly has it
    /// already: it costs more than all else that is done with it.
    pub(crate) fn limit_exchange(&self, limit: Duration, now: Instant) {
        self.exchange.store(self.after(millis(limit), now), Ordering::Relaxed);
    }

    /// The exchange has no end any more: it became a tunnel.
    pub(crate) fn unlimit_exchange(&self) {
        self.exchange.store(NEVER, Ordering::Relaxed);
    }

    /// The endpoint's head is due within this time from `now`.
    pub(crate) fn await_response(&self, limit: Option<Duration>, now: Instant) {
        self.begin_step(Expired::Response, limit, now);
    }

    /// Likewise, where it is the time of one try that is the shorter.
    pub(crate) fn await_try(&self, limit: Duration, now: Instant) {
        self.begin_step(Expired::Try, Some(limit), now);
    }

    /// What was waited for in vain is asked for once more, elsewhere.
    pub(crate) fn begin_again(&self) {
        self.clear_step();
        self.expired.store(0, Ordering::Relaxed);
    }

    /// The next piece of the endpoint's body is due within this time from `now`.
    pub(crate) fn await_body(&self, limit: Option<Duration>, now: Instant) {
        self.begin_step(Expired::Read, limit, now);
    }

    /// The endpoint takes nothing, and must within this time from `now`.
    pub(crate) fn await_write(&self, limit: Option<Duration>, now: Instant) {
        self.begin_step(Expired::Write, limit, now);
    }

    /// Something is due in the tunnel within this time from `now`.
    pub(crate) fn await_tunnel(&self, limit: Option<Duration>, now: Instant) {
        self.begin_step(Expired::Tunnel, limit, now);
    }

    /// The answer is whole, and the client's body is not waited for: the exchange ends once the client has taken what it is sent.
    pub(crate) fn await_nothing(&self, now: Instant) {
        self.begin_step(Expired::Unasked, Some(Duration::ZERO), now);
    }

    /// The next piece of the client's body is due within this time from `now`.
    pub(crate) fn await_request(&self, limit: Option<Duration>, now: Instant) {
        self.begin_step(Expired::Body, limit, now);
    }

    /// The client's connection has seen what ends the exchange.
    pub(crate) fn client_failed(&self, how: Expired) {
        self.expired.store(how.code(), Ordering::Relaxed);
    }

    /// The response begins.
    pub(crate) fn respond(&self) {
        self.responding.store(true, Ordering::Relaxed);
    }

    /// The response is over: a client that still sends has no reason to take its time.
    pub(crate) fn responded(&self) {
        self.responding.store(false, Ordering::Relaxed);
    }

    /// Whether it is on its way.
    pub(crate) fn is_responding(&self) -> bool {
        self.responding.load(Ordering::Relaxed)
    }

    /// Nothing is awaited from an endpoint.
    pub(crate) fn clear_step(&self) {
        self.step.store(NEVER, Ordering::Relaxed);
        self.step_length.store(NEVER, Ordering::Relaxed);
    }

    /// The step does not run until it is resumed.
    pub(crate) fn pause_step(&self) -> Paused {
        let paused = Paused { kind: self.step_kind.load(Ordering::Relaxed), length: self.step_length.load(Ordering::Relaxed) };
        self.clear_step();
        paused
    }

    /// It begins anew, unless another has begun meanwhile.
    pub(crate) fn resume_step(&self, Paused { kind, length }: Paused, now: Instant) {
        if length != NEVER && self.step_length.load(Ordering::Relaxed) == NEVER {
            self.step_kind.store(kind, Ordering::Relaxed);
            self.step_length.store(length, Ordering::Relaxed);
            self.step.store(self.after(length, now), Ordering::Relaxed);
        }
    }

    /// Whether the client takes what is sent; while it doesn't, no step runs, and afterwards it starts anew.
    pub(crate) fn client_stalls(&self, stalls: bool) {
        if self.client_stalls.load(Ordering::Relaxed) != stalls {
            self.client_stalls.store(stalls, Ordering::Relaxed);
            let length = self.step_length.load(Ordering::Relaxed);
            if !stalls && length != NEVER {
                self.step.store(self.after(length, Instant::now()), Ordering::Relaxed);
            }
        }
    }

    /// What passed, if anything did.
    pub(crate) fn expired(&self) -> Option<Expired> {
        let code = self.expired.load(Ordering::Relaxed);
        Expired::ALL.into_iter().find(|expired| expired.code() == code)
    }

    /// The next deadline, be it that it has passed: to arm a timer without reading the time. [`Clock::look`] then says.
    pub(crate) fn due(&self) -> Option<Instant> {
        let exchange = self.exchange.load(Ordering::Relaxed);
        let step = if self.client_stalls.load(Ordering::Relaxed) { NEVER } else { self.step.load(Ordering::Relaxed) };
        let due = exchange.min(step);
        (due != NEVER).then(|| self.base + Duration::from_millis(due))
    }

    /// The next deadline, or what has passed.
    pub(crate) fn look(&self) -> Result<Option<Instant>, Expired> {
        if let Some(expired) = self.expired() {
            return Err(expired);
        }
        let exchange = self.exchange.load(Ordering::Relaxed);
        let step = if self.client_stalls.load(Ordering::Relaxed) { NEVER } else { self.step.load(Ordering::Relaxed) };
        let Some(at) = self.due() else { return Ok(None) };
        if at > Instant::now() {
            return Ok(Some(at));
        }
        let code = if exchange <= step { Expired::Exchange.code() } else { self.step_kind.load(Ordering::Relaxed) };
        self.expired.store(code, Ordering::Relaxed);
        Err(self.expired().unwrap_or(Expired::Exchange))
    }

    /// How long the whole exchange may still take.
    pub(crate) fn left(&self) -> Option<Duration> {
        match self.exchange.load(Ordering::Relaxed) {
            NEVER => None,
            due => Some(Duration::from_millis(due.saturating_sub(millis(self.base.elapsed())))),
        }
    }

    /// Waits until a deadline passes. For exchanges that share a connection and so can't be told by its reads: polled by the task that
    /// moves the deadlines, after it has done so, which is why nobody has to be told. A timer that fires early is cheaper than one that
    /// is set whenever a deadline moves.
    pub(crate) fn poll_expiry(&self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            if let Some(expired) = self.expired() {
                return Poll::Ready(expired);
            }
            let Some(at) = self.due().map(tokio::time::Instant::from) else { return Poll::Pending };
            if timer.deadline() > at {
                timer.as_mut().reset(at);
            }
            ready!(timer.as_mut().poll(cx));
            match self.look() {
                Err(expired) => return Poll::Ready(expired),
                Ok(Some(at)) => timer.as_mut().reset(at.into()),
                Ok(None) => return Poll::Pending,
            }
        }
    }

    /// A timer for [`Clock::poll_expiry`], at a time that is no deadline.
    pub(crate) fn timer(&self) -> Sleep {
        tokio::time::sleep_until((self.base + FAR).into())
    }

    fn begin_step(&self, kind: Expired, limit: Option<Duration>, now: Instant) {
        let Some(limit) = limit else { return self.clear_step() };
        let length = millis(limit);
        self.step_kind.store(kind.code(), Ordering::Relaxed);
        self.step_length.store(length, Ordering::Relaxed);
        self.step.store(self.after(length, now), Ordering::Relaxed);
    }

    fn after(&self, length: u64, now: Instant) -> u64 {
        millis(now.duration_since(self.base)).saturating_add(length)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_counts_and_stays_passed() {
        let clock = Clock::new();
        assert_eq!(clock.look(), Ok(None));
        clock.limit_exchange(Duration::from_secs(60), Instant::now());
        clock.await_response(Some(Duration::ZERO), Instant::now());
        assert_eq!(clock.look(), Err(Expired::Response));
        clock.clear_step();
        assert_eq!(clock.look(), Err(Expired::Response));
        clock.reset();
        assert_eq!(clock.look(), Ok(None));
    }

    #[test]
    fn a_try_that_took_too_long_may_be_begun_again_but_not_the_exchange() {
        let clock = Clock::new();
        let now = Instant::now();
        clock.await_try(Duration::ZERO, now);
        assert_eq!(clock.look(), Err(Expired::Try));
        clock.begin_again();
        assert_eq!(clock.look(), Ok(None));
        clock.limit_exchange(Duration::ZERO, now);
        clock.begin_again();
        assert_eq!(clock.look(), Err(Expired::Exchange));
    }

    #[test]
    fn a_client_that_takes_nothing_stops_the_step_but_not_the_exchange() {
        let clock = Clock::new();
        clock.await_body(Some(Duration::ZERO), Instant::now());
        clock.client_stalls(true);
        assert_eq!(clock.look(), Ok(None));
        clock.limit_exchange(Duration::ZERO, Instant::now());
        assert_eq!(clock.look(), Err(Expired::Exchange));
    }

    #[tokio::test]
    async fn expiry_comes_with_the_deadline_that_was_set_last() {
        let clock = Clock::new();
        let mut timer = std::pin::pin!(clock.timer());
        let mut woken = 0;
        let expired = std::future::poll_fn(|cx| {
            // As a task that moves the deadline when it is polled for the second time, and then waits for it.
            woken += 1;
            match woken {
                1 => {
                    clock.await_response(Some(Duration::from_secs(60)), clock.base);
                    cx.waker().wake_by_ref();
                }
                2 => clock.await_body(Some(Duration::from_millis(5)), clock.base),
                _ => {}
            }
            clock.poll_expiry(timer.as_mut(), cx)
        });
        assert_eq!(expired.await, Expired::Read);
    }
}
