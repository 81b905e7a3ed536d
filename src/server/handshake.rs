//! The TLS handshake: bounded in time and in number, and told apart from whatever else comes to the port.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use pingora_core::protocols::tls::SslDigest;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::filter::Client;
use crate::server::connection::{STOPPING, sooner};
use crate::server::drain::{Closing, UNFINISHED};
use crate::server::listeners::Listener;
use crate::server::socket::{Rewound, Socket};
use crate::server::stream::Conn;
use crate::tls::{Answer, Terminator, TlsSession};

/// What came of it.
pub(super) enum Handshake {
    /// The client's session; whether it speaks HTTP/2.
    Done(Arc<TlsSession>, bool),
    /// The client speaks HTTP, in the clear.
    Plaintext,
    /// The connection is over; if that is a failure, it has been told of.
    Over,
}

/// Why it failed.
struct Failure {
    /// A constant word.
    reason: &'static str,
    detail: String,
}

impl Failure {
    fn new(reason: &'static str) -> Self {
        Self { reason, detail: String::new() }
    }
}

/// What a client begins with.
enum Opening {
    Tls,
    Plaintext,
    /// Nothing: it has left, or the process stops.
    Nothing,
}

/// Makes a TLS connection of one that was just accepted.
pub(super) async fn shake(conn: &mut Conn, terminator: &Terminator, client: Client, listener: &Listener) -> Handshake {
    let limits = listener.limits();
    // Counted for as long as it takes. Proxies shake hands for many clients.
    let address = client.address.filter(|address| {
        !listener
            .store
            .trust(listener.index, |trust| trust.sends_proxy(Some(address.ip())) || trust.forwards(Some(address.ip())).is_some())
    });
    let _counted = match (address, limits.handshakes_per_client) {
        (Some(address), Some(limit)) => match listener.handshakes.enter(address.ip(), limit) {
            Some(counted) => Some(counted),
            None => return failed(&Failure::new("handshakes_per_client"), client, listener),
        },
        _ => None,
    };
    let since = Instant::now();
    let due = limits.tls_handshake_timeout.map(|timeout| since + timeout);
    match opening(conn, since, due, listener).await {
        Ok(Opening::Tls) => {}
        Ok(Opening::Plaintext) => {
            listener.meter.handshake_failed("plaintext");
            return Handshake::Plaintext;
        }
        Ok(Opening::Nothing) => return Handshake::Over,
        Err(failure) => return failed(&failure, client, listener),
    }
    let Some(rewound) = conn.rewind() else { return Handshake::Over };
    let in_time = async {
        let accepting = accept(rewound, terminator);
        match due {
            Some(due) => tokio::time::timeout_at(due, accepting).await.unwrap_or_else(|_| Err(Failure::new("timeout"))),
            None => accepting.await,
        }
    };
    let accepted = tokio::select! {
        biased;
        accepted = in_time => accepted,
        () = listener.drain.closing_unfinished() => Err(Failure::new(STOPPING)),
    };
    match accepted {
        Ok(Some(stream)) => {
            let connection = stream.get_ref().1;
            let session = Arc::new(TlsSession::of(connection));
            let http2 = connection.alpn_protocol() == Some(b"h2");
            listener.meter.handshaken(session.version(), session.is_resumed());
            conn.secure(Socket::secured(stream, digest(&session)));
            Handshake::Done(session, http2)
        }
        Ok(None) => {
            listener.meter.handshaken("acme-tls/1", false);
            Handshake::Over
        }
        Err(failure) => failed(&failure, client, listener),
    }
}

/// Counts a failure, and says so, but not too often.
fn failed(failure: &Failure, client: Client, listener: &Listener) -> Handshake {
    let Failure { reason, detail } = failure;
    listener.meter.handshake_failed(reason);
    if listener.observers.may_say(reason) {
        let client = client.ip().map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        log::info!("TLS handshake failed reason={reason} client={client} listener={} detail={detail:?}", listener.name);
    }
    Handshake::Over
}

/// Waits for the client's first bytes, which tell what it speaks. One that has just connected has a moment for that while the process stops.
async fn opening(conn: &mut Conn, since: Instant, due: Option<Instant>, listener: &Listener) -> Result<Opening, Failure> {
    let mut waiting = pin!(listener.drain.closing_idle());
    let mut closing = Closing::new(&listener.drain, waiting.as_mut());
    poll_fn(|cx| {
        loop {
            match conn.ahead() {
                [] => {}
                // The methods of HTTP, and its preface, begin with a letter; no record of TLS does.
                [b'A'..=b'Z' | b'a'..=b'z', ..] => return Poll::Ready(Ok(Opening::Plaintext)),
                _ => return Poll::Ready(Ok(Opening::Tls)),
            }
            match conn.poll_ahead(cx) {
                Poll::Ready(Ok(true)) => continue,
                // Whoever probes a port comes and goes like this.
                Poll::Ready(_) => return Poll::Ready(Ok(Opening::Nothing)),
                Poll::Pending => {}
            }
            let last = closing.poll(cx).map(|last| last.min(since + UNFINISHED));
            let Some(due) = sooner(due, last) else { return Poll::Pending };
            return conn.poll_until(due, cx).map(|()| match last {
                Some(_) => Ok(Opening::Nothing),
                None => Err(Failure::new("timeout")),
            });
        }
    })
    .await
}

/// `Ok(None)`: the handshake was all that was wanted.
async fn accept(stream: Rewound, terminator: &Terminator) -> Result<Option<TlsStream<Rewound>>, Failure> {
    // In memory of its own, which is gone when the handshake is over: a connection's task is as large as its largest moment.
    Box::pin(async move {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.map_err(|error| why(&error))?;
        let (config, challenge) = match terminator.answer(&start.client_hello()) {
            Answer::Serve(config) => (config, false),
            Answer::Challenge(config) => (config, true),
            Answer::UnknownName => return Err(refuse(start.io, AlertDescription::UnrecognisedName, "unknown_name").await),
        };
        let mut stream = start.into_stream(config).await.map_err(|error| why(&error))?;
        if !terminator.still_lets_in(stream.get_ref().1, UnixTime::now()) {
            // There is no going back in TLS: the client begins anew, without its session.
            let _ = stream.shutdown().await;
            return Err(Failure::new("client_certificate"));
        }
        if challenge {
            let _ = stream.shutdown().await;
            return Ok(None);
        }
        Ok(Some(stream))
    })
    .await
}

/// Tells the client with an alert of our own: rustls would call it something else.
async fn refuse(mut stream: Rewound, alert: AlertDescription, reason: &'static str) -> Failure {
    const FATAL: u8 = 2;
    let record = [21, 3, 3, 0, 2, FATAL, u8::from(alert)];
    // A client that does not listen is left.
    let _ = stream.write_all(&record).await;
    let _ = stream.shutdown().await;
    Failure::new(reason)
}

fn why(error: &io::Error) -> Failure {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::new("left"),
            _ => Failure { reason: "io", detail: error.to_string() },
        };
    };
    let reason = match error {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "malformed"
        }
        Error::PeerSentOversizedRecord | Error::PeerMisbehaved(_) | Error::DecryptError => "malformed",
        Error::PeerIncompatible(_) => "incompatible",
        Error::NoApplicationProtocol => "no_common_protocol",
        Error::AlertReceived(_) => "alert",
        Error::NoCertificatesPresented => "no_client_certificate",
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "client_certificate_expired"
        }
        Error::InvalidCertificate(_) => "client_certificate",
        _ => "other",
    };
    Failure { reason, detail: error.to_string() }
}

/// The session in Pingora's words, for who looks through the escape hatch.
fn digest(session: &TlsSession) -> SslDigest {
    SslDigest::new(
        session.cipher(),
        session.version(),
        None,
        session.client().map(|client| client.serial().to_owned()),
        Vec::new(),
    )
}
