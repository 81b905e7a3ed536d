//! The trace of a request whose head was refused: it never became one, and can be asked about all the same.

use bytes::Bytes;

use super::{Asked, Outcome, Trace};
use crate::filter::RequestId;
use crate::observe::Observers;
use crate::proxy::enter::ASKS_WHY;
use crate::proxy::log::{self, Refused};
use crate::runtime::Snapshot;

/// The bytes of an answer that says why, to who may ask for it. `None`: the request is refused like any other. The connection closes.
pub(crate) fn explained(refused: &Refused<'_>, snapshot: &Snapshot, observers: &Observers) -> Option<Bytes> {
    if !snapshot.explains_to(token(refused.seen)?) {
        return None;
    }
    let body = serde_json::to_vec(&trace(refused)).ok()?;
    let id = RequestId::mint();
    let silent = refused.target().method() == http::Method::HEAD;
    log::explained(refused, id, if silent { 0 } else { body.len() }, observers);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         cache-control: no-store\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if !silent {
        bytes.extend_from_slice(&body);
    }
    Some(bytes.into())
}

/// What a head that may be cut off, or none at all, has in the one field by which a request asks for its trace.
fn token(seen: &[u8]) -> Option<&[u8]> {
    let lines = seen.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let fields = lines.skip(1).take_while(|line| !line.is_empty());
    let mut tokens = fields.filter_map(|field| {
        let colon = field.iter().position(|byte| *byte == b':')?;
        field[..colon].eq_ignore_ascii_case(ASKS_WHY.as_bytes()).then(|| field[colon + 1..].trim_ascii())
    });
    tokens.next().filter(|_| tokens.next().is_none())
}

fn trace(refused: &Refused<'_>) -> Trace {
    let (target, client) = (refused.target(), refused.client.ip());
    let ip = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string());
    let request = Asked {
        method: target.method().to_string(),
        scheme: refused.scheme.as_str(),
        host: target.host().to_owned(),
        path: target.path().to_owned(),
        query: target.query().map(str::to_owned),
        client: ip(client),
        peer: ip(refused.client.peer.map(|peer| peer.ip()).filter(|peer| Some(*peer) != client)),
        listener: Some(refused.listener.to_owned()),
    };
    let outcome = Outcome {
        kind: "refused",
        status: Some(refused.status),
        reason: Some(refused.reason.to_owned()),
        message: Some("the head was refused before it was a request".to_owned()),
    };
    Trace::new(request, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_read_from_whatever_came() {
        assert_eq!(token(b"TRACE / HTTP/1.1\r\nX-Ravelin-Explain:  abc \r\n\r\n"), Some(&b"abc"[..]));
        assert_eq!(token(b"GET / HTTP/1.1\na: b\nx-ravelin-explain: abc"), Some(&b"abc"[..]));
        for none in [
            &b""[..],
            b"x-ravelin-explain: abc\r\n",
            b"GET / HTTP/1.1\r\n\r\nx-ravelin-explain: abc\r\n",
            b"GET / HTTP/1.1\r\nx-ravelin-explain: abc\r\nx-ravelin-explain: abc\r\n\r\n",
            b"GET / HTTP/1.1\r\nx_ravelin_explain: abc\r\n\r\n",
        ] {
            assert_eq!(token(none), None, "{none:?}");
        }
    }
}
