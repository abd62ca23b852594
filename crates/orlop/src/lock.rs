//! One server a data folder: the lock is held as long as its process lives, and names it.

use crate::Error;
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    path::Path,
};

/// The lock of a running server; released when dropped or when the process ends.
pub(crate) struct Lock {
    _file: File,
}

fn open(path: &Path) -> Result<File, Error> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::at(format!("opening {}", path.display())))
}

/// Takes the lock; fails, naming the process, if another server has it.
pub(crate) fn take(path: &Path) -> Result<Lock, Error> {
    let mut file = open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        return Err(Error::Configuration(format!(
            "another server (process {}) uses this data folder",
            holder.trim()
        )));
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(Error::at(format!("writing {}", path.display())))?;
    Ok(Lock { _file: file })
}

/// The process that holds the lock, if one does.
pub(crate) fn holder(path: &Path) -> Result<Option<i32>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let mut file = open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(None);
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(Error::at(format!("reading {}", path.display())))?;
    Ok(text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_the_lock_and_it_can_be_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("server.lock");
        assert_eq!(holder(&path).expect("looked"), None);
        let held = take(&path).expect("taken");
        assert_eq!(holder(&path).expect("looked"), i32::try_from(std::process::id()).ok());
        let refusal = take(&path).err().expect("refused").to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        drop(held);
        assert_eq!(holder(&path).expect("looked"), None);
    }
}
