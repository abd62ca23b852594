//! What a layer takes over from those below it: the owner and mode of folders that its archive only implies, and files
//! that it links to without holding them. Layers are unpacked side by side, so this is done when all below are there.

use super::unpack::{OPAQUE, Unpacked, bytes_path, components, is_whiteout, lstat};
use crate::Error;
use rustix::{
    fs::{CWD, FileType, Gid, Mode, Stat, Uid, XattrFlags},
    io::Errno,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Completes the layer in `folder`; `below` are the folders of the layers under it, the nearest first.
pub fn inherit(folder: &Path, unpacked: &Unpacked, below: &[PathBuf]) -> Result<(), Error> {
    for (path, target) in &unpacked.foreign_links {
        let Some((source, stat)) = find(&components(target)?, below)? else {
            let (path, target) = (String::from_utf8_lossy(path), String::from_utf8_lossy(target));
            return Err(Error::Damaged(format!("{path:?} is a link to {target:?}, which is in no layer")));
        };
        copy(&source, &stat, &folder.join(bytes_path(path)))?;
    }
    // Deepest first: setting the time of a folder must come after changing what is in it.
    for path in unpacked.implied.iter().rev() {
        let own = folder.join(bytes_path(path));
        if let Some((source, stat)) = find(&components(path)?, below)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && own.is_dir()
        {
            dress(&source, &stat, &own)?;
        }
    }
    Ok(())
}

/// What the layers below show at a path: the topmost that has it decides, unless one hides it.
fn find(parts: &[&[u8]], below: &[PathBuf]) -> Result<Option<(PathBuf, Stat)>, Error> {
    for layer in below {
        let mut at = layer.clone();
        let mut hidden = false;
        let mut found = None;
        for (depth, part) in parts.iter().enumerate() {
            at.push(bytes_path(part));
            match lstat(&at).map_err(looking(&at))? {
                None => break,
                Some(stat) if is_whiteout(&stat) => return Ok(None),
                Some(stat) if depth + 1 == parts.len() => found = Some(stat),
                // Links in the middle are not followed: what lies behind them has another name.
                Some(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                    return Ok(None);
                }
                Some(_) => hidden |= is_opaque(&at)?,
            }
        }
        if let Some(stat) = found {
            return Ok(Some((at, stat)));
        }
        if hidden {
            return Ok(None);
        }
    }
    Ok(None)
}

fn looking(path: &Path) -> impl FnOnce(Errno) -> Error + '_ {
    move |e| Error::io(format!("looking at {}", path.display()), e.into())
}

fn is_opaque(folder: &Path) -> Result<bool, Error> {
    let mut value = [0u8; 4];
    match rustix::fs::lgetxattr(folder, OPAQUE, &mut value) {
        Ok(n) => Ok(value[..n] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(e) => Err(looking(folder)(e)),
    }
}

/// Gives a path the owner, mode, attributes and time of another.
fn dress(source: &Path, stat: &Stat, target: &Path) -> Result<(), Error> {
    let step = |e: Errno| Error::io(format!("completing {}", target.display()), e.into());
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(CWD, target, Some(uid), Some(gid), nofollow).map_err(step)?;
    if !is_link {
        rustix::fs::chmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(step)?;
    }
    for (name, value) in xattrs(source).map_err(step)? {
        match rustix::fs::lsetxattr(target, name.as_slice(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(step(e)),
        }
    }
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: rustix::fs::Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(CWD, target, &times, nofollow).map_err(step)
}

/// Extended attributes: names and values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A path's extended attributes in the order of their names, without overlayfs's own. Links are not followed.
pub(super) fn xattrs(path: &Path) -> Result<Xattrs, Errno> {
    let mut names = vec![0u8; 4096];
    let length = match rustix::fs::llistxattr(path, names.as_mut_slice()) {
        Ok(n) => n,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            names.resize(65_536, 0); // the kernel's limit
            rustix::fs::llistxattr(path, names.as_mut_slice())?
        }
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0u8; 65_536];
        let n = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
        found.push((name.to_vec(), value[..n].to_vec()));
    }
    found.sort();
    Ok(found)
}

fn copy(source: &Path, stat: &Stat, target: &Path) -> Result<(), Error> {
    let step = |e| Error::io(format!("copying {} from a layer below", source.display()), e);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => fs::copy(source, target).map(|_| ()).map_err(step)?,
        FileType::Symlink => {
            fs::read_link(source).and_then(|link| std::os::unix::fs::symlink(link, target)).map_err(step)?
        }
        FileType::Directory => {
            return Err(Error::Damaged(format!("{} is a folder and cannot be linked to", source.display())));
        }
        kind => rustix::fs::mknodat(CWD, target, kind, Mode::empty(), stat.st_rdev as _)
            .map_err(|e| step(e.into()))?,
    }
    dress(source, stat, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn tree(dir: &Path, paths: &[(&str, u32)]) -> PathBuf {
        for (path, mode) in paths {
            let path = dir.join(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        dir.to_path_buf()
    }

    #[test]
    fn an_implied_folder_looks_as_the_layers_below_show_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = tree(&dir.path().join("base"), &[("tmp", 0o1777), ("srv", 0o700), ("srv/www", 0o711)]);
        let middle = tree(&dir.path().join("middle"), &[("srv", 0o750)]);
        rustix::fs::lsetxattr(middle.join("srv"), OPAQUE, b"y", XattrFlags::empty()).unwrap();
        std::os::unix::fs::chown(base.join("tmp"), Some(7), Some(8)).unwrap();
        let top = tree(
            &dir.path().join("top"),
            &[("tmp", 0o755), ("srv", 0o755), ("srv/www", 0o755), ("new", 0o755)],
        );
        let implied = ["tmp", "srv", "srv/www", "new"].map(|p| p.as_bytes().to_vec()).into();
        inherit(&top, &Unpacked { implied, ..Default::default() }, &[middle, base]).unwrap();
        let mode = |path: &str| fs::metadata(top.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("tmp"), mode("srv"), mode("new")), (0o1777, 0o750, 0o755));
        assert_eq!(mode("srv/www"), 0o755, "the layer between hides that one");
        let tmp = fs::metadata(top.join("tmp")).unwrap();
        assert_eq!((tmp.uid(), tmp.gid()), (7, 8));
    }

    #[test]
    fn a_link_to_a_file_of_a_layer_below_becomes_a_copy_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let base = tree(&dir.path().join("base"), &[("bin", 0o755)]);
        fs::write(base.join("bin/tool"), "tool").unwrap();
        fs::set_permissions(base.join("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        let top = tree(&dir.path().join("top"), &[("bin", 0o755)]);
        let link = |to: &str| Unpacked {
            foreign_links: vec![(b"bin/alias".to_vec(), to.as_bytes().to_vec())],
            ..Default::default()
        };
        inherit(&top, &link("bin/tool"), std::slice::from_ref(&base)).unwrap();
        assert_eq!(fs::read_to_string(top.join("bin/alias")).unwrap(), "tool");
        assert_eq!(fs::metadata(top.join("bin/alias")).unwrap().mode() & 0o7777, 0o4755);
        let error = inherit(&top, &link("bin/none"), &[base]).unwrap_err();
        assert!(error.to_string().contains("in no layer"), "{error}");
    }
}
