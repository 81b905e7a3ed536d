//! Sockets, bound before anything else: an address that can't be had ends the process with a message, not a thread with a panic.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, Socket, Type};

use crate::runtime::ListenerPlan;
use crate::types::ListenAddress;

/// How many connections the system may complete before they are accepted.
const BACKLOG: i32 = 4096;
/// Mode of a unix socket unless the listener says otherwise: its owner and group.
const SOCKET_MODE: u32 = 0o660;

/// A listener's socket.
pub(super) struct Bound {
    pub(super) plan: ListenerPlan,
    pub(super) socket: BoundSocket,
}

pub(crate) enum BoundSocket {
    Tcp(std::net::TcpListener),
    /// The file goes when the listener does.
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket.
pub(crate) struct SocketFile(PathBuf);

impl std::fmt::Display for SocketFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unix:{}", self.0.display())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing is lost if somebody was faster.
        let _ = fs::remove_file(&self.0);
    }
}

/// An address that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{whose}: can't listen on {address}: {reason}")]
pub(crate) struct BindError {
    whose: String,
    address: ListenAddress,
    reason: String,
}

/// Binds every listener, or none.
pub(super) fn all(plans: &[ListenerPlan]) -> Result<Vec<Bound>, BindError> {
    plans.iter().map(bind).collect()
}

/// Binds the admin address.
pub(super) fn admin(address: &ListenAddress) -> Result<BoundSocket, BindError> {
    open("admin", address, SOCKET_MODE)
}

fn bind(plan: &ListenerPlan) -> Result<Bound, BindError> {
    let mode = plan.mode.map_or(SOCKET_MODE, |mode| mode.bits());
    let socket = open(&format!("listener `{}`", plan.name), &plan.address, mode)?;
    Ok(Bound { plan: plan.clone(), socket })
}

fn open(whose: &str, address: &ListenAddress, mode: u32) -> Result<BoundSocket, BindError> {
    let socket = match address {
        ListenAddress::Tcp(address) => tcp(*address).map(BoundSocket::Tcp),
        ListenAddress::Unix(path) => unix(path, mode),
    };
    socket.map_err(|error| BindError { whose: whose.to_owned(), address: address.clone(), reason: explain(&error, address) })
}

fn tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unix(path: &Path, mode: u32) -> io::Result<BoundSocket> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    listener.set_nonblocking(true)?;
    Ok(BoundSocket::Unix(listener, file))
}

/// Removes a socket that a process left behind; one that somebody answers on is left alone.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn explain(error: &io::Error, address: &ListenAddress) -> String {
    match (error.kind(), address) {
        (ErrorKind::AddrInUse, ListenAddress::Tcp(address)) => {
            format!("another process listens there (to see which: ss -ltnp 'sport = :{}')", address.port())
        }
        (ErrorKind::AddrInUse, ListenAddress::Unix(path)) => {
            format!("another process listens there (to see which: ss -lxp src {})", path.display())
        }
        (ErrorKind::PermissionDenied, ListenAddress::Tcp(address)) if address.port() < 1024 => {
            "a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE".to_owned()
        }
        (ErrorKind::AddrNotAvailable, _) => "this machine has no such address".to_owned(),
        (ErrorKind::NotFound, ListenAddress::Unix(path)) => match path.parent() {
            Some(parent) => format!("there is no folder {}", parent.display()),
            None => error.to_string(),
        },
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(address: &str) -> ListenerPlan {
        ListenerPlan { name: "main".into(), address: address.parse().unwrap(), mode: None, http2: false }
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = all(&[plan(&address.to_string())]).err().unwrap().to_string();
        assert!(error.contains(&format!("listener `main`: can't listen on {address}: another process")), "{error}");
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let address = format!("unix:{}", path.display());
        drop(UnixListener::bind(&path).unwrap());
        let bound = all(&[plan(&address)]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(all(&[plan(&address)]).err().unwrap().to_string().contains("another process"));
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_never_removed_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        assert!(all(&[plan(&format!("unix:{}", path.display()))]).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
