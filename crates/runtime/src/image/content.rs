//! What lies on the disk below the store's root, and the rules by which it gets there: written under a temporary name,
//! brought to the disk, renamed. What has its final name is whole; all that a crash leaves under `tmp` is rubbish.
//!
//! ```text
//! blobs/sha256/HEX     manifests and configurations, as they came
//! layers/HEX/fs        an unpacked layer, by its chain id (compressed layers are not kept: nothing reads them again)
//! images.json          the index: which image has which names and layers
//! leases/HEX.json      which container uses which layers, by a digest of its folder
//! tmp/                 what is being made or taken away
//! rubbish/             what earlier processes left in tmp
//! ```

use super::{digest::Digest, remove_tree::remove_tree};
use crate::Error;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Largest manifest or configuration that is read: the limit that registries use too.
pub const MAX_BLOB: u64 = 8 << 20;

/// The folders of a store.
pub struct Content {
    root: PathBuf,
    next: AtomicU64,
    /// Held for as long as the store is open: two stores on one folder would remove each other's work.
    _lock: File,
}

impl Content {
    /// Makes the folders, takes the lock, puts aside what an earlier process left unfinished.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let step = |e| Error::io(format!("opening image store {}", root.display()), e);
        for folder in ["", "blobs/sha256", "blobs/sha512", "layers", "leases", "empty"] {
            fs::create_dir_all(root.join(folder)).map_err(step)?;
        }
        // Layers hold set-user-id programs and files of all users: nobody but root may walk in.
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(step)?;
        let lock = File::create(root.join("lock")).map_err(step)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::State(format!("image store {} is in use by another process", root.display()))
        })?;
        let tmp = root.join("tmp");
        if tmp.exists() {
            // Out of the way at once; removing it takes time that the start of a server does not have.
            fs::create_dir_all(root.join("rubbish")).map_err(step)?;
            let names = (0..).map(|n: u64| root.join("rubbish").join(n.to_string()));
            let free = names.filter(|path| !path.exists()).find_map(|path| match fs::rename(&tmp, path) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => None,
                other => Some(other),
            });
            free.unwrap_or(Ok(())).map_err(step)?;
        }
        fs::create_dir_all(&tmp).map_err(step)?;
        Ok(Self { root: root.to_path_buf(), next: AtomicU64::new(0), _lock: lock })
    }

    /// Where [`Content::open`] put what an earlier process left.
    pub fn rubbish(&self) -> PathBuf {
        self.root.join("rubbish")
    }

    /// A path below `tmp` that nothing else uses.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp").join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A layer folder for images that have none: overlayfs wants at least one.
    pub fn empty_layer(&self) -> PathBuf {
        self.root.join("empty")
    }

    /// The folder of a layer's files.
    pub fn layer_files(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("fs")
    }

    fn layer(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// Whether a layer is here. It is whole if it is.
    pub fn has_layer(&self, chain: &Digest) -> bool {
        self.layer_files(chain).is_dir()
    }

    /// Gives an unpacked folder (which has `fs` in it) its final name. Not durable before [`Content::sync`].
    pub fn commit_layer(&self, scratch: &Path, chain: &Digest) -> Result<(), Error> {
        let target = self.layer(chain);
        match fs::rename(scratch, &target) {
            // Another import was faster with the same layer.
            Err(_) if self.has_layer(chain) => remove_tree(scratch),
            other => other.map_err(|e| Error::io(format!("keeping layer {chain}"), e)),
        }
    }

    /// Brings all that was written to the disk, so that the index may name it.
    pub fn sync(&self) -> Result<(), Error> {
        let step = |e| Error::io(format!("syncing image store {}", self.root.display()), e);
        let root = File::open(&self.root).map_err(step)?;
        rustix::fs::syncfs(&root).map_err(|e| step(e.into()))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Keeps a blob, if it is what its digest says.
    pub fn put_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if !digest.matches(bytes) {
            return Err(Error::Damaged(format!("content is not {digest} but {}", Digest::of(bytes))));
        }
        let path = self.blob(digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) {
            return Ok(());
        }
        self.replace(&path, bytes)
    }

    /// Reads a blob and checks that it still is what its digest says. `None` if it is not here.
    pub fn get_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(self.blob(digest)) {
            Ok(bytes) if digest.matches(&bytes) => Ok(Some(bytes)),
            Ok(_) => Err(Error::Damaged(format!("blob {digest} was changed on disk"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("reading blob {digest}"), e)),
        }
    }

    /// The file that holds the index.
    pub fn index_file(&self) -> PathBuf {
        self.root.join("images.json")
    }

    /// Replaces a file's content all at once and durably.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let scratch = self.scratch();
        let write = || {
            let mut file = File::create_new(&scratch)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&scratch, path)?;
            match path.parent() {
                Some(folder) => File::open(folder)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&scratch); // what stays is removed at the next opening
            Error::io(format!("writing {}", path.display()), e)
        })
    }

    fn lease(&self, container_dir: &Path) -> PathBuf {
        let name = Digest::of(container_dir.as_os_str().as_encoded_bytes());
        self.root.join("leases").join(format!("{}.json", name.hex()))
    }

    /// Notes that a container uses layers. It need not survive the machine (the container does not), only the process.
    pub fn put_lease(&self, lease: &Lease) -> Result<(), Error> {
        let scratch = self.scratch();
        let path = self.lease(&lease.container_dir);
        let text = serde_json::to_vec(lease)
            .map_err(|e| Error::io("encoding a lease", io::Error::new(io::ErrorKind::InvalidInput, e)))?;
        fs::write(&scratch, text)
            .and_then(|()| fs::rename(&scratch, &path))
            .map_err(|e| Error::io(format!("writing {}", path.display()), e))
    }

    /// Forgets a container.
    pub fn remove_lease(&self, container_dir: &Path) -> Result<(), Error> {
        let path = self.lease(container_dir);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// All leases of containers whose folder still is there; the others are removed. A lease that cannot be read is an
    /// error: guessing could take a running container's files away.
    pub fn leases(&self) -> Result<Vec<Lease>, Error> {
        let folder = self.root.join("leases");
        let mut leases = Vec::new();
        for entry in read_dir(&folder)? {
            let text = fs::read(&entry).map_err(|e| Error::io(format!("reading {}", entry.display()), e))?;
            match serde_json::from_slice::<Lease>(&text) {
                Ok(lease) if lease.container_dir.exists() => leases.push(lease),
                // Empty: the machine went down before it reached the disk, and the container with it.
                Err(_) if !text.is_empty() => {
                    return Err(Error::Damaged(format!("lease {} cannot be read", entry.display())));
                }
                _ => {
                    let _ = fs::remove_file(&entry); // the next opening tries again
                }
            }
        }
        Ok(leases)
    }

    /// Moves all blobs and layers that are not named out of the way, and returns where they lie: [`purge`] takes the
    /// time of removing them, which needs no lock.
    pub fn sweep(&self, blobs: &BTreeSet<Digest>, layers: &BTreeSet<Digest>) -> Result<Vec<PathBuf>, Error> {
        let mut rubbish = Vec::new();
        let mut discard = |path: &Path| {
            let scratch = self.scratch();
            fs::rename(path, &scratch)
                .map_err(|e| Error::io(format!("removing {}", path.display()), e))
                .map(|()| rubbish.push(scratch))
        };
        for algorithm in ["sha256", "sha512"] {
            for path in read_dir(&self.root.join("blobs").join(algorithm))? {
                if !name_is_in(&path, |hex| blobs.iter().any(|d| d.hex() == hex)) {
                    discard(&path)?;
                }
            }
        }
        let layers: BTreeSet<&str> = layers.iter().map(Digest::hex).collect();
        for path in read_dir(&self.root.join("layers"))? {
            if !name_is_in(&path, |hex| layers.contains(hex)) {
                discard(&path)?;
            }
        }
        Ok(rubbish)
    }
}

/// Removes what was put aside. Needs neither the lock nor an open store.
pub fn purge(rubbish: &[PathBuf]) -> Result<(), Error> {
    rubbish.iter().try_for_each(|path| remove_tree(path))
}

/// A container's claim on layers.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lease {
    /// The container's folder: the lease ends with it.
    pub container_dir: PathBuf,
    /// The image.
    pub image: Digest,
    /// Chain ids.
    pub layers: Vec<Digest>,
}

fn name_is_in(path: &Path, known: impl Fn(&str) -> bool) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(known)
}

fn read_dir(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let step = |e| Error::io(format!("listing {}", folder.display()), e);
    fs::read_dir(folder).map_err(step)?.map(|entry| Ok(entry.map_err(step)?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_that_is_not_its_digest_is_neither_taken_nor_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        let digest = Digest::of(b"right");
        assert!(content.put_blob(&digest, b"wrong").unwrap_err().to_string().contains("is not sha256:"));
        assert_eq!(content.get_blob(&digest).unwrap(), None);
        content.put_blob(&digest, b"right").unwrap();
        assert_eq!(content.get_blob(&digest).unwrap().unwrap(), b"right");
        fs::write(content.blob(&digest), b"wrong").unwrap();
        assert!(content.get_blob(&digest).unwrap_err().to_string().contains("was changed on disk"));
    }

    #[test]
    fn what_was_unfinished_is_gone_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(dir.path()).unwrap();
        fs::create_dir_all(content.scratch().join("fs/half")).unwrap();
        assert!(Content::open(dir.path()).is_err(), "a store is opened once");
        drop(content);
        Content::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_lease_ends_with_its_container_folder() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::open(&dir.path().join("store")).unwrap();
        let container_dir = dir.path().join("c1");
        fs::create_dir(&container_dir).unwrap();
        let lease = Lease { container_dir: container_dir.clone(), image: Digest::of(b"i"), layers: vec![] };
        content.put_lease(&lease).unwrap();
        assert_eq!(content.leases().unwrap(), [lease]);
        fs::remove_dir(&container_dir).unwrap();
        assert_eq!(content.leases().unwrap(), []);
        assert_eq!(fs::read_dir(dir.path().join("store/leases")).unwrap().count(), 0);
    }
}
