//! How large a request may be, where its connection can't tell: over HTTP/2. And how much of one that is answered early is still read.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::filter::{Error, Party};
use crate::proxy::{Connection, Ctx};

/// A body up to this size is read and dropped where the answer did not need it, so that its connection can be kept. Of a longer one, or
/// one whose length is not known, it is cheaper to lose the connection.
pub(super) const WORTH_READING: u64 = 64 << 10;

/// How long the rest of such a body may take once the answer is out.
pub(super) const REST_TIMEOUT: Duration = Duration::from_secs(5);

/// The client's connection keeps the time of a body; a stream has none of its own, so it is kept here.
pub(super) fn limit_body(session: &mut Session, ctx: &mut Ctx) {
    // Pingora's own timeout would end a body that may pause longer.
    session.as_downstream_mut().set_read_timeout(None);
    if session.as_downstream_mut().is_body_empty() {
        return;
    }
    if let Some(bounds) = &ctx.connection.stream {
        ctx.connection.clock.await_request(bounds.pace.timeout(), ctx.exchange.started);
    }
    let head = session.req_header();
    // Who waits for `100 Continue` may send no body at all after another answer, and one can't tell (RFC 9110 §10.1.1).
    ctx.expects = head.headers.contains_key(EXPECT);
    if announced(head).is_some_and(|length| length <= WORTH_READING) && !ctx.expects {
        let client = session.as_downstream_mut();
        client.set_close_on_response_before_downstream_finish(false);
        client.set_total_drain_timeout(Some(REST_TIMEOUT));
    }
}

fn announced(head: &RequestHeader) -> Option<u64> {
    head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// Whether a request's sizes are as they may be. Over HTTP/1 the connection has seen to it.
pub(super) fn bounded(head: &RequestHeader, connection: &Connection) -> std::result::Result<(), Error> {
    let Some(bounds) = &connection.stream else { return Ok(()) };
    let refused = |status, reason| Err(Error::new(status, Party::Client, reason));
    // `?query` alone is taken by the framing, and is no path (RFC 9113 §8.3.1).
    if !matches!(head.raw_path(), [b'/', ..] | b"*") {
        return refused(400, "bad_target");
    }
    if head.raw_path().len() > bounds.uri_size {
        return refused(414, "target_too_long");
    }
    if head.headers.len() > bounds.headers {
        return refused(431, "too_many_headers");
    }
    // Over HTTP/1 blanks around a value are none of it; here they would be (RFC 9113 §8.2.1).
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if head.headers.values().any(|value| blank(value.as_bytes().first()) || blank(value.as_bytes().last())) {
        return refused(400, "bad_header");
    }
    // As HTTP/1 would write it.
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head.raw_path().len() + fields > bounds.header_size {
        return refused(431, "head_too_large");
    }
    if connection.body_size.is_some_and(|limit| announced(head).is_some_and(|length| length > limit)) {
        return refused(413, "body_too_large");
    }
    Ok(())
}
