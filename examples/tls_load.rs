//! TLS handshakes and nothing else, as many as one thread can make: the load of `benches/compare` for its handshake scenarios.
//!
//! `tls_load ADDRESS SECONDS CONNECTIONS new|resume`. Each connection shakes hands, says that it closes, and waits until the server has
//! closed: all that a handshake costs the server has been done then, tickets included. Keys are agreed by X25519, which all servers know.
//! It verifies nobody: it is no client to use.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a program for measurements may fail loudly")]

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Believes everybody, so that the load costs little.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[derive(Default)]
struct Done {
    all: AtomicU64,
    resumed: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = env::args().skip(1);
    let mut next = |what| arguments.next().expect(what);
    let (address, seconds, connections, mode) = (next("ADDRESS"), next("SECONDS"), next("CONNECTIONS"), next("new|resume"));
    let time = Duration::from_secs(seconds.parse().expect("SECONDS"));
    let connections: usize = connections.parse().expect("CONNECTIONS");
    let provider = aws_lc_rs::default_provider();
    let group = provider.kx_groups.iter().copied().find(|group| group.name() == NamedGroup::X25519).expect("X25519");
    let provider = Arc::new(CryptoProvider { kx_groups: vec![group], ..provider });
    let done = Arc::new(Done::default());
    let began = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            // Each remembers its own sessions.
            let builder = ClientConfig::builder_with_provider(provider.clone());
            let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
            let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
            config.resumption = match mode.as_str() {
                "resume" => Resumption::store(Arc::new(ClientSessionMemoryCache::new(8))),
                _ => Resumption::disabled(),
            };
            tokio::spawn(client(address.clone(), TlsConnector::from(Arc::new(config)), began + time, done.clone()))
        })
        .collect();
    for client in clients {
        client.await.expect("a client that ends");
    }
    let (all, resumed) = (done.all.load(Ordering::Relaxed), done.resumed.load(Ordering::Relaxed));
    println!("{all} handshakes in {:.3}s, {resumed} resumed", began.elapsed().as_secs_f64());
}

async fn client(address: String, connector: TlsConnector, until: Instant, done: Arc<Done>) {
    let name = ServerName::try_from("bench.example").expect("a name");
    let mut rest = [0; 4096];
    while Instant::now() < until {
        let socket = TcpStream::connect(&address).await.expect("the server listens");
        socket.set_nodelay(true).expect("no delay");
        let mut stream = connector.connect(name.clone(), socket).await.expect("a handshake");
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        stream.shutdown().await.expect("an end");
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        done.all.fetch_add(1, Ordering::Relaxed);
        done.resumed.fetch_add(u64::from(resumed), Ordering::Relaxed);
    }
}
