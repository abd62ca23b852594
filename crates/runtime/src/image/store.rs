//! The images of this machine: what is here, what uses it, and what may go. Every change is on disk before it is
//! acknowledged; a process that dies at any point leaves nothing but rubbish, which the next one removes.

use super::{
    config::ImageConfig,
    content::{Content, Lease, purge},
    digest::Digest,
    index::{Index, Record},
    pull::{Pulls, blocking},
    registry::Registries,
    snapshot::{RootfsMount, is_mountpoint},
};
use crate::{Error, Image, Images, Reader, RegistryAuth};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

/// How a store is opened.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// The folder that holds everything.
    pub root: PathBuf,
    /// Registries (`host` or `host:port`) that are spoken to over plain HTTP, besides those on the loopback.
    pub insecure_registries: Vec<String>,
}

/// The images of this machine.
pub struct ImageStore {
    pub(super) content: Content,
    pub(super) registries: Registries,
    pub(super) pulls: Pulls,
    /// For work that goes on after the call that began it.
    this: Weak<ImageStore>,
    /// Replaced as a whole, so that reading never waits for a write to reach the disk.
    index: RwLock<Arc<Index>>,
    /// Held by whatever changes the index or the files below.
    claims: Mutex<Claims>,
    configs: Mutex<HashMap<Digest, Arc<ImageConfig>>>,
}

/// What must not be swept away besides what the index names.
#[derive(Default)]
struct Claims {
    /// By container folder.
    leases: BTreeMap<PathBuf, Lease>,
    /// Blobs and layers that pulls and imports are working with.
    pinned: BTreeMap<Digest, usize>,
}

impl ImageStore {
    /// Opens the store, and begins to remove what an earlier process left unfinished and what nothing uses. Blocks.
    pub fn open(options: StoreOptions) -> Result<Arc<Self>, Error> {
        let content = Content::open(&options.root)?;
        let mut index = read_index(&content.index_file())?;
        // Somebody may have removed a layer by hand: without it the image is not here, and can be pulled again.
        index.images.retain(|id, record| {
            let whole = record.layers.iter().all(|chain| content.has_layer(chain))
                && content.get_blob(id).is_ok_and(|blob| blob.is_some());
            if !whole {
                tracing::warn!(image = %id, "image lacks content and is forgotten");
            }
            whole
        });
        let leases =
            content.leases()?.into_iter().map(|lease| (lease.container_dir.clone(), lease)).collect();
        let store = Arc::new_cyclic(|this| Self {
            content,
            registries: Registries::new(options.insecure_registries),
            pulls: Pulls::default(),
            this: this.clone(),
            index: RwLock::new(Arc::new(index)),
            claims: Mutex::new(Claims { leases, pinned: BTreeMap::new() }),
            configs: Mutex::default(),
        });
        let mut rubbish = store.sweep()?;
        rubbish.push(store.content.rubbish());
        std::thread::spawn(move || {
            if let Err(error) = purge(&rubbish) {
                tracing::warn!(%error, "what an earlier process left cannot be removed");
            }
        });
        Ok(store)
    }

    /// How an image wants to be run, by its id.
    pub fn config(&self, image_id: &str) -> Result<Arc<ImageConfig>, Error> {
        let id = parse_id(image_id)?;
        if let Some(config) = self.configs.lock().get(&id) {
            return Ok(config.clone());
        }
        let bytes = self.content.get_blob(&id)?.ok_or_else(|| no_image(image_id))?;
        let config = Arc::new(ImageConfig::parse(&bytes)?);
        self.configs.lock().insert(id, config.clone());
        Ok(config)
    }

    /// Makes the folders of a container's root file system below `container_dir` (which must exist) and claims the image's
    /// layers for as long as that folder is there or until [`ImageStore::remove_rootfs`]. Mounting is the caller's:
    /// [`RootfsMount::mount`]. Again for the same folder, it gives the same answer.
    pub fn prepare_rootfs(&self, image_id: &str, container_dir: &Path) -> Result<RootfsMount, Error> {
        let id = parse_id(image_id)?;
        let layers = {
            let mut claims = self.claims.lock();
            let index = self.index.read().clone();
            let record = index.images.get(&id).ok_or_else(|| no_image(image_id))?;
            let lease = Lease {
                container_dir: container_dir.to_path_buf(),
                image: id.clone(),
                layers: record.layers.clone(),
            };
            self.content.put_lease(&lease)?;
            claims.leases.insert(lease.container_dir.clone(), lease);
            record.layers.clone()
        };
        let mut lowerdirs: Vec<PathBuf> =
            layers.iter().rev().map(|chain| self.content.layer_files(chain)).collect();
        if lowerdirs.is_empty() {
            lowerdirs.push(self.content.empty_layer());
        }
        let mount = RootfsMount::new(lowerdirs, container_dir);
        mount.make_folders()?;
        Ok(mount)
    }

    /// Unmounts and removes a container's root file system and gives its layers free.
    pub fn remove_rootfs(&self, container_dir: &Path) -> Result<(), Error> {
        RootfsMount::new(Vec::new(), container_dir).remove()?;
        let mut claims = self.claims.lock();
        self.content.remove_lease(container_dir)?;
        claims.leases.remove(container_dir);
        Ok(())
    }

    /// An image by its id.
    pub(super) fn image(&self, id: &Digest) -> Result<Image, Error> {
        self.index().images.get(id).map(|record| record.image(id)).ok_or_else(|| no_image(id.as_str()))
    }

    fn shared(&self) -> Result<Arc<Self>, Error> {
        self.this.upgrade().ok_or_else(|| Error::State("the image store is closing".into()))
    }

    /// The index as it is now.
    pub(super) fn index(&self) -> Arc<Index> {
        self.index.read().clone()
    }

    /// Keeps content from being swept away while it is not in the index yet.
    pub(super) fn pin(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Pin {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut claims = self.claims.lock();
        for digest in &digests {
            *claims.pinned.entry(digest.clone()).or_default() += 1;
        }
        Pin { store: self.clone(), digests }
    }

    /// Adds an image whose content is here (and pinned). On disk when it returns. Blocks.
    pub(super) fn add(&self, id: Digest, record: Record) -> Result<(), Error> {
        let _claims = self.claims.lock();
        let mut index = Index::clone(&self.index());
        index.add(id, record);
        self.write_index(index)
    }

    /// Takes a name away, and the content that nothing uses any more. Blocks.
    pub(super) fn remove_name(&self, text: &str) -> Result<(), Error> {
        {
            let _claims = self.claims.lock();
            let mut index = Index::clone(&self.index());
            if !index.remove(text)? {
                return Ok(());
            }
            self.write_index(index)?;
        }
        self.collect_garbage()
    }

    fn write_index(&self, index: Index) -> Result<(), Error> {
        let text = serde_json::to_vec(&index)
            .map_err(|e| Error::io("encoding the image index", std::io::Error::other(e)))?;
        self.content.replace(&self.content.index_file(), &text)?;
        *self.index.write() = Arc::new(index);
        Ok(())
    }

    /// Removes content that no image, no container and no pull in progress uses. Blocks.
    pub fn collect_garbage(&self) -> Result<(), Error> {
        let rubbish = self.sweep()?;
        purge(&rubbish)
    }

    /// Puts aside what nothing uses.
    fn sweep(&self) -> Result<Vec<PathBuf>, Error> {
        let claims = self.claims.lock();
        let index = self.index();
        let (mut blobs, mut layers) = (index.blobs(), index.layers());
        let pinned: BTreeSet<Digest> = claims.pinned.keys().cloned().collect();
        blobs.extend(pinned.iter().cloned());
        layers.extend(pinned);
        for lease in claims.leases.values() {
            blobs.insert(lease.image.clone());
            layers.extend(lease.layers.iter().cloned());
        }
        self.configs.lock().retain(|id, _| blobs.contains(id));
        self.content.sweep(&blobs, &layers)
    }
}

#[async_trait::async_trait]
impl Images for ImageStore {
    async fn resolve(&self, reference: &str) -> Result<Option<Image>, Error> {
        let index = self.index();
        let found = index.find(reference)?;
        Ok(found.and_then(|id| index.images.get(id).map(|record| record.image(id))))
    }

    async fn pull(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<Image, Error> {
        self.shared()?.pull_shared(reference, auth).await
    }

    async fn import(&self, archive: Reader, name: Option<String>) -> Result<Vec<Image>, Error> {
        let store = self.shared()?;
        let archive = tokio_util::io::SyncIoBridge::new(archive);
        blocking(move || store.import_archive(archive, name.as_deref())).await
    }

    async fn list(&self) -> Result<Vec<Image>, Error> {
        Ok(self.index().images.iter().map(|(id, record)| record.image(id)).collect())
    }

    async fn show(&self, image_id: &str, folder: &Path) -> Result<PathBuf, Error> {
        let (store, id, folder) = (self.shared()?, image_id.to_string(), folder.to_path_buf());
        blocking(move || {
            let target = RootfsMount::new(Vec::new(), &folder).target;
            if !(target.exists() && is_mountpoint(&target)?) {
                // What is left of a time before the machine was started anew cannot be mounted again.
                RootfsMount::new(Vec::new(), &folder).remove()?;
                std::fs::create_dir_all(&folder)
                    .map_err(|e| Error::io(format!("making {}", folder.display()), e))?;
                store.prepare_rootfs(&id, &folder)?.mount()?;
            }
            Ok(target)
        })
        .await
    }

    async fn hide(&self, folder: &Path) -> Result<(), Error> {
        let (store, folder) = (self.shared()?, folder.to_path_buf());
        blocking(move || {
            store.remove_rootfs(&folder)?;
            match std::fs::remove_dir(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(format!("removing {}", folder.display()), e))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn remove(&self, reference: &str) -> Result<(), Error> {
        let (store, reference) = (self.shared()?, reference.to_string());
        blocking(move || store.remove_name(&reference)).await
    }
}

/// See [`ImageStore::pin`].
pub(super) struct Pin {
    store: Arc<ImageStore>,
    digests: Vec<Digest>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut claims = self.store.claims.lock();
        for digest in &self.digests {
            if let Some(count) = claims.pinned.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    claims.pinned.remove(digest);
                }
            }
        }
    }
}

fn parse_id(image_id: &str) -> Result<Digest, Error> {
    Digest::parse(image_id).map_err(|_| no_image(image_id))
}

fn no_image(id: &str) -> Error {
    Error::NotFound { what: "image", id: id.to_string() }
}

fn read_index(path: &Path) -> Result<Index, Error> {
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|e| Error::Damaged(format!("image index {}: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
        Err(e) => Err(Error::io(format!("reading {}", path.display()), e)),
    }
}
