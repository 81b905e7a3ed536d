//! TLS as clients speak it: certificates made for the test, and a client that says how its handshake went.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, str};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned, SupportedProtocolVersion,
};

use super::Deadline;

/// Who issues certificates, for servers as well as for clients.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Issued {
    /// The chain, as PEM.
    pub(crate) cert: String,
    /// As PEM.
    pub(crate) key: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Its own certificate, as PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What takes its certificates of servers.
    pub(crate) fn verifier(&self) -> Arc<WebPkiServerVerifier> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()), provider).build().unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_as(names, &PKCS_ECDSA_P256_SHA256, |_| ())
    }

    /// With a key of this kind, and changed before it is signed.
    pub(crate) fn issue_as(
        &self,
        names: &[&str],
        kind: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let key = KeyPair::generate_for(kind).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { cert: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// A client's certificate.
    pub(crate) fn client(&self, subject: &str) -> Issued {
        self.issue_as(&[], &PKCS_ECDSA_P256_SHA256, |params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, subject);
            params.subject_alt_names = vec![SanType::URI("spiffe://example/ann".try_into().unwrap())];
        })
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        put(&directory.join(format!("{name}.pem")), &self.cert);
        put(&directory.join(format!("{name}.key")), &self.key);
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn put(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A client, with all that it remembers from one connection to the next.
pub(crate) struct Client {
    config: ClientConfig,
}

/// A connection on which the handshake is done.
pub(crate) struct Secure(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// One that trusts this authority.
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::with(authority, None, rustls::ALL_VERSIONS)
    }

    /// Likewise, with a certificate of its own and these versions.
    pub(crate) fn with(authority: &Authority, own: Option<&Issued>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(authority.roots());
        let mut config = match own {
            Some(own) => {
                use rustls::pki_types::pem::PemObject as _;
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(64)));
        Self { config }
    }

    /// One that trusts the authority in this PEM.
    pub(crate) fn of_pem(authority: &str) -> Self {
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
        Self { config: builder.with_root_certificates(roots).with_no_client_auth() }
    }

    /// One that knows these ways and no others.
    pub(crate) fn of_provider(authority: &Authority, provider: CryptoProvider) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(rustls::ALL_VERSIONS).unwrap();
        Self { config: builder.with_root_certificates(authority.roots()).with_no_client_auth() }
    }

    pub(crate) fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    pub(crate) fn change(mut self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// What it remembers is shared.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::new(self.config.clone())
    }

    /// Connects and asks for this name, or if it is an address for none. An error: the handshake failed, or was refused.
    pub(crate) fn connect(&self, address: &str, name: &str, deadline: Deadline) -> io::Result<Secure> {
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(deadline.left()))?;
        socket.set_write_timeout(Some(deadline.left()))?;
        socket.set_nodelay(true)?;
        self.over(socket, name)
    }

    /// Shakes hands on a socket that is connected.
    pub(crate) fn over(&self, mut socket: TcpStream, name: &str) -> io::Result<Secure> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(self.config(), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Secure(StreamOwned::new(connection, socket)))
    }
}

impl Secure {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// Reads until all of a response with a `content-length` has come: its status and its whole text.
    pub(crate) fn response(&mut self) -> io::Result<(u16, String)> {
        let mut text = Vec::new();
        loop {
            if let Some(head) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                let fields = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
                let length = fields.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
                if text.len() >= head + 4 + length.unwrap_or(0_usize) {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
                    return Ok((status, text));
                }
            }
            let mut piece = [0; 4096];
            match self.0.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => text.extend_from_slice(&piece[..read]),
            }
        }
    }

    /// One request, and the status and text of the answer.
    pub(crate) fn get(&mut self, target: &str, host: &str) -> io::Result<(u16, String)> {
        self.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// The certificate that the server showed.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.0.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

/// A program, if it is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A client that looks at no certificate.
#[derive(Debug)]
pub(crate) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
