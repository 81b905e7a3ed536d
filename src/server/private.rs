//! Files that belong to the process itself: the folder of its own, and its pid file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::geteuid;

use crate::server::process::Heir;

/// Takes away a file of the process's own. That somebody was faster does no harm; that it may not is said: whoever finds the file might
/// take it for a living process's.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("stays behind: the user of this process may not remove it path={} error={error}", path.display());
        }
        _ => {}
    }
}

/// The folder of a configuration's own. It goes with the last process that has something in it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it, or sees that it is one: what is in there decides who takes over the listeners.
    ///
    /// # Errors
    /// It can't be made, or somebody else could write to it.
    pub(super) fn make(path: &Path, user: Option<u32>, heir: Heir) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {
                // Whom this process becomes will remove from it what this process put there.
                heir.give(path)?;
                return Ok(Self(path.to_owned()));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let found = fs::symlink_metadata(path)?;
        let ours = [0, geteuid().as_raw()].contains(&found.uid()) || Some(found.uid()) == user;
        if found.is_dir() && ours && found.mode() & 0o022 == 0 {
            Ok(Self(path.to_owned()))
        } else {
            Err(io::Error::new(ErrorKind::PermissionDenied, "it is there already, and others than this user can write to it"))
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Not while there is something in it.
        let is_empty = fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_none());
        if is_empty && let Err(error) = fs::remove_dir(&self.0) {
            log::info!("the process's own folder stays behind, empty path={} error={error}", self.0.display());
        }
    }
}

/// More than any pid takes.
const PID_SIZE: u64 = 32;

/// A pid file, locked for as long as the process lives.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
    /// Where the one of the process before this one was moved.
    displaced: Option<PathBuf>,
}

/// The pid file can't be had.
#[derive(Debug, thiserror::Error)]
#[error("can't write the pid file `{}`: {reason}", path.display())]
pub(crate) struct PidFileError {
    path: PathBuf,
    reason: io::Error,
}

impl PidFile {
    /// Takes the file: one that a process left behind is written anew, one that belongs to a living process is left alone. In an upgrade
    /// that is the process before this one: its file moves to `….old`.
    ///
    /// # Errors
    /// Another process has it, or it can't be written.
    pub(super) fn claim(path: &Path, upgrade: bool) -> Result<Self, PidFileError> {
        let failed = |reason| PidFileError { path: path.to_owned(), reason };
        let mut file = open(path).map_err(failed)?;
        is_pid_file(&mut file).map_err(failed)?;
        let mut displaced = None;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if !upgrade {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let reason = format!("a running process has it (pid {})", pid.trim());
                return Err(failed(io::Error::new(ErrorKind::AlreadyExists, reason)));
            }
            let old = old(path);
            fs::rename(path, &old).map_err(failed)?;
            displaced = Some(old);
            file = open(path).map_err(failed)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed(error.into()))?;
        }
        Ok(Self { path: path.to_owned(), file, displaced })
    }

    /// Writes the id of this process.
    ///
    /// # Errors
    /// The system says why.
    pub(super) fn write(&mut self) -> Result<(), PidFileError> {
        let written = self.file.set_len(0).and_then(|()| self.file.rewind());
        let written = written.and_then(|()| writeln!(self.file, "{}", std::process::id()));
        written.map_err(|reason| PidFileError { path: self.path.clone(), reason })
    }

    /// The process before this one need not have its file back: this one serves.
    pub(super) fn settle(&mut self) {
        self.displaced = None;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(displaced) = &self.displaced {
            // Left to the process that goes on. It is an aid to people: nothing depends on it.
            let _ = fs::rename(displaced, &self.path);
            return;
        }
        let Ok(own) = self.file.metadata() else { return };
        for path in [&self.path, &old(&self.path)] {
            let is_own = |found: &fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
            if fs::symlink_metadata(path).as_ref().is_ok_and(is_own) {
                // Where it must stay it names no process: its number will be another's some day.
                let _ = self.file.set_len(0);
                remove(path);
            }
        }
    }
}

/// The file of the process before this one.
fn old(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".old");
    name.into()
}

/// A symbolic link is not followed: whoever can write to the folder could point it anywhere. Nor is a FIFO waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags).open(path);
    opened.map_err(|error| match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            io::Error::new(ErrorKind::AlreadyExists, "a symbolic link is there, which is not followed")
        }
        _ => error,
    })
}

/// Whether what is there is a pid file, or will be one: what is lost otherwise may be precious.
fn is_pid_file(file: &mut File) -> io::Result<()> {
    let other = |what| Err(io::Error::new(ErrorKind::AlreadyExists, what));
    if !file.metadata()?.is_file() {
        return other("something else than a file is there");
    }
    let mut text = Vec::new();
    io::Read::by_ref(file).take(PID_SIZE + 1).read_to_end(&mut text)?;
    file.rewind()?;
    let is_pid = text.len() as u64 <= PID_SIZE && text.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace());
    if is_pid { Ok(()) } else { other("the file that is there holds something else than a pid") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pid_file_has_one_owner_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        fs::write(&path, "999999\n").unwrap();
        let mut first = PidFile::claim(&path, false).unwrap();
        first.write().unwrap();
        let id = format!("{}\n", std::process::id());
        assert_eq!(fs::read_to_string(&path).unwrap(), id);
        let refused = PidFile::claim(&path, false).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("a running process has it (pid {})", id.trim())), "{refused}");
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn an_upgrade_moves_it_aside_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("a.pid"), dir.path().join("a.pid.old"));
        let first = PidFile::claim(&path, false).unwrap();
        drop(PidFile::claim(&path, true).unwrap());
        assert!(path.exists() && !old.exists());
        let mut second = PidFile::claim(&path, true).unwrap();
        assert!(path.exists() && old.exists());
        second.settle();
        drop(first);
        assert!(path.exists() && !old.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("a.pid"), dir.path().join("b"));
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(PidFile::claim(&link, false).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pid");
        fs::write(&path, "precious").unwrap();
        let error = PidFile::claim(&path, false).unwrap_err().to_string();
        assert!(error.ends_with("the file that is there holds something else than a pid"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        std::os::unix::net::UnixListener::bind(&path).unwrap();
        PidFile::claim(&path, false).unwrap_err();
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own");
        let folder = Folder::make(&path, None, Heir::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("a"), "").unwrap();
        drop(Folder::make(&path, None, Heir::default()).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        Folder::make(&path, None, Heir::default()).unwrap_err();
        fs::remove_file(path.join("a")).unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
