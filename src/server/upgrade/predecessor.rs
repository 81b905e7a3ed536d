//! The new side: asks the running process for its sockets, and tells it when it can go.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_acceptconn, socket_peercred};
use rustix::process::geteuid;
use tokio::sync::watch;

use super::Tenure;
use super::wire::{self, PROTOCOL, Packet, Role};
use crate::server::bind::is_of_another_kind;
use crate::server::private;
use crate::types::ListenAddress;

/// How long the other side may take over one packet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(50);

/// Why nothing could be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Nobody is there.
    #[error(
        "no running process to take over from at {path} ({reason}): it must run with the same configuration file and `upgrade_sock`; \
         without `-u` this one would start by itself"
    )]
    Nobody {
        /// `upgrade_sock`.
        path: String,
        /// What the system says.
        reason: io::Error,
    },
    /// What is there is none of ours.
    #[error("`upgrade_sock: {path}`: {what}, and no process of Ravelin's to take over from")]
    Foreign {
        /// `upgrade_sock`.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Somebody else is there.
    #[error("{path} belongs to user id {uid}, and is not trusted")]
    Stranger {
        /// `upgrade_sock`.
        path: String,
        /// Of the process that listens there.
        uid: u32,
    },
    /// It speaks otherwise.
    #[error("the running process is version {version}, which hands its sockets on in another way: stop it and start this one")]
    Protocol {
        /// Of its program.
        version: String,
    },
    /// It did not finish.
    #[error("the running process did not hand its sockets on: {0}")]
    Cut(io::Error),
}

/// A process that this one takes over from.
pub(in crate::server) struct Predecessor {
    socket: OwnedFd,
    pid: u32,
    handed: Vec<Handed>,
    tenure: Tenure,
}

/// A socket that was handed on.
struct Handed {
    role: Role,
    name: String,
    address: String,
    socket: OwnedFd,
}

impl Predecessor {
    /// The files of sockets that were handed on and are not configured any more: they will be removed.
    pub(in crate::server) fn files(&self) -> Vec<PathBuf> {
        self.handed.iter().filter_map(Handed::file).collect()
    }

    /// Finds the process and takes its sockets. They stay its own too.
    ///
    /// # Errors
    /// Nobody listens at `path` within `wait`, or what listens there is not to be trusted or does not hand on what it has.
    pub(in crate::server) fn find(path: &Path, wait: Duration, user: Option<u32>, tenure: &Tenure) -> Result<Self, UpgradeError> {
        let shown = || path.display().to_string();
        if let Some(what) = foreign(path) {
            return Err(UpgradeError::Foreign { path: shown(), what });
        }
        let socket = connect(path, wait).map_err(|reason| {
            if is_of_another_kind(&reason) {
                UpgradeError::Foreign { path: shown(), what: "this is another program's socket" }
            } else {
                UpgradeError::Nobody { path: shown(), reason }
            }
        })?;
        let uid = socket_peercred(&socket).map_err(cut)?.uid.as_raw();
        if uid != 0 && uid != geteuid().as_raw() && Some(uid) != user {
            return Err(UpgradeError::Stranger { path: shown(), uid });
        }
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&socket, direction, Some(PATIENCE)).map_err(cut)?;
        }
        let (Packet::Hello { protocol, pid, version, sockets }, _) = next(&socket)? else {
            return Err(UpgradeError::Cut(ErrorKind::InvalidData.into()));
        };
        if protocol != PROTOCOL {
            return Err(UpgradeError::Protocol { version });
        }
        let mut handed = Vec::new();
        for _ in 0..sockets {
            let (Packet::Socket { role, name, address }, Some(socket)) = next(&socket)? else {
                return Err(UpgradeError::Cut(ErrorKind::InvalidData.into()));
            };
            if !socket_acceptconn(&socket).map_err(cut)? {
                return Err(UpgradeError::Cut(io::Error::new(ErrorKind::InvalidData, format!("{address} does not listen"))));
            }
            handed.push(Handed { role, name, address, socket });
        }
        tenure.share();
        log::info!("sockets taken over from={pid} version={version} sockets={sockets}");
        Ok(Self { socket, pid, handed, tenure: tenure.clone() })
    }

    /// The socket for this address: the one of this name, if several listeners have it, as they can with port 0.
    pub(in crate::server) fn take(&mut self, role: Role, name: &str, address: &ListenAddress) -> Option<OwnedFd> {
        let address = address.to_string();
        let fits = |handed: &Handed| handed.role == role && handed.address == address;
        let found = self.handed.iter().position(|handed| fits(handed) && handed.name == name);
        let index = found.or_else(|| self.handed.iter().position(fits))?;
        Some(self.handed.swap_remove(index).socket)
    }

    /// The socket of upgrades.
    pub(in crate::server) fn take_upgrade(&mut self) -> Option<OwnedFd> {
        let index = self.handed.iter().position(|handed| handed.role == Role::Upgrade)?;
        Some(self.handed.swap_remove(index).socket)
    }

    /// Says that this process accepts. What follows waits for the other's end: from then on the files of its sockets are this one's, and
    /// `settled` turns true.
    pub(in crate::server) fn ready(self, settled: watch::Sender<bool>) {
        let Self { socket, pid, handed, tenure } = self;
        if let Err(error) = wire::send(&socket, &Packet::Ready { pid: std::process::id() }, None) {
            log::warn!("the process before this one is gone already pid={pid} error={error}");
        } else {
            log::info!("ready to take over: end the process before this one with `kill -QUIT {pid}`");
        }
        let waiting = thread::Builder::new().name("predecessor".to_owned()).spawn(move || {
            let gone = wait_for_end(&socket);
            tenure.settle();
            for handed in handed {
                remove(&handed);
            }
            log::info!("the process before this one accepts no more pid={pid} gone={gone}");
            settled.send_replace(true);
        });
        if let Err(error) = waiting {
            log::error!("the end of the process before this one can't be waited for pid={pid} error={error}");
        }
    }
}

impl Handed {
    /// The file of the socket, if it has one.
    fn file(&self) -> Option<PathBuf> {
        match self.address.parse() {
            Ok(ListenAddress::Unix(path)) => Some(path),
            _ => None,
        }
    }
}

/// An address that the configuration has no more.
fn remove(handed: &Handed) {
    log::info!("closed, since the configuration does not have it any more address={} name={}", handed.address, handed.name);
    if let Some(path) = handed.file() {
        private::remove(&path);
    }
}

/// Returns true if the process ended without a word.
fn wait_for_end(socket: &OwnedFd) -> bool {
    loop {
        match wire::receive(socket) {
            Ok(Some((Packet::Draining, _))) => return false,
            Ok(Some(_)) => {}
            // The patience for packets is none for this.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(None) | Err(_) => return true,
        }
    }
}

/// What is there, if that is no socket at all.
fn foreign(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    match kind {
        _ if kind.is_socket() => None,
        _ if kind.is_dir() => Some("this is a folder"),
        _ => Some("this is a file that is no socket"),
    }
}

fn connect(path: &Path, wait: Duration) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let until = Instant::now() + wait;
    loop {
        let socket = wire::socket()?;
        match rustix::net::connect(socket.as_fd(), &address) {
            Ok(()) => return Ok(socket),
            Err(error) if Instant::now() >= until || error == Errno::PROTOTYPE => return Err(error.into()),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

fn next(socket: &OwnedFd) -> Result<(Packet, Option<OwnedFd>), UpgradeError> {
    let ended = || UpgradeError::Cut(ErrorKind::UnexpectedEof.into());
    wire::receive(socket).map_err(UpgradeError::Cut)?.ok_or_else(ended)
}

fn cut(error: rustix::io::Errno) -> UpgradeError {
    UpgradeError::Cut(error.into())
}
