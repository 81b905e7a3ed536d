//! What two processes say to each other: packets of JSON, each with at most one descriptor.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

/// The version of this conversation. A process that speaks another is told so before any socket moves.
pub(super) const PROTOCOL: u32 = 1;
/// No packet is longer: a path of a unix socket has at most 107 bytes, a name is bounded by the configuration.
const PACKET: usize = 16 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Packet {
    /// The old process, first: so many sockets follow.
    Hello { protocol: u32, pid: u32, version: String, sockets: usize },
    /// The old process: a socket comes with this.
    Socket { role: Role, name: String, address: String },
    /// The new process: it accepts.
    Ready { pid: u32 },
    /// The old process: it accepts no more.
    Draining,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::server) enum Role {
    Listener,
    Admin,
    Upgrade,
}

/// A socket that keeps packets apart.
pub(super) fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

pub(super) fn send(to: impl AsFd, packet: &Packet, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(packet)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(ErrorKind::OutOfMemory.into());
    }
    sendmsg(to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// `None`: the other side is gone.
pub(super) fn receive(from: impl AsFd) -> io::Result<Option<(Packet, Option<OwnedFd>)>> {
    let mut bytes = vec![0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(&from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // Others than the first are closed.
            descriptor = descriptors.fold(descriptor, |first: Option<OwnedFd>, next| first.or(Some(next)));
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(ErrorKind::InvalidData, "a packet is cut short"));
    }
    match bytes.get(..received.bytes) {
        None | Some([]) => Ok(None),
        Some(packet) => Ok(Some((serde_json::from_slice(packet)?, descriptor))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use rustix::net::socketpair;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn packets_and_descriptors_arrive_as_they_were_sent() {
        let (one, other) = pair();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let socket = Packet::Socket { role: Role::Admin, name: String::new(), address: "127.0.0.1:1".to_owned() };
        send(&one, &socket, Some(writer.as_fd())).unwrap();
        send(&one, &Packet::Draining, None).unwrap();
        drop((one, writer));
        let (packet, descriptor) = receive(&other).unwrap().unwrap();
        assert_eq!(packet, socket);
        io::Write::write_all(&mut UnixStream::from(descriptor.unwrap()), b"x").unwrap();
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "x");
        assert!(matches!(receive(&other).unwrap(), Some((Packet::Draining, None))));
        assert!(receive(&other).unwrap().is_none());
    }

    #[test]
    fn what_is_no_packet_is_an_error() {
        let (one, other) = pair();
        rustix::net::send(&one, b"GET / HTTP/1.1", SendFlags::empty()).unwrap();
        assert!(receive(&other).is_err());
        rustix::net::send(&one, &vec![b' '; PACKET + 1], SendFlags::empty()).unwrap();
        assert!(receive(&other).is_err());
    }
}
