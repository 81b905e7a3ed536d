//! Certificates and their keys in files, which change while they are served.
//!
//! A change is taken once the files are at rest, and whole or not at all: what is being written, or does not belong together, leaves
//! what was read before in its place.

use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::{self, CertificateFiles};
use crate::tls::certificate::Part;
use crate::tls::{Certificate, CertificateError};

/// No file of these is larger.
const MAX: u64 = 1 << 20;

/// What tells whether a file is the one that was read: where it lies, when it was changed, and its length. `None`: there is none.
pub(crate) type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// The files of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ocsp: Option<PathBuf>,
}

impl Pair {
    pub(crate) fn of(files: &CertificateFiles) -> Self {
        let (cert, key) = (files.cert.value.clone(), files.key.value.clone());
        Self { cert, key, ocsp: files.ocsp.as_ref().map(|ocsp| ocsp.value.clone()) }
    }

    pub(crate) fn stamps(&self) -> [Stamp; 3] {
        [stamp(&self.cert), stamp(&self.key), self.ocsp.as_deref().and_then(stamp)]
    }

    pub(crate) fn path(&self, part: Part) -> &Path {
        match part {
            Part::Cert => &self.cert,
            Part::Key => &self.key,
            Part::Ocsp => self.ocsp.as_deref().unwrap_or(&self.cert),
        }
    }

    /// Reads them all.
    pub(crate) fn read(&self) -> Result<Certificate, (Part, CertificateError)> {
        let cert = read(&self.cert).map_err(|error| (Part::Cert, error))?;
        let key = read(&self.key).map_err(|error| (Part::Key, error))?;
        let ocsp = self.ocsp.as_deref().map(read).transpose().map_err(|error| (Part::Ocsp, error))?;
        Certificate::from_pem(&cert, &key, ocsp)
    }

    /// Which of them are not there, or can't be read.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (Part, CertificateError)> {
        let files = [(Part::Cert, Some(&self.cert)), (Part::Key, Some(&self.key)), (Part::Ocsp, self.ocsp.as_ref())];
        files.into_iter().filter_map(|(part, file)| Some((part, read(file?).err()?)))
    }

    /// Whether others than its owner can read the key: its mode, if so.
    pub(crate) fn exposed_key(&self) -> Option<u32> {
        let mode = std::fs::metadata(&self.key).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then_some(mode)
    }
}

pub(crate) fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len()))
}

/// The bytes of a file of moderate size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let file = std::fs::File::open(path).map_err(in_words)?;
    let metadata = file.metadata().map_err(in_words)?;
    if metadata.is_dir() {
        return Err(io::Error::other("this is a folder").into());
    }
    // One that never ends is not waited for.
    if !metadata.is_file() {
        return Err(io::Error::other("this is no file").into());
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(in_words)?;
    if bytes.len() as u64 > MAX { Err(CertificateError::TooLarge) } else { Ok(bytes) }
}

/// The system's words.
fn in_words(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), config::in_words(&error))
}

/// Follows what is in files from one look at their stamps to the next.
#[derive(Debug)]
pub(crate) struct Following<S> {
    /// Of what was read last, be it good or bad.
    read: S,
    /// Otherwise, and seen once: it may be in the middle of a change.
    seen: Option<S>,
}

impl<S: PartialEq> Following<S> {
    /// `stamps` were taken before the files were read.
    pub(crate) fn new(stamps: S) -> Self {
        Self { read: stamps, seen: None }
    }

    /// Whether the files are others than those that were read, and were the same a look ago.
    pub(crate) fn has_changed(&mut self, now: S) -> bool {
        if now == self.read {
            self.seen = None;
            return false;
        }
        if self.seen.as_ref() != Some(&now) {
            self.seen = Some(now);
            return false;
        }
        self.seen = None;
        self.read = now;
        true
    }
}

/// What became of files that changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// They are served from now on; the words are a worry.
    Taken { file: PathBuf, worry: Option<String> },
    /// Certificates of clients are judged by them from now on.
    TakenIssuers { file: PathBuf },
    /// They can't be: what was read before stays.
    Refused { file: PathBuf, reason: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_when_it_is_over() {
        let mut following = Following::new(1);
        assert!(!following.has_changed(1));
        assert!(!following.has_changed(2));
        assert!(!following.has_changed(3));
        assert!(following.has_changed(3));
        assert!(!following.has_changed(3));
        // There and back again is no change.
        assert!(!following.has_changed(4) && !following.has_changed(3) && !following.has_changed(4));
    }
}
