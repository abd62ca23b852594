//! A connection from the agent to a shim: sends a request, waits for its reply, passes descriptors along.

use crate::{
    Error,
    layout::{SHIM_SOCKET, short_path},
    protocol::{ErrorKind, Inbox, Reply, Request, encode, send},
};
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};
use tokio::{io::Interest, net::UnixStream, time::timeout};

/// How long a shim may take for what needs no helper. It never waits for anything itself.
const QUICK: Duration = Duration::from_secs(10);

/// See the module.
pub struct ShimConnection {
    sandbox: String,
    socket: UnixStream,
    inbox: Inbox,
}

impl ShimConnection {
    /// Connects to the shim whose sandbox has this folder.
    pub async fn open(folder: &Path, sandbox: &str) -> Result<Self, Error> {
        let step = |e| Error::io(format!("connecting to the shim of sandbox {sandbox}"), e);
        let handle = open_folder(folder).map_err(step)?;
        let socket = UnixStream::connect(short_path(&handle, SHIM_SOCKET)).await.map_err(step)?;
        Ok(Self { sandbox: sandbox.to_string(), socket, inbox: Inbox::default() })
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = encode(request).map_err(|e| self.broken(e))?;
        let mut sent = 0;
        while sent < bytes.len() {
            let beside = if sent == 0 { descriptors } else { &[] };
            let socket = self.socket.as_raw_fd();
            sent += self
                .socket
                .async_io(Interest::WRITABLE, || send(socket, &bytes[sent..], beside))
                .await
                .map_err(|e| self.broken(e))?;
        }
        Ok(())
    }

    /// Waits for what the shim says next; `None` when it is gone. A failure that it reports is an error.
    pub async fn next(&mut self) -> Result<Option<(Reply, Vec<OwnedFd>)>, Error> {
        loop {
            if let Some((reply, descriptors)) = self.inbox.take().map_err(|e| self.broken(e))? {
                return match reply {
                    Reply::Error { kind, message } => Err(self.failure(kind, message)),
                    reply => Ok(Some((reply, descriptors))),
                };
            }
            let (socket, inbox) = (&self.socket, &mut self.inbox);
            match socket.async_io(Interest::READABLE, || inbox.fill(socket.as_fd())).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(self.broken(e)),
            }
        }
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let exchange = async {
            self.send(request, descriptors).await?;
            self.next().await?.ok_or_else(|| Error::Shim {
                sandbox: self.sandbox.clone(),
                why: "it ended before it answered".into(),
            })
        };
        timeout(limit, exchange).await.map_err(|_| Error::Timeout("the shim's answer"))?
    }

    fn broken(&self, error: io::Error) -> Error {
        Error::Shim { sandbox: self.sandbox.clone(), why: error.to_string() }
    }

    fn failure(&self, kind: ErrorKind, message: String) -> Error {
        match kind {
            ErrorKind::Start => Error::Start(message),
            ErrorKind::State => Error::State(message),
            ErrorKind::Other => Error::Shim { sandbox: self.sandbox.clone(), why: message },
        }
    }
}

/// One question that is answered at once, on a connection of its own.
pub async fn ask(folder: &Path, sandbox: &str, request: &Request) -> Result<(Reply, Vec<OwnedFd>), Error> {
    ShimConnection::open(folder, sandbox).await?.ask(request, &[], QUICK).await
}

/// A folder's handle, for short socket paths.
pub fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::empty())?)
}
