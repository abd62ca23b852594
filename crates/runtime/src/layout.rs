//! Where things lie on disk below the runtime's root, and how records are written so that a reader never sees half of
//! one. Knows names, not their meaning.

use crate::{Error, image::snapshot::is_mountpoint};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

/// File of a sandbox's folder: its record.
pub const SANDBOX_RECORD: &str = "sandbox.json";
/// File of a sandbox's folder: the socket its shim listens on.
pub const SHIM_SOCKET: &str = "shim.sock";
/// File of a sandbox's folder: locked by its shim while that lives; holds the shim's process id.
pub const SHIM_LOCK: &str = "shim.lock";
/// File of a sandbox's folder: what the shim has to complain about.
pub const SHIM_LOG: &str = "shim.log";
/// Folder of a sandbox's folder: one pinned namespace a file (`net`, `ipc`, `uts`, `pid`).
pub const NAMESPACES: &str = "ns";
/// Folder of a sandbox's folder: the containers' shared `/dev/shm`.
pub const SHM: &str = "shm";
/// File of a container's folder: its record, as the agent made it.
pub const CONTAINER_RECORD: &str = "container.json";
/// File of a container's folder: the OCI runtime spec, in the place where an OCI bundle has it.
pub const BUNDLE_CONFIG: &str = "config.json";
/// File of a container's folder: the whole spec, where the bundle has only the part that is left to libcontainer.
pub const WHOLE_SPEC: &str = "spec.json";
/// File of a container's folder: written by the shim when the process runs.
pub const STARTED_RECORD: &str = "started.json";
/// File of a container's folder: written by the shim when the process has ended, before anybody is told.
pub const EXIT_RECORD: &str = "exit.json";

/// The folders below a runtime's root.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below a root.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Holds a folder for each sandbox.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// Holds a folder for each container.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// A sandbox's folder.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.sandboxes().join(id)
    }

    /// A container's folder: its OCI bundle.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Makes the folders that hold the others.
    pub fn create(&self) -> Result<(), Error> {
        use std::os::unix::fs::DirBuilderExt;
        for path in [self.sandboxes(), self.containers()] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&path)
                .map_err(|e| Error::io(format!("creating {}", path.display()), e))?;
        }
        self.set_sandboxes_apart()
    }

    /// Puts the sandboxes' folder on a mount of its own, so that what is mounted in it can be dropped from another mount
    /// namespace at one stroke, and shows in no other.
    fn set_sandboxes_apart(&self) -> Result<(), Error> {
        use nix::mount::{MsFlags, mount};
        let path = self.sandboxes();
        if is_mountpoint(&path)? {
            return Ok(());
        }
        let step = |e: nix::Error| Error::io(format!("mounting {} on itself", path.display()), e.into());
        mount(Some(&path), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(step)?;
        mount(None::<&str>, &path, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).map_err(step)
    }
}

/// Where compiled system-call filters are kept, seen from a container's folder.
pub fn filters(container: &Path) -> PathBuf {
    container.join("../../filters")
}

/// Whether a name can be a folder of ours: one path segment, no control characters, not hidden.
pub fn valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 200
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'))
}

/// Writes a record to a temporary file and renames it into place, so that it is either the old one or the new one.
/// It is not synced: a machine that loses power loses its containers too.
pub fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), Error> {
    let step = || format!("writing {}", path.display());
    let text = serde_json::to_vec(record).map_err(|e| Error::io(step(), e.into()))?;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary).map_err(|e| Error::io(step(), e))?;
    file.write_all(&text).map_err(|e| Error::io(step(), e))?;
    drop(file);
    std::fs::rename(&temporary, path).map_err(|e| Error::io(step(), e))
}

/// Reads a record; `None` if the file is not there.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let step = || format!("reading {}", path.display());
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(step(), e)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::io(step(), e.into()))
}

/// A path of a fixed, short length to a file in a folder, for socket addresses (at most 108 bytes). Valid in this process
/// while the descriptor is open.
pub fn short_path(folder: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_leave_their_folder_are_refused() {
        for id in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", &"x".repeat(201)] {
            assert!(!valid_id(id), "{id:?}");
        }
        for id in ["a", "0f3c-1", "web_1.2+x"] {
            assert!(valid_id(id), "{id:?}");
        }
    }

    #[test]
    fn a_record_is_read_back_and_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert_eq!(read_record::<Vec<u8>>(&path).unwrap(), None);
        write_record(&path, &vec![1u8, 2]).unwrap();
        assert_eq!(read_record::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
