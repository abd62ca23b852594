//! Removes a folder that a stranger filled. A container may nest folders deeper than any path, stack or table of open files
//! is long, so this neither recurses nor walks down: what is nested is moved up until all lies flat.

use crate::Error;
use rustix::{
    fd::{AsFd, BorrowedFd},
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{ffi::CStr, path::Path};

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a folder and all below it, or a single file. Links are removed, not followed. What is gone already is fine.
pub fn remove_tree(path: &Path) -> Result<(), Error> {
    let outcome = match rustix::fs::open(path, FOLDER, Mode::empty()) {
        Ok(top) => empty(top.as_fd()).and_then(|()| rustix::fs::rmdir(path)),
        Err(Errno::NOTDIR | Errno::LOOP) => rustix::fs::unlink(path),
        Err(e) => Err(e),
    };
    match outcome {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::io(format!("removing {}", path.display()), e.into())),
    }
}

/// Empties `top`: of each folder in it the files are removed and the folders moved into `top`, until nothing is left.
fn empty(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut next = 0u64;
    loop {
        let mut found = false;
        for_each(top, |name| {
            found = true;
            if !remove_one(top, name)? {
                let folder = rustix::fs::openat(top, name, FOLDER, Mode::empty())?;
                for_each(folder.as_fd(), |inner| {
                    if !remove_one(folder.as_fd(), inner)? {
                        move_up(folder.as_fd(), inner, top, &mut next)?;
                    }
                    Ok(())
                })?;
                rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)?;
            }
            Ok(())
        })?;
        if !found {
            return Ok(());
        }
    }
}

fn for_each(folder: BorrowedFd<'_>, mut f: impl FnMut(&CStr) -> Result<(), Errno>) -> Result<(), Errno> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            f(name)?;
        }
    }
    Ok(())
}

/// Removes a file or an empty folder. `false` is a folder that is not empty.
fn remove_one(folder: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

fn move_up(from: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, next: &mut u64) -> Result<(), Errno> {
    loop {
        *next += 1;
        let new = format!(".{next}");
        match rustix::fs::renameat_with(from, name, top, &new, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut at = rustix::fs::open(&top, FOLDER, Mode::empty()).unwrap();
        for n in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            if n % 1000 == 0 {
                rustix::fs::mkdirat(&at, ".1", Mode::from_raw_mode(0o700)).unwrap();
                rustix::fs::mknodat(&at, ".1/f", rustix::fs::FileType::Fifo, Mode::empty(), 0).unwrap();
            }
            at = rustix::fs::openat(&at, "d", FOLDER, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "").unwrap();
        fs::create_dir_all(dir.path().join("top/d")).unwrap();
        std::os::unix::fs::symlink(&kept, dir.path().join("top/link")).unwrap();
        std::os::unix::fs::symlink(&kept, dir.path().join("top/d/link")).unwrap();
        std::os::unix::fs::symlink(&kept, dir.path().join("itself")).unwrap();
        remove_tree(&dir.path().join("top")).unwrap();
        remove_tree(&dir.path().join("itself")).unwrap();
        assert!(kept.join("file").exists() && !dir.path().join("itself").is_symlink());
    }
}
