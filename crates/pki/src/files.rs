//! Small files that must never be half there: written beside, synced, renamed.

use crate::Error;
use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// Writes a file that only root can read, atomically.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<(), Error> {
    let at = |step: &str, source| Error::Io { step: format!("{step} {}", path.display()), source };
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|e| at("creating", e))?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| at("writing", e))?;
    fs::rename(&temporary, path).map_err(|e| at("renaming", e))?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent).and_then(|d| d.sync_all()).map_err(|e| at("syncing the folder of", e))?;
    }
    Ok(())
}

/// Reads a file if it is there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { step: format!("reading {}", path.display()), source }),
    }
}

/// Makes a folder that only root can enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Io { step: format!("creating {}", path.display()), source })
}
