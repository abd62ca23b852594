//! One running container as its shim sees it: its output on its way to the log and to attached clients, its input, its
//! end. Holds up a container's output only for an attached client that reads slowly, never for the log.

use super::launch::Streams;
use crate::{
    cgroup::Cgroups,
    layout::{EXIT_RECORD, write_record},
    log_writer::{LineCutter, LogFile, Stream, timestamp},
    protocol::{ExitRecord, StartRequest},
};
use nix::sys::{signal::Signal, wait::WaitStatus};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The most that is read at once.
const CHUNK: usize = 32 << 10;

/// An output of the container.
struct Source {
    descriptor: OwnedFd,
    cutter: LineCutter,
    stream: Stream,
}

/// A client that gets output too.
struct Attachment {
    client: u64,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

/// Where output goes besides the log, and what did not fit yet.
struct Sink {
    descriptor: OwnedFd,
    pending: Vec<u8>,
}

impl Sink {
    /// Writes what is pending. `false`: nobody reads any more.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.descriptor, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(nix::Error::EAGAIN) => return true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
        }
        self.pending = Vec::new();
        true
    }
}

/// The shim's ends of a container's streams.
#[derive(Default)]
pub struct Ends {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Makes the streams of a container without a terminal: the shim's ends and the container's.
pub fn make_streams(stdin: bool) -> io::Result<(Ends, Streams)> {
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from);
    let (ours_in, theirs_in) = match stdin {
        true => {
            let (reader, writer) = io::pipe()?;
            (Some(writer.into()), reader.into())
        }
        false => (None, null()?),
    };
    let (stdout, theirs_out) = io::pipe()?;
    let (stderr, theirs_err) = io::pipe()?;
    let ends = Ends { stdin: ours_in, stdout: Some(stdout.into()), stderr: Some(stderr.into()) };
    let streams =
        Streams { stdin: Some(theirs_in), stdout: Some(theirs_out.into()), stderr: Some(theirs_err.into()) };
    Ok((ends, streams))
}

/// A container that runs, or whose output has not ended yet.
pub struct Container {
    /// As asked for.
    pub request: StartRequest,
    /// Its first process.
    pub pid: i32,
    /// How it ended, once that is known; and whether that is on disk.
    pub exit: Option<(ExitRecord, bool)>,
    sources: Vec<Source>,
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    log: LogFile,
    attachments: Vec<Attachment>,
}

impl Container {
    /// A container whose process runs now.
    pub fn new(request: StartRequest, pid: i32, ends: Ends, master: Option<OwnedFd>) -> io::Result<Self> {
        let log = LogFile::open(&request.log_path, request.log_limits)?;
        let mut sources = Vec::new();
        let mut add = |descriptor: OwnedFd, stream| -> io::Result<()> {
            rustix::io::ioctl_fionbio(&descriptor, true)?;
            sources.push(Source { descriptor, cutter: LineCutter::new(stream), stream });
            Ok(())
        };
        let terminal = match master {
            Some(master) => {
                let copy = master.try_clone()?;
                add(master, Stream::Stdout)?;
                Some(copy)
            }
            None => None,
        };
        for (end, stream) in [(ends.stdout, Stream::Stdout), (ends.stderr, Stream::Stderr)] {
            if let Some(end) = end {
                add(end, stream)?;
            }
        }
        let stdin = ends.stdin;
        Ok(Self { request, pid, exit: None, sources, terminal, stdin, log, attachments: Vec::new() })
    }

    /// Whether its process runs.
    pub fn runs(&self) -> bool {
        self.exit.is_none()
    }

    /// Whether nothing more is to be done for it.
    pub fn is_finished(&self) -> bool {
        self.sources.is_empty() && self.exit.as_ref().is_some_and(|(_, on_disk)| *on_disk)
    }

    /// What to poll: for reading, or with `true` for writing.
    pub fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let blocked = self.sinks().any(|sink| !sink.pending.is_empty());
        let sources = self.sources.iter().filter(move |_| !blocked);
        let sinks = self.sinks().filter(|sink| !sink.pending.is_empty());
        sources.map(|s| (s.descriptor.as_fd(), false)).chain(sinks.map(|s| (s.descriptor.as_fd(), true)))
    }

    fn sinks(&self) -> impl Iterator<Item = &Sink> {
        self.attachments.iter().flat_map(|a| a.stdout.iter().chain(&a.stderr))
    }

    /// Moves what there is to be moved, without waiting.
    pub fn pump(&mut self, buffer: &mut Vec<u8>) {
        for attachment in &mut self.attachments {
            for sink in [&mut attachment.stdout, &mut attachment.stderr] {
                if sink.as_mut().is_some_and(|s| !s.flush()) {
                    *sink = None;
                }
            }
        }
        if self.sinks().any(|sink| !sink.pending.is_empty()) {
            return;
        }
        self.read_sources(buffer);
    }

    /// Reads each source once. Returns whether any had something.
    fn read_sources(&mut self, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(CHUNK, 0);
        let mut any = false;
        let mut entries = Vec::new();
        let mut now = None;
        let (attachments, log) = (&mut self.attachments, &mut self.log);
        self.sources.retain_mut(|source| {
            use std::os::fd::AsRawFd;
            let read = match nix::unistd::read(source.descriptor.as_raw_fd(), buffer) {
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => return true,
                Ok(read) => read,
                // A terminal without a slave reads as EIO: its end.
                Err(_) => 0,
            };
            let now = now.get_or_insert_with(timestamp);
            entries.clear();
            if read == 0 {
                source.cutter.end(now, &mut entries);
                log.append(&entries);
                for attachment in attachments.iter_mut() {
                    match source.stream {
                        Stream::Stdout => attachment.stdout = None,
                        Stream::Stderr => attachment.stderr = None,
                    }
                }
                return false;
            }
            any = true;
            source.cutter.cut(&buffer[..read], now, &mut entries);
            log.append(&entries);
            for attachment in attachments.iter_mut() {
                let sink = match source.stream {
                    Stream::Stdout => &mut attachment.stdout,
                    Stream::Stderr => &mut attachment.stderr,
                };
                if let Some(open) = sink {
                    open.pending.extend_from_slice(&buffer[..read]);
                    if !open.flush() {
                        *sink = None;
                    }
                }
            }
            true
        });
        any
    }

    /// Its process has ended: takes in the output that is there, notes how it ended. What it left behind in its cgroup
    /// is killed if no process namespace has done that.
    pub fn ended(&mut self, status: WaitStatus, cgroups: Option<&Cgroups>, buffer: &mut Vec<u8>) {
        let mut oom_kills = 0;
        if let Some(cgroups) = cgroups {
            oom_kills = cgroups.oom_kills(&self.request.cgroup);
            if !self.request.own_pid_namespace {
                cgroups.kill(&self.request.cgroup);
            }
        }
        // A pipe holds 64 KiB unless its writers have made it larger; whoever still writes must not keep us here.
        for _ in 0..64 {
            if !self.read_sources(buffer) {
                break;
            }
        }
        let record = exit_record(status, oom_kills > 0, now());
        self.exit = Some((record, false));
        self.stdin = None;
    }

    /// Writes down how it ended. Again, if the disk was full.
    pub fn record_exit(&mut self) -> bool {
        let Some((record, on_disk)) = &mut self.exit else { return false };
        if !*on_disk {
            *on_disk = write_record(&self.request.folder.join(EXIT_RECORD), record).is_ok();
            return *on_disk;
        }
        false
    }

    /// Connects a client to its output.
    pub fn attach(
        &mut self,
        client: u64,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> io::Result<()> {
        let sink = |descriptor: Option<OwnedFd>| -> io::Result<Option<Sink>> {
            let Some(descriptor) = descriptor else { return Ok(None) };
            rustix::io::ioctl_fionbio(&descriptor, true)?;
            Ok(Some(Sink { descriptor, pending: Vec::new() }))
        };
        self.attachments.push(Attachment { client, stdout: sink(stdout)?, stderr: sink(stderr)? });
        Ok(())
    }

    /// A client has gone.
    pub fn detach(&mut self, client: u64) {
        self.attachments.retain(|a| a.client != client);
    }

    /// What a client writes to reach the container's input, or its terminal. An input for one client only is given away, so that
    /// it ends when the client closes it.
    pub fn input(&mut self) -> io::Result<Option<OwnedFd>> {
        match &self.terminal {
            Some(terminal) => terminal.try_clone().map(Some),
            None if self.request.stdin_once => Ok(self.stdin.take()),
            None => self.stdin.as_ref().map(OwnedFd::try_clone).transpose(),
        }
    }

    /// Opens the log anew.
    pub fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }
}

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

/// How a process ended, in the words of a container's status.
pub fn exit_record(status: WaitStatus, out_of_memory: bool, finished_at: i64) -> ExitRecord {
    let (exit_code, signal) = match status {
        WaitStatus::Exited(_, code) => (code, 0),
        WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, signal as i32),
        _ => (255, 0),
    };
    let killed = exit_code == 128 + Signal::SIGKILL as i32;
    let reason = match exit_code {
        _ if out_of_memory && (killed || exit_code != 0) => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    ExitRecord { exit_code, signal, finished_at, reason: reason.into(), message: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    #[test]
    fn the_way_a_process_ended_is_told_as_kubernetes_does() {
        let pid = Pid::from_raw(1);
        for (status, oom, want) in [
            (WaitStatus::Exited(pid, 0), false, (0, 0, "Completed")),
            (WaitStatus::Exited(pid, 0), true, (0, 0, "Completed")),
            (WaitStatus::Exited(pid, 3), false, (3, 0, "Error")),
            (WaitStatus::Exited(pid, 1), true, (1, 0, "OOMKilled")),
            (WaitStatus::Signaled(pid, Signal::SIGTERM, false), false, (143, 15, "Error")),
            (WaitStatus::Signaled(pid, Signal::SIGKILL, false), true, (137, 9, "OOMKilled")),
        ] {
            let record = exit_record(status, oom, 5);
            assert_eq!((record.exit_code, record.signal, record.reason.as_str()), want);
        }
    }
}
