//! Reading and making files in a container's root file system from outside, without ever following a link out of it:
//! every path is opened beneath the root by the kernel (openat2, `RESOLVE_IN_ROOT`).

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2},
    io::Errno,
};
use std::{io::Read, os::fd::OwnedFd, path::Path};

/// Longest file that is read: an `/etc/passwd` of this size has tens of thousands of users.
const READ_LIMIT: u64 = 4 << 20;

/// A container's root folder.
pub struct Root(OwnedFd);

impl Root {
    /// Opens it.
    pub fn open(path: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self)
    }

    fn at(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A path with `..` is told to try again when anything on the machine was renamed or mounted meanwhile.
        for _ in 0..128 {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), inside) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A regular file's text; empty if there is none.
    pub fn read(&self, path: &Path) -> std::io::Result<String> {
        let file = match self.at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            Err(e) => return Err(e.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(READ_LIMIT).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a folder and those above it, as far as they are missing. What is there, even if it is no folder, is left.
    pub fn make_folder(&self, path: &Path) -> std::io::Result<()> {
        let mut here = Path::new("/").to_path_buf();
        for part in path.components() {
            let std::path::Component::Normal(name) = part else { continue };
            let above = here.clone();
            here.push(name);
            match self.at(&here, OFlags::PATH) {
                Err(Errno::NOENT) => {
                    let above = self.at(&above, OFlags::PATH | OFlags::DIRECTORY)?;
                    match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("root"));
        std::fs::create_dir_all(outside.join("etc")).unwrap();
        std::fs::write(outside.join("etc/passwd"), "secret").unwrap();
        std::fs::create_dir(&inside).unwrap();
        symlink(outside.join("etc"), inside.join("etc")).unwrap();
        symlink("../../outside", inside.join("up")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert_eq!(root.read(Path::new("/etc/passwd")).unwrap(), "");
        assert_eq!(root.read(Path::new("/up/etc/passwd")).unwrap(), "");
        let _ = root.make_folder(Path::new("/up/made"));
        assert!(!outside.join("made").exists());
    }

    #[test]
    fn folders_are_made_down_to_the_last_and_again_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("real")).unwrap();
        symlink("/real", folder.path().join("link")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        for _ in 0..2 {
            root.make_folder(Path::new("/link/a/b")).unwrap();
        }
        assert!(folder.path().join("real/a/b").is_dir());
        std::fs::write(folder.path().join("real/a/f"), "text").unwrap();
        assert_eq!(root.read(Path::new("/link/a/f")).unwrap(), "text");
        assert_eq!(root.read(Path::new("/none")).unwrap(), "");
    }
}
