//! An endpoint that says how it was reached: over which connection, TLS and protocol, and after which PROXY header.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::pki::Pair;
use super::runtime;

/// How it is reached.
#[derive(Clone)]
pub(crate) struct Reached {
    /// TLS with this certificate, and these protocols (ALPN).
    pub(crate) tls: Option<(Pair, Vec<&'static str>)>,
    /// Whose certificates it asks for.
    pub(crate) clients: Option<String>,
    /// HTTP/2 by prior knowledge.
    pub(crate) h2c: bool,
    /// A PROXY header comes first.
    pub(crate) introduced: bool,
    /// Requests until it ends a connection.
    pub(crate) requests: usize,
    /// Probes until it does.
    pub(crate) probes: usize,
    /// Streams at once that it allows, over HTTP/2.
    pub(crate) streams: u32,
    /// It takes requests, and answers none.
    pub(crate) silent: bool,
}

impl Default for Reached {
    fn default() -> Self {
        Self {
            tls: None,
            clients: None,
            h2c: false,
            introduced: false,
            requests: usize::MAX,
            probes: usize::MAX,
            streams: 250,
            silent: false,
        }
    }
}

/// It ends with its value.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Streams that were reset, by what.
    pub(crate) resets: Arc<Mutex<Vec<String>>>,
    told: Told,
    accepting: tokio::task::JoinHandle<()>,
}

/// What its connections share.
#[derive(Clone, Default)]
struct Told {
    resets: Arc<Mutex<Vec<String>>>,
    /// How probes reached it.
    probes: Arc<Mutex<Vec<String>>>,
    /// It says that it is ill.
    ill: Arc<AtomicBool>,
}

impl Told {
    fn probed(&self, facts: &str) -> bool {
        self.probes.lock().expect("nobody panics").push(facts.to_owned());
        self.ill.load(Ordering::SeqCst)
    }
}

impl Endpoint {
    pub(crate) fn start(reached: Reached) -> Self {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (connections, told) = (Arc::new(AtomicUsize::new(0)), Told::default());
        let tls = reached.tls.as_ref().map(|(pair, alpn)| config(pair, alpn, reached.clients.as_deref()));
        let (counted, shared) = (connections.clone(), told.clone());
        let accepting = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
                let (tls, reached, told) = (tls.clone(), reached.clone(), shared.clone());
                tokio::spawn(async move {
                    let _ = connection(stream, number, tls, reached, told).await;
                });
            }
        });
        Self { address, connections, resets: told.resets.clone(), told, accepting }
    }

    /// From now on it says that it is ill, or well.
    pub(crate) fn fall_ill(&self, ill: bool) {
        self.told.ill.store(ill, Ordering::SeqCst);
    }

    /// How probes of `/healthz` and of the gRPC health service reached it.
    pub(crate) fn probes(&self) -> Vec<String> {
        self.told.probes.lock().expect("nobody panics").clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn config(pair: &Pair, alpn: &[&str], clients: Option<&str>) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&pair.cert).expect("it is there").map(|der| der.expect("it is one")).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn connection(
    mut stream: TcpStream,
    number: usize,
    tls: Option<Arc<ServerConfig>>,
    reached: Reached,
    told: Told,
) -> io::Result<()> {
    let mut facts = format!("connection={number}");
    if reached.introduced {
        facts += &format!(" proxy={:?}", introduction(&mut stream).await?);
    }
    let mut http2 = reached.h2c;
    let Some(tls) = tls else { return serve(stream, facts, http2, &reached, told).await };
    let stream = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await?;
    let session = stream.get_ref().1;
    let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let kind = match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "full",
    };
    let (sni, certificate) = (session.server_name().unwrap_or("-").to_owned(), session.peer_certificates().is_some());
    facts += &format!(" handshake={kind} sni={sni} alpn={} certificate={certificate}", alpn.as_deref().unwrap_or("-"));
    http2 |= alpn.as_deref() == Some("h2");
    serve(stream, facts, http2, &reached, told).await
}

/// The PROXY header in words.
async fn introduction(stream: &mut TcpStream) -> io::Result<String> {
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == *b"\r\n\r\n\0\r\nQUIT\n" {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let mut addresses = vec![0; usize::from(u16::from_be_bytes([rest[2], rest[3]]))];
        stream.read_exact(&mut addresses).await?;
        let whole = [&start[..], &rest, &addresses].concat();
        let header = ppp::v2::Header::try_from(whole.as_slice()).map_err(|error| io::Error::other(format!("{error:?}")))?;
        return Ok(match header.addresses {
            ppp::v2::Addresses::IPv4(ip) => format!("v2 {}:{}", ip.source_address, ip.source_port),
            ppp::v2::Addresses::IPv6(ip) => format!("v2 [{}]:{}", ip.source_address, ip.source_port),
            other => format!("v2 {other:?}"),
        });
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await?);
    }
    Ok(format!("v1 {}", String::from_utf8_lossy(&line).trim_end()))
}

async fn serve<S>(stream: S, facts: String, http2: bool, reached: &Reached, told: Told) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if http2 { serve_http2(stream, facts, reached, told).await } else { serve_http1(stream, facts, reached, told).await }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    facts: String,
    reached: &Reached,
    told: Told,
) -> io::Result<()> {
    let (served, limit, silent) = (AtomicUsize::new(0), reached.requests, reached.silent);
    let probes = reached.probes;
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let number = served.fetch_add(1, Ordering::SeqCst) + 1;
        let last = number >= limit;
        let (facts, told) = (facts.clone(), told.clone());
        async move {
            if silent {
                std::future::pending::<()>().await;
            }
            let path = request.uri().path().to_owned();
            let mut response = Response::new(Full::new(Bytes::from(format!("{facts} http=1 path={path}"))));
            if request.headers().contains_key("upgrade") {
                // A tunnel that sends back what comes.
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    if let Ok(upgraded) = upgrade.await {
                        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
                        let _ = tokio::io::copy(&mut read, &mut write).await;
                    }
                });
                *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert("upgrade", http::HeaderValue::from_static("websocket"));
                response.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
                *response.body_mut() = Full::default();
            } else if path == "/healthz" {
                if told.probed(&format!("{facts} http=1")) {
                    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                }
                if number >= probes {
                    response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                }
            } else if last {
                response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades();
    serving.await.map_err(io::Error::other)
}

/// What a path asks for: `/body` says what came as the request's body, `/stall` never answers, `/half` stalls in its body, `/refuse` refuses
/// the first stream of each connection, and `/away` says that no more are taken.
async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    facts: String,
    reached: &Reached,
    told: Told,
) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(reached.streams);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.map_err(io::Error::other)?;
    let mut served = 0;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted.map_err(io::Error::other)?;
        served += 1;
        if served >= reached.requests {
            connection.graceful_shutdown();
        }
        let path = request.uri().path().to_owned();
        if path == "/refuse" && served == 1 {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        let silent = reached.silent;
        let (mut facts, Told { resets, .. }) = (format!("{facts} http=2 stream={served} path={path}"), told.clone());
        if path == "/healthz" || path == "/grpc.health.v1.Health/Check" {
            let ill = told.probed(&format!("{facts} scheme={}", request.uri().scheme_str().unwrap_or("-")));
            if served >= reached.probes {
                connection.graceful_shutdown();
            }
            let _ = well_or_ill(&path, ill, respond);
            continue;
        }
        let asked = (path == "/body").then(|| request.into_body());
        tokio::spawn(async move {
            if let Some(mut asked) = asked {
                let mut came = Vec::new();
                while let Some(Ok(data)) = asked.data().await {
                    came.extend_from_slice(&data);
                    let _ = asked.flow_control().release_capacity(data.len());
                }
                facts += &format!(" body={}", String::from_utf8_lossy(&came));
            }
            if silent || path == "/stall" {
                let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                resets.lock().expect("nobody panics").push(format!("{reset:?}"));
                return;
            }
            let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
            let end = path != "/half";
            if body.send_data(Bytes::from(facts), end).is_ok() && !end {
                let reset = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
                resets.lock().expect("nobody panics").push(format!("{reset:?}"));
            }
        });
    }
    Ok(())
}

/// Answers a probe, of either kind.
fn well_or_ill(path: &str, ill: bool, mut respond: h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let plain = path == "/healthz";
    let mut head = Response::new(());
    if plain && ill {
        *head.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    let mut body = respond.send_response(head, plain)?;
    if !plain {
        body.send_data(Bytes::from_static(if ill { b"\0\0\0\0\x02\x08\x02" } else { b"\0\0\0\0\x02\x08\x01" }), false)?;
        body.send_trailers(http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]))?;
    }
    Ok(())
}
