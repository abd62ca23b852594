//! Terminals: receiving the one that libcontainer makes for a container's first process, and making one for an exec.

use crate::protocol::receive;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

const SOCKET: &str = "console.sock";

/// Where libcontainer sends a terminal's master.
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Binds a socket in a container's folder. Changes the working folder of this process, which is a helper.
    pub fn bind(folder: &Path) -> Result<Self, String> {
        let step = |e: nix::Error| format!("making the console socket: {e}");
        let path = folder.join(SOCKET);
        let _ = std::fs::remove_file(&path);
        // A socket's name is at most 108 bytes long: it is given relative to its folder.
        nix::unistd::chdir(folder).map_err(step)?;
        let address = UnixAddr::new(SOCKET).map_err(step)?;
        let socket =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(step)?;
        bind(socket.as_raw_fd(), &address).map_err(step)?;
        listen(&socket, Backlog::new(1).map_err(step)?).map_err(step)?;
        Ok(Self { socket, path })
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Takes the terminal, which has been sent by the time libcontainer reports success.
    pub fn receive(&self) -> Result<OwnedFd, String> {
        let _ = std::fs::remove_file(&self.path);
        let raw = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            .map_err(|e| format!("waiting for the console: {e}"))?;
        // SAFETY: accept4 has just made it for us.
        let connection = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut buffer = [0; 256];
        let (_, mut descriptors) = receive(connection.as_raw_fd(), &mut buffer).map_err(|e| e.to_string())?;
        descriptors.pop().ok_or_else(|| "no console came".into())
    }
}

/// A terminal pair of the `/dev/pts` that this process sees: master and slave.
pub fn open_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let master = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open("/dev/pts/ptmx")?;
    // The path is the container's to shape: make sure that it is the multiplexer (5:2) of a real devpts.
    let devpts = nix::sys::statfs::fstatfs(&master)?.filesystem_type();
    if master.metadata()?.rdev() != libc::makedev(5, 2) || devpts.0 != 0x1cd1 {
        return Err(io::Error::other("/dev/pts/ptmx is not a terminal multiplexer"));
    }
    let master = OwnedFd::from(master);
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int through the pointer.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: TIOCGPTPEER takes open flags and gives a new descriptor.
    let slave = unsafe {
        libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    };
    if slave < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}
