//! What a handshake has agreed on, for filters, logs and headers.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// A TLS session with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSession {
    version: &'static str,
    cipher: &'static str,
    server_name: Option<Box<str>>,
    resumed: bool,
    client: Option<Box<ClientCertificate>>,
}

/// The certificate of a client, which was found to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    subject: Box<str>,
    issuer: Box<str>,
    serial: Box<str>,
    names: Box<str>,
    fingerprint: Box<str>,
}

impl TlsSession {
    /// Of a handshake that is over.
    pub(crate) fn of(connection: &ServerConnection) -> Self {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        Self {
            version,
            cipher: suite.unwrap_or_default(),
            server_name: connection.server_name().map(Box::from),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client: connection.peer_certificates().and_then(<[_]>::first).map(|leaf| Box::new(ClientCertificate::of(leaf))),
        }
    }

    /// `TLSv1.2` or `TLSv1.3`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The suite's name, such as `TLS13_AES_128_GCM_SHA256`.
    #[must_use]
    pub fn cipher(&self) -> &'static str {
        self.cipher
    }

    /// The name that the client asked for (SNI), in lower case.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Whether an earlier session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The client's certificate, if it showed one.
    #[must_use]
    pub fn client(&self) -> Option<&ClientCertificate> {
        self.client.as_deref()
    }
}

impl ClientCertificate {
    pub(crate) fn of(leaf: &CertificateDer<'_>) -> Self {
        let fingerprint = hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf).as_ref());
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            // It was verified, and so read before, by another parser: all that is sure of it is what it is.
            let nothing = || Box::<str>::from("");
            return Self { subject: nothing(), issuer: nothing(), serial: nothing(), names: nothing(), fingerprint };
        };
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map(|extension| alternative_names(&extension.value.general_names)).unwrap_or_default();
        Self {
            subject: distinguished_name(parsed.subject()).into(),
            issuer: distinguished_name(parsed.issuer()).into(),
            serial: hex(parsed.raw_serial()),
            names: names.into(),
            fingerprint,
        }
    }

    /// Its subject as RFC 4514 writes it, such as `CN=ann,O=Example`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Who issued it, likewise.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its serial number in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its subject's alternative names: `DNS:a.example,URI:spiffe://b/c,IP:192.0.2.1,email:d@example.com`.
    #[must_use]
    pub fn names(&self) -> &str {
        &self.names
    }

    /// SHA-256 of the certificate, in hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn hex(bytes: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// RFC 4514 §2: the last part first, and nothing in it that could be taken for the end of it.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.iter().rev().enumerate() {
        for (nth, attribute) in part.iter().enumerate() {
            match (at, nth) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            let oid = attribute.attr_type().to_id_string();
            match KINDS.iter().find(|(known, _)| *known == oid) {
                Some((_, short)) => text.push_str(short),
                None => text.push_str(&oid),
            }
            text.push('=');
            escape(attribute.attr_value().data, &mut text);
        }
    }
    text
}

/// RFC 4514 §3, and those of RFC 2985 that are common.
const KINDS: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.5", "serialNumber"),
];

/// A value of a name: printable ASCII without what separates values, all else as `\` and two digits.
fn escape(value: &[u8], out: &mut String) {
    for (at, byte) in value.iter().enumerate() {
        let edge = at == 0 || at + 1 == value.len();
        let _ = match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => write!(out, "\\{}", char::from(*byte)),
            b' ' if edge => out.write_str("\\ "),
            b'#' if at == 0 => out.write_str("\\#"),
            b' '..=b'~' => out.write_char(char::from(*byte)),
            byte => write!(out, "\\{byte:02X}"),
        };
    }
}

fn alternative_names(names: &[GeneralName<'_>]) -> String {
    let mut text = String::new();
    for name in names {
        let (kind, value) = match name {
            GeneralName::DNSName(name) => ("DNS", name.as_bytes()),
            GeneralName::URI(uri) => ("URI", uri.as_bytes()),
            GeneralName::RFC822Name(address) => ("email", address.as_bytes()),
            GeneralName::IPAddress(bytes) => {
                if let Some(ip) = address(bytes) {
                    separate(&mut text);
                    let _ = write!(text, "IP:{ip}");
                }
                continue;
            }
            // Of kinds that nobody decides by.
            _ => continue,
        };
        separate(&mut text);
        let _ = write!(text, "{kind}:{}", Plain(value));
    }
    text
}

fn separate(text: &mut String) {
    if !text.is_empty() {
        text.push(',');
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// A name without what could be taken for the end of it.
struct Plain<'a>(&'a [u8]);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            match byte {
                b',' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                b'!'..=b'~' => f.write_char(char::from(*byte))?,
                byte => write!(f, "\\{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn of(change: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::of(certificate.der())
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_does() {
        let certificate = of(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Ex, ample");
            params.distinguished_name.push(DnType::CommonName, "ann");
        });
        assert_eq!(certificate.subject(), "CN=ann,O=Ex\\, ample");
        assert_eq!(certificate.issuer(), certificate.subject());
        assert_eq!(certificate.fingerprint().len(), 64);
    }

    #[test]
    fn nothing_in_a_name_passes_for_more_than_a_name() {
        let certificate = of(|params| {
            params.distinguished_name.push(DnType::CommonName, " #ann\r\nx-admin: 1,O=root=é ");
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::URI("spiffe://a/b,DNS:root".try_into().unwrap()),
                SanType::Rfc822Name("ann@a.example\r\n".try_into().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ];
        });
        assert_eq!(certificate.subject(), "CN=\\ #ann\\0D\\0Ax-admin: 1\\,O\\=root\\=\\C3\\A9\\ ");
        assert_eq!(certificate.names(), "DNS:a.example,URI:spiffe://a/b\\,DNS:root,email:ann@a.example\\0D\\0A,IP:192.0.2.1");
    }
}
