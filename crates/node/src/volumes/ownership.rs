//! Group and mode of a volume's files for a pod's `fsGroup` (Kubernetes documentation, "Configure volume permission and
//! ownership change policy for Pods").

use crate::Error;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

/// The mode of a read-only volume's file: the group may read it.
pub(super) fn file_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

/// Gives a folder its mode, and to the group: then files made in it belong to the group too.
pub(super) fn folder(path: &Path, mode: u32, group: Option<u32>) -> Result<(), Error> {
    let mode = match group {
        Some(_) => mode | 0o2550,
        None => mode,
    };
    change(path, mode, group)
}

/// Gives a writable volume's own folder to the group.
pub(super) fn writable(path: &Path, mode: u32, group: Option<u32>) -> Result<(), Error> {
    let mode = if group.is_some() { mode | 0o2770 } else { mode };
    change(path, mode, group)
}

/// Gives everything in a writable volume to the group (`fsGroupChangePolicy`: always, or only where the volume's own folder is
/// not the group's yet). Links are not followed.
pub(super) fn give(root: &Path, group: u32, if_root_differs: bool) -> Result<(), Error> {
    let own = fs::symlink_metadata(root).map_err(|e| Error::path("looking at", root, e))?;
    let given = |meta: &fs::Metadata| meta.gid() == group && meta.mode() & 0o2770 == 0o2770;
    if if_root_differs && given(&own) {
        return Ok(());
    }
    let mut folders = vec![root.to_path_buf()];
    let mut all = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| Error::path("reading", &folder, e))?.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path.clone());
            }
            all.push(path);
        }
    }
    // The volume's own folder last: it says that all the others are done.
    all.push(root.to_path_buf());
    for path in all {
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // A container that runs may have removed it.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::path("looking at", &path, e)),
        };
        lchown(&path, None, Some(group)).map_err(|e| Error::path("changing the group of", &path, e))?;
        if !meta.is_symlink() {
            let bits = if meta.is_dir() { 0o2770 } else { 0o660 };
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() & 0o7777 | bits))
                .map_err(|e| Error::path("changing the mode of", &path, e))?;
        }
    }
    Ok(())
}

fn change(path: &Path, mode: u32, group: Option<u32>) -> Result<(), Error> {
    if group.is_some() {
        lchown(path, None, group).map_err(|e| Error::path("changing the group of", path, e))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| Error::path("changing the mode of", path, e))
}
