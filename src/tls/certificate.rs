//! A certificate with its key: read, understood, and known to belong together.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::tls::provider;
use crate::tls::staple::Staple;

/// A certificate that can be served.
#[derive(Debug)]
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    /// The OCSP response that goes with it, and both of them together.
    stapled: Option<(Staple, Arc<CertifiedKey>)>,
    serial: Box<[u8]>,
    names: Box<[Box<str>]>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why it can't be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("there is no certificate in it: it should hold `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    #[error("there is no private key in it: it should hold `-----BEGIN PRIVATE KEY-----`")]
    NoKey,
    #[error("there is a certificate in it, and no private key")]
    CertificateAsKey,
    #[error("the private key is encrypted: `openssl pkey -in KEY -out PLAIN` writes one that is not")]
    EncryptedKey,
    #[error("its PEM is broken: {0}")]
    Pem(String),
    #[error("the certificate can't be read: {0}")]
    Certificate(String),
    #[error("the private key is of no kind that is known: RSA, ECDSA (P-256, P-384, P-521) or Ed25519")]
    Key,
    #[error("the key does not belong to the certificate")]
    Mismatch,
    #[error("this is no OCSP response: it should be DER, as `openssl ocsp -respout` writes it")]
    Ocsp,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is larger than 1 MiB")]
    TooLarge,
}

/// Which of the files a mistake is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Cert,
    Key,
    Ocsp,
}

impl Certificate {
    /// Reads a chain and its key, both as PEM.
    pub(crate) fn from_pem(cert: &[u8], key: &[u8], ocsp: Option<Vec<u8>>) -> Result<Self, (Part, CertificateError)> {
        let chain = chain(cert).map_err(|error| (Part::Cert, error))?;
        let key = private_key(key).map_err(|error| (Part::Key, error))?;
        let key = provider().key_provider.load_private_key(key).map_err(|_| (Part::Key, CertificateError::Key))?;
        let staple = match ocsp {
            Some(ocsp) => Some((Staple::read(&ocsp).ok_or((Part::Ocsp, CertificateError::Ocsp))?, ocsp)),
            None => None,
        };
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err((Part::Key, CertificateError::Mismatch)),
            Err(error) => return Err((Part::Cert, CertificateError::Certificate(error.to_string()))),
        }
        let mut certificate = Self::new(key).map_err(|error| (Part::Cert, error))?;
        certificate.stapled = staple.map(|(staple, ocsp)| {
            let key = CertifiedKey { ocsp: Some(ocsp), ..(*certificate.key).clone() };
            (staple, Arc::new(key))
        });
        Ok(certificate)
    }

    /// Of a key that is known to belong to its chain.
    pub(crate) fn new(key: CertifiedKey) -> Result<Self, CertificateError> {
        let leaf = key.cert.first().ok_or(CertificateError::NoCertificate)?;
        let (names, serial, validity) = {
            let (_, parsed) =
                X509Certificate::from_der(leaf).map_err(|error| CertificateError::Certificate(error.to_string()))?;
            let validity = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
            (names(&parsed), parsed.raw_serial().into(), validity)
        };
        let (not_before, not_after) = (time(validity.0), time(validity.1));
        Ok(Self { key: Arc::new(key), stapled: None, serial, names, not_before, not_after })
    }

    /// What a handshake serves: with its OCSP response for as long as that is of use.
    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((staple, key)) if staple.flaw(&self.serial, SystemTime::now()).is_none() => key,
            _ => &self.key,
        }
    }

    /// The names that it is for, in lower case; some may be wildcards.
    pub(crate) fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// From when on clients take it.
    pub(crate) fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when clients take it.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whom to serve it to rather than another for the same name: the lowest to whoever takes it.
    pub(crate) fn rank(&self) -> u8 {
        match self.key.key.algorithm() {
            // The least work for both sides.
            SignatureAlgorithm::ECDSA => 0,
            SignatureAlgorithm::ED25519 => 1,
            _ => 2,
        }
    }

    /// Why its OCSP response is not handed out, if there is one.
    pub(crate) fn staple_worry(&self, now: SystemTime) -> Option<String> {
        let flaw = self.stapled.as_ref()?.0.flaw(&self.serial, now)?;
        Some(format!("the OCSP response {flaw}: it is not handed out"))
    }

    /// What an operator should know of its validity, if anything.
    pub(crate) fn worry(&self, now: SystemTime) -> Option<String> {
        const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let date = |at: SystemTime| jiff::Timestamp::try_from(at).map_or_else(|_| "?".to_owned(), |at| at.to_string());
        match self.not_after.duration_since(now) {
            Err(_) => Some(format!("the certificate expired at {}", date(self.not_after))),
            Ok(_) if self.not_before > now => Some(format!("the certificate is not valid before {}", date(self.not_before))),
            // Of those that live for days only, a fifth is soon.
            Ok(left) if left < SOON.min(lifetime / 5) => {
                Some(format!("the certificate expires soon, at {}", date(self.not_after)))
            }
            Ok(_) => None,
        }
    }
}

/// The certificates in a PEM file.
pub(crate) fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut chain = Vec::new();
    for section in CertificateDer::pem_slice_iter(text) {
        chain.push(section.map_err(|error| broken(&error))?);
    }
    if chain.is_empty() { Err(CertificateError::NoCertificate) } else { Ok(chain) }
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(match () {
            () if is_encrypted(text) => CertificateError::EncryptedKey,
            () if contains(text, b"BEGIN CERTIFICATE-") => CertificateError::CertificateAsKey,
            () => CertificateError::NoKey,
        }),
        // One of the old kind says so in a header, which is no base64.
        Err(_) if is_encrypted(text) => Err(CertificateError::EncryptedKey),
        Err(error) => Err(broken(&error)),
    }
}

fn is_encrypted(text: &[u8]) -> bool {
    contains(text, b"BEGIN ENCRYPTED PRIVATE KEY") || contains(text, b"Proc-Type: 4,ENCRYPTED")
}

/// Without the text: what is broken may be a part of the key.
fn broken(error: &pem::Error) -> CertificateError {
    CertificateError::Pem(match error {
        pem::Error::Base64Decode(_) => "it is no base64".to_owned(),
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("`-----END {}-----` is missing: the file ends too early", String::from_utf8_lossy(end_marker))
        }
        pem::Error::IllegalSectionStart { .. } => "a line begins with `-----BEGIN` and does not go on as it should".to_owned(),
        error => error.to_string(),
    })
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

/// Whom a certificate is for: its subject's alternative names, or if there are none, as of old, its common name.
fn names(certificate: &X509Certificate<'_>) -> Box<[Box<str>]> {
    let normal = |name: &str| Box::<str>::from(name.trim_end_matches('.').to_ascii_lowercase());
    if let Ok(Some(extension)) = certificate.subject_alternative_name() {
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(normal(name)),
            _ => None,
        };
        return extension.value.general_names.iter().filter_map(dns).collect();
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.filter(|name| !name.contains(' ')).map(normal).collect()
}

fn time(timestamp: i64) -> SystemTime {
    // What lies before 1970 is long gone.
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

    use super::*;

    /// A certificate for these names and its key, as PEM.
    pub(crate) fn pair(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn certificate(names: &[&str]) -> Arc<Certificate> {
        let (cert, key) = pair(names);
        Arc::new(Certificate::from_pem(cert.as_bytes(), key.as_bytes(), None).unwrap())
    }

    fn failure(cert: &str, key: &str) -> (Part, String) {
        let (part, error) = Certificate::from_pem(cert.as_bytes(), key.as_bytes(), None).unwrap_err();
        (part, error.to_string())
    }

    #[test]
    fn a_pair_is_read() {
        let certificate = certificate(&["A.example", "*.b.example"]);
        assert_eq!(certificate.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["a.example", "*.b.example"]);
        assert_eq!(certificate.rank(), 0);
    }

    #[test]
    fn whatever_is_wrong_is_told_apart() {
        let ((cert, key), (other, _)) = (pair(&["a.example"]), pair(&["a.example"]));
        let tell = |cert: &str, key: &str, part: Part, words: &str| {
            let (at, message) = failure(cert, key);
            assert!(at == part && message.contains(words), "{at:?} {message}");
        };
        tell("{\"a\": 1}", &key, Part::Cert, "BEGIN CERTIFICATE");
        tell("", &key, Part::Cert, "BEGIN CERTIFICATE");
        tell(&cert, "{\"a\": 1}", Part::Key, "BEGIN PRIVATE KEY");
        tell(&cert, &cert, Part::Key, "a certificate in it");
        tell(&other, &key, Part::Key, "does not belong");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        tell(&cert, encrypted, Part::Key, "encrypted");
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        tell(nonsense, &key, Part::Cert, "can't be read");
        let nonsense = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        tell(&cert, nonsense, Part::Key, "no kind that is known");
        // Cut anywhere, as while it is being written.
        for at in 0..key.trim_end().len() {
            assert_eq!(failure(&cert, &key[..at]).0, Part::Key);
        }
        for at in 0..cert.trim_end().len() {
            assert_eq!(failure(&cert[..at], &key).0, Part::Cert);
        }
    }

    #[test]
    fn what_is_no_staple_is_refused() {
        let (cert, key) = pair(&["a.example"]);
        for bad in [&b""[..], b"-----BEGIN OCSP RESPONSE-----", &[0x30, 3, 10, 1, 0], &[0x30, 3, 10, 1, 0, 0]] {
            let read = Certificate::from_pem(cert.as_bytes(), key.as_bytes(), Some(bad.to_vec()));
            assert_eq!(read.unwrap_err().0, Part::Ocsp);
        }
    }

    #[test]
    fn what_is_broken_is_told_in_words() {
        let (cert, key) = pair(&["a.example"]);
        let half = failure(&cert[..cert.len() / 2], &key).1;
        assert!(half.contains("`-----END CERTIFICATE-----` is missing"), "{half}");
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let old = failure(&cert, old).1;
        assert!(old.contains("is encrypted"), "{old}");
    }

    #[test]
    fn what_expires_is_worried_about_in_time() {
        let day = Duration::from_secs(24 * 3600);
        let mut certificate = Arc::into_inner(certificate(&["a.example"])).unwrap();
        let begin = SystemTime::UNIX_EPOCH + 1000 * day;
        (certificate.not_before, certificate.not_after) = (begin, begin + 90 * day);
        let worry = |after: Duration| certificate.worry(begin + after).unwrap_or_default();
        assert_eq!(worry(70 * day), "");
        assert!(worry(77 * day).contains("expires soon"));
        assert!(worry(91 * day).contains("expired at 1972-"));
        assert!(certificate.worry(begin - day).unwrap().contains("not valid before"));
        certificate.not_after = begin + 5 * day;
        assert_eq!(certificate.worry(begin + 3 * day), None);
    }
}
