//! What systemd is told of the process (`sd_notify(3)`, for units of `Type=notify` or `notify-reload`). Without `NOTIFY_SOCKET` in the
//! environment, nothing is said.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use sd_notify::NotifyState;

/// It serves. `main`: it is not the process that the supervisor started, but the service is this one now.
pub(super) fn ready(main: bool) {
    if main {
        say(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    } else {
        say(&[NotifyState::Ready]);
    }
}

/// It reads its configuration anew; [`ready`] follows, whatever comes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("no time to tell the supervisor error={error}"),
    }
}

/// It stops, and nothing takes its place.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = tell(&socket, state) {
        log::warn!("the supervisor can't be told socket={} error={error}", socket.display());
    }
}

/// The crate knows sockets that are files. Names without one (`@…`, unix(7)) are what containers' supervisors give.
fn tell(socket: &OsStr, state: &[NotifyState<'_>]) -> io::Result<()> {
    let Some(name) = socket.as_bytes().strip_prefix(b"@") else { return sd_notify::notify(state) };
    let supervisor = UnixDatagram::unbound()?;
    supervisor.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let message: String = state.iter().map(|state| format!("{state}\n")).collect();
    supervisor.send(message.as_bytes()).map(drop)
}
