//! Two parsers read each head and each chunked body: ours, which decides, and Pingora's. What is here shows that Pingora takes whatever
//! passes ours, with the same meaning. For tests and fuzzing only.

#![expect(clippy::unwrap_used, reason = "a check may fail loudly")]

use bytes::BytesMut;
use pingora_core::protocols::http::v1::server::HttpSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::{Limits, ListenerLimits};
use crate::proxy::{Chunks, Rows};
use crate::server::head::{Body, Scan, scan};

/// A client that has sent all it will, in pieces.
#[derive(Debug)]
struct Client(Vec<Vec<u8>>);

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(piece) = self.0.first_mut() {
            let length = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece.drain(..length).collect::<Vec<u8>>());
            if piece.is_empty() {
                self.0.remove(0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl VirtualSocket for Client {
    fn set_socket_option(&self, _: VirtualSockOpt) -> io::Result<()> {
        Ok(())
    }
}

/// A session of Pingora's that is given a head as ours gives it, and a body as it comes.
fn session(head: &[u8], body: Vec<Vec<u8>>) -> HttpSession {
    let stream = L4Stream::from(VirtualSocketStream::new(Box::new(Client(body))));
    let mut session = HttpSession::new(Box::new(stream));
    session.set_pipelined_prefix(BytesMut::from(head));
    session
}

fn limits() -> ListenerLimits {
    Limits::default().or(&Limits::default())
}

/// What a head says, to be compared.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    method: String,
    target: Vec<u8>,
    fields: Vec<(String, Vec<u8>)>,
}

/// Taken apart as naively as can be: right for what our scan lets pass.
fn naive(head: &[u8]) -> Meaning {
    let text: Vec<char> = head.iter().map(|byte| char::from(*byte)).collect();
    let text: String = text.into_iter().collect();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let latin1 = |text: &str| text.chars().map(|char| char as u8).collect::<Vec<u8>>();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), latin1(words.next().unwrap_or_default()));
    let mut fields: Vec<(String, Vec<u8>)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), latin1(value.trim_matches([' ', '\t']))))
        .collect();
    fields.sort();
    Meaning { method, target, fields }
}

fn pingoras(session: &HttpSession) -> Meaning {
    let head = session.req_header();
    let mut fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    fields.sort();
    Meaning { method: head.method.to_string(), target: head.raw_path().to_vec(), fields }
}

/// Whether a head passes our scan; then Pingora reads it as we did.
///
/// # Panics
/// It does not.
pub(super) async fn agrees_on_head(bytes: &[u8]) -> bool {
    let Scan::Head { length, body } = scan(bytes, 0, &limits(), &mut Rows::default()) else { return false };
    let mut session = session(&bytes[..length], Vec::new());
    let read = session.read_request().await;
    assert!(matches!(read, Ok(Some(read)) if read == length), "{:?} {read:?}", bytes.escape_ascii().to_string());
    assert_eq!(pingoras(&session), naive(&bytes[..length]));
    assert_eq!(session.is_body_empty(), matches!(body, Body::Length(0) | Body::Open));
    assert_eq!(
        session.is_upgrade_req(),
        session.req_header().headers.contains_key("upgrade")
            && bytes[..length].split(|byte| *byte == b'\r').next().is_some_and(|line| line.ends_with(b"HTTP/1.1"))
    );
    true
}

/// Whether a chunked body passes ours; then Pingora's reader finds the same body, and its end in the same place.
///
/// # Panics
/// It does not.
pub(super) async fn agrees_on_body(pieces: &[Vec<u8>]) -> bool {
    let bytes = pieces.concat();
    let mut chunks = Chunks::new();
    let taken = chunks.take(&bytes);
    // As the stream does it: piece by piece, and no byte behind the end.
    let (mut left, mut given) = (taken, Vec::new());
    for piece in pieces {
        let here = left.min(piece.len());
        given.push(piece[..here].to_vec());
        left -= here;
    }
    if !chunks.is_done() {
        return false;
    }
    given.retain(|piece| !piece.is_empty());
    let mut session = session(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", given);
    assert!(session.read_request().await.is_ok());
    let mut body = Vec::new();
    loop {
        match session.read_body_bytes().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break,
            Err(error) => panic!("{error} in {}", bytes.escape_ascii()),
        }
    }
    assert!(session.is_body_done());
    assert_eq!(body, decoded(&bytes[..taken]));
    true
}

/// A body that passed, decoded without looking left or right.
fn decoded(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|two| two == b"\r\n").unwrap();
        let digits = bytes[..line].split(|byte| *byte == b';').next().unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of which heads are made: right, nearly right and wrong.
    fn head() -> impl Strategy<Value = Vec<u8>> {
        let method = prop_oneof![8 => Just("GET"), 3 => Just("POST"), 2 => Just("OPTIONS"), 1 => Just("M-SEARCH"), 1 => Just("get"), 1 => "[!-~]{1,5}".prop_map(leak)];
        let target = prop_oneof![
            6 => "/[a-z0-9%._~!$&'()*+,;=:@|^{}\"-]{0,12}",
            4 => "/[!-~]{0,8}(\\?[!-~]{0,8})?",
            2 => "https?://[a-z0-9.:@\\[\\]-]{0,8}(/[!-~]{0,5})?(\\?[!-~]{0,4})?",
            1 => Just("*".to_owned()),
            1 => "[ -~]{0,6}",
        ];
        let version = prop_oneof![12 => Just("HTTP/1.1"), 3 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0"), 1 => Just("HTTP/1.10")];
        let host =
            prop_oneof![6 => Just("Host: a\r\n".to_owned()), 1 => Just(String::new()), 2 => "Host: [a-z0-9.:@\\[\\]-]{0,8}\r\n"];
        let field = prop_oneof![
            4 => "[A-Za-z0-9_!#$%&'*+.^`|~-]{1,10}:[ \t]{0,2}[ -~\t]{0,12}[ \t]{0,2}\r\n".prop_map(String::into_bytes),
            2 => prop::sample::select(vec![
                "Content-Length: 5\r\n", "Content-Length: 0\r\n", "content-length:05\r\n", "Transfer-Encoding: chunked\r\n",
                "transfer-encoding:CHUNKED\r\n", "Upgrade: websocket\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n",
                "X: 1\n", "X: 1\r", " X: 1\r\n", "X : 1\r\n", "Host: b\r\n",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            2 => prop::collection::vec(any::<u8>(), 0..8).prop_map(|value| [&b"x-any: "[..], &value, b"\r\n"].concat()),
            1 => prop::collection::vec(any::<u8>(), 1..8),
        ];
        (method, target, version, host, prop::collection::vec(field, 0..5)).prop_map(|(method, target, version, host, fields)| {
            let line = format!("{method} {target} {version}\r\n{host}");
            [line.as_bytes(), &fields.concat(), b"\r\n"].concat()
        })
    }

    fn leak(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }

    /// Likewise of bodies.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let chunk = prop_oneof![
            6 => ("[a-z]{1,20}", "(;[ -~]{0,6})?", 0..3_usize).prop_map(|(data, extension, zeros)| {
                format!("{}{:x}{extension}\r\n{data}\r\n", "0".repeat(zeros), data.len()).into_bytes()
            }),
            1 => "[0-9a-fA-F]{0,3}[ ;\t]{0,2}[\r\n]{0,3}[a-z]{0,4}[\r\n]{0,3}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        let end = prop_oneof![
            4 => Just("0\r\n\r\n".to_owned()),
            3 => "0{1,4}(;[ -~]{0,5})?\r\n([A-Za-z-]{1,12}:[ -~\t]{0,8}\r\n){0,3}\r\n",
            1 => "0[\r\n :a]{0,8}",
        ];
        (prop::collection::vec(chunk, 0..4), end, "[ -~\r\n]{0,9}")
            .prop_map(|(chunks, end, next)| [&chunks.concat()[..], end.as_bytes(), next.as_bytes()].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn pingora_takes_every_head_that_passes(bytes in head()) {
            block_on(agrees_on_head(&bytes));
        }

        #[test]
        fn pingora_finds_the_end_of_every_body_that_passes(bytes in body(), cuts in prop::collection::vec(0..80_usize, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<Vec<u8>> = cuts.windows(2).map(|two| bytes[two[0]..two[1]].to_vec()).collect();
            block_on(agrees_on_body(&pieces));
        }
    }

    #[test]
    fn the_tests_are_about_something() {
        let heads = ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST http://a/b?c HTTP/1.0\r\nContent-Length: 3\r\nX_y:\t z \r\n\r\n"];
        assert!(heads.iter().all(|head| block_on(agrees_on_head(head.as_bytes()))));
        let body = b"3;x=\"y\"\r\nabc\r\n00a\r\n0123456789\r\n0\r\nX: 1\r\n\r\nGET".to_vec();
        assert!(block_on(agrees_on_body(std::slice::from_ref(&body))));
        for cut in 1..body.len() {
            assert!(block_on(agrees_on_body(&[body[..cut].to_vec(), body[cut..].to_vec()])), "{cut}");
        }
    }

    /// Every pair of visible characters, where a path, a query and an absolute form have them.
    #[test]
    fn pingora_takes_every_short_target_that_passes() {
        let mut agreed = 0;
        for (first, second) in (0x21..0x7f_u8).flat_map(|first| (0x21..0x7f_u8).map(move |second| (first, second))) {
            for start in [&b"/"[..], b"/?", b"http://a/"] {
                let target = [start, &[first, second]].concat();
                let head = [b"GET ", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
                agreed += usize::from(block_on(agrees_on_head(&head)));
            }
        }
        assert!(agreed > 10_000, "{agreed}");
    }
}
