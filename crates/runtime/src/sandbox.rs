//! A sandbox from the agent's side: its folder, its shim's process, its remains. Blocking; knows no containers.

use crate::{
    Error, RuntimeConfig, SandboxStatus,
    image::snapshot::unmount_all,
    layout::{NAMESPACES, SANDBOX_RECORD, SHIM_LOCK, SHIM_LOG, SHIM_SOCKET, SHM, short_path, write_record},
    records::{SandboxPhase, SandboxRecord},
    shim_client::open_folder,
};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixListener, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

/// A sandbox that the runtime knows.
pub struct Sandbox {
    /// Its folder.
    pub folder: PathBuf,
    record: Mutex<SandboxRecord>,
    alive: AtomicBool,
    shim: AtomicI32,
    /// Held by whoever makes, stops or removes it.
    pub gate: tokio::sync::Mutex<()>,
    watcher: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.lock().take() {
            watcher.abort();
        }
    }
}

impl Sandbox {
    /// A sandbox whose shim is not known to live.
    pub fn new(folder: PathBuf, record: SandboxRecord) -> Self {
        Self {
            folder,
            record: Mutex::new(record),
            alive: AtomicBool::new(false),
            shim: AtomicI32::new(0),
            gate: tokio::sync::Mutex::new(()),
            watcher: Mutex::new(None),
        }
    }

    /// Its record.
    pub fn record(&self) -> SandboxRecord {
        self.record.lock().clone()
    }

    /// Its name.
    pub fn id(&self) -> String {
        self.record.lock().spec.id.clone()
    }

    /// How far it has come.
    pub fn phase(&self) -> SandboxPhase {
        self.record.lock().phase
    }

    /// Records how far it has come.
    pub fn set_phase(&self, phase: SandboxPhase) -> Result<(), Error> {
        let mut record = self.record.lock();
        record.phase = phase;
        write_record(&self.folder.join(SANDBOX_RECORD), &*record)
    }

    /// Records other limits of the whole.
    pub fn set_resources(&self, resources: crate::Resources) -> Result<(), Error> {
        let mut record = self.record.lock();
        record.spec.resources = resources;
        write_record(&self.folder.join(SANDBOX_RECORD), &*record)
    }

    /// Whether its shim lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Its shim is there, and `watcher` listens to it.
    pub fn revive(&self, shim: i32, watcher: tokio::task::AbortHandle) {
        self.shim.store(shim, Ordering::Release);
        self.alive.store(true, Ordering::Release);
        if let Some(old) = self.watcher.lock().replace(watcher) {
            old.abort();
        }
    }

    /// Its shim is gone. `false` if that was known.
    pub fn bury(&self) -> bool {
        self.alive.swap(false, Ordering::AcqRel)
    }

    /// Its shim's process id; 0 if there never was one.
    pub fn shim(&self) -> i32 {
        self.shim.load(Ordering::Acquire)
    }

    /// For the agent.
    pub fn status(&self) -> SandboxStatus {
        let record = self.record.lock();
        SandboxStatus {
            id: record.spec.id.clone(),
            labels: record.spec.labels.clone(),
            ready: self.is_alive() && record.phase == SandboxPhase::Made,
            created_at: record.created_at,
            netns: (!record.spec.host_network).then(|| self.folder.join(NAMESPACES).join("net")),
        }
    }
}

/// Starts a shim for a sandbox's folder. The socket it listens on is there before it is, so there is nothing to wait for.
pub fn spawn_shim(config: &RuntimeConfig, folder: &Path) -> Result<i32, Error> {
    let socket = || -> io::Result<UnixListener> {
        let _ = std::fs::remove_file(folder.join(SHIM_SOCKET));
        UnixListener::bind(short_path(&open_folder(folder)?, SHIM_SOCKET))
    };
    let listener = socket().map_err(|e| Error::io("making the shim's socket", e))?;
    let log = File::create(folder.join(SHIM_LOG)).map_err(|e| Error::io("making the shim's log file", e))?;
    let sealed = read_only_view(&config.shim_binary);
    let program = match &sealed {
        Ok(view) => PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd())),
        Err(e) => {
            tracing::debug!("shims run from a writable mount: {e}");
            config.shim_binary.clone()
        }
    };
    let child = Command::new(program)
        .arg0("orlop")
        .args(&config.shim_arguments)
        .arg(folder)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| Error::io(format!("starting a shim from {}", config.shim_binary.display()), e))?;
    Ok(child.id() as i32)
}

/// The shim's program on a mount of its own that nobody can write through. A container that gets hold of a process of ours
/// on its way in (`/proc/PID/exe`, CVE-2019-5736) must not be able to replace the program on the host. Kernels before 5.12
/// cannot do this.
fn read_only_view(program: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    // From linux/mount.h.
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    const RDONLY: u64 = 1;
    let file = rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let view = open_tree(&file, "", flags)?;
    let attributes = MountAttributes { set: RDONLY, clear: 0, propagation: 0, userns: 0 };
    // SAFETY: the kernel reads an empty path and as many bytes of the attributes as are given.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size_of::<MountAttributes>(),
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(view) }
}

/// Kills the shim of a folder, if one holds the folder's lock.
pub fn kill_shim(folder: &Path) {
    let path = folder.join(SHIM_LOCK);
    let held = || match File::options().read(true).write(true).open(&path) {
        Ok(file) => matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)),
        Err(_) => false,
    };
    if !held() {
        return;
    }
    let pid = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
    let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    // The lock is still held, so the number in the file is its holder's and so is the descriptor.
    if held() {
        let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
        let mut wait = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
        let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        let _ = rustix::event::poll(&mut wait, Some(&limit));
    }
}

/// Undoes the mounts of a sandbox's folder.
pub fn unmount(folder: &Path) -> Result<(), Error> {
    if let Ok(pins) = std::fs::read_dir(folder.join(NAMESPACES)) {
        for pin in pins.flatten() {
            unmount_all(&pin.path())?;
        }
    }
    unmount_all(&folder.join(SHM))
}

/// Removes a sandbox's folder. Its mounts must be gone.
pub fn remove_folder(folder: &Path) -> Result<(), Error> {
    unmount(folder)?;
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", folder.display()), e))
        }
        _ => Ok(()),
    }
}
