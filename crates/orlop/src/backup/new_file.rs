//! A file that appears whole under its name or not at all, whatever kills the process: it has no name until it is finished. Only
//! its owner can read it.

use crate::Error;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, linkat, open},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A file to be.
pub(super) struct NewFile {
    file: File,
    target: PathBuf,
    folder: PathBuf,
    /// Its name so far, where the file system has no files without a name.
    temporary: Option<PathBuf>,
}

impl NewFile {
    /// Begins it. Fails where there is something of that name.
    pub(super) fn create(target: &Path) -> Result<Self, Error> {
        if target.symlink_metadata().is_ok() {
            return Err(Error::Configuration(format!(
                "{} is there already: choose another name",
                target.display()
            )));
        }
        let folder =
            target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let making = || Error::at(format!("making {}", target.display()));
        let mode = Mode::RUSR | Mode::WUSR;
        let (file, temporary) = match open(&folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(file) => (File::from(file), None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = target.file_name().unwrap_or_default().to_string_lossy();
                let path = folder.join(format!(".{name}.partial"));
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&path);
                (file.map_err(making())?, Some(path))
            }
            Err(error) => return Err(making()(std::io::Error::from(error))),
        };
        Ok(Self { file, target: target.into(), folder, temporary })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name, on disk.
    pub(super) fn keep(mut self) -> Result<(), Error> {
        let naming = || Error::at(format!("finishing {}", self.target.display()));
        self.file.sync_all().map_err(naming())?;
        match &self.temporary {
            Some(path) => fs::hard_link(path, &self.target).map_err(naming())?,
            None => {
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let named = linkat(CWD, own, CWD, &self.target, AtFlags::SYMLINK_FOLLOW);
                named.map_err(|error| naming()(error.into()))?;
            }
        }
        if let Some(path) = self.temporary.take() {
            fs::remove_file(path).map_err(naming())?;
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(naming())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = fs::remove_file(path); // the error that matters was told
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::fs::PermissionsExt};

    #[test]
    fn a_file_is_there_when_it_is_finished_and_not_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("backup");
        let count = || fs::read_dir(folder.path()).expect("listed").count();
        let mut dropped = NewFile::create(&target).expect("begun");
        dropped.file().write_all(b"half").expect("written");
        drop(dropped);
        assert_eq!(count(), 0);
        let mut kept = NewFile::create(&target).expect("begun");
        kept.file().write_all(b"all").expect("written");
        kept.keep().expect("kept");
        assert_eq!((count(), fs::read(&target).expect("read")), (1, b"all".to_vec()));
        assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(NewFile::create(&target).err().expect("refused").to_string().contains("there already"));
    }
}
