//! Helper processes. Whatever enters a container's namespaces, or runs libcontainer, does so in a short-lived fork of the
//! shim: the shim itself stays small, keeps its namespaces and never waits. A helper reports over a socket that closes by
//! itself when the container's process has been executed, so that a failure to execute is seen too.

use crate::protocol::{ErrorKind, receive, send};
use nix::{
    sys::{
        signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask},
        socket::{AddressFamily, SockFlag, SockType, socketpair},
    },
    unistd::{ForkResult, Pid, fork},
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

/// What a helper, or the process it made, says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The process is there. The terminal's master comes beside the message.
    Made {
        /// On the host.
        pid: i32,
        /// What had to be done without.
        warnings: Vec<String>,
    },
    /// It could not be made, or not executed.
    Failed {
        /// What kind.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
}

/// Where a helper reports. A plain number, so that it survives libcontainer's clones.
#[derive(Clone, Copy, Debug)]
pub struct Reporter(RawFd);

impl Reporter {
    /// Says it, with a descriptor beside it. Nobody listening is no reason to fail.
    pub fn say(self, report: &Report, descriptor: Option<BorrowedFd<'_>>) {
        if let Ok(bytes) = serde_json::to_vec(report) {
            let _ = send(self.0, &bytes, descriptor.as_slice());
        }
    }

    /// Says that the container's process could not be started.
    pub fn fail(self, kind: ErrorKind, message: String) {
        self.say(&Report::Failed { kind, message }, None);
    }
}

/// A helper that is at work.
pub struct Helper {
    /// Its process.
    pub pid: Pid,
    socket: OwnedFd,
    made: Option<(i32, Vec<String>)>,
    master: Option<OwnedFd>,
    failed: Option<(ErrorKind, String)>,
}

/// What came of a helper's work.
pub enum Outcome {
    /// The process runs its program.
    Running {
        /// On the host.
        pid: i32,
        /// What had to be done without.
        warnings: Vec<String>,
        /// The terminal's master.
        master: Option<OwnedFd>,
    },
    /// It does not. `pid` is what was made and will end, if anything was.
    Failed {
        /// What kind.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
}

impl Helper {
    /// Forks a helper that does `work` and ends. What it has to say goes to the [`Reporter`].
    pub fn start(work: impl FnOnce(Reporter)) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // SAFETY: the shim has one thread, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(theirs);
                rustix::io::ioctl_fionbio(&ours, true)?;
                Ok(Self { pid: child, socket: ours, made: None, master: None, failed: None })
            }
            ForkResult::Child => {
                drop(ours);
                let reporter = Reporter(theirs.as_raw_fd());
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(reporter)));
                // SAFETY: ends this process at once; the parent's exit handlers are not ours to run.
                unsafe { libc::_exit(outcome.is_err().into()) }
            }
        }
    }

    /// What to poll for reading.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what has come. An outcome once all has been said.
    pub fn read(&mut self) -> Option<Outcome> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match receive(self.socket.as_raw_fd(), &mut buffer) {
                Ok((0, _)) => return Some(self.outcome()),
                Ok((length, mut descriptors)) => match serde_json::from_slice(&buffer[..length]) {
                    Ok(Report::Made { pid, warnings }) => {
                        self.made = Some((pid, warnings));
                        self.master = descriptors.pop();
                    }
                    // The first failure is the cause, what follows is its consequence.
                    Ok(Report::Failed { kind, message }) => {
                        self.failed.get_or_insert((kind, message));
                    }
                    Err(_) => {}
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Some(self.outcome()),
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        match (self.failed.take(), self.made.take()) {
            (Some((kind, message)), _) => Outcome::Failed { kind, message },
            (None, Some((pid, warnings))) => Outcome::Running { pid, warnings, master: self.master.take() },
            (None, None) => Outcome::Failed {
                kind: ErrorKind::Other,
                message: "the helper process ended without a word".into(),
            },
        }
    }
}

/// Gives back to a program what the shim (and Rust's runtime) has changed about signals.
pub fn restore_signals() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the default action runs no code of ours.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}
