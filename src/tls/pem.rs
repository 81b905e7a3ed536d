//! Certificates and keys from files in PEM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::{Error as PemFault, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// More than any list of authorities.
const MAX: u64 = 8 << 20;

/// Why a file holds no key or certificate. It never holds what stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("{0}")]
    Unreadable(String),
    #[error("this is no file")]
    NoFile,
    #[error("it is larger than 8 MiB")]
    TooLarge,
    #[error("it holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    #[error("it holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    #[error("its PEM is broken")]
    Malformed,
    #[error("certificate {0} in it is none")]
    BadCertificate(usize),
}

/// All certificates of a file, each of which can be read: at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path)?;
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|_| PemError::Malformed)?;
    if certificates.is_empty() {
        return Err(PemError::NoCertificate);
    }
    match certificates.iter().position(|certificate| X509Certificate::from_der(certificate).is_err()) {
        Some(broken) => Err(PemError::BadCertificate(broken + 1)),
        None => Ok(certificates),
    }
}

/// The first private key of a file.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|fault| match fault {
        PemFault::NoItemsFound => PemError::NoKey,
        _ => PemError::Malformed,
    })
}

/// Whether a file holds more than certificates.
pub(crate) fn holds_other_things(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let sections = memchr::memmem::find_iter(&text, b"-----BEGIN ").count();
    sections != memchr::memmem::find_iter(&text, b"-----BEGIN CERTIFICATE-----").count()
}

/// Since when a certificate is valid no more, or from when on, in words; `None`: it is valid now.
pub(crate) fn out_of_date(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (now, validity) = (ASN1Time::now(), parsed.validity());
    if now > validity.not_after {
        Some(format!("expired on {}", validity.not_after))
    } else if now < validity.not_before {
        Some(format!("is valid from {} on", validity.not_before))
    } else {
        None
    }
}

/// Whether others than the owner of a file may read it.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o044 != 0)
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    let unreadable = |error: std::io::Error| {
        let text = error.to_string();
        PemError::Unreadable(text.split(" (os error").next().unwrap_or(&text).to_lowercase())
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(PemError::NoFile);
    }
    if metadata.len() > MAX {
        return Err(PemError::TooLarge);
    }
    fs::read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = folder.path().join("a.pem");
            fs::write(&path, text).unwrap();
            path
        };
        assert_eq!(certificates(&file("{\"cert\": 1}")), Err(PemError::NoCertificate));
        assert_eq!(certificates(&file("")), Err(PemError::NoCertificate));
        let wrong = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates(&file(wrong)), Err(PemError::BadCertificate(1)));
        assert_eq!(certificates(&file("-----BEGIN CERTIFICATE-----\nAAAA\n")), Err(PemError::Malformed));
        assert_eq!(private_key(&file("{}")).unwrap_err(), PemError::NoKey);
        assert_eq!(certificates(folder.path()), Err(PemError::NoFile));
        let missing = certificates(&folder.path().join("b.pem")).unwrap_err();
        assert_eq!(missing.to_string(), "no such file or directory");
    }

    #[test]
    fn certificates_have_a_time() {
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        assert_eq!(out_of_date(made.cert.der()), None);
        let mut past = rcgen::CertificateParams::new(["a".to_owned()]).unwrap();
        past.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let past = past.self_signed(&key).unwrap();
        assert!(out_of_date(past.der()).unwrap().starts_with("expired on"));
    }
}
