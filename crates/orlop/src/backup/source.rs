//! What a backup is made from: the store as it is on disk, and the folder of keys and certificates.

use crate::{Error, layout::Layout};
use orlop_store::{
    Store,
    backup::{Chunks, Manifest, SideFile, snapshot},
};
use std::{fs, path::Path, sync::Arc};

/// Everything of the cluster is under this.
const PREFIX: &str = "/registry/";

/// See the module.
#[derive(Clone)]
pub(crate) struct Source {
    store: Arc<dyn Store>,
    layout: Layout,
    node: String,
}

impl Source {
    /// `store` is the innermost one: what it encrypts stays encrypted, and the keys are in the backup.
    pub(crate) fn new(store: Arc<dyn Store>, layout: &Layout, node: &str) -> Self {
        Self { store, layout: layout.clone(), node: node.into() }
    }

    /// A backup of now.
    ///
    /// # Errors
    /// Where the state is in etcd, too: what is restored is a cluster of one server, whose node has the first range of addresses.
    pub(crate) async fn chunks(&self) -> Result<Chunks, Error> {
        if self.store.is_shared() {
            return Err(Error::Configuration(
                "the cluster's state is in etcd: save that with `etcdctl snapshot save`, and keep tls/ of a server's data folder with it".into(),
            ));
        }
        let (revision, entries) =
            snapshot(&*self.store, PREFIX).await.map_err(Error::at("reading the cluster's state"))?;
        // The keys come after the state: one that was made meanwhile is one too many, never one too few.
        let mut files = Vec::new();
        collect(self.layout.root(), &self.layout.tls(), &mut files)
            .map_err(Error::at(format!("reading {}", self.layout.tls().display())))?;
        let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let manifest = Manifest {
            created,
            program: env!("CARGO_PKG_VERSION").into(),
            revision,
            node: self.node.clone(),
        };
        Ok(Chunks::new(&manifest, &files, entries))
    }
}

/// All files below a folder, in the order of their names. Those that are being written are left out.
fn collect(root: &Path, folder: &Path, files: &mut Vec<SideFile>) -> std::io::Result<()> {
    let mut found = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(fs::DirEntry::file_name);
    for entry in found {
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() && path.extension().is_none_or(|e| e != "new") {
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            files.push(SideFile { name, bytes: fs::read(&path)? });
        }
    }
    Ok(())
}
