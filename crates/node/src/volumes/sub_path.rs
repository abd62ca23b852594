//! `subPath`: a part of a volume bound by itself. The volume's content belongs to the pod, which may put a link there that
//! leads out of it; so the path is opened beneath the volume, and what was opened is bound, not what the name says later.

use crate::Error;
use rustix::{
    fd::{AsRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat2},
    io::Errno,
    mount::mount_bind_recursive,
};
use std::{
    fs,
    path::{Component, Path},
};

/// Binds `sub_path` of the volume at `volume` to `target`, making missing folders in the volume. `target` is a place of the
/// agent's own that no pod can write to.
pub(super) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<(), Error> {
    let parts: Vec<&Path> = Path::new(sub_path)
        .components()
        .map(|c| match c {
            Component::Normal(name) => Ok(Path::new(name)),
            Component::RootDir | Component::Prefix(_) => {
                Err(Error::Pod(format!("error SubPath `{sub_path}` must not be an absolute path")))
            }
            Component::ParentDir | Component::CurDir => {
                Err(Error::Pod(format!("unable to provision SubPath `{sub_path}`: must not contain '..'")))
            }
        })
        .collect::<Result<_, _>>()?;
    let path = || format!("opening {sub_path} in {}", volume.display());
    let root =
        open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::io(path(), e))?;
    let found = beneath(&root, sub_path).or_else(|error| match error {
        Errno::NOENT => make(&root, &parts),
        other => Err(other),
    });
    let found = found.map_err(|error| match error {
        Errno::XDEV | Errno::LOOP => Error::Pod(format!("subPath {sub_path:?} leads out of the volume")),
        other => Error::io(path(), other),
    })?;
    let here = format!("/proc/self/fd/{}", found.as_raw_fd());
    prepare(target, fs::metadata(&here).is_ok_and(|m| m.is_dir()))?;
    mount_bind_recursive(here.as_str(), target).map_err(|e| Error::path("binding to", target, e))
}

fn beneath(root: &OwnedFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes the folders of a path one by one, never through a link that leads out.
fn make(root: &OwnedFd, parts: &[&Path]) -> Result<OwnedFd, Errno> {
    let mut at = beneath(root, ".")?;
    let mut so_far = std::path::PathBuf::new();
    for part in parts {
        so_far.push(part);
        match beneath(root, so_far.as_path()) {
            Ok(next) => at = next,
            Err(Errno::NOENT) => {
                mkdirat(&at, *part, Mode::from_raw_mode(0o750))?;
                at = beneath(root, so_far.as_path())?;
            }
            Err(other) => return Err(other),
        }
    }
    Ok(at)
}

/// Makes what is bound over: a folder or an empty file. What an earlier try left there is taken away.
fn prepare(target: &Path, folder: bool) -> Result<(), Error> {
    let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
    let parent = target.parent().unwrap_or(target);
    fs::create_dir_all(parent).map_err(|e| Error::path("making", parent, e))?;
    if target.is_dir() && !folder {
        let _ = fs::remove_dir(target);
    } else if target.is_file() && folder {
        let _ = fs::remove_file(target);
    }
    if folder {
        fs::create_dir_all(target).map_err(|e| Error::path("making", target, e))
    } else {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)
            .map(drop)
            .map_err(|e| Error::path("making", target, e))
    }
}

/// Whether a path can be opened from here: used before a folder is bound whole.
pub(super) fn exists(path: &Path) -> bool {
    rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty()).is_ok()
}
