//! Endpoints in a file of their own, read anew when it changes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use super::MAX;
use crate::config::{self, endpoints_of};

/// How often the file is looked at. A change is taken once the file has been the same for this long: it may be half written.
const LOOK: Duration = Duration::from_secs(1);
/// More than a list of endpoints can need.
const LARGEST: u64 = 1 << 20;

pub(in crate::upstream) struct List {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// Of what is in use, or was found to be wrong.
    judged: Stamp,
    /// Of what was seen last.
    seen: Stamp,
}

/// Differs where a file has been written or replaced. `None`: there is none.
type Stamp = Option<(SystemTime, u64, u64)>;

impl List {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It can't be read, or holds anything but a list of endpoints.
    pub(in crate::upstream) fn open(path: &Path) -> Result<(Self, Vec<config::Endpoint>), String> {
        let stamp = stamp(path);
        let endpoints = read(path)?;
        Ok((Self { path: path.to_owned(), state: Mutex::new(State { judged: stamp, seen: stamp }) }, endpoints))
    }

    pub(in crate::upstream) fn path(&self) -> &Path {
        &self.path
    }

    /// How long until it is looked at again.
    pub(in crate::upstream) fn pause(&self) -> Duration {
        LOOK
    }

    /// What it holds, if that has changed. An error is told once for each change.
    pub(in crate::upstream) fn look(&self) -> Option<Result<Vec<config::Endpoint>, String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        let settled = now == state.seen;
        state.seen = now;
        if now == state.judged || !settled {
            return None;
        }
        let endpoints = read(&self.path);
        if stamp(&self.path) != now {
            // It was written while it was read.
            return None;
        }
        state.judged = now;
        Some(endpoints)
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

fn read(path: &Path) -> Result<Vec<config::Endpoint>, String> {
    let in_words = |error: io::Error| {
        let text = error.to_string();
        text.split(" (os error").next().unwrap_or(&text).to_lowercase()
    };
    let metadata = fs::metadata(path).map_err(in_words)?;
    if !metadata.is_file() {
        return Err("this is no file".to_owned());
    }
    if metadata.len() > LARGEST {
        return Err("it is larger than 1 MiB".to_owned());
    }
    let text = fs::read_to_string(path).map_err(in_words)?;
    let endpoints = endpoints_of(&text, path).map_err(|report| {
        let first = report.diagnostics().first().map(|diagnostic| {
            let place = report.locate(diagnostic.span()).map(|place| format!("{place}: ")).unwrap_or_default();
            format!("{place}{}", diagnostic.message())
        });
        first.unwrap_or_else(|| "it is no list of endpoints".to_owned())
    })?;
    if endpoints.len() > MAX {
        return Err(format!("it lists more than {MAX} endpoints"));
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_it_is_settled_and_said_once_if_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.yaml");
        fs::write(&path, "- 127.0.0.1:1\n").unwrap();
        let (list, first) = List::open(&path).unwrap();
        assert_eq!((first.len(), list.look()), (1, None));
        fs::write(&path, "- 127.0.0.1:1\n- 127.0.0.1:2\n").unwrap();
        assert_eq!(list.look(), None, "it may not be whole yet");
        assert_eq!(list.look().unwrap().unwrap().len(), 2);
        assert_eq!(list.look(), None);
        fs::write(&path, "- 127.0.0.1:1\n- 127.0.").unwrap();
        assert_eq!(list.look(), None);
        assert!(list.look().unwrap().unwrap_err().contains("e.yaml:2:"));
        assert_eq!(list.look(), None, "once");
        fs::remove_file(&path).unwrap();
        assert_eq!(list.look(), None);
        assert!(list.look().unwrap().is_err());
        assert_eq!(list.look(), None);
    }
}
