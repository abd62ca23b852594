//! The store's folder: its names, its lock, its log segments and which of them are still needed.
//!
//! | name | holds |
//! |---|---|
//! | `lock` | nothing; locked by the process that has the store open |
//! | `checkpoint-REVISION` | every key as of that revision |
//! | `log-REVISION` | a log segment that starts with that revision, up to where the next one starts |
//! | `new-NUMBER`, `checkpoint.new` | a segment or a checkpoint to be; removed when the store is opened |
//!
//! Files get their names only when their content is durable. Never reads or writes what is in the frames.

use super::frame::{read_u32, read_u64};
use crate::{Error, Revision};
use parking_lot::Mutex;
use rustix::{fs::FallocateFlags, io::Errno};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions, TryLockError},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The version of everything in the folder.
pub(crate) const FORMAT: u32 = 1;
/// Bytes before the first frame of a segment, and before the first block of a checkpoint.
pub(crate) const FILE_HEADER: usize = 64;
/// The magic of a log segment.
pub(crate) const LOG_MAGIC: [u8; 8] = *b"ORLOPLOG";
/// The magic of a checkpoint.
pub(crate) const CHECKPOINT_MAGIC: [u8; 8] = *b"ORLOPCHK";

const NEW_CHECKPOINT: &str = "checkpoint.new";
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// An open and locked folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// For making names durable.
    handle: File,
    /// Held for its lock.
    _lock: File,
    segment_bytes: u64,
    catalog: Mutex<Catalog>,
}

#[derive(Debug, Default)]
struct Catalog {
    /// In order.
    segments: VecDeque<SegmentInfo>,
    /// A segment that waits for use, zeroed or recycled.
    spare: Option<Spare>,
    /// For the names of segments to be.
    made: u64,
    spare_failed: bool,
    checkpoint: Option<(Revision, u64)>,
}

#[derive(Debug)]
struct Spare {
    file: File,
    path: PathBuf,
}

/// A log segment on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentInfo {
    /// Its first revision.
    pub(crate) first: Revision,
    /// Its size.
    pub(crate) bytes: u64,
}

/// What a file's first bytes say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileHeader {
    /// Salts the checksums of what follows.
    pub(crate) salt: u32,
    /// The first revision of a segment, the revision of a checkpoint.
    pub(crate) revision: Revision,
}

impl Folder {
    /// Opens or makes the folder, locks it, and removes what was left unfinished.
    pub(crate) fn open(path: &Path, segment_bytes: u64) -> Result<Arc<Self>, Error> {
        let fail = failed("opening the store's folder");
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(&fail)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(&fail)?;
        }
        let lock = create(&path.join("lock"), false).map_err(&fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: path.into() }),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        let mut catalog = Catalog::default();
        for file in fs::read_dir(path).map_err(&fail)? {
            let file = file.map_err(&fail)?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            let bytes = file.metadata().map_err(&fail)?.len();
            if name == NEW_CHECKPOINT || numbered(&name, "new-").is_some() {
                fs::remove_file(file.path()).map_err(&fail)?;
            } else if let Some(first) = numbered(&name, "log-") {
                catalog.segments.push_back(SegmentInfo { first, bytes });
            } else if let Some(revision) = numbered(&name, "checkpoint-") {
                let older = match catalog.checkpoint {
                    Some((known, _)) if known > revision => Some(revision),
                    known => {
                        catalog.checkpoint = Some((revision, bytes));
                        known.map(|(known, _)| known)
                    }
                };
                if let Some(older) = older {
                    fs::remove_file(checkpoint_name(path, older)).map_err(&fail)?;
                }
            }
        }
        catalog.segments.make_contiguous().sort_by_key(|s| s.first);
        let handle = File::open(path).map_err(&fail)?;
        let catalog = Mutex::new(catalog);
        Ok(Arc::new(Self { path: path.into(), handle, _lock: lock, segment_bytes, catalog }))
    }

    pub(crate) fn segment_path(&self, first: Revision) -> PathBuf {
        self.path.join(format!("log-{:020}", first.0))
    }

    pub(crate) fn checkpoint_path(&self, revision: Revision) -> PathBuf {
        checkpoint_name(&self.path, revision)
    }

    /// The log's segments, in order.
    pub(crate) fn segments(&self) -> Vec<SegmentInfo> {
        self.catalog.lock().segments.iter().copied().collect()
    }

    /// The newest checkpoint and its size.
    pub(crate) fn checkpoint(&self) -> Option<(Revision, u64)> {
        self.catalog.lock().checkpoint
    }

    /// Bytes on disk.
    pub(crate) fn size(&self) -> u64 {
        let catalog = self.catalog.lock();
        let spare = if catalog.spare.is_some() { self.segment_bytes } else { 0 };
        let log: u64 = catalog.segments.iter().map(|s| s.bytes).sum();
        log + spare + catalog.checkpoint.map_or(0, |(_, bytes)| bytes)
    }

    /// Whether the next segment should be made ready, and has not just proved impossible.
    pub(crate) fn wants_spare(&self) -> bool {
        let catalog = self.catalog.lock();
        catalog.spare.is_none() && !catalog.spare_failed
    }

    /// Makes the next segment ready, so that the committer need not wait for its blocks.
    pub(crate) fn prepare_spare(&self) -> io::Result<()> {
        if self.catalog.lock().spare.is_none() {
            let path = self.new_path();
            let made = zeroed(&path, self.segment_bytes);
            let mut catalog = self.catalog.lock();
            catalog.spare_failed = made.is_err();
            catalog.spare = Some(Spare { file: made?, path });
        }
        Ok(())
    }

    /// A new segment for revisions from `first` on with room for a frame of `room` bytes, durable under its name.
    pub(crate) fn new_segment(&self, first: Revision, room: usize) -> io::Result<(File, u32, u64)> {
        let needed = (FILE_HEADER + room) as u64;
        let spare = if needed <= self.segment_bytes { self.catalog.lock().spare.take() } else { None };
        let bytes = needed.max(self.segment_bytes);
        let Spare { file, path } = match spare {
            Some(spare) => spare,
            None => {
                let path = self.new_path();
                Spare { file: zeroed(&path, bytes)?, path }
            }
        };
        let salt = salt();
        file.write_all_at(&encode_header(LOG_MAGIC, FileHeader { salt, revision: first }), 0)?;
        file.sync_data()?;
        self.rename(&path, &self.segment_path(first))?;
        let mut catalog = self.catalog.lock();
        catalog.segments.retain(|s| s.first != first); // a segment given up before it held anything
        catalog.segments.push_back(SegmentInfo { first, bytes });
        Ok((file, salt, bytes))
    }

    /// Bytes of log that a checkpoint at `revision` would make superfluous.
    pub(crate) fn reclaimable(&self, revision: Revision) -> u64 {
        let catalog = self.catalog.lock();
        let superfluous = superfluous(&catalog.segments, revision);
        catalog.segments.iter().take(superfluous).map(|s| s.bytes).sum()
    }

    /// A file for a checkpoint, not yet under its name.
    pub(crate) fn create_checkpoint(&self) -> io::Result<File> {
        create(&self.path.join(NEW_CHECKPOINT), true)
    }

    /// Drops an unfinished checkpoint.
    pub(crate) fn discard_checkpoint(&self) {
        let _ = fs::remove_file(self.path.join(NEW_CHECKPOINT)); // gone or removed when the store is opened
    }

    /// Gives a finished checkpoint its name, and removes what it makes superfluous.
    pub(crate) fn adopt_checkpoint(&self, file: &File, revision: Revision) -> io::Result<()> {
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        self.rename(&self.path.join(NEW_CHECKPOINT), &self.checkpoint_path(revision))?;
        let (old, segments) = {
            let mut catalog = self.catalog.lock();
            let count = superfluous(&catalog.segments, revision);
            (
                catalog.checkpoint.replace((revision, bytes)),
                catalog.segments.drain(..count).collect::<Vec<_>>(),
            )
        };
        if let Some((old, _)) = old.filter(|(old, _)| *old != revision) {
            fs::remove_file(self.checkpoint_path(old))?;
        }
        for segment in segments {
            let path = self.segment_path(segment.first);
            if segment.bytes == self.segment_bytes && self.wants_spare() {
                self.recycle(&path)?;
            } else {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Makes a superfluous segment the spare one: its blocks are there, and its frames bear another salt.
    fn recycle(&self, path: &Path) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let to = self.new_path();
        self.rename(path, &to)?;
        self.catalog.lock().spare = Some(Spare { file, path: to });
        Ok(())
    }

    fn new_path(&self) -> PathBuf {
        let mut catalog = self.catalog.lock();
        catalog.made += 1;
        self.path.join(format!("new-{}", catalog.made))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.handle.sync_all()
    }
}

fn checkpoint_name(folder: &Path, revision: Revision) -> PathBuf {
    folder.join(format!("checkpoint-{:020}", revision.0))
}

/// How many of the segments hold nothing after `revision`.
fn superfluous(segments: &VecDeque<SegmentInfo>, revision: Revision) -> usize {
    segments.iter().skip(1).take_while(|next| next.first.0 <= revision.0 + 1).count()
}

/// The header of a file.
pub(crate) fn encode_header(magic: [u8; 8], header: FileHeader) -> [u8; FILE_HEADER] {
    let mut bytes = [0; FILE_HEADER];
    bytes[..8].copy_from_slice(&magic);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&header.salt.to_le_bytes());
    bytes[16..24].copy_from_slice(&header.revision.0.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..24]);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads the header of the file at `path`, which must be what its name says.
pub(crate) fn decode_header(
    path: &Path,
    bytes: &[u8],
    magic: [u8; 8],
    named: Revision,
) -> Result<FileHeader, Error> {
    let corrupt = |what: &str| Error::Corrupt { path: path.into(), what: what.into() };
    let short = || corrupt("it is too short");
    if bytes.get(..8).ok_or_else(short)? != magic {
        return Err(corrupt("it is not a file of the store"));
    }
    let found = read_u32(bytes, 8).ok_or_else(short)?;
    if found != FORMAT {
        return Err(Error::Format { path: path.into(), found, known: FORMAT });
    }
    let salt = read_u32(bytes, 12).ok_or_else(short)?;
    let revision = read_u64(bytes, 16).map(Revision).ok_or_else(short)?;
    if read_u32(bytes, 24).ok_or_else(short)? != crc32fast::hash(&bytes[..24]) {
        return Err(corrupt("the checksum of its header is wrong"));
    }
    if revision != named {
        return Err(corrupt("its header is that of another file"));
    }
    Ok(FileHeader { salt, revision })
}

/// Turns an I/O error into one of the store's.
pub(crate) fn failed(step: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace,
        _ => Error::Backend { step, cause: Arc::new(error) },
    }
}

/// A number that neither repeats nor can be foreseen.
pub(crate) fn salt() -> u32 {
    (RandomState::new().build_hasher().finish() >> 16) as u32
}

fn numbered(name: &str, kind: &str) -> Option<Revision> {
    name.strip_prefix(kind)?.parse().ok().map(Revision)
}

fn create(path: &Path, truncate: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(truncate).mode(0o600).open(path)
}

/// A file whose blocks are all there, so that writing to it later can neither run out of space nor change metadata.
fn zeroed(path: &Path, bytes: u64) -> io::Result<File> {
    let fill = || {
        let file = create(path, true)?;
        // Tells at once whether there is room; where it is not supported the writes below tell.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut at = 0;
        while at < bytes {
            let chunk = usize::try_from(bytes - at).unwrap_or(ZEROES.len()).min(ZEROES.len());
            file.write_all_at(&ZEROES[..chunk], at)?;
            at += chunk as u64;
        }
        file.sync_all()?;
        Ok(file)
    };
    fill().inspect_err(|_| {
        let _ = fs::remove_file(path); // the error that matters is the one of writing
    })
}
