//! Group and mode of a volume's files for a pod's `fsGroup` (Kubernetes documentation, "Configure volume permission and
//! ownership change policy for Pods").

use crate::Error;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, lchown},
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

fn change(path: &Path, mode: u32, group: Option<u32>) -> Result<(), Error> {
    if group.is_some() {
        lchown(path, None, group).map_err(|e| Error::path("changing the group of", path, e))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| Error::path("changing the mode of", path, e))
}
