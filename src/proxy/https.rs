//! What a listener asks of a request before it is routed: that it comes by https, and for the host that its session is for.

use pingora_http::RequestHeader;

use crate::filter::{Error, Exchange, Party, Reply, Scheme};
use crate::proxy::enter::Entrance;
use crate::proxy::head::authority;
use crate::router::Question;
use crate::runtime::Snapshot;

/// The word by which such an answer is recorded.
pub(super) const REDIRECT: &str = "redirect_to_https";

/// The answer to a request in the clear that should come by https, if this is one.
pub(super) fn redirect_to_https(
    head: &RequestHeader,
    exchange: &Exchange,
    entrance: Entrance,
    snapshot: &Snapshot,
) -> Result<Option<Reply>, Error> {
    let Some(ports) = entrance.listener.and_then(|place| snapshot.listener(place).redirect_to_https) else { return Ok(None) };
    // A proxy in front may have taken TLS off, if it is believed.
    if exchange.scheme == Scheme::Https {
        return Ok(None);
    }
    let target = &exchange.target;
    if target.host().is_empty() {
        let message = "there is no host to redirect to: the request names none";
        return Err(Error::new(400, Party::Client, "no_host").with_message(message));
    }
    let mut location = format!("https://{}", target.host());
    if let Some(port) = ports.for_authority(&authority(head)) {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(if target.path() == "*" { "/" } else { target.path() });
    if let Some(query) = target.query() {
        location.push('?');
        location.push_str(query);
    }
    Ok(Some(Reply::new(308).with_header("location", &location)?))
}

/// Refuses a request for another host than the one for which a client has proved who it is: a certificate that was shown for one name
/// decides for no other (RFC 9110 §15.5.20). A client without a name for its connection has named the host only.
pub(super) fn agrees_with_session(exchange: &Exchange, entrance: Entrance, snapshot: &Snapshot) -> Result<(), Error> {
    let Some(named) = exchange.tls.as_ref().and_then(|tls| tls.server_name()) else { return Ok(()) };
    let host = exchange.target.host();
    let asks = || entrance.listener.and_then(|place| snapshot.listener(place).tls.as_ref()).is_some_and(|tls| tls.asks_clients());
    if host.is_empty() || host == named || !asks() {
        return Ok(());
    }
    Err(misdirected("the host is another than the name that the connection was made for"))
}

/// Whether a request that no route takes, on a connection for another name, would find one on another listener.
pub(super) fn is_of_another_listener(question: &Question<'_>, exchange: &Exchange, snapshot: &Snapshot) -> bool {
    let named = exchange.tls.as_ref().and_then(|tls| tls.server_name());
    named.is_some_and(|named| named != question.host) && snapshot.takes_elsewhere(question)
}

/// The client should ask on a connection of its own for this host.
pub(super) fn misdirected(message: &'static str) -> Error {
    Error::new(421, Party::Client, "misdirected").with_message(message)
}
