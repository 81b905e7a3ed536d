//! TLS of one listener: its certificates, as they are now, and how handshakes are answered with them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

use crate::config::{ClientAuthMode, Diagnostic, Report, Spanned, Tls, TlsVersion};
use crate::tls::certificate::{Part, chain};
use crate::tls::files::{Change, Following, Pair, Stamp, read, stamp};
use crate::tls::issued::{ACME_TLS, Issued};
use crate::tls::names::{Names, choose};
use crate::tls::{Certificate, CertificateError, provider};
use crate::types::Watched;

/// Sessions that are kept in memory for clients that take no ticket.
const SESSIONS: usize = 10_000;

/// TLS of a listener.
pub(crate) struct Terminator {
    min_version: TlsVersion,
    tickets: bool,
    http2: bool,
    live: Watched<Live>,
    issued: Arc<Issued>,
    challenges: Arc<ServerConfig>,
    followed: Mutex<Followed>,
}

/// What handshakes use, as the files are now.
struct Live {
    server: Arc<ServerConfig>,
    names: Arc<Names>,
    certificates: Vec<(PathBuf, Arc<Certificate>)>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    resumption: Arc<Resumption>,
}

/// The files behind it.
struct Followed {
    pairs: Vec<(Pair, Following<[Stamp; 3]>)>,
    clients: Option<Clients>,
}

/// Whose certificates are taken of clients.
struct Clients {
    ca: PathBuf,
    mode: ClientAuthMode,
    following: Following<Stamp>,
}

/// What lets a client resume its session. It is the listener's own: a session holds what the client was found to be, and another
/// listener, or this one before its demands were changed, may have asked for less.
struct Resumption {
    /// Who is let in, in so many bytes.
    demands: Demands,
    tickets: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Demands(Option<(ClientAuthMode, Vec<CertificateDer<'static>>)>);

/// How a handshake goes on once the client has said what it wants.
pub(crate) enum Answer {
    /// By this configuration.
    Serve(Arc<ServerConfig>),
    /// It is an ACME server, which wants nothing but the handshake.
    Challenge(Arc<ServerConfig>),
    /// There is no certificate for the name.
    UnknownName,
}

impl Terminator {
    /// Reads what a listener needs. What is wrong goes to the report, with its place; `None`: nothing can be served. `previous` is the
    /// one of the same listener in the configuration in force: sessions that began there can be resumed here.
    pub(crate) fn read(
        section: &Spanned<Tls>,
        http2: bool,
        previous: Option<&Self>,
        now: SystemTime,
        report: &mut Report,
    ) -> Option<Self> {
        let mut certificates = Vec::new();
        let mut pairs = Vec::new();
        for files in &section.certificates {
            let pair = Pair::of(files);
            for file in [&pair.cert, &pair.key].into_iter().chain(&pair.ocsp) {
                report.follows(file.clone());
            }
            let stamps = pair.stamps();
            match pair.read() {
                Ok(certificate) => {
                    if let Some(worry) = certificate.worry(now) {
                        report.push(Diagnostic::warning(files.cert.span, worry));
                    }
                    if let (Some(ocsp), Some(worry)) = (&files.ocsp, certificate.staple_worry(now)) {
                        report.push(Diagnostic::warning(ocsp.span, worry));
                    }
                    if let Some(mode) = pair.exposed_key() {
                        let message = format!("others than its owner can read this key: its mode is {mode:04o}");
                        let hint = format!("chmod 600 {}", report.shown(files.key.span, &files.key.display().to_string()));
                        report.push(Diagnostic::warning(files.key.span, message).hint(hint));
                    }
                    certificates.push((pair.cert.clone(), Arc::new(certificate)));
                }
                Err((first, error)) => {
                    for (part, error) in
                        std::iter::once((first, error)).chain(pair.unreadable().filter(|(part, _)| *part != first))
                    {
                        let place = match part {
                            Part::Cert => &files.cert,
                            Part::Key => &files.key,
                            Part::Ocsp => files.ocsp.as_ref().unwrap_or(&files.cert),
                        };
                        let shown = report.shown(place.span, &place.display().to_string());
                        let mut diagnostic = Diagnostic::error(place.span, format!("{shown}: {error}"));
                        if matches!(error, CertificateError::Mismatch) {
                            diagnostic = diagnostic.related(files.cert.span, "the certificate");
                        }
                        report.push(diagnostic);
                    }
                }
            }
            pairs.push((pair, Following::new(stamps)));
        }
        let mut clients = None;
        let mut roots = None;
        if let Some(auth) = &section.client_auth {
            let ca = auth.ca.value.clone();
            report.follows(ca.clone());
            let following = Following::new(stamp(&ca));
            match read(&ca).and_then(|text| chain(&text)) {
                Ok(read) => roots = Some((auth.mode, read)),
                Err(error) => {
                    let shown = report.shown(auth.ca.span, &ca.display().to_string());
                    report.push(Diagnostic::error(auth.ca.span, format!("{shown}: {error}")));
                }
            }
            clients = Some(Clients { ca, mode: auth.mode, following });
        }
        if certificates.len() < pairs.len()
            || roots.is_none() != clients.is_none()
            || (pairs.is_empty() && section.acme.is_none())
        {
            return None;
        }
        let demands = Demands(roots);
        let resumption = previous.map(|previous| previous.live.now().resumption.clone());
        let resumption = resumption.filter(|kept| kept.demands == demands && kept.tickets.is_some() == section.session_tickets);
        let resumption = match resumption.map_or_else(|| Resumption::new(demands, section.session_tickets), Ok) {
            Ok(resumption) => resumption,
            Err(error) => {
                report.push(Diagnostic::error(section.span, format!("no keys for tickets can be made: {error}")));
                return None;
            }
        };
        let issued = previous.map_or_else(Arc::default, |previous| previous.issued.clone());
        let challenges = challenges(&issued);
        let plan = Plan { min_version: section.min_version, http2, issued: &issued };
        let live = match (plan.live(certificates, resumption), challenges) {
            (Ok(live), Ok(challenges)) => (live, challenges),
            (Err(error), _) => {
                let place = section.client_auth.as_ref().map_or(section.span, |auth| auth.ca.span);
                report.push(Diagnostic::error(place, error));
                return None;
            }
            (_, Err(error)) => {
                report.push(Diagnostic::error(section.span, error));
                return None;
            }
        };
        for (files, (_, certificate)) in section.certificates.iter().zip(&live.0.certificates) {
            if live.0.names.never_serves(certificate) {
                let message = if certificate.names().is_empty() {
                    "this certificate is for no name, and not the first: it is never served"
                } else {
                    "this certificate is never served: others with the same kind of key come first for each of its names"
                };
                report.push(Diagnostic::warning(files.cert.span, message));
            }
        }
        for domain in section.acme.iter().flat_map(|acme| &acme.domains) {
            if live.0.names.exact(domain.as_str()).is_some() {
                let message = "what is obtained for this name is never served: one of `certificates` is for it";
                report.push(Diagnostic::warning(domain.span, message).hint("remove it from one of the two"));
            }
        }
        let (live, challenges) = live;
        Some(Self {
            min_version: section.min_version,
            tickets: section.session_tickets,
            http2,
            live: Watched::new(live),
            issued,
            challenges,
            followed: Mutex::new(Followed { pairs, clients }),
        })
    }

    /// How to answer a client.
    pub(crate) fn answer(&self, hello: &ClientHello<'_>) -> Answer {
        if hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none()) {
            let known = hello.server_name().and_then(|name| self.issued.with_challenge(name, |_| ()));
            return known.map_or(Answer::UnknownName, |()| Answer::Challenge(self.challenges.clone()));
        }
        let live = self.live.now();
        let found = find(&live.names, &self.issued, hello.server_name(), |_| ());
        found.map_or(Answer::UnknownName, |()| Answer::Serve(live.server.clone()))
    }

    /// Whether certificates of clients are asked for.
    pub(crate) fn asks_clients(&self) -> bool {
        self.live.now().clients.is_some()
    }

    /// The certificates that are in no file of it.
    pub(crate) fn issued(&self) -> &Arc<Issued> {
        &self.issued
    }

    /// Whether the client of a session that was resumed would be let in today: a full handshake has asked already.
    pub(crate) fn still_lets_in(&self, connection: &ServerConnection, now: UnixTime) -> bool {
        let live = self.live.now();
        let Some(clients) = live.clients.as_ref().filter(|_| connection.handshake_kind() == Some(HandshakeKind::Resumed)) else {
            return true;
        };
        match connection.peer_certificates() {
            Some([leaf, others @ ..]) => clients.verify_client_cert(leaf, others, now).is_ok(),
            _ => !clients.client_auth_mandatory(),
        }
    }

    /// Each file with a certificate, and until when that is valid.
    pub(crate) fn expiries(&self) -> Vec<(PathBuf, SystemTime)> {
        let live = self.live.now();
        live.certificates.iter().map(|(file, certificate)| (file.clone(), certificate.not_after())).collect()
    }

    /// Looks whether files have changed, and takes up what is in those that have. It reads files: for a thread that may wait.
    pub(crate) fn refresh(&self, now: SystemTime) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.live.keep();
        let mut certificates = old.certificates.clone();
        for (at, (pair, following)) in followed.pairs.iter_mut().enumerate() {
            let stamps = pair.stamps();
            if !following.has_changed(stamps) {
                continue;
            }
            match pair.read() {
                // Written while it was read: there will be another look.
                _ if pair.stamps() != stamps => *following = Following::new([None; 3]),
                Ok(certificate) => {
                    let worries = certificate.worry(now).into_iter().chain(certificate.staple_worry(now));
                    let worry = worries.reduce(|one, other| format!("{one}; {other}"));
                    if let Some(place) = certificates.get_mut(at) {
                        place.1 = Arc::new(certificate);
                    }
                    changes.push(Change::Taken { file: pair.cert.clone(), worry });
                }
                Err((part, error)) => {
                    changes.push(Change::Refused { file: pair.path(part).to_owned(), reason: error.to_string() });
                }
            }
        }
        let mut resumption = old.resumption.clone();
        let plan = Plan { min_version: self.min_version, http2: self.http2, issued: &self.issued };
        if let Some(clients) = &mut followed.clients
            && clients.following.has_changed(stamp(&clients.ca))
        {
            let file = clients.ca.clone();
            let demands = read(&clients.ca).and_then(|text| chain(&text));
            let demands = demands.map(|ca| Demands(Some((clients.mode, ca)))).map_err(|error| error.to_string());
            let made = demands.and_then(|demands| {
                demands.verifier()?;
                Resumption::new(demands, self.tickets).map_err(|error| error.to_string())
            });
            match made {
                Ok(made) => {
                    resumption = made;
                    changes.push(Change::TakenIssuers { file });
                }
                Err(reason) => changes.push(Change::Refused { file, reason }),
            }
        }
        if changes.iter().any(|change| !matches!(change, Change::Refused { .. })) {
            // All that could be wrong with it has been looked at.
            match plan.live(certificates, resumption) {
                Ok(live) => self.live.replace(live),
                Err(reason) => log::error!("certificates can't be put in force error={reason}"),
            }
        }
        changes
    }
}

impl Resumption {
    fn new(demands: Demands, tickets: bool) -> Result<Arc<Self>, rustls::Error> {
        let tickets = tickets.then(Ticketer::new).transpose()?;
        Ok(Arc::new(Self { demands, tickets, sessions: ServerSessionMemoryCache::new(SESSIONS) }))
    }
}

/// What a listener's [`ServerConfig`] is made of.
struct Plan<'a> {
    min_version: TlsVersion,
    http2: bool,
    issued: &'a Arc<Issued>,
}

impl Plan<'_> {
    fn live(&self, certificates: Vec<(PathBuf, Arc<Certificate>)>, resumption: Arc<Resumption>) -> Result<Live, String> {
        let all: Vec<Arc<Certificate>> = certificates.iter().map(|(_, certificate)| certificate.clone()).collect();
        let names = Arc::new(Names::new(&all));
        let clients = resumption.demands.verifier()?;
        let versions = match self.min_version {
            TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
            TlsVersion::Tls13 => &[&TLS13][..],
        };
        let builder = ServerConfig::builder_with_provider(provider().clone());
        let builder = builder.with_protocol_versions(versions).map_err(|error| error.to_string())?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let resolver = Resolver { names: names.clone(), issued: self.issued.clone() };
        let mut server = builder.with_cert_resolver(Arc::new(resolver));
        // Clients of HTTP/1.0 that name it (curl does) would find nothing in common otherwise.
        let protocols: &[&[u8]] = if self.http2 { &[b"h2", b"http/1.1", b"http/1.0"] } else { &[b"http/1.1", b"http/1.0"] };
        server.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        server.session_storage = resumption.sessions.clone();
        if let Some(tickets) = &resumption.tickets {
            server.ticketer = tickets.clone();
        }
        Ok(Live { server: Arc::new(server), names, certificates, clients, resumption })
    }
}

impl Demands {
    fn verifier(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        let Some((mode, certificates)) = &self.0 else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate.clone()).map_err(|error| format!("`ca` holds what is no certificate of an issuer: {error}"))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider().clone());
        let builder = match mode {
            ClientAuthMode::Require => builder,
            ClientAuthMode::Request => builder.allow_unauthenticated(),
        };
        builder.build().map(Some).map_err(|error| error.to_string())
    }
}

/// Answers ACME servers and nobody else.
fn challenges(issued: &Arc<Issued>) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider().clone());
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]).map_err(|error| error.to_string())?;
    let mut server = builder.with_no_client_auth().with_cert_resolver(Arc::new(Challenges(issued.clone())));
    server.alpn_protocols = vec![ACME_TLS.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(server))
}

/// The certificates for a name: given by name, else obtained for it, else of a wildcard, else the first.
fn find<T>(names: &Names, issued: &Issued, name: Option<&str>, look: impl Fn(&[Arc<Certificate>]) -> T) -> Option<T> {
    if let Some(name) = name {
        if let Some(found) = names.exact(name) {
            return Some(look(found));
        }
        if let Some(found) = issued.with(name, &look) {
            return Some(found);
        }
        if let Some(found) = names.wildcard(name) {
            return Some(look(found));
        }
    }
    names.fallback().map(look)
}

#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    issued: Arc<Issued>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        find(&self.names, &self.issued, hello.server_name(), |found| choose(found, hello.signature_schemes())).flatten()
    }
}

#[derive(Debug)]
struct Challenges(Arc<Issued>);

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.with_challenge(hello.server_name()?, |found| choose(found, hello.signature_schemes())).flatten()
    }
}
