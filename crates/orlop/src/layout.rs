//! Where things are in the data folder, and the name by which this Orlop's links, tables and cgroups can be told from another's
//! on the same machine.

use crate::Error;
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

/// The folders below `--data-dir`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// Tells several Orlops on one machine apart: six characters of [a-z0-9].
    pub(crate) instance: String,
}

impl Layout {
    /// Opens a data folder, making it where there is none.
    pub(crate) fn create(root: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |step: &str| Error::at(format!("{step} {}", root.display()));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(root).map_err(failed("creating"))?;
        let root = fs::canonicalize(root).map_err(failed("finding"))?;
        let file = root.join("instance");
        let instance = match fs::read_to_string(&file) {
            Ok(name) => name.trim().to_string(),
            Err(_) => {
                let name = name_for(&root);
                let temporary = root.join("instance.new");
                fs::write(&temporary, &name).map_err(failed("writing into"))?;
                fs::rename(&temporary, &file).map_err(failed("writing into"))?;
                name
            }
        };
        Ok(Self { root, instance })
    }

    /// Opens a data folder, if it is one.
    pub(crate) fn find(root: &Path) -> Result<Option<Self>, Error> {
        let failed = |step: &str| Error::at(format!("{step} {}", root.display()));
        if !root.exists() {
            return Ok(None);
        }
        let root_path = fs::canonicalize(root).map_err(failed("finding"))?;
        match fs::read_to_string(root_path.join("instance")) {
            Ok(name) => Ok(Some(Self { root: root_path, instance: name.trim().to_string() })),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("reading")(e)),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Authority, certificates and keys.
    pub(crate) fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// The cluster's state.
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Images.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Sandboxes and containers.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// Volumes and logs of pods.
    pub(crate) fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// Persistent volumes that are directories of this node.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Addresses given to pods.
    pub(crate) fn network(&self) -> PathBuf {
        self.root.join("network")
    }

    /// The administrator's way in.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    /// Where image verbs reach the running server.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.root.join("orlop.sock")
    }

    /// Where `orlop backup` reaches the running server.
    pub(crate) fn backup_socket(&self) -> PathBuf {
        self.root.join("backup.sock")
    }

    /// Held by the running server; names its process.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("server.lock")
    }

    /// Name of the folder in the cgroup hierarchies.
    pub(crate) fn cgroup(&self) -> String {
        format!("orlop-{}", self.instance)
    }
}

fn name_for(root: &Path) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    let mut number = hasher.finish();
    (0..6)
        .map(|_| {
            let digit = ALPHABET[(number % 36) as usize] as char;
            number /= 36;
            digit
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_keeps_its_name_and_another_has_another() {
        let (a, b) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let first = Layout::create(a.path()).expect("made");
        assert_eq!(Layout::create(a.path()).expect("opened").instance, first.instance);
        assert_eq!(Layout::find(a.path()).expect("found").map(|l| l.instance), Some(first.instance.clone()));
        assert_ne!(Layout::create(b.path()).expect("made").instance, first.instance);
        assert!(Layout::find(&b.path().join("none")).expect("looked").is_none());
    }
}
