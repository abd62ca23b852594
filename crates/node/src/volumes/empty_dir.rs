//! `emptyDir` volumes, and the folders (or memory file systems) that other volumes are written into.

use super::ownership;
use crate::Error;
use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use orlop_api::quantity::Quantity;
use rustix::mount::{MountFlags, mount};
use std::{ffi::CString, fs, os::unix::fs::MetadataExt, path::Path};

/// Makes an `emptyDir` that everybody may write to, unless it is there. Its content is the pod's and is never touched.
pub(super) fn set_up(
    folder: &Path,
    source: &EmptyDirVolumeSource,
    group: Option<u32>,
    memory_size: u64,
) -> Result<(), Error> {
    let limit = source.size_limit.as_ref().map(|q| Quantity::of(q).value()).filter(|v| *v > 0);
    let size = limit.and_then(|v| u64::try_from(v).ok()).map_or(memory_size, |v| v.min(memory_size.max(1)));
    let memory = match source.medium.as_deref().unwrap_or_default() {
        "" => None,
        "Memory" => Some(size),
        other => return Err(Error::Pod(format!("emptyDir medium {other:?} is not supported"))),
    };
    if make(folder, memory)? {
        ownership::writable(folder, 0o777, group)?;
    }
    Ok(())
}

/// Makes a folder, as a memory file system of that many bytes if wanted. Says whether it is new.
pub(super) fn make(folder: &Path, memory: Option<u64>) -> Result<bool, Error> {
    let new = !folder.is_dir();
    fs::create_dir_all(folder).map_err(|e| Error::path("making", folder, e))?;
    let Some(size) = memory else { return Ok(new) };
    if is_mount_point(folder)? {
        return Ok(false);
    }
    let options = CString::new(format!("size={size},mode=0755")).unwrap_or_default();
    mount("tmpfs", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|e| Error::path("mounting memory on", folder, e))?;
    Ok(true)
}

/// Whether something is mounted on a folder: then it is on another device than its parent.
pub(crate) fn is_mount_point(folder: &Path) -> Result<bool, Error> {
    let own = fs::metadata(folder).map_err(|e| Error::path("looking at", folder, e))?;
    let parent = folder.parent().unwrap_or(folder);
    let above = fs::metadata(parent).map_err(|e| Error::path("looking at", parent, e))?;
    Ok(own.dev() != above.dev())
}
