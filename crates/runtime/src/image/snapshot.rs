//! A container's root file system: an overlay of its image's layers with a folder of its own on top. Knows mounts and
//! nothing of images; usable from a process that has no image store (the shim).

use super::remove_tree::remove_tree;
use crate::Error;
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
};
use std::path::{Path, PathBuf};

/// What to mount where. Written down beside the container, so that it can be mounted again and undone by whoever
/// comes after a crash.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RootfsMount {
    /// Layers, the topmost first (overlayfs's order). Never empty.
    pub lowerdirs: Vec<PathBuf>,
    /// Takes the container's own changes.
    pub upperdir: PathBuf,
    /// Overlayfs's scratch folder, on the same file system as `upperdir`.
    pub workdir: PathBuf,
    /// Where the root file system appears.
    pub target: PathBuf,
}

impl RootfsMount {
    /// The mount of a container whose folder is `container_dir`, over the given layers (topmost first).
    pub fn new(lowerdirs: Vec<PathBuf>, container_dir: &Path) -> Self {
        Self {
            lowerdirs,
            upperdir: container_dir.join("upper"),
            workdir: container_dir.join("work"),
            target: container_dir.join("rootfs"),
        }
    }

    /// Makes the folders, with the owner and mode of the image's own root on top.
    pub(super) fn make_folders(&self) -> Result<(), Error> {
        for folder in [&self.upperdir, &self.workdir, &self.target] {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::io(format!("making folder {}", folder.display()), e))?;
        }
        let Some(top) = self.lowerdirs.first() else { return Ok(()) };
        let step = |e: Errno| Error::io(format!("taking over the owner of {}", top.display()), e.into());
        let stat = rustix::fs::stat(top).map_err(step)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chown(&self.upperdir, Some(uid), Some(gid)).map_err(step)?;
        rustix::fs::chmod(&self.upperdir, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(step)
    }

    /// Mounts it, in the caller's mount namespace. Does nothing if `target` is a mount already.
    pub fn mount(&self) -> Result<(), Error> {
        if is_mountpoint(&self.target)? {
            return Ok(());
        }
        let step = |e: Errno| Error::io(format!("mounting {}", self.target.display()), e.into());
        // Paths go in as descriptors: no escaping, and none too long for the 256 bytes that an fsconfig string may have
        // or for the page that all options of mount(2) share.
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::io(format!("opening {}", path.display()), e.into()))
        };
        let dirs = Dirs {
            lower: self.lowerdirs.iter().map(|p| open(p)).collect::<Result<_, _>>()?,
            upper: open(&self.upperdir)?,
            work: open(&self.workdir)?,
        };
        // A container's root does not outlive the machine, so nothing in it need reach the disk (`volatile`): that spares a
        // sync of the whole file system when it is unmounted. Kernels before 5.10 do not know the word.
        for volatile in [true, false] {
            match dirs.mount_by_fsconfig(&self.target, volatile) {
                Ok(()) => return Ok(()),
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
                Err(e) => return Err(step(e)),
            }
        }
        match dirs.mount_by_options(&self.target, true) {
            Err(Errno::INVAL) => dirs.mount_by_options(&self.target, false).map_err(step),
            other => other.map_err(step),
        }
    }

    /// Unmounts and removes everything the container wrote. Does nothing where there is nothing.
    pub fn remove(&self) -> Result<(), Error> {
        unmount_all(&self.target)?;
        for folder in [&self.upperdir, &self.workdir, &self.target] {
            remove_tree(folder)?;
        }
        Ok(())
    }
}

/// The opened folders of an overlay.
struct Dirs {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl Dirs {
    /// The newer mount interface: one `lowerdir+` a layer (Linux 6.8), so there is no limit but the kernel's 500.
    fn mount_by_fsconfig(&self, target: &Path, volatile: bool) -> Result<(), Errno> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let fs = fs.as_fd();
        fsconfig_set_string(fs, "source", "overlay")?;
        for lower in &self.lower {
            fsconfig_set_string(fs, "lowerdir+", fd_path(lower))?;
        }
        fsconfig_set_string(fs, "upperdir", fd_path(&self.upper))?;
        fsconfig_set_string(fs, "workdir", fd_path(&self.work))?;
        if volatile {
            fsconfig_set_flag(fs, "volatile")?;
        }
        fsconfig_create(fs)?;
        let mount = fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        move_mount(mount.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    }

    /// mount(2): with paths this short a page of options holds some 200 layers.
    fn mount_by_options(&self, target: &Path, volatile: bool) -> Result<(), Errno> {
        let lower = self.lower.iter().map(fd_path).collect::<Vec<_>>().join(":");
        let (upper, work) = (fd_path(&self.upper), fd_path(&self.work));
        let volatile = if volatile { ",volatile" } else { "" };
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}{volatile}");
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), Some(options.as_c_str()))
    }
}

/// Whether a path is the root of a mount. A path that is not there is not.
pub fn is_mountpoint(path: &Path) -> Result<bool, Error> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::SYMLINK_NOFOLLOW;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(s) if s.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) => Ok(mountinfo_has(path)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(Error::io(format!("looking at {}", path.display()), e.into())),
    }
}

/// For kernels before 5.8, which do not tell in statx.
fn mountinfo_has(path: &Path) -> bool {
    let Some(path) = path.to_str() else { return false };
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|text| text.lines().any(|line| line.split(' ').nth(4) == Some(path)))
}

/// Unmounts everything that is mounted at a path. Does nothing where nothing is.
pub fn unmount_all(target: &Path) -> Result<(), Error> {
    while is_mountpoint(target)? {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io(format!("unmounting {}", target.display()), e.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container folder whose mount goes away with the test.
    struct Scratch(tempfile::TempDir);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = unmount_all(&self.0.path().join("c/rootfs"));
        }
    }

    fn layers(scratch: &Scratch, count: usize) -> Vec<PathBuf> {
        (0..count)
            .map(|n| {
                let dir = scratch.0.path().join(format!("layer,with:odd\\name-{}-{n}", "x".repeat(180)));
                std::fs::create_dir(&dir).unwrap();
                std::fs::write(dir.join(format!("file-{n}")), n.to_string()).unwrap();
                std::fs::write(dir.join("same"), n.to_string()).unwrap();
                dir
            })
            .collect()
    }

    #[test]
    fn a_container_sees_all_layers_and_its_own_writes_stay_out_of_them() {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let lower = layers(&scratch, 3);
        let mount = RootfsMount::new(lower.clone(), &scratch.0.path().join("c"));
        mount.make_folders().unwrap();
        mount.mount().unwrap();
        mount.mount().unwrap(); // again: nothing to do
        let at = |name: &str| mount.target.join(name);
        assert_eq!(std::fs::read_to_string(at("same")).unwrap(), "0", "the first is the topmost");
        std::fs::write(at("file-2"), "changed").unwrap();
        std::fs::remove_file(at("file-1")).unwrap();
        assert_eq!(std::fs::read_to_string(lower[2].join("file-2")).unwrap(), "2");
        assert!(lower[1].join("file-1").exists());
        mount.remove().unwrap();
        assert!(!mount.target.exists() && !mount.upperdir.exists());
        mount.remove().unwrap();
    }

    #[test]
    fn a_hundred_layers_with_long_names_fit_in_both_mount_interfaces() {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let mount = RootfsMount::new(layers(&scratch, 100), &scratch.0.path().join("c"));
        mount.make_folders().unwrap();
        mount.mount().unwrap();
        assert_eq!(std::fs::read_to_string(mount.target.join("file-99")).unwrap(), "99");
        mount.remove().unwrap();

        mount.make_folders().unwrap();
        let open = |p: &PathBuf| rustix::fs::open(p, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let dirs = Dirs {
            lower: mount.lowerdirs.iter().map(open).collect(),
            upper: open(&mount.upperdir),
            work: open(&mount.workdir),
        };
        dirs.mount_by_options(&mount.target, true).unwrap();
        assert_eq!(std::fs::read_to_string(mount.target.join("file-99")).unwrap(), "99");
        mount.remove().unwrap();
    }

    #[test]
    fn the_root_folder_has_the_mode_that_the_image_gives_it() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let lower = layers(&scratch, 1);
        std::fs::set_permissions(&lower[0], std::fs::Permissions::from_mode(0o1751)).unwrap();
        let mount = RootfsMount::new(lower, &scratch.0.path().join("c"));
        mount.make_folders().unwrap();
        mount.mount().unwrap();
        let mode = std::fs::metadata(&mount.target).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1751);
    }
}
