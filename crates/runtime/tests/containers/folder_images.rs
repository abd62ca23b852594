//! One image that is a folder.

use orlop_runtime::{
    Error, LogLimits, RuntimeConfig, Snapshots,
    image::{ImageConfig, RootfsMount, snapshot::unmount_all},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Gives every container the same root file system, read from a folder.
pub struct FolderImages(PathBuf);

impl Snapshots for FolderImages {
    fn config(&self, image_id: &str) -> Result<Arc<ImageConfig>, Error> {
        if image_id != "busybox" {
            return Err(Error::NotFound { what: "image", id: image_id.into() });
        }
        Ok(Arc::new(ImageConfig {
            env: vec![("FROM_IMAGE".into(), "yes".into())],
            cmd: vec!["sh".into()],
            ..ImageConfig::default()
        }))
    }

    fn prepare_rootfs(&self, _image_id: &str, container_dir: &Path) -> Result<RootfsMount, Error> {
        let mount = RootfsMount::new(vec![self.0.clone()], container_dir);
        for folder in [&mount.upperdir, &mount.workdir, &mount.target] {
            std::fs::create_dir_all(folder).map_err(|e| Error::io("making a folder", e))?;
        }
        Ok(mount)
    }

    fn remove_rootfs(&self, container_dir: &Path) -> Result<(), Error> {
        let mount = RootfsMount::new(Vec::new(), container_dir);
        unmount_all(&mount.target)?;
        for folder in [&mount.upperdir, &mount.workdir, &mount.target] {
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(())
    }
}

/// A runtime's configuration with that image, and small logs.
pub fn config(root: &Path, cgroup: &str, rootfs: &Path, shim: &Path) -> RuntimeConfig {
    let mut config = RuntimeConfig::new(root.to_path_buf(), Arc::new(FolderImages(rootfs.to_path_buf())));
    config.cgroup_root = cgroup.to_string();
    config.shim_binary = shim.to_path_buf();
    config.log_limits = LogLimits { max_size: 64 << 10, max_files: 3 };
    config
}
