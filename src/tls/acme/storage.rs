//! Where accounts, certificates and keys are kept: files of mode 0600 in folders of mode 0700, each written as a whole or not at all.
//!
//! ```text
//! storage/
//!   acme-v02.api.letsencrypt.org-0123456789abcdef/     of one authority: what is of another is never taken for it
//!     account.json                                     the account, with its key
//!     www.example.com-fedcba9876543210.pem             a private key and the chain that belongs to it
//!     www.example.com-fedcba9876543210.json            what became of the orders since
//!     *.lock                                           held by the process that orders
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fnv::FnvHasher;
use rustix::fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock};
use serde::{Deserialize, Serialize};

use crate::tls::acme::schedule::Attempts;
use crate::tls::{Certificate, CertificateError};
use crate::types::{Domain, Secret, Url};

/// No file of these is larger.
const MAX: u64 = 1 << 20;

/// Why something can't be read, or kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(crate) struct StorageError {
    path: PathBuf,
    reason: String,
}

impl StorageError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.to_owned(), reason: reason.into() }
    }

    /// The system's words, without the number.
    fn io(path: &Path, error: &io::Error) -> Self {
        let text = error.to_string();
        Self::new(path, text.split(" (os error").next().unwrap_or(&text).to_lowercase())
    }
}

/// What is kept of one authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    root: PathBuf,
    folder: PathBuf,
}

/// A lock on what one process alone may do. It goes with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// A certificate that is kept, and the file that it is in.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) file: PathBuf,
    pub(crate) certificate: Certificate,
}

/// What was found of certificates.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) certificates: Vec<Kept>,
    /// What is wrong with files, for the operator.
    pub(crate) worries: Vec<String>,
}

/// [`Attempts`], in seconds since 1970.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    failures: u32,
    last: Option<u64>,
    next: Option<u64>,
    demanded: bool,
}

impl Storage {
    /// In this folder, of the authority with this directory.
    pub(crate) fn of(root: &Path, directory: &Url) -> Self {
        let text = directory.to_string();
        let name: String = directory.authority().chars().map(|c| if is_plain(c) { c } else { '_' }).take(100).collect();
        Self { root: root.to_owned(), folder: root.join(format!("{name}-{:016x}", digest([text.as_str()]))) }
    }

    /// The folder that the operator has named.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this process could keep something here. It writes nothing.
    pub(crate) fn is_usable(&self) -> Result<(), StorageError> {
        let mut there = self.root.as_path();
        loop {
            match fs::metadata(there) {
                Ok(found) if !found.is_dir() => return Err(StorageError::new(there, "this is no folder")),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => match there.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => there = parent,
                    _ => return Err(StorageError::io(there, &error)),
                },
                Err(error) => return Err(StorageError::io(there, &error)),
            }
        }
        let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        accessat(CWD, there, access, AtFlags::EACCESS).map_err(|error| StorageError::io(there, &error.into()))
    }

    /// Makes the folders. `owner`: whom they belong to, if this process is about to become another.
    pub(crate) fn make(&self, owner: Option<u32>) -> Result<(), StorageError> {
        for folder in [&self.root, &self.folder] {
            if folder.is_dir() {
                continue;
            }
            let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
            made.map_err(|error| StorageError::io(folder, &error))?;
            if owner.is_some() {
                chown(folder, owner, None).map_err(|error| StorageError::io(folder, &error))?;
            }
        }
        Ok(())
    }

    /// Whether others than its owner can look into the folder: its mode, if so.
    pub(crate) fn exposed(&self) -> Option<u32> {
        [&self.root, &self.folder].into_iter().find_map(|folder| exposed(&fs::metadata(folder).ok()?))
    }

    /// Takes the lock of this name. `None`: another process has it, or another part of this one.
    pub(crate) fn lock(&self, name: &str) -> Result<Option<Lock>, StorageError> {
        let path = self.folder.join(format!("{name}.lock"));
        // Followed nowhere, and never made anew: whoever has it open has the same file.
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|error| StorageError::io(&path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(StorageError::io(&path, &error.into())),
        }
    }

    /// The account, if there is one.
    pub(crate) fn account(&self) -> Result<Option<Secret>, StorageError> {
        let path = self.account_file();
        let Some(text) = read(&path)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| StorageError::new(&path, "it is empty"))
    }

    pub(crate) fn keep_account(&self, account: &Secret) -> Result<(), StorageError> {
        write(&self.account_file(), account.expose())
    }

    /// Puts an account aside that is of no use: it is not lost, should that be wrong.
    pub(crate) fn put_account_aside(&self) -> Result<PathBuf, StorageError> {
        let path = self.account_file();
        let aside = path.with_extension("json.old");
        fs::rename(&path, &aside).map_err(|error| StorageError::io(&path, &error))?;
        Ok(aside)
    }

    fn account_file(&self) -> PathBuf {
        self.folder.join("account.json")
    }

    /// The file of the certificate for exactly these names.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// The certificate of this name.
    pub(crate) fn certificate(&self, name: &str) -> Result<Option<Kept>, StorageError> {
        kept(&self.file(name))
    }

    /// All certificates that are kept, whatever they are for.
    pub(crate) fn certificates(&self) -> Result<Found, StorageError> {
        let mut found = Found::default();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(StorageError::io(&self.folder, &error)),
        };
        for entry in entries {
            let path = entry.map_err(|error| StorageError::io(&self.folder, &error))?.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            if let Some(mode) = fs::metadata(&path).ok().as_ref().and_then(exposed) {
                let path = path.display();
                found
                    .worries
                    .push(format!("others than its owner can read the key in {path} (mode {mode:04o}): chmod 600 {path}"));
            }
            match kept(&path) {
                Ok(kept) => found.certificates.extend(kept),
                Err(error) => found.worries.push(format!("a certificate that is kept can't be used: {error}")),
            }
        }
        found.certificates.sort_by(|one, other| one.file.cmp(&other.file));
        Ok(found)
    }

    /// Keeps a private key and its chain, in one file: they are never apart.
    pub(crate) fn keep_certificate(&self, name: &str, pem: &Secret) -> Result<(), StorageError> {
        write(&self.file(name), pem.expose())
    }

    /// What became of the orders for a certificate. One that can't be read is none.
    pub(crate) fn attempts(&self, name: &str) -> Attempts {
        let written = read(&self.folder.join(format!("{name}.json"))).ok().flatten();
        let Written { failures, last, next, demanded } =
            written.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let time = |seconds: u64| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Attempts { failures, last: last.and_then(time), next: next.and_then(time), demanded }
    }

    pub(crate) fn keep_attempts(&self, name: &str, attempts: &Attempts) -> Result<(), StorageError> {
        let path = self.folder.join(format!("{name}.json"));
        if *attempts == Attempts::default() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(StorageError::io(&path, &error)),
                _ => Ok(()),
            };
        }
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Attempts { failures, last, next, demanded } = *attempts;
        let written = Written { failures, last: last.map(seconds), next: next.map(seconds), demanded };
        let text = serde_json::to_string(&written).map_err(|error| StorageError::new(&path, error.to_string()))?;
        write(&path, &text)
    }
}

/// What a certificate for these names is called, in whatever order they are given.
pub(crate) fn name_of(domains: &[Domain]) -> String {
    let mut names: Vec<&str> = domains.iter().map(Domain::as_str).collect();
    names.sort_unstable();
    let first: String = names.first().into_iter().flat_map(|name| name.chars()).take(100).collect();
    format!("{first}-{:016x}", digest(names))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.' || c == '-'
}

fn digest<'a>(words: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = FnvHasher::default();
    for word in words {
        hasher.write(word.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

fn exposed(found: &fs::Metadata) -> Option<u32> {
    let mode = found.mode() & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

fn kept(path: &Path) -> Result<Option<Kept>, StorageError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let certificate = Certificate::from_pem(text.as_bytes(), text.as_bytes(), None);
    let told = |(_, error): (_, CertificateError)| StorageError::new(path, error.to_string());
    Ok(Some(Kept { file: path.to_owned(), certificate: certificate.map_err(told)? }))
}

/// A file as a whole; `None`: there is none.
fn read(path: &Path) -> Result<Option<String>, StorageError> {
    let failed = |error| StorageError::io(path, &error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(StorageError::new(path, "this is no file"));
    }
    let mut text = String::new();
    match file.take(MAX + 1).read_to_string(&mut text) {
        Ok(read) if read as u64 > MAX => Err(StorageError::new(path, "it is larger than 1 MiB")),
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(StorageError::new(path, "it is no text")),
        Err(error) => Err(failed(error)),
    }
}

/// Puts a file in the place of another, so that whoever reads it, even after a crash, finds the one or the other.
fn write(path: &Path, text: &str) -> Result<(), StorageError> {
    let folder = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let put = || {
        // One that a process of the same number has left behind.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        // The mask may have taken more away, or an ACL less.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    put().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        StorageError::io(path, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificate::tests::pair;

    fn storage(root: &Path) -> Storage {
        let storage = Storage::of(root, &"https://ca.example:14000/dir".parse().unwrap());
        storage.make(None).unwrap();
        storage
    }

    fn pem(names: &[&str]) -> Secret {
        let (cert, key) = pair(names);
        format!("{key}{cert}").parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn authorities_and_names_do_not_mix() {
        let root = Path::new("/s");
        let folder = |url: &str| Storage::of(root, &url.parse().unwrap()).folder;
        let (staging, production) = (folder("https://ca.example/staging"), folder("https://ca.example/prod"));
        assert!(staging != production && staging.starts_with("/s"));
        assert!(!folder("https://[::1]:1/../..").to_string_lossy().contains(['[', ':']));
        let name = |names: &[&str]| name_of(&names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>());
        assert_eq!(name(&["b.example", "a.example"]), name(&["a.example", "b.example"]));
        assert_ne!(name(&["a.example"]), name(&["a.example", "b.example"]));
        assert!(name(&["a.example"]).starts_with("a.example-"));
    }

    #[test]
    fn what_is_kept_is_for_its_owner_alone_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(&root.path().join("new/acme"));
        storage.keep_certificate("a", &pem(&["a.example"])).unwrap();
        storage.keep_account(&"{}".parse().unwrap()).unwrap();
        let attempts =
            Attempts { failures: 3, last: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)), next: None, demanded: true };
        storage.keep_attempts("a", &attempts).unwrap();
        let _lock = storage.lock("a").unwrap().unwrap();
        for file in fs::read_dir(&storage.folder).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        assert_eq!((mode(&storage.root), mode(&storage.folder), storage.exposed()), (0o700, 0o700, None));
        assert_eq!(storage.certificate("a").unwrap().unwrap().certificate.names(), ["a.example".into()]);
        assert_eq!((storage.account().unwrap().unwrap().expose(), storage.attempts("a")), ("{}", attempts));
        storage.keep_attempts("a", &Attempts::default()).unwrap();
        assert_eq!(storage.attempts("a"), Attempts::default());
        // Nothing is left over of how it was written.
        assert!(fs::read_dir(&storage.folder).unwrap().all(|file| !file.unwrap().file_name().to_string_lossy().ends_with("tmp")));
    }

    #[test]
    fn what_is_not_there_is_none_and_what_is_damaged_is_named() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        assert!(storage.certificate("a").unwrap().is_none() && storage.account().unwrap().is_none());
        storage.keep_certificate("good", &pem(&["a.example"])).unwrap();
        fs::write(storage.file("cut"), &pem(&["a.example"]).expose()[..300]).unwrap();
        fs::write(storage.file("no-text"), [0xff; 10]).unwrap();
        fs::create_dir(storage.file("folder")).unwrap();
        fs::set_permissions(storage.file("good"), fs::Permissions::from_mode(0o644)).unwrap();
        let found = storage.certificates().unwrap();
        assert_eq!(found.certificates.len(), 1);
        let worries = found.worries.join("\n");
        for part in ["cut.pem", "no-text.pem: it is no text", "folder.pem: this is no file", "chmod 600"] {
            assert!(worries.contains(part), "{worries}");
        }
        fs::write(storage.account_file(), "").unwrap();
        assert!(storage.account().unwrap_err().to_string().ends_with("account.json: it is empty"));
        fs::write(storage.folder.join("a.json"), "{\"failures\": \"x\"}").unwrap();
        assert_eq!(storage.attempts("a"), Attempts::default());
    }

    #[test]
    fn one_holds_a_lock_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        let held = storage.lock("a").unwrap().unwrap();
        assert!(storage.lock("a").unwrap().is_none());
        assert!(storage.lock("b").unwrap().is_some());
        drop(held);
        assert!(storage.lock("a").unwrap().is_some());
    }

    #[test]
    fn a_place_that_is_of_no_use_is_found_out_without_a_trace() {
        let root = tempfile::tempdir().unwrap();
        let of = |path: &str| Storage::of(&root.path().join(path), &"https://a/".parse().unwrap()).is_usable();
        assert!(of("not/yet/there").is_ok());
        assert!(!root.path().join("not").exists());
        fs::write(root.path().join("file"), "").unwrap();
        assert!(of("file").unwrap_err().to_string().contains("no folder"));
        assert!(of("file/below").is_err());
    }
}
