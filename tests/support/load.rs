//! Clients of every kind, each with one request after the other until it is told to go: none of them takes any answer but the right one.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::deadline::Deadline;
use super::http1::{Connection, Outgoing};
use super::http2::H2Connection;
use super::runtime;
use super::tls::{Authority, Client, Secure};
use super::wire::Transcript;

/// The name in the certificate.
pub(crate) const NAME: &str = "a.example";
/// Of a body that is sent: more than one read of it.
const BODY: usize = 20_000;

/// How a client sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Over one connection, for as long as the proxy keeps it.
    Plain,
    /// Each over a connection of its own.
    PlainAnew,
    /// With a body, which comes back.
    Post,
    /// Likewise, in chunks.
    Chunked,
    Tls,
    TlsAnew,
    Http2,
    /// With a body, which comes back.
    Http2Post,
    Http2Tls,
}

const KINDS: [Kind; 9] = [
    Kind::Plain,
    Kind::PlainAnew,
    Kind::Post,
    Kind::Chunked,
    Kind::Tls,
    Kind::TlsAnew,
    Kind::Http2,
    Kind::Http2Post,
    Kind::Http2Tls,
];

/// An origin that sends back what it is sent.
pub(crate) struct Mirror {
    address: String,
    accepting: tokio::task::JoinHandle<()>,
}

impl Mirror {
    pub(crate) fn start() -> Self {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let accepting = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, accepting }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client of each kind.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<(Kind, Arc<AtomicU64>, JoinHandle<()>)>,
}

/// Where they ask.
struct Proxy {
    /// An address that speaks HTTP/1.1 and, by prior knowledge, HTTP/2.
    plain: String,
    /// Likewise over TLS.
    secure: String,
    tls: Client,
    http2: Client,
}

impl Load {
    /// Against a [`Mirror`] behind a proxy whose certificate, for [`NAME`], is the authority's.
    pub(crate) fn start(plain: &str, secure: &str, authority: &Authority) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let proxy = Arc::new(Proxy {
            plain: plain.to_owned(),
            secure: secure.to_owned(),
            tls: Client::new(authority).alpn(&["http/1.1"]),
            http2: Client::new(authority).alpn(&["h2"]),
        });
        let clients = KINDS.map(|kind| {
            let answered = Arc::new(AtomicU64::new(0));
            let (stop, counted, proxy) = (stop.clone(), answered.clone(), proxy.clone());
            let running = thread::Builder::new().name(format!("{kind:?}"));
            let running = running.spawn(move || ask_on(kind, &proxy, &stop, &counted)).expect("a thread");
            (kind, answered, running)
        });
        Self { stop, clients: clients.into() }
    }

    /// Waits until each of them has been answered so many times more.
    pub(crate) fn until_each_has(&self, more: u64) {
        let deadline = Deadline::standard();
        let before: Vec<u64> = self.clients.iter().map(|(_, answered, _)| answered.load(Ordering::Relaxed)).collect();
        for ((kind, answered, running), before) in self.clients.iter().zip(before) {
            while answered.load(Ordering::Relaxed) < before + more {
                assert!(!running.is_finished(), "{kind:?} has failed");
                assert!(!deadline.passed(), "{kind:?} is answered no more");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Sends them home: how often each was answered.
    pub(crate) fn end(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.clients.into_iter().map(|(kind, answered, running)| {
            assert!(running.join().is_ok(), "not every answer to {kind:?} was the right one");
            format!("{kind:?} {}", answered.load(Ordering::Relaxed))
        });
        ended.collect::<Vec<_>>().join(", ")
    }
}

enum Open {
    Plain(Connection),
    Tls(Box<Secure>),
    Http2(H2Connection),
}

/// What a request came to.
enum Asked {
    Answered {
        /// The connection takes another.
        again: bool,
    },
    /// It could not be sent: the proxy had said that it takes no more.
    Unsent,
}

fn ask_on(kind: Kind, proxy: &Proxy, stop: &AtomicBool, answered: &AtomicU64) {
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let used = kept.is_some();
        let mut open = kept.take().unwrap_or_else(|| connect(kind, proxy).expect("nobody is refused"));
        match ask(kind, &mut open) {
            Asked::Answered { again } => {
                answered.fetch_add(1, Ordering::Relaxed);
                match &mut open {
                    // Nobody reads what has gone well.
                    Open::Plain(connection) => connection.transcript = Transcript::default(),
                    Open::Http2(connection) => connection.transcript = Transcript::default(),
                    Open::Tls(_) => {}
                }
                kept = again.then_some(open);
            }
            Asked::Unsent => assert!(used, "a new connection takes a request"),
        }
    }
}

fn connect(kind: Kind, proxy: &Proxy) -> io::Result<Open> {
    let deadline = Deadline::standard();
    Ok(match kind {
        Kind::Plain | Kind::PlainAnew | Kind::Post | Kind::Chunked => Open::Plain(Connection::open(&proxy.plain, deadline)?),
        Kind::Tls | Kind::TlsAnew => Open::Tls(Box::new(proxy.tls.connect(&proxy.secure, NAME, deadline)?)),
        Kind::Http2 | Kind::Http2Post => Open::Http2(H2Connection::open(&proxy.plain, deadline)?),
        Kind::Http2Tls => Open::Http2(H2Connection::open_secure(&proxy.secure, &proxy.http2, NAME, deadline)?),
    })
}

fn ask(kind: Kind, open: &mut Open) -> Asked {
    let deadline = Deadline::standard();
    let mut request = Outgoing::get("/", NAME);
    if matches!(kind, Kind::Post | Kind::Chunked | Kind::Http2Post) {
        request.method = "POST".into();
        request.body = (0..BODY).map(|at| b'a' + (at % 26) as u8).collect();
    }
    match kind {
        Kind::Post => request.fields.push(("Content-Length".into(), BODY.to_string().into())),
        Kind::Chunked => request.fields.push(("Transfer-Encoding".into(), "chunked".into())),
        Kind::PlainAnew | Kind::TlsAnew => request.fields.push(("Connection".into(), "close".into())),
        _ => {}
    }
    let (response, open) = match open {
        Open::Plain(connection) => {
            connection.request(&request, deadline).expect("it takes a request");
            (connection.next_response(deadline).expect("an answer"), true)
        }
        Open::Http2(connection) => {
            if connection.request(&request, deadline).is_err() {
                return Asked::Unsent;
            }
            (connection.next_response(deadline).expect("an answer"), connection.is_open())
        }
        Open::Tls(secure) => {
            secure.send(&request.bytes()).expect("it takes a request");
            let (status, text) = secure.response().expect("an answer");
            assert_eq!(status, 200, "{text}");
            return Asked::Answered { again: !text.to_ascii_lowercase().contains("\r\nconnection: close\r\n") };
        }
    };
    assert_eq!((response.head.status(), response.cut.as_deref()), (Some(200), None), "{kind:?}");
    assert!(response.body == request.body, "{kind:?}: the body that came back is another: {} bytes", response.body.len());
    Asked::Answered { again: open && !response.head.closes() }
}
