//! Sockets, bound before anything else: an address that can't be had ends the process with a message, not a thread with a panic.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::runtime::{AdminPlan, ListenerPlan};
use crate::server::process::Heir;
use crate::server::upgrade::{Offer, Predecessor, Role, Tenure};
use crate::types::ListenAddress;
use crate::upstream::Wire;

/// How many connections the system may complete before they are accepted.
const BACKLOG: i32 = 4096;
/// How much a connection's unsent bytes may come to before it takes no more (as `TCP_NOTSENT_LOWAT`): what a client does not read is to wait
/// where it is bounded and timed, not for minutes in megabytes of the system's. Accepted sockets inherit it.
const UNSENT: u32 = 128 * 1024;
/// Mode of a unix socket unless the listener says otherwise: its owner and group.
const SOCKET_MODE: u32 = 0o660;
/// Mode of the socket of upgrades: whoever can use it can take the process's place.
const UPGRADE_MODE: u32 = 0o600;

/// A listener's socket.
pub(super) struct Bound {
    pub(super) plan: ListenerPlan,
    pub(super) socket: BoundSocket,
}

pub(crate) enum BoundSocket {
    Tcp(StdTcpListener),
    /// The file goes when the listener does.
    Unix(StdUnixListener, SocketFile),
}

/// The file of a unix socket.
pub(crate) struct SocketFile {
    path: PathBuf,
    tenure: Tenure,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.tenure.let_go(&self.path);
    }
}

/// A socket that accepts, in the runtime of whoever made it.
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

/// A connection, and where it comes from unless that is this machine by a file.
type Connected = (Wire, Option<SocketAddr>);

impl Socket {
    /// With the address that it got.
    pub(crate) fn new(socket: BoundSocket) -> io::Result<(Self, String)> {
        Ok(match socket {
            BoundSocket::Tcp(socket) => {
                let address = socket.local_addr()?.to_string();
                (Self::Tcp(TcpListener::from_std(socket)?), address)
            }
            BoundSocket::Unix(socket, file) => {
                let address = format!("unix:{}", file.path.display());
                (Self::Unix { listener: UnixListener::from_std(socket)?, file }, address)
            }
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Connected> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Wire::Tcp(stream), Some(client)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Wire::Unix(stream), None))
            }
        }
    }

    /// Takes those who have connected, `most` of them, and closes, with nothing in between: the system goes on completing connections until
    /// the socket is closed, and resets those that nobody has taken by then. Whoever is turned away by a missing file knows at once.
    pub(super) fn close(self, most: usize) -> Vec<io::Result<Connected>> {
        match self {
            Self::Tcp(listener) => {
                let open = |(stream, client): (StdTcpStream, SocketAddr)| {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    Ok((Wire::Tcp(TcpStream::from_std(stream)?), Some(client)))
                };
                take_all(most, listener.into_std(), StdTcpListener::accept, open)
            }
            Self::Unix { listener, file } => {
                drop(file);
                let open = |(stream, _): (StdUnixStream, UnixAddr)| {
                    stream.set_nonblocking(true)?;
                    Ok((Wire::Unix(UnixStream::from_std(stream)?), None))
                };
                take_all(most, listener.into_std(), StdUnixListener::accept, open)
            }
        }
    }
}

/// Accepts all that can be had now, and closes; only then are they opened.
fn take_all<L, T>(
    most: usize,
    listener: io::Result<L>,
    accept: fn(&L) -> io::Result<T>,
    open: impl Fn(T) -> io::Result<Connected>,
) -> Vec<io::Result<Connected>> {
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => return vec![Err(error)],
    };
    let mut taken = Vec::with_capacity(most.min(64));
    while taken.len() < most {
        match accept(&listener) {
            Ok(one) => taken.push(one),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    drop(listener);
    taken.into_iter().map(open).collect()
}

/// An address that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{whose}: can't listen on {address}: {reason}")]
pub(crate) struct BindError {
    whose: String,
    address: ListenAddress,
    reason: String,
}

/// Where sockets come from: the process before this one, or the system.
pub(super) struct Binder {
    predecessor: Option<Predecessor>,
    tenure: Tenure,
    /// Whose the files of sockets become.
    heir: Heir,
    /// A second descriptor of each, to hand on.
    offers: Vec<Offer>,
}

impl Binder {
    pub(super) fn new(predecessor: Option<Predecessor>, tenure: Tenure, heir: Heir) -> Self {
        Self { predecessor, tenure, heir, offers: Vec::new() }
    }

    /// Binds every listener, or none.
    pub(super) fn listeners(&mut self, plans: &[ListenerPlan]) -> Result<Vec<Bound>, BindError> {
        plans.iter().map(|plan| self.listener(plan)).collect()
    }

    fn listener(&mut self, plan: &ListenerPlan) -> Result<Bound, BindError> {
        let mode = plan.mode.map_or(SOCKET_MODE, |mode| mode.bits());
        let socket = self.open(Role::Listener, &plan.name, &plan.address, mode);
        let socket = socket.map_err(|error| failure(format!("listener `{}`", plan.name), &plan.address, &error))?;
        Ok(Bound { plan: plan.clone(), socket })
    }

    /// Binds the admin address.
    pub(super) fn admin(&mut self, plan: &AdminPlan) -> Result<BoundSocket, BindError> {
        let socket = self.open(Role::Admin, "", &plan.address, SOCKET_MODE);
        socket.map_err(|error| failure("admin".to_owned(), &plan.address, &error))
    }

    /// Binds the socket over which the others are handed on.
    pub(super) fn upgrade(&mut self, path: &Path) -> io::Result<(StdUnixListener, SocketFile)> {
        let inherited = self.predecessor.as_mut().and_then(Predecessor::take_upgrade);
        let (socket, file) = match inherited {
            Some(socket) => (socket, self.file(path, true)),
            None => {
                let (socket, file) = self.unix(path, Type::SEQPACKET, UPGRADE_MODE)?;
                (socket.into(), file)
            }
        };
        self.offer(Role::Upgrade, "", format!("unix:{}", path.display()), &socket)?;
        Ok((socket.into(), file))
    }

    /// What is left once everything is bound.
    pub(super) fn finish(self) -> (Option<Predecessor>, Vec<Offer>) {
        (self.predecessor, self.offers)
    }

    fn open(&mut self, role: Role, name: &str, address: &ListenAddress, mode: u32) -> io::Result<BoundSocket> {
        let inherited = self.predecessor.as_mut().and_then(|predecessor| predecessor.take(role, name, address));
        let socket = match (address, inherited) {
            (ListenAddress::Tcp(_), Some(socket)) => BoundSocket::Tcp(bounded(socket.into())?),
            (ListenAddress::Tcp(address), None) => BoundSocket::Tcp(bounded(tcp(*address)?)?),
            (ListenAddress::Unix(path), Some(socket)) => {
                self.settle(path, mode)?;
                BoundSocket::Unix(socket.into(), self.file(path, true))
            }
            (ListenAddress::Unix(path), None) => {
                let (socket, file) = self.unix(path, Type::STREAM, mode)?;
                BoundSocket::Unix(socket.into(), file)
            }
        };
        match &socket {
            BoundSocket::Tcp(socket) => self.offer(role, name, address.to_string(), socket)?,
            BoundSocket::Unix(socket, _) => self.offer(role, name, address.to_string(), socket)?,
        }
        Ok(socket)
    }

    fn unix(&self, path: &Path, kind: Type, mode: u32) -> io::Result<(socket2::Socket, SocketFile)> {
        remove_stale(path, kind)?;
        let socket = socket2::Socket::new(Domain::UNIX, kind, None)?;
        // The file gets the socket's mode, less the umask: nobody can connect for whom it is not meant, not even for a moment.
        fchmod(&socket, Mode::from_bits_truncate(mode))?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = self.file(path, false);
        self.settle(path, mode)?;
        socket.set_nonblocking(true)?;
        socket.listen(BACKLOG)?;
        Ok((socket, file))
    }

    /// The mode is about the owner whom the process will be: `0660` lets in its user and group.
    fn settle(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.heir.give(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn file(&self, path: &Path, inherited: bool) -> SocketFile {
        self.tenure.hold(path, inherited);
        SocketFile { path: path.to_owned(), tenure: self.tenure.clone() }
    }

    fn offer(&mut self, role: Role, name: &str, address: String, socket: &impl AsFd) -> io::Result<()> {
        let socket: OwnedFd = socket.as_fd().try_clone_to_owned()?;
        self.offers.push(Offer { role, name: name.to_owned(), address, socket });
        Ok(())
    }
}

fn failure(whose: String, address: &ListenAddress, error: &io::Error) -> BindError {
    BindError { whose, address: address.clone(), reason: explain(error, address) }
}

fn tcp(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bounded(socket: socket2::Socket) -> io::Result<StdTcpListener> {
    socket.set_tcp_notsent_lowat(UNSENT)?;
    Ok(socket.into())
}

/// Removes a socket that a process left behind; one that somebody answers on is left alone.
fn remove_stale(path: &Path, kind: Type) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    let probe = socket2::Socket::new(Domain::UNIX, kind, None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if is_of_another_kind(&error) => {
            Err(io::Error::new(ErrorKind::AlreadyExists, "another program listens there, by a socket of another kind"))
        }
        Err(error) => Err(error),
    }
}

/// Whether a socket was found that speaks otherwise: in packets, say, where a stream was looked for.
pub(super) fn is_of_another_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error())
}

fn explain(error: &io::Error, address: &ListenAddress) -> String {
    match (error.kind(), address) {
        (ErrorKind::AddrInUse, ListenAddress::Tcp(address)) => {
            let port = address.port();
            format!(
                "the address is in use: another process listens there, or has a connection from there (to see which: ss -tanp 'sport = \
                 :{port}')"
            )
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

    fn bind(address: &str) -> Result<Vec<Bound>, BindError> {
        let address = address.parse().unwrap();
        let plan = ListenerPlan { name: "main".into(), address, mode: None, http2: false, proxy_protocol: false, tls: false };
        Binder::new(None, Tenure::default(), Heir::default()).listeners(&[plan])
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(&address.to_string()).err().unwrap().to_string();
        assert!(error.contains(&format!("listener `main`: can't listen on {address}: the address is in use")), "{error}");
    }

    #[test]
    fn a_socket_left_behind_is_taken_over_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let address = format!("unix:{}", path.display());
        drop(StdUnixListener::bind(&path).unwrap());
        let bound = bind(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert!(bind(&address).err().unwrap().to_string().contains("another process"));
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_never_removed_for_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        assert!(bind(&format!("unix:{}", path.display())).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
