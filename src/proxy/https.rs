//! What a listener asks of a request before it is routed: that it comes by https.

use crate::filter::{Error, Exchange, Party, Reply, Scheme};
use crate::proxy::enter::Entrance;
use crate::proxy::head::authority;
use crate::runtime::Snapshot;
use pingora_http::RequestHeader;

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
