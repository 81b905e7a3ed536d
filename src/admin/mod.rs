//! The admin address: where operators and their machines watch the process.
//!
//! It is a service of its own, with a thread of its own: it answers while all others are busy, before listeners accept and while
//! the process stops. What it takes from whoever connects is bounded in size, time and number, and nothing but `/healthz` is
//! told to those who don't know the token.

mod api;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

pub(crate) use self::api::Api;

use crate::config::Limits;
use crate::server::{BoundSocket, Drain, Socket, arrived};

/// Connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 64;
/// For the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection as a whole, which carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a request's head, in bytes and fields.
const HEAD_SIZE: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// Of a body, which nothing here needs: as much is read, so that the answer is not lost to a reset.
const BODY_SIZE: usize = 64 * 1024;
/// How long accepting pauses when it fails for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The admin address as a service.
pub(crate) struct Admin {
    socket: Option<BoundSocket>,
    api: Arc<Api>,
    drain: Arc<Drain>,
    /// Another process answers at this address until this one is ready.
    shared: bool,
}

impl Admin {
    pub(crate) fn new(socket: BoundSocket, shared: bool, api: Api, drain: Arc<Drain>) -> Self {
        Self { socket: Some(socket), api: Arc::new(api), drain, shared }
    }

    async fn serve(&mut self, ready: ServiceReadyNotifier) -> io::Result<()> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        let (socket, address) = Socket::new(socket)?;
        log::info!("admin listening on {address}");
        ready.notify_ready();
        if self.shared {
            self.drain.has_listened().await;
        }
        tokio::select! {
            () = accept(&socket, &self.api) => {}
            // From here on a new process answers.
            () = self.drain.has_handed_over() => {}
        }
        Ok(())
    }
}

#[async_trait]
impl ServiceWithDependents for Admin {
    async fn start_service(&mut self, _: Option<ListenFds>, mut shutdown: ShutdownWatch, _: usize, ready: ServiceReadyNotifier) {
        tokio::select! {
            served = self.serve(ready) => {
                if let Err(error) = served {
                    log::error!("admin address can't be served error={error}");
                }
            }
            // Until the process ends, not until it begins to.
            _ = shutdown.wait_for(|shutdown| *shutdown) => {}
        }
    }

    fn name(&self) -> &'static str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

async fn accept(socket: &Socket, api: &Arc<Api>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut failing = false;
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match socket.accept().await {
            Ok((stream, _)) => {
                failing = false;
                let api = api.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &api).await {
                        log::debug!("admin connection ended error={error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    log::error!("accept failed, trying again every {PAUSE:?} admin error={error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request. Its head is read as strictly as those of clients are, so that a proxy in front of this address and we see
/// the same; what is refused says why.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    api: &Api,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let head = match tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut stream)).await?? {
        Some(Ok(head)) => head,
        Some(Err(refusal)) => return Ok(tokio::time::timeout(HEAD_TIMEOUT, refuse(stream, refusal)).await??),
        None => return Ok(()),
    };
    let answer = async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        if !body.is_end_stream() {
            // Whatever comes of it: it is of no use to anybody.
            let _ = Limited::new(body, BODY_SIZE).collect().await;
        }
        Ok::<_, Infallible>(api.answer(&head))
    };
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(io::Cursor::new(head).chain(reader), writer);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEAD_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    Ok(tokio::time::timeout(CONNECTION_TIMEOUT, serving).await??)
}

/// A status and a reason code.
type Refusal = (u16, &'static str);

/// What comes, up to and perhaps beyond the end of a head. `None`: nothing more does, and there is none.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Result<Vec<u8>, Refusal>>> {
    let mut limits = Limits::default().or(&Limits::default());
    (limits.header_size, limits.headers) = (HEAD_SIZE, HEAD_FIELDS);
    let mut head = Vec::with_capacity(1024);
    loop {
        let seen = head.len();
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        match arrived(&head, seen, &limits) {
            None => {}
            Some(Ok(())) => return Ok(Some(Ok(head))),
            Some(Err(refusal)) => return Ok(Some(Err(refusal))),
        }
    }
}

async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin, (status, reason): Refusal) -> io::Result<()> {
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 {status} {phrase}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // What is not read would reset the connection, and the answer with it.
    tokio::io::copy(&mut stream.take(BODY_SIZE as u64), &mut tokio::io::sink()).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that comes back for these bytes.
    async fn said(bytes: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(async move { converse(server, &Api::testing(Some("sesame"))).await });
        client.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        let _ = serving.await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn one_request_is_answered_and_the_connection_closed() {
        let answer = said(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 1, "{answer}");
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_body_is_read_and_does_not_matter() {
        let answer = said(b"POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn heads_are_bounded() {
        let long = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(HEAD_SIZE));
        assert!(said(long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(HEAD_FIELDS));
        assert!(said(many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn heads_are_read_strictly() {
        for (request, status) in [
            ("GET /healthz HTTP/1.1\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\nHost: a\n\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("GET /healthz\r\n\r\n", 400),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ("\x16\x03\x01\x02\x00", 400),
        ] {
            let answer = said(request.as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains("connection: close"),
                "{request:?}: {answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_is_not_waited_for() {
        let answer = said(b"GET /healthz HTTP/1.1\r\nhost").await;
        assert!(!answer.contains("200"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn nor_is_a_body() {
        let answer = said(b"POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n").await;
        assert!(!answer.contains("200"), "{answer}");
    }
}
