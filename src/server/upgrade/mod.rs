//! Upgrades: a new process takes the listening sockets over from the one before it, and no connection is refused meanwhile.
//!
//! Every process listens on `upgrade_sock`. `ravelin run -u` connects there and is given each listening socket, this one included
//! (`SCM_RIGHTS`, one to a packet: there is no bound on their number). Both processes accept then. Once the new one is ready it says
//! so; SIGQUIT makes the old one stop accepting and end what it has. If the new one dies before that, nothing has happened: the old one
//! never stopped.
//!
//! Sockets are files too. Who may remove them is decided by [`Tenure`]: never a process that has handed them on, nor one whose
//! predecessor still serves.

mod predecessor;
mod successor;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) use self::predecessor::Predecessor;
pub(crate) use self::predecessor::UpgradeError;
pub(super) use self::successor::{Door, Offer, Successors};
pub(super) use self::wire::Role;
use crate::server::private;

/// Whether this process is the one that the files of its sockets belong to.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenure(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// A predecessor serves from the inherited sockets, and may go on doing so.
    shared: AtomicBool,
    /// A successor serves from all of them.
    ended: AtomicBool,
    /// Files that are there, and whether they were inherited.
    files: Mutex<Vec<(PathBuf, bool)>>,
}

impl Tenure {
    /// The sockets have come from a process that still serves.
    fn share(&self) {
        self.0.shared.store(true, Ordering::Release);
    }

    /// That process serves no more.
    fn settle(&self) {
        self.0.shared.store(false, Ordering::Release);
    }

    /// They have gone to a process that serves now.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Release);
    }

    /// A socket has this file.
    pub(super) fn hold(&self, path: &Path, inherited: bool) {
        self.files().push((path.to_owned(), inherited));
    }

    /// The socket is closed: its file goes too, if that is this process's. Who ends the process waits for that.
    pub(super) fn let_go(&self, path: &Path) {
        let mut files = self.files();
        if let Some(at) = files.iter().position(|(held, _)| held == path) {
            let (path, inherited) = files.swap_remove(at);
            if self.owns(inherited) {
                private::remove(&path);
            }
        }
    }

    /// The process ends: so do sockets whose services have been left where they were.
    pub(super) fn let_all_go(&self) {
        let files: Vec<_> = self.files().iter().map(|(path, _)| path.clone()).collect();
        files.iter().for_each(|path| self.let_go(path));
    }

    fn files(&self) -> MutexGuard<'_, Vec<(PathBuf, bool)>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file of a socket goes with this process.
    pub(super) fn owns(&self, inherited: bool) -> bool {
        let with_predecessor = inherited && self.0.shared.load(Ordering::Acquire);
        !with_predecessor && !self.0.ended.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_one_process_at_a_time() {
        let tenure = Tenure::default();
        assert!(tenure.owns(false) && tenure.owns(true));
        tenure.share();
        assert!(tenure.owns(false) && !tenure.owns(true));
        tenure.settle();
        assert!(tenure.owns(true));
        tenure.end();
        assert!(!tenure.owns(false) && !tenure.owns(true));
    }
}
