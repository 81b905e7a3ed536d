//! What authorities ask in the clear before they issue a certificate (RFC 8555 §8.3), and nobody else can know to ask.

use http::Method;

use crate::filter::{Exchange, Reply};
use crate::proxy::enter::Entrance;
use crate::runtime::Snapshot;
use crate::tls::acme::Tokens;

/// The word by which such an answer is recorded.
pub(super) const CHALLENGE: &str = "acme_challenge";

/// The answer, if this is a question that an authority may ask now. Whatever routes and filters say: they are not asked.
pub(super) fn challenge(exchange: &Exchange, entrance: Entrance, snapshot: &Snapshot) -> Option<Reply> {
    let target = &exchange.target;
    if !Tokens::asks(target.path()) || snapshot.listener(entrance.listener?).tls.is_some() {
        return None;
    }
    if !matches!(*target.method(), Method::GET | Method::HEAD) {
        return None;
    }
    let answer = snapshot.tokens().answer(target.path())?;
    Reply::new(200).with_body(answer.as_bytes().to_vec()).with_header("content-type", "application/octet-stream").ok()
}
