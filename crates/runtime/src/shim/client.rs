//! A connection to a shim, from the shim's side: requests that have not come whole yet, replies that have not gone yet.

use crate::protocol::{ErrorKind, Inbox, Reply, Request, encode, send};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
};

/// What a connection is for. It begins as [`Role::Plain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// One request, one reply.
    Plain,
    /// Hears of every exit.
    Subscriber,
    /// Waits for the end of the process it had executed.
    Exec {
        /// That process.
        pid: i32,
    },
    /// Waits for the end of the container it is attached to.
    Attached {
        /// That container.
        container: String,
    },
}

/// See the module.
pub struct Client {
    /// Never used again in the life of this shim.
    pub id: u64,
    /// What it is for.
    pub role: Role,
    socket: UnixStream,
    inbox: Inbox,
    outbox: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
}

impl Client {
    /// A new connection.
    pub fn new(id: u64, socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { id, role: Role::Plain, socket, inbox: Inbox::default(), outbox: VecDeque::new() })
    }

    /// What to poll for reading, and if the second is true for writing.
    pub fn interest(&self) -> (BorrowedFd<'_>, bool) {
        (self.socket.as_fd(), !self.outbox.is_empty())
    }

    /// Reads what has come; `None` if the connection is over.
    pub fn read(&mut self) -> Option<Vec<(Request, Vec<OwnedFd>)>> {
        match self.inbox.fill(self.socket.as_fd()) {
            Ok(true) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(false) | Err(_) => return None,
        }
        let mut requests = Vec::new();
        loop {
            match self.inbox.take::<serde_json::Value>() {
                Ok(Some((value, descriptors))) => match serde_json::from_value(value) {
                    Ok(request) => requests.push((request, descriptors)),
                    // A newer agent may ask for what this shim does not know.
                    Err(e) => self.say(
                        &Reply::Error { kind: ErrorKind::Other, message: format!("not understood: {e}") },
                        None,
                    ),
                },
                Ok(None) => return Some(requests),
                Err(_) => return None,
            }
        }
    }

    /// Sends a reply, now or when there is room.
    pub fn say(&mut self, reply: &Reply, descriptor: Option<OwnedFd>) {
        if let Ok(bytes) = encode(reply) {
            self.outbox.push_back((bytes, descriptor));
            self.flush();
        }
    }

    /// Sends what there is room for.
    pub fn flush(&mut self) {
        while let Some((bytes, descriptor)) = self.outbox.front_mut() {
            let beside = descriptor.as_ref().map(AsFd::as_fd);
            match send(self.socket.as_raw_fd(), bytes, beside.as_slice()) {
                Ok(sent) => {
                    *descriptor = None;
                    bytes.drain(..sent);
                    if bytes.is_empty() {
                        self.outbox.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Its end is noticed when it is read.
                Err(_) => self.outbox.clear(),
            }
        }
    }
}
