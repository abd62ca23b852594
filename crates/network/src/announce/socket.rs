//! The sockets of answering on a link: one for whole frames, one that keeps multicast groups joined. What they hold in the kernel
//! goes with them.

use crate::Error;
use std::{
    io,
    net::Ipv6Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Lets pass what asks for a neighbour: ARP, or IPv6 with an ICMPv6 of type 135. A classic filter, for frames of Ethernet.
const FILTER: [libc::sock_filter; 9] = [
    // The type of the frame's content.
    instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 12),
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 5, 0, 0x0806),
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 5, 0x86dd),
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 20),
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, 58),
    instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 54),
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 135),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 128),
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
];

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    // The codes have 8 bits.
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// Frames of one link.
pub(super) struct Packets(AsyncFd<OwnedFd>);

impl Packets {
    /// Hears the questions of neighbours on a link.
    pub fn open(index: u32) -> Result<Self, Error> {
        let step = || "opening a socket for load balancer addresses".to_owned();
        let failed = |source| Error::Io { step: step(), source };
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // No protocol: nothing is heard before the filter is in place.
        let socket = open(libc::AF_PACKET, kind, 0).map_err(failed)?;
        let mut filter = FILTER;
        let program = libc::sock_fprog { len: FILTER.len() as u16, filter: filter.as_mut_ptr() };
        option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(failed)?;
        // SAFETY: all bytes zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the socket is open, and the address is one of the given length.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self(registered.map_err(|error| failed(error.into()))?))
    }

    /// The next frame; its length, of which at most the buffer's is there.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0
            .async_io(Interest::READABLE, |socket| {
                // SAFETY: the buffer is writable for its length.
                let read =
                    unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
                usize::try_from(read).map_err(|_| io::Error::last_os_error())
            })
            .await
    }

    /// Sends a frame. One that cannot be sent is lost, as it may be on the way: who asks, asks again.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: the frame is readable for its length.
        let sent = unsafe { libc::send(self.0.get_ref().as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "an answer for a load balancer address was not sent");
        }
    }
}

/// Multicast groups that the link listens to, and says so to its switches.
pub(super) struct Groups {
    socket: OwnedFd,
    index: u32,
}

impl Groups {
    /// None yet.
    pub fn open(index: u32) -> Result<Self, Error> {
        let socket = open(libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
            // A kernel without IPv6 has no such addresses either.
            .or_else(|_| open(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))
            .map_err(|source| Error::Io { step: "opening a socket for multicast groups".into(), source })?;
        Ok(Self { socket, index })
    }

    /// Joins a group.
    pub fn join(&self, group: Ipv6Addr) -> Result<(), Error> {
        self.change(libc::IPV6_ADD_MEMBERSHIP, group)
            .map_err(|source| Error::Io { step: format!("joining the multicast group {group}"), source })
    }

    /// Leaves a group.
    pub fn leave(&self, group: Ipv6Addr) {
        if let Err(error) = self.change(libc::IPV6_DROP_MEMBERSHIP, group) {
            tracing::debug!(%error, %group, "a multicast group is not left");
        }
    }

    fn change(&self, what: i32, group: Ipv6Addr) -> io::Result<()> {
        let request = libc::ipv6_mreq {
            ipv6mr_multiaddr: libc::in6_addr { s6_addr: group.octets() },
            ipv6mr_interface: self.index,
        };
        option(self.socket.as_raw_fd(), libc::IPPROTO_IPV6, what, &request)
    }
}

fn open(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(family, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn option<T>(socket: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value is readable for its length during the call.
    let set = unsafe {
        libc::setsockopt(
            socket,
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
