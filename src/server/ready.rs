//! Those who wait to hear that the process serves.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::server::background::Launcher;
use crate::server::private::PidFile;
use crate::server::supervisor;
use crate::server::upgrade::Predecessor;

/// Each is told once.
pub(super) struct Waiting {
    /// `None`: the process runs in the foreground.
    pub(super) launcher: Arc<Mutex<Option<Launcher>>>,
    /// `None`: the process did not take over from another.
    pub(super) predecessor: Option<Predecessor>,
    /// Turns true once no process before this one accepts.
    pub(super) settled: watch::Sender<bool>,
    pub(super) pid_file: Arc<Mutex<Option<PidFile>>>,
}

impl Waiting {
    pub(super) fn tell(self) {
        let Self { launcher, predecessor, settled, pid_file } = self;
        if let Some(pid_file) = pid_file.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            pid_file.settle();
        }
        let launcher = launcher.lock().unwrap_or_else(PoisonError::into_inner).take();
        supervisor::ready(launcher.is_some() || predecessor.is_some());
        match predecessor {
            Some(predecessor) => predecessor.ready(settled),
            None => {
                settled.send_replace(true);
            }
        }
        if let Some(launcher) = launcher {
            launcher.ready();
        }
    }
}
