//! The shim: one process a sandbox, the parent of its containers. It holds their output, writes their logs, records
//! their exits, and does what the agent asks over a Unix socket. It has one thread, no async runtime and little memory,
//! it lives in the sandbox's network, IPC and UTS namespaces, and it outlives the agent.

mod client;
mod console;
pub(crate) mod container;
mod exec;
mod filter;
mod helper;
mod launch;
mod program;
mod rootfs;
mod server;
mod setup;

pub use setup::SHIM_CGROUP;

use crate::{
    layout::{SANDBOX_RECORD, SHIM_LOCK, read_record},
    protocol::{ErrorKind, Inbox, Reply, Request, encode},
    records::SandboxRecord,
};
use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
    stat::Mode,
};
use std::{
    ffi::OsString,
    io::Write,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Becomes a shim. `arguments` are those after the word `shim`: the sandbox's folder. Standard input is the socket it
/// listens on. Call it first thing in `main`, before any thread or async runtime is started: containers are made by
/// forking, which is only sound in a process of one thread.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(folder) = arguments.next().map(PathBuf::from) else {
        eprintln!("the shim is started by the runtime, not by hand");
        return ExitCode::from(2);
    };
    match run(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("shim of {}: {why}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<(), String> {
    let signals = detach()?;
    nix::unistd::chdir(folder).map_err(|e| format!("changing to the sandbox's folder: {e}"))?;
    // SAFETY: standard input is the listening socket, handed over by whoever started us; we use it nowhere else.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(0) });
    let listener = keep_apart(listener)?;
    let _lock = lock()?;
    let record: SandboxRecord = read_record(Path::new(SANDBOX_RECORD))
        .map_err(|e| e.to_string())?
        .ok_or("the sandbox's record is gone")?;
    match setup::setup(&record) {
        Ok(init) => {
            drop(record);
            trim();
            let server = server::Server::new(listener, signals, init).map_err(|e| e.to_string())?;
            server.run();
            Ok(())
        }
        Err(why) => {
            refuse(&listener, &why);
            Err(why)
        }
    }
}

/// Leaves the agent's session and signals; children that lose their parent become ours.
fn detach() -> Result<SignalFd, String> {
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"orlop-shim");
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("becoming a sub-reaper: {e}"))?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGPIPE] {
        ignored.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&ignored), None)
        .map_err(|e| format!("blocking signals: {e}"))?;
    // Signals that want us to end arrive here too and are read away: only the agent's word counts.
    SignalFd::with_flags(&ignored, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| format!("making a signalfd: {e}"))
}

/// Moves the listening socket away from descriptor 0, which becomes /dev/null.
fn keep_apart(listener: UnixListener) -> Result<UnixListener, String> {
    let step = |e: std::io::Error| format!("taking over the socket: {e}");
    let copy = listener.as_fd().try_clone_to_owned().map_err(step)?;
    let null = std::fs::File::open("/dev/null").map_err(step)?;
    nix::unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), 0).map_err(|e| step(e.into()))?;
    // Descriptor 0 belongs to /dev/null now and stays open.
    std::mem::forget(listener);
    Ok(copy.into())
}

/// Holds the lock that says that this sandbox's shim lives, with its process id in the file.
fn lock() -> Result<std::fs::File, String> {
    let step = |e: std::io::Error| format!("locking {SHIM_LOCK}: {e}");
    let mut file =
        std::fs::File::options().create(true).truncate(false).write(true).open(SHIM_LOCK).map_err(step)?;
    file.try_lock().map_err(|e| step(e.into()))?;
    file.set_len(0).map_err(step)?;
    write!(file, "{}", std::process::id()).map_err(step)?;
    Ok(file)
}

/// Tells the agent, which waits for an answer to its hello, why there is no sandbox.
fn refuse(listener: &UnixListener, why: &str) {
    let mut wait = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
    if !matches!(nix::poll::poll(&mut wait, 5000u16), Ok(1..)) {
        return;
    }
    let Ok((mut socket, _)) = listener.accept() else { return };
    let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(5)));
    let mut inbox = Inbox::default();
    while let Ok(true) = inbox.fill(socket.as_fd()) {
        if inbox.take::<Request>().is_ok_and(|request| request.is_some()) {
            break;
        }
    }
    let reply = Reply::Error { kind: ErrorKind::Other, message: why.to_string() };
    if let Ok(bytes) = encode(&reply) {
        let _ = socket.write_all(&bytes);
    }
}

/// Gives memory back that setting up has used.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, touches only the allocator's own state.
    unsafe {
        libc::malloc_trim(0);
    }
}
