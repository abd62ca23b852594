//! `hostPath` volumes: checks that the path is what the pod says it is, and makes it where the type allows.

use crate::Error;
use k8s_openapi::api::core::v1::HostPathVolumeSource;
use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// Checks a host path against its type.
pub(super) fn check(source: Option<&HostPathVolumeSource>) -> Result<(), Error> {
    let Some(source) = source else { return Ok(()) };
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok().map(|m| m.file_type());
    match (kind, found) {
        // Nothing is promised; a missing path becomes a folder, since there must be something to bind.
        ("", Some(_)) => Ok(()),
        ("" | "DirectoryOrCreate", None) => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|e| Error::path("making", path, e)),
        ("FileOrCreate", None) => fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|e| Error::path("making", path, e)),
        ("Directory" | "DirectoryOrCreate", Some(t)) if t.is_dir() => Ok(()),
        ("File" | "FileOrCreate", Some(t)) if t.is_file() => Ok(()),
        ("Socket", Some(t)) if t.is_socket() => Ok(()),
        ("CharDevice", Some(t)) if t.is_char_device() => Ok(()),
        ("BlockDevice", Some(t)) if t.is_block_device() => Ok(()),
        (kind, _) => {
            Err(Error::Pod(format!("hostPath type check failed: {} is not a {}", source.path, words(kind))))
        }
    }
}

/// Checks that a path is a block device.
pub(super) fn check_device(path: &Path) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(|e| Error::path("looking at", path, e))?;
    if found.file_type().is_block_device() {
        return Ok(());
    }
    Err(Error::Pod(format!("{} is not a block device", path.display())))
}

fn words(kind: &str) -> &str {
    match kind {
        "Directory" | "DirectoryOrCreate" => "directory",
        "File" | "FileOrCreate" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        "BlockDevice" => "block device",
        other => other,
    }
}
