//! The files that a rotated log consists of: `0.log`, and beside it `0.log.1`, `0.log.2`, …, older with each number.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// An opened file of a log. It stays what it is when files are renamed.
#[derive(Debug)]
pub struct Piece {
    pub file: File,
    /// Bytes when it was opened.
    pub length: u64,
    inode: u64,
}

impl Piece {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => {
                let metadata = file.metadata()?;
                Ok(Some(Self { file, length: metadata.len(), inode: metadata.ino() }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether both are the same file on disk. An inode is not used again while it is open.
    pub fn same(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Opens all files of a log, the newest first.
///
/// Files may be renamed to higher numbers meanwhile: then one is met twice, and is taken once; and a number is free for a
/// moment, so that one gap is not yet the end.
pub fn open_all(path: &Path) -> io::Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Piece::open(path)?.into_iter().collect();
    let mut gap = false;
    for number in 1.. {
        match Piece::open(&rotated(path, number))? {
            Some(piece) if pieces.iter().any(|p| p.same(&piece)) => {}
            Some(piece) => pieces.push(piece),
            None if gap => break,
            None => {
                gap = true;
                continue;
            }
        }
        gap = false;
    }
    Ok(pieces)
}

/// The files that came after `piece`, the oldest first. If it is not among them any more, it is older than all.
pub fn newer_than(path: &Path, piece: &Piece) -> io::Result<Vec<Piece>> {
    // By far most often nothing was rotated.
    if Piece::open(path)?.is_none_or(|newest| newest.same(piece)) {
        return Ok(Vec::new());
    }
    let mut newer: Vec<Piece> = open_all(path)?.into_iter().take_while(|p| !p.same(piece)).collect();
    newer.reverse();
    Ok(newer)
}
