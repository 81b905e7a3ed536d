//! The end of a request: the record of it, made here and nowhere else, and one line of process log where it failed.

use std::borrow::Cow;
use std::time::SystemTime;

use http::Version;
use pingora_proxy::Session;

use crate::filter::{Client, Error, Party, RequestId, Scheme, Target};
use crate::observe::{Event, Failure, Observers, Timing, metrics};
use crate::proxy::Ctx;
use crate::proxy::failure::missed;
use crate::proxy::mirror;
use crate::proxy::outcome::expired;

/// A request that never got as far as a session.
pub(crate) struct Refused<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) listener: &'a str,
    pub(crate) client: Client,
    pub(crate) scheme: Scheme,
    /// What the client has sent of it.
    pub(crate) seen: &'a [u8],
}

impl Refused<'_> {
    /// As far as it came, and as it was sent.
    pub(super) fn target(&self) -> Target {
        let line = RequestLine::read(self.seen);
        let method = http::Method::from_bytes(line.method.as_bytes()).unwrap_or_default();
        let (path, query) = line.path_and_query();
        Target::new(method, "", path, query)
    }
}

/// The request is over.
pub(super) fn finish(session: &Session, ctx: &mut Ctx) {
    // What was written is the truth, whatever was meant; an informational head is no answer.
    let written = session.response_written().map(|head| head.status.as_u16()).filter(|status| *status == 101 || *status >= 200);
    ctx.exchange.status = written;
    let downstream = session.as_downstream();
    (ctx.received, ctx.sent) = (downstream.body_bytes_read() as u64, downstream.body_bytes_sent() as u64);
    close(ctx);
}

/// An exchange that was dropped where it stood: its time was up on a connection that others share, or the process stopped.
impl Drop for Ctx {
    fn drop(&mut self) {
        if !self.finished {
            let cut = || Error::new(503, Party::Us, "cut_off").with_message("the exchange was dropped");
            let failure = self.connection.clock.expired().map_or_else(cut, missed);
            self.fail(failure);
            close(self);
        }
    }
}

pub(super) fn close(ctx: &mut Ctx) {
    ctx.finished = true;
    expired(ctx);
    ctx.attempt = None;
    mirror::give_up(ctx);
    ctx.connection.clock.clear_step();
    if let Some(failure) = &ctx.exchange.failure {
        report(ctx, failure);
    }
    if let Some(route) = &ctx.route {
        route.chain.log(&mut ctx.run, &ctx.exchange);
    }
    let event = event(ctx);
    let upstream = ctx.exchange.upstream.as_ref().map(|upstream| upstream.meter());
    metrics().record(&event, ctx.route.as_ref().map(|route| &*route.meter), upstream);
    ctx.connection.observers.record(&event);
}

fn event(ctx: &Ctx) -> Event<'_> {
    let exchange = &ctx.exchange;
    let duration = exchange.started.elapsed();
    // Nobody else asks for it.
    let now = if ctx.connection.observers.access_log.is_some() { SystemTime::now() } else { SystemTime::UNIX_EPOCH };
    Event {
        id: exchange.id.bits(),
        time: now.checked_sub(duration).unwrap_or(now),
        client: exchange.client.address,
        peer: exchange.client.peer,
        listener: &ctx.connection.listener,
        scheme: exchange.scheme.as_str(),
        tls: exchange.tls.as_deref(),
        protocol: protocol(ctx.version),
        method: exchange.target.method().as_str(),
        host: exchange.target.host(),
        path: exchange.target.path(),
        query: exchange.target.query(),
        user_agent: ctx.user_agent.as_ref().map(http::HeaderValue::as_bytes),
        referer: ctx.referer.as_ref().map(http::HeaderValue::as_bytes),
        status: exchange.status,
        received: ctx.received,
        sent: ctx.sent,
        duration: Some(duration),
        timing: ctx.timing,
        route: exchange.route.as_deref(),
        upstream: exchange.upstream.as_ref().map(|upstream| upstream.name()),
        endpoint: exchange.endpoint.as_ref().map(|endpoint| endpoint.as_str()),
        tries: exchange.tries,
        notes: &exchange.notes,
        failure: exchange.failure.as_ref().map(|failure| Failure {
            party: failure.party().as_str(),
            reason: failure.reason(),
            message: failure.message(),
        }),
        own_answer: ctx.own_answer,
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_11 => "HTTP/1.1",
        _ => "HTTP/1.0",
    }
}

fn report(ctx: &Ctx, failure: &Error) {
    if !ctx.connection.observers.may_say(failure.reason()) {
        return;
    }
    let level = match failure.party() {
        Party::Client => log::Level::Info,
        Party::Upstream | Party::Operator => log::Level::Warn,
        Party::Us => log::Level::Error,
    };
    let exchange = &ctx.exchange;
    let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    log::log!(
        level,
        "request failed party={} reason={} status={} id={} client={} listener={} method={} host={:?} path={:?} route={} upstream={} endpoint={} tries={} filter={} detail={:?}",
        failure.party().as_str(),
        failure.reason(),
        text(exchange.status.map(|status| status.to_string())),
        exchange.id,
        text(exchange.client.ip().map(|ip| ip.to_string())),
        ctx.connection.listener,
        exchange.target.method(),
        exchange.target.host(),
        exchange.target.path(),
        exchange.route.as_deref().unwrap_or("-"),
        exchange.upstream.as_ref().map_or("-", |upstream| upstream.name()),
        exchange.endpoint.as_ref().map_or("-", |endpoint| endpoint.as_str()),
        exchange.tries,
        failure.filter().unwrap_or("-"),
        failure.message(),
    );
}

/// Pingora refused a request, with an answer that is no more than a head: two `Host` fields, say.
pub(crate) fn refused_unseen(listener: &str, client: Client, scheme: Scheme, observers: &Observers) {
    refused_barely(&Refused { status: 400, reason: "ambiguous_head", listener, client, scheme, seen: b"" }, observers);
}

/// A request was refused, with a head and nothing behind it.
pub(crate) fn refused_barely(refusal: &Refused<'_>, observers: &Observers) {
    refused(refusal, RequestId::mint(), Some(0), observers);
}

/// A connection was closed without an answer: who sent this does not speak HTTP.
pub(crate) fn refused_silently(refusal: &Refused<'_>, observers: &Observers) {
    refused(refusal, RequestId::mint(), None, observers);
}

/// A request was refused, with an answer of this many bytes, or with none.
pub(super) fn refused(refused: &Refused<'_>, id: RequestId, sent: Option<usize>, observers: &Observers) {
    let Refused { status, reason, listener, client, seen, .. } = *refused;
    let status = sent.map(|_| status);
    if observers.may_say(reason) {
        let shown = client.ip().map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let said = status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let line = RequestLine::read(seen);
        log::info!(
            "request refused party=client reason={reason} status={said} id={id} client={shown} listener={listener} method={} path={:?}",
            if line.method.is_empty() { "-" } else { line.method },
            line.path_and_query().0,
        );
    }
    let failure = Failure { party: Party::Client.as_str(), reason, message: "" };
    record(refused, id, (status, sent.unwrap_or(0)), Err(failure), observers);
}

/// Who asked why a request is refused was told, in so many bytes.
pub(super) fn explained(refused: &Refused<'_>, id: RequestId, sent: usize, observers: &Observers) {
    record(refused, id, (Some(200), sent), Ok("explain"), observers);
}

/// Records what never became a request.
fn record(
    refused: &Refused<'_>,
    id: RequestId,
    (status, sent): (Option<u16>, usize),
    answer: Result<&'static str, Failure<'_>>,
    observers: &Observers,
) {
    let Refused { listener, client, scheme, seen, .. } = *refused;
    let line = RequestLine::read(seen);
    let (path, query) = line.path_and_query();
    let event = Event {
        id: id.bits(),
        time: SystemTime::now(),
        client: client.address,
        peer: client.peer,
        listener,
        scheme: scheme.as_str(),
        tls: None,
        protocol: line.protocol,
        method: line.method,
        host: "",
        path,
        query,
        user_agent: None,
        referer: None,
        status,
        received: 0,
        sent: sent as u64,
        duration: None,
        timing: Timing::default(),
        route: None,
        upstream: None,
        endpoint: None,
        tries: 0,
        notes: &[],
        own_answer: answer.as_ref().ok().copied(),
        failure: answer.err(),
    };
    metrics().record(&event, None, None);
    observers.record(&event);
}

/// What can be told of a request line that may be cut off, or none at all.
#[derive(Debug, PartialEq, Eq)]
struct RequestLine<'a> {
    method: &'a str,
    target: Cow<'a, str>,
    protocol: &'static str,
}

impl<'a> RequestLine<'a> {
    /// A record is no place for a client's thousands of bytes.
    const TARGET_MAX: usize = 1024;

    fn read(seen: &'a [u8]) -> Self {
        let line = seen.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let whole = line.len() < seen.len();
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let method = words.next().filter(|word| word.len() < line.len() && word.len() <= 32);
        let method = method.and_then(|word| std::str::from_utf8(word).ok());
        let method = method.filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-'));
        // Without a method it is no request: nothing else in it means anything.
        let Some(method) = method else { return Self { method: "", target: "".into(), protocol: "" } };
        let target = words.next().unwrap_or_default();
        let rest = words.next();
        let protocol = match rest.filter(|_| whole) {
            Some(b"HTTP/1.1") => "HTTP/1.1",
            Some(b"HTTP/1.0") => "HTTP/1.0",
            _ => "",
        };
        let mut target = without_userinfo(String::from_utf8_lossy(target), whole || rest.is_some());
        if target.len() > Self::TARGET_MAX {
            target = target[..target.floor_char_boundary(Self::TARGET_MAX)].to_owned().into();
        }
        Self { method, target, protocol }
    }

    fn path_and_query(&self) -> (&str, Option<&str>) {
        self.target.split_once('?').map_or((&*self.target, None), |(path, query)| (path, Some(query)))
    }
}

/// Takes a user and a password off a target: they are one reason to refuse it, and may stand wherever it is more than a path. What they are is
/// for the client to say, so all that may be part of them goes. `ended`: nothing more of it was to come.
fn without_userinfo(target: Cow<'_, str>, ended: bool) -> Cow<'_, str> {
    let is_slash = |character| matches!(character, '/' | '\\');
    if target.starts_with('/') && !target[1..].starts_with(is_slash) {
        return target;
    }
    // Behind a scheme, if there is one, and slashes.
    let scheme = target.split_once(':').filter(|(name, rest)| !name.contains(is_slash) && rest.starts_with(is_slash));
    let rest = scheme.map_or(&*target, |(_, rest)| rest).trim_start_matches(is_slash);
    let start = &target[..target.len() - rest.len()];
    if ended && is_host(rest.split(['/', '\\', '?', '#']).next().unwrap_or_default()) {
        return target;
    }
    let host = rest.rsplit_once('@').filter(|_| ended).map_or("", |(_, host)| host);
    format!("{start}{host}").into()
}

/// Whether it is a host, with or without a port, and nothing else.
fn is_host(authority: &str) -> bool {
    let bare = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(authority, |(_, port)| port);
    let port = bare.split_once(':').map_or("", |(_, port)| port);
    !authority.contains('@') && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_told_as_far_as_it_came() {
        let read = |seen: &'static [u8]| {
            let line = RequestLine::read(seen);
            (line.method, line.target.into_owned(), line.protocol)
        };
        let told = |method, target: &str, protocol| (method, target.to_owned(), protocol);
        assert_eq!(read(b"GET /x?y HTTP/1.1\r\nhost: a"), told("GET", "/x?y", "HTTP/1.1"));
        assert_eq!(read(b"GET /x HTTP/1.1"), told("GET", "/x", ""));
        assert_eq!(read(b"GET /x"), told("GET", "/x", ""));
        assert_eq!(read(b"GET"), told("", "", ""));
        assert_eq!(read(b"\x16\x03\x01 \xff"), told("", "", ""));
        assert_eq!(read(b""), told("", "", ""));
        assert_eq!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), told("PRI", "*", ""));
    }

    #[test]
    fn a_password_is_not_told() {
        let read = |target: &str| RequestLine::read(format!("GET {target} HTTP/1.1\r\n").as_bytes()).target.into_owned();
        for (target, told) in [
            ("http://me:secret@a/x?y=b", "http://a/x?y=b"),
            ("http://me:sec@ret@a", "http://a"),
            ("http://me:sec/ret@a/x", "http://a/x"),
            ("http://me:sec?ret@a/", "http://a/"),
            ("http:/me:secret@a/x", "http:/a/x"),
            ("http:\\\\me:secret@a/", "http:\\\\a/"),
            ("//me:secret@a/x", "//a/x"),
            ("/\\me:secret@a/x", "/\\a/x"),
            ("me:secret@a:443", "a:443"),
            ("http:me:secret@a", "a"),
            // Part of one.
            ("http://me:secret", "http://"),
            ("me:secret", ""),
        ] {
            assert_eq!(read(target), told, "{target}");
        }
        for target in
            ["http://a/x@y", "http://a:80/x?y=b@c", "http://[::1]:80/@", "a:443", "[::1]:443", "*", "/x?to=http://b/@", "/me:x@a"]
        {
            assert_eq!(read(target), target);
        }
        for (seen, told) in
            [("GET http://me:42", "http://"), ("GET http://me:42/sec", "http://"), ("GET //me", "//"), ("CONNECT me:42", "")]
        {
            assert_eq!(RequestLine::read(seen.as_bytes()).target, told, "{seen}");
        }
    }

    #[test]
    fn a_long_target_is_cut() {
        let seen = [b"GET /".as_slice(), &[b'a'; 9000]].concat();
        assert_eq!(RequestLine::read(&seen).target.len(), RequestLine::TARGET_MAX);
    }
}
