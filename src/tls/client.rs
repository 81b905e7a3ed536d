//! TLS towards endpoints: what is believed and shown, read once and shared by all connections, so that they resume each other's
//! sessions whoever issued the certificates.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use pingora_core::server::configuration::ServerConf;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};

use super::pem;
use super::provider::provider;
use crate::config::{Diagnostic, Report, Span, Spanned, UpstreamTls};

/// How many names' sessions are kept for an upstream.
const SESSIONS: usize = 256;

/// TLS towards the endpoints of an upstream.
pub(crate) struct ClientTls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
    /// Authorities that are believed in the place of the system's.
    authorities: Option<Vec<CertificateDer<'static>>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    name: Option<Box<str>>,
    verify: bool,
    fingerprint: u64,
}

/// Protocols that are offered to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    Http2,
    Either,
}

/// Who is believed where an upstream does not say: `ca_file`, or the system's authorities. They are read when they are first needed.
pub(crate) struct Roots {
    ca_file: Option<PathBuf>,
    /// Whether keys are written to a file, so that traffic can be read (`upstream_debug_ssl_keylog`).
    logged: bool,
    read: OnceLock<Result<Arc<RootCertStore>, String>>,
}

impl Roots {
    pub(crate) fn new(conf: &ServerConf) -> Self {
        let ca_file = conf.ca_file.as_deref().map(PathBuf::from);
        Self { ca_file, logged: conf.upstream_debug_ssl_keylog, read: OnceLock::new() }
    }

    /// Looks at `ca_file`, which Pingora reads whether an upstream needs it or not, and panics over.
    pub(crate) fn check(&self, report: &mut Report) {
        let Some(file) = &self.ca_file else { return };
        let reason = match (pem::holds_other_things(file), self.get()) {
            (true, Ok(_)) => format!("{}: it holds something else than certificates", file.display()),
            (_, Err(reason)) => reason.clone(),
            (false, Ok(_)) => return,
        };
        report.push(Diagnostic::error(Span::default(), format!("`ca_file`: {reason}")));
    }

    fn get(&self) -> &Result<Arc<RootCertStore>, String> {
        self.read.get_or_init(|| match &self.ca_file {
            Some(file) => {
                let certificates = pem::certificates(file).map_err(|error| format!("{}: {error}", file.display()))?;
                store(&certificates).map(Arc::new).map_err(|error| format!("{}: {error}", file.display()))
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(found.certs);
                match found.errors.first() {
                    Some(error) if roots.is_empty() => Err(format!("the system's authorities can't be read: {error}")),
                    _ if roots.is_empty() => Err("the system has no list of authorities".to_owned()),
                    _ => Ok(Arc::new(roots)),
                }
            }
        })
    }
}

impl ClientTls {
    /// Reads the files of a section. `None`: the report says what is wrong with them. `place`: the section's own.
    pub(crate) fn read(section: &Spanned<UpstreamTls>, roots: &Roots, report: &mut Report) -> Option<Arc<Self>> {
        let mut hasher = DefaultHasher::new();
        let mut sound = true;
        let mut authorities = None;
        let mut trusted = None;
        match &section.ca {
            Some(ca) => match authorities_of(ca, report) {
                Some((certificates, store)) => {
                    certificates.hash(&mut hasher);
                    authorities = Some(certificates);
                    trusted = Some(store);
                }
                None => sound = false,
            },
            None if section.verify.value => match roots.get() {
                Ok(store) => trusted = Some(store.clone()),
                Err(reason) => {
                    let diagnostic = Diagnostic::error(section.span, format!("nobody is believed: {reason}"));
                    report.push(diagnostic.hint("name the authority of your endpoints: `ca: internal.pem`"));
                    sound = false;
                }
            },
            None => {}
        }
        let mut identity = None;
        if let (Some(cert), Some(key)) = (&section.client_cert, &section.client_key) {
            identity = identity_of(cert, key, report);
            sound &= identity.is_some();
        }
        if let Some((certificates, key)) = &identity {
            (certificates, key.secret_der()).hash(&mut hasher);
        }
        if !sound {
            return None;
        }
        section.value.sni.hash(&mut hasher);
        section.verify.value.hash(&mut hasher);
        match configurations(trusted, section.verify.value, identity.as_ref(), roots.logged) {
            Ok([http1, http2, either]) => Some(Arc::new(Self {
                http1,
                http2,
                either,
                authorities,
                identity,
                name: section.sni.as_ref().map(|name| name.as_str().into()),
                verify: section.verify.value,
                fingerprint: hasher.finish(),
            })),
            Err(error) => {
                report.push(Diagnostic::error(section.span, format!("TLS can't be used so: {error}")));
                None
            }
        }
    }

    /// How a connection is opened on which these protocols may be spoken.
    pub(crate) fn config(&self, alpn: Alpn) -> &Arc<ClientConfig> {
        match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
            Alpn::Either => &self.either,
        }
    }

    /// The name that every endpoint must prove, if it is not each one's own.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Authorities that are believed in the place of the system's.
    pub(crate) fn authorities(&self) -> Option<&[CertificateDer<'static>]> {
        self.authorities.as_deref()
    }

    /// The proxy's own certificate and key.
    pub(crate) fn identity(&self) -> Option<(&[CertificateDer<'static>], &PrivateKeyDer<'static>)> {
        self.identity.as_ref().map(|(certificates, key)| (certificates.as_slice(), key))
    }

    /// Whether endpoints must prove their names.
    pub(crate) fn verifies(&self) -> bool {
        self.verify
    }

    /// Differs where anything that connections depend on differs, the contents of files included.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn authorities_of(ca: &Spanned<PathBuf>, report: &mut Report) -> Option<(Vec<CertificateDer<'static>>, Arc<RootCertStore>)> {
    report.also_read(ca.value.clone());
    let certificates = match pem::certificates(ca) {
        Ok(certificates) => certificates,
        Err(error) => {
            report.push(Diagnostic::error(ca.span, format!("{}: {error}", ca.display())));
            return None;
        }
    };
    warn_of_time(ca, &certificates, report);
    match store(&certificates) {
        Ok(store) => Some((certificates, Arc::new(store))),
        Err(error) => {
            report.push(Diagnostic::error(ca.span, format!("{}: {error}", ca.display())));
            None
        }
    }
}

fn identity_of(
    cert: &Spanned<PathBuf>,
    key: &Spanned<PathBuf>,
    report: &mut Report,
) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    for file in [cert, key] {
        report.also_read(file.value.clone());
    }
    let mut failed = |place: Span, path: &Path, why: &dyn std::fmt::Display| {
        report.push(Diagnostic::error(place, format!("{}: {why}", path.display())));
    };
    let certificates = pem::certificates(cert).map_err(|error| failed(cert.span, cert, &error)).ok();
    let private = pem::private_key(key).map_err(|error| failed(key.span, key, &error)).ok();
    let (certificates, private) = (certificates?, private?);
    match CertifiedKey::from_der(certificates.clone(), private.clone_key(), provider()) {
        Ok(_) => {}
        Err(TlsError::InconsistentKeys(_)) => {
            let diagnostic = Diagnostic::error(key.span, format!("{}: the key is not that of the certificate", key.display()));
            report.push(diagnostic.related(cert.span, "the certificate"));
            return None;
        }
        Err(_) => {
            failed(key.span, key, &"the key is of no kind that is known, or broken");
            return None;
        }
    }
    warn_of_time(cert, &certificates[..1], report);
    if pem::is_open_to_others(key) {
        let message = format!("{}: others than its owner may read the key", key.display());
        report.push(Diagnostic::warning(key.span, message).hint("take that right away: chmod 600"));
    }
    Some((certificates, private))
}

/// What decays by itself is a warning: a reload in an incident must not fail for it.
fn warn_of_time(file: &Spanned<PathBuf>, certificates: &[CertificateDer<'_>], report: &mut Report) {
    if let Some(when) = certificates.iter().find_map(pem::out_of_date) {
        report.push(Diagnostic::warning(file.span, format!("{}: a certificate in it {when}", file.display())));
    }
}

fn store(certificates: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate.clone())?;
    }
    Ok(store)
}

/// For HTTP/1.1, for HTTP/2, and for either. They share their sessions: rustls resumes none that another verifier has let in, or that
/// another certificate was shown in.
fn configurations(
    trusted: Option<Arc<RootCertStore>>,
    verify: bool,
    identity: Option<&(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    logged: bool,
) -> Result<[Arc<ClientConfig>; 3], TlsError> {
    let builder = ClientConfig::builder_with_provider(provider().clone()).with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = match trusted.filter(|_| verify) {
        Some(trusted) => WebPkiServerVerifier::builder_with_provider(trusted, provider().clone())
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?,
        None if verify => return Err(TlsError::General("nobody is believed".to_owned())),
        None => Arc::new(Anybody),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut base = match identity {
        Some((certificates, key)) => builder.with_client_auth_cert(certificates.clone(), key.clone_key())?,
        None => builder.with_no_client_auth(),
    };
    base.resumption = Resumption::in_memory_sessions(SESSIONS);
    if logged {
        base.key_log = Arc::new(rustls::KeyLogFile::new());
    }
    let offering = |names: &[&[u8]]| {
        let mut config = base.clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    Ok([offering(&[b"http/1.1"]), offering(&[b"h2"]), offering(&[b"h2", b"http/1.1"])])
}

/// Believes every certificate: `verify: false`. That whoever shows one has its key is still looked at.
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
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
