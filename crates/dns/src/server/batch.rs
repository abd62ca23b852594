//! Many datagrams with one system call: `recvmmsg` and `sendmmsg`. The only unsafe code of this crate.

#![allow(unsafe_code)] // these calls have no safe form that gives back memory to be used again

use std::{
    io,
    mem::zeroed,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Datagrams in one call.
pub(super) const BATCH: usize = 64;
/// The longest question that is read; what is longer is cut and so cannot be read.
const LONGEST: usize = 2048;

/// Memory for a batch of questions and their answers.
pub(super) struct Batch {
    packets: Box<[[u8; LONGEST]; BATCH]>,
    lengths: [usize; BATCH],
    peers: Box<[libc::sockaddr_storage; BATCH]>,
    peer_lengths: [libc::socklen_t; BATCH],
    /// Answers, and to which of the questions.
    pub replies: Vec<(usize, Vec<u8>)>,
    /// Memory of answers that were sent.
    spare: Vec<Vec<u8>>,
}

impl Batch {
    pub fn new() -> Self {
        Self {
            packets: Box::new([[0; LONGEST]; BATCH]),
            lengths: [0; BATCH],
            // SAFETY: a `sockaddr_storage` is plain numbers; all zeros is one without a family.
            peers: Box::new(unsafe { zeroed() }),
            peer_lengths: [0; BATCH],
            replies: Vec::with_capacity(BATCH),
            spare: Vec::new(),
        }
    }

    /// Takes what has come, without waiting. Returns how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: zeros are null pointers and lengths of nothing, which is a header without parts.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for (index, header) in headers.iter_mut().enumerate() {
            parts[index] =
                libc::iovec { iov_base: self.packets[index].as_mut_ptr().cast(), iov_len: LONGEST };
            header.msg_hdr.msg_iov = &raw mut parts[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut self.peers[index]).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        }
        // SAFETY: each header points to a buffer and an address of ours with their true lengths, alive until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers[..count].iter().enumerate() {
            self.lengths[index] = (header.msg_len as usize).min(LONGEST);
            self.peer_lengths[index] = header.msg_hdr.msg_namelen;
        }
        Ok(count)
    }

    /// A packet of those that were received.
    pub fn packet(&self, index: usize) -> &[u8] {
        &self.packets[index][..self.lengths[index]]
    }

    /// Who sent it.
    pub fn peer(&self, index: usize) -> Option<SocketAddr> {
        let peer = &self.peers[index];
        match i32::from(peer.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that it is a `sockaddr_in`, and the storage is large and aligned enough for any.
                let peer = unsafe { &*ptr::from_ref(peer).cast::<libc::sockaddr_in>() };
                let address = Ipv4Addr::from(u32::from_be(peer.sin_addr.s_addr));
                Some(SocketAddrV4::new(address, u16::from_be(peer.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for a `sockaddr_in6`.
                let peer = unsafe { &*ptr::from_ref(peer).cast::<libc::sockaddr_in6>() };
                let (port, scope) = (u16::from_be(peer.sin6_port), peer.sin6_scope_id);
                Some(SocketAddrV6::new(peer.sin6_addr.s6_addr.into(), port, 0, scope).into())
            }
            _ => None,
        }
    }

    /// Memory for an answer.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps memory for later.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        // A few long answers must not make this grow.
        if self.spare.len() < BATCH {
            self.spare.push(buffer);
        }
    }

    /// Sends the answers, without waiting. What the kernel does not take is lost, as datagrams are.
    pub fn send(&mut self, socket: BorrowedFd<'_>) {
        // SAFETY: as in `receive`.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let count = self.replies.len().min(BATCH);
        for (place, (index, reply)) in self.replies[..count].iter_mut().enumerate() {
            parts[place] = libc::iovec { iov_base: reply.as_mut_ptr().cast(), iov_len: reply.len() };
            let header = &mut headers[place].msg_hdr;
            header.msg_iov = &raw mut parts[place];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut self.peers[*index]).cast();
            header.msg_namelen = self.peer_lengths[*index];
        }
        let mut sent = 0;
        while sent < count {
            // SAFETY: each header points to an answer and an address of ours with their true lengths; the kernel only reads them.
            let now = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    headers[sent..count].as_mut_ptr(),
                    (count - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            // Only the first one's error is told: that one is passed over.
            sent += usize::try_from(now).unwrap_or(1).max(1);
        }
        for (_, reply) in std::mem::take(&mut self.replies) {
            self.give_back(reply);
        }
    }
}
