//! What the agent and a shim say to each other over the shim's Unix socket: a length (32 bits, little-endian), then JSON;
//! descriptors travel beside the first byte (SCM_RIGHTS). Holds the words and the framing, not what they cause.
//!
//! A shim lives longer than the agent that started it, so a newer agent must understand an older shim: fields are only
//! ever added, with a default, and what an old shim does not know it answers with [`Reply::Error`].

use serde::{Deserialize, Serialize};
use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

/// The version of these words that this binary speaks.
pub const VERSION: u32 = 1;
/// Longest message. A request carries paths and an environment at most.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Most descriptors beside one message: standard input, output and error.
pub const MAX_DESCRIPTORS: usize = 4;

/// What the agent asks. A connection carries one request at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Who are you, and what runs in you?
    Hello {
        /// [`VERSION`] of the agent.
        version: u32,
    },
    /// From now on this connection only carries [`Reply::Exited`].
    Subscribe,
    /// Starts a container from the records in its folder.
    Start(StartRequest),
    /// Signals a container's main process, or with `all` every process in its cgroup.
    Signal {
        /// The container.
        id: String,
        /// Signal number.
        signal: i32,
        /// Every process.
        #[serde(default)]
        all: bool,
    },
    /// Runs a process in a container. Beside it come the descriptors that `stdin`, `stdout`, `stderr` announce, in that
    /// order; none with a terminal. Answered by [`Reply::Started`] (with the terminal's master beside it), and on the same
    /// connection, when the process has ended, by [`Reply::ExecExited`].
    Exec(ExecRequest),
    /// Kills the process that was started by [`Request::Exec`] on this connection, with its process group.
    KillExec,
    /// Writes a container's output, from now on, to the descriptors beside the message too; answers with the container's
    /// input (or terminal) beside [`Reply::Attached`] if there is one. The attachment lasts as long as the connection,
    /// which carries [`Reply::Exited`] when the container has ended.
    Attach {
        /// The container.
        id: String,
        /// Whether a descriptor for output comes.
        stdout: bool,
        /// Whether a descriptor for errors comes.
        stderr: bool,
        /// Whether the container's input is wanted.
        stdin: bool,
    },
    /// Opens a container's log file anew.
    ReopenLog {
        /// The container.
        id: String,
    },
    /// Connects to a TCP port on the sandbox's loopback: [`Reply::Connected`] with the socket beside it.
    PortForward {
        /// Port.
        port: u16,
    },
    /// Kills everything and ends.
    Shutdown,
}

/// See [`Request::Start`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its cgroup, relative to the root of the hierarchies.
    pub cgroup: PathBuf,
    /// Its log file.
    pub log_path: PathBuf,
    /// Rotation.
    pub log_limits: LogLimits,
    /// Terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it when the first attached client leaves.
    pub stdin_once: bool,
    /// Whether it has a process namespace of its own, which dies with it.
    pub own_pid_namespace: bool,
}

/// When a container's log file is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a new file is begun.
    pub max_size: u64,
    /// Files that are kept, the current one included.
    pub max_files: u32,
}

impl Default for LogLimits {
    /// The kubelet's defaults: `containerLogMaxSize` 10Mi, `containerLogMaxFiles` 5.
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// See [`Request::Exec`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The container.
    pub id: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Terminal.
    pub tty: bool,
    /// Whether a descriptor for input comes.
    pub stdin: bool,
    /// Whether a descriptor for output comes.
    pub stdout: bool,
    /// Whether a descriptor for errors comes.
    pub stderr: bool,
}

/// What the shim answers, or tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Ok,
    /// To [`Request::Hello`].
    Hello {
        /// [`VERSION`] of the shim.
        version: u32,
        /// Its process id.
        pid: i32,
        /// Containers whose processes run.
        running: Vec<String>,
    },
    /// A process runs.
    Started {
        /// Its process id on the host.
        pid: i32,
        /// What had to be done without.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// To [`Request::Attach`].
    Attached,
    /// To [`Request::PortForward`].
    Connected,
    /// A container's main process has ended, and that is on disk.
    Exited {
        /// The container.
        id: String,
    },
    /// The process of this connection's [`Request::Exec`] has ended.
    ExecExited {
        /// Exit code; 128 + n where signal n ended it.
        code: i32,
    },
    /// It could not be done.
    Error {
        /// What kind.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
}

/// What kind of failure a shim reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The process could not be started.
    Start,
    /// The request does not fit the state.
    State,
    /// Everything else.
    #[serde(other)]
    Other,
}

/// How a container ended: [`crate::layout::EXIT_RECORD`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128 + n where signal n ended it.
    pub exit_code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// As [`crate::ContainerStatus::reason`].
    pub reason: String,
    /// As [`crate::ContainerStatus::message`].
    pub message: String,
}

/// That a container runs: [`crate::layout::STARTED_RECORD`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    /// Process id on the host.
    pub pid: i32,
    /// Nanoseconds since the epoch.
    pub started_at: i64,
}

/// A message as it goes over the wire.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

/// Bytes and descriptors of a connection that are not a whole message yet.
#[derive(Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// Reads once from a socket. `Ok(false)` is the end of the stream.
    pub fn fill(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut buffer = [0u8; 4096];
        let (read, descriptors) = receive(socket.as_raw_fd(), &mut buffer)?;
        self.bytes.extend_from_slice(&buffer[..read]);
        self.descriptors.extend(descriptors);
        if self.descriptors.len() > 4 * MAX_DESCRIPTORS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        Ok(read > 0)
    }

    /// Takes the next whole message out.
    pub fn take<T: for<'de> Deserialize<'de>>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(header) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.bytes[4..4 + length])?;
        self.bytes.drain(..4 + length);
        self.bytes.shrink_to(4096);
        Ok(Some((message, std::mem::take(&mut self.descriptors))))
    }
}

/// Sends bytes with descriptors beside the first. Returns how many bytes went.
pub fn send(socket: RawFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes and the descriptors beside them.
pub fn receive(socket: RawFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else knows them.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::fd::AsFd, os::unix::net::UnixStream};

    #[test]
    fn a_message_that_comes_in_pieces_is_taken_out_whole_with_its_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let request = Request::Exec(ExecRequest { id: "c".into(), stdout: true, ..Default::default() });
        let bytes = encode(&request).unwrap();
        let mut inbox = Inbox::default();
        send(ours.as_raw_fd(), &bytes[..3], &[writer.as_fd()]).unwrap();
        drop(writer);
        assert!(inbox.fill(theirs.as_fd()).unwrap());
        assert!(inbox.take::<Request>().unwrap().is_none());
        send(ours.as_raw_fd(), &bytes[3..], &[]).unwrap();
        assert!(inbox.fill(theirs.as_fd()).unwrap());
        let (got, descriptors) = inbox.take::<Request>().unwrap().unwrap();
        assert_eq!(got, request);
        assert_eq!(descriptors.len(), 1);
        drop(descriptors);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        drop(ours);
        assert!(!inbox.fill(theirs.as_fd()).unwrap());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(ours.as_raw_fd(), &u32::MAX.to_le_bytes(), &[]).unwrap();
        let mut inbox = Inbox::default();
        inbox.fill(theirs.as_fd()).unwrap();
        assert!(inbox.take::<Request>().is_err());
    }

    #[test]
    fn an_older_agents_start_request_and_a_newer_shims_error_are_understood() {
        let signal: Request =
            serde_json::from_str(r#"{"op":"signal","id":"c","signal":15,"new":1}"#).unwrap();
        assert_eq!(signal, Request::Signal { id: "c".into(), signal: 15, all: false });
        let error: Reply =
            serde_json::from_str(r#"{"reply":"error","kind":"of_the_future","message":"m"}"#).unwrap();
        assert_eq!(error, Reply::Error { kind: ErrorKind::Other, message: "m".into() });
    }
}
