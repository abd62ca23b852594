//! Writes the files of a volume so that a reader sees either all of the old or all of the new ones: into a fresh folder that
//! the link `..data` is then pointed at, with a link for each visible name (Kubernetes `AtomicWriter`).

use super::{Files, ownership};
use crate::Error;
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePayload {
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, if not root.
    pub owner: Option<u32>,
}

/// Makes the visible files of `folder` those given. Changes nothing if they are so already.
pub(crate) fn write(folder: &Path, files: &Files, group: Option<u32>, now: Timestamp) -> Result<(), Error> {
    for path in files.keys() {
        check(path)?;
    }
    let link = folder.join(DATA);
    let old = fs::read_link(&link).ok().map(|target| folder.join(target));
    if old.as_ref().is_some_and(|old| same(old, files, group)) && links_stand(folder, files) {
        return Ok(());
    }
    let name = now.strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let fresh = folder.join(&name);
    fs::create_dir(&fresh).map_err(|e| Error::path("making", &fresh, e))?;
    let switched = fill(&fresh, files, group).and_then(|()| switch(folder, &name));
    if let Err(error) = switched {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    make_links(folder, files)?;
    remove_stale(folder, &name)
}

/// A path must stay in the volume and may not look like the writer's own names.
fn check(path: &str) -> Result<(), Error> {
    let inside = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !inside || path.starts_with("..") {
        return Err(Error::Pod(format!("invalid path: {path:?} must be relative and stay in the volume")));
    }
    Ok(())
}

/// Whether a folder holds exactly these files.
fn same(folder: &Path, files: &Files, group: Option<u32>) -> bool {
    let mut found = BTreeSet::new();
    if walk(folder, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(path, file)| {
        let here = folder.join(path);
        let mode = fs::metadata(&here).map(|m| m.permissions().mode() & 0o7777);
        mode.is_ok_and(|m| m == ownership::file_mode(file.mode, group))
            && fs::read(&here).is_ok_and(|content| content == file.content)
    })
}

fn walk(folder: &Path, under: &Path, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder.join(under))? {
        let entry = entry?;
        let path = under.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(folder, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

fn fill(folder: &Path, files: &Files, group: Option<u32>) -> Result<(), Error> {
    ownership::folder(folder, 0o755, group)?;
    for (path, file) in files {
        let here = folder.join(path);
        let mut parent = folder.to_path_buf();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.is_dir() {
                fs::create_dir(&parent).map_err(|e| Error::path("making", &parent, e))?;
                ownership::folder(&parent, 0o755, group)?;
            }
        }
        let mut out = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&here)
            .map_err(|e| Error::path("writing", &here, e))?;
        out.write_all(&file.content).map_err(|e| Error::path("writing", &here, e))?;
        if file.owner.is_some() || group.is_some() {
            chown(&here, file.owner, group).map_err(|e| Error::path("changing the owner of", &here, e))?;
        }
        let mode = ownership::file_mode(file.mode, group);
        // After the change of owner, which clears some bits; past the umask.
        fs::set_permissions(&here, fs::Permissions::from_mode(mode))
            .map_err(|e| Error::path("changing the mode of", &here, e))?;
    }
    Ok(())
}

/// Points `..data` at the new folder in one step.
fn switch(folder: &Path, name: &str) -> Result<(), Error> {
    let new = folder.join(DATA_NEW);
    let _ = fs::remove_file(&new);
    symlink(name, &new).map_err(|e| Error::path("linking", &new, e))?;
    fs::rename(&new, folder.join(DATA)).map_err(|e| Error::path("switching", folder, e))
}

/// The visible names: the first parts of all paths.
fn visible(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

fn links_stand(folder: &Path, files: &Files) -> bool {
    visible(files).into_iter().all(|name| folder.join(name).symlink_metadata().is_ok())
}

fn make_links(folder: &Path, files: &Files) -> Result<(), Error> {
    for name in visible(files) {
        let link = folder.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|old| old == target) {
            continue;
        }
        symlink(&target, &link).map_err(|e| Error::path("linking", &link, e))?;
    }
    let wanted = visible(files);
    for entry in fs::read_dir(folder).map_err(|e| Error::path("reading", folder, e))?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// Removes the folders of earlier writes.
fn remove_stale(folder: &Path, current: &str) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(|e| Error::path("reading", folder, e))?.flatten() {
        let name = entry.file_name();
        let stale = entry.file_type().is_ok_and(|t| t.is_dir()) && name.to_string_lossy().starts_with("..");
        if stale && name != current {
            super::remove_folder(&entry.path())?;
        }
    }
    Ok(())
}
