//! An authority of our own, and what it issues, as files in PEM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority that issues certificates into a directory.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    directory: PathBuf,
}

/// The files of a certificate and its key.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// Its own certificate is `name.pem`.
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        fs::write(directory.join(format!("{name}.pem")), &pem).expect("a file");
        Self { issuer: Issuer::new(params, key), pem, directory: directory.to_owned() }
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// `name.pem` and `name.key`, for a host of that name.
    pub(crate) fn issue(&self, name: &str) -> Pair {
        self.issue_as(name, name, |_| ())
    }

    /// `file.pem` and `file.key`, for a host of this name, and otherwise as `change` says.
    pub(crate) fn issue_as(&self, file: &str, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, host);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair { cert: self.directory.join(format!("{file}.pem")), key: self.directory.join(format!("{file}.key")) };
        fs::write(&pair.cert, certificate.pem()).expect("a file");
        fs::write(&pair.key, key.serialize_pem()).expect("a file");
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).expect("its mode");
        pair
    }
}
