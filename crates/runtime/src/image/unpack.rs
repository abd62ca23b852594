//! Unpacks one layer's tar stream into a folder that overlayfs can use as a lower directory (OCI image-spec, "Image
//! Layer Filesystem Changeset"; Documentation/filesystems/overlayfs.rst for how whiteouts look on disk).
//!
//! The archive is a stranger's. Every parent folder is opened by the kernel with the layer's folder as its root
//! (`openat2` with `RESOLVE_IN_ROOT`), and the last component is never followed, so neither `..` nor a symbolic link
//! leads out, whatever is in the archive.

use super::remove_tree::remove_tree;
use super::tar_stream::{Entry, EntryType, Sparse, TarStream};
use crate::Error;
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
        XattrFlags,
    },
    io::Errno,
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// Marks a folder that hides everything of the same name below it.
pub const OPAQUE: &str = "trusted.overlay.opaque";
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// How many links in a row a missing folder may be reached through.
const MAX_LINKS: u32 = 40;

/// How much one layer may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 8_000_000, bytes: 512 << 30 }
    }
}

/// What came out, and what could not be decided without the layers below.
#[derive(Debug, Default, PartialEq)]
pub struct Unpacked {
    /// Bytes of all files.
    pub bytes: u64,
    /// Folders that no member names, made because something lies in them: owner and mode are those of the layers below.
    pub implied: BTreeSet<Vec<u8>>,
    /// Hard links (path, target) to files that are not in this layer.
    pub foreign_links: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Unpacks an archive into `folder`, which must be empty. Reads the stream to its end, so that whoever hashes it sees all of
/// it. Errors of the stream come back as [`Error::Io`] with the step `reading layer`.
pub fn unpack(stream: impl Read, folder: &Path, limits: Limits) -> Result<Unpacked, Error> {
    let root = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(format!("opening {}", folder.display()), e.into()))?;
    let mut tar = TarStream::new(stream);
    let mut unpacker = Unpacker {
        root,
        parent: None,
        folders: Vec::new(),
        done: Unpacked::default(),
        entries: 0,
        limits,
        buffer: vec![0; 128 << 10],
    };
    let reading = |e| Error::io("reading layer", e);
    while let Some(entry) = tar.next_entry().map_err(reading)? {
        unpacker.member(&entry, &mut tar)?;
    }
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(reading)?;
    unpacker.finish()
}

/// A path's components. It may be written absolute or with dots, but not lead above the root.
pub(super) fn components(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or_else(|| damaged(path, "leads out of the layer"))?;
            }
            _ if part.contains(&0) => return Err(damaged(path, "has a NUL in it")),
            _ => parts.push(part),
        }
    }
    if path.len() > 4096 {
        return Err(damaged(&path[..64], "is longer than 4096 bytes"));
    }
    Ok(parts)
}

fn damaged(path: &[u8], why: &str) -> Error {
    Error::Damaged(format!("{:?} {why}", String::from_utf8_lossy(path)))
}

fn failed(what: &str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
    let step = format!("{what} {:?} of a layer", String::from_utf8_lossy(path));
    move |e| match e {
        // The archive asks for what no file system can do; everything else is the machine's fault.
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR | Errno::XDEV => {
            Error::Damaged(format!("{step}: {e}"))
        }
        Errno::NOENT | Errno::EXIST | Errno::INVAL | Errno::MLINK => Error::Damaged(format!("{step}: {e}")),
        e => Error::io(step, e.into()),
    }
}

struct Unpacker {
    root: OwnedFd,
    /// The folder that the last member was in: members mostly come folder by folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Folders and their times, set at the end since every file made in them changes them.
    folders: Vec<(Vec<u8>, (i64, u32))>,
    done: Unpacked,
    entries: u64,
    limits: Limits,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn member(&mut self, entry: &Entry, body: &mut impl Read) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::Damaged(format!("layer has more than {} members", self.limits.entries)));
        }
        let mut parts = components(&entry.path)?;
        let Some(name) = parts.pop() else {
            return match entry.kind {
                EntryType::Directory => self.root_folder(entry),
                _ => Err(damaged(&entry.path, "cannot be the root")),
            };
        };
        let parent_path = parts.join(&b'/');
        let parent = self.open_parent(parent_path)?;
        let outcome = self.place(entry, parent.1.as_fd(), &parent.0, name, body);
        if matches!(outcome, Ok(false)) {
            self.parent = Some(parent);
        }
        outcome.map(|_| ())
    }

    /// Makes one member in its folder. Returns whether it replaced what paths may lead through.
    fn place(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        parent_path: &[u8],
        name: &[u8],
        body: &mut impl Read,
    ) -> Result<bool, Error> {
        if name == WHITEOUT_OPAQUE {
            return set_opaque(parent, &entry.path).map(|()| false);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(false); // bookkeeping of aufs
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return whiteout(parent, hidden, &entry.path).map(|()| false);
        }
        let path = if parent_path.is_empty() { name.to_vec() } else { [parent_path, b"/", name].concat() };
        let existing = stat(parent, name, &entry.path)?;
        let kind = existing.as_ref().map(|s| FileType::from_raw_mode(s.st_mode));
        if entry.kind == EntryType::Directory && kind == Some(FileType::Directory) {
            self.folder(entry, parent, name, path)?;
            return Ok(false);
        }
        if entry.kind == EntryType::Link
            && let Some(existing) = &existing
            && self.is_same_file(existing, &entry.link)?
        {
            return Ok(false);
        }
        let mut replaced = false;
        let was_whiteout = existing.as_ref().is_some_and(is_whiteout);
        match kind {
            Some(FileType::Directory) => {
                let folder = format!("/proc/self/fd/{}", parent.as_raw_fd());
                remove_tree(&Path::new(&folder).join(bytes_path(name)))?;
                self.forget_below(&path);
                replaced = true;
            }
            Some(kind) => {
                rustix::fs::unlinkat(parent, bytes_path(name), AtFlags::empty())
                    .map_err(failed("replacing", &entry.path))?;
                replaced = kind == FileType::Symlink;
            }
            None => {}
        }
        match entry.kind {
            EntryType::Directory => {
                make_folder(parent, name, &entry.path)?;
                self.folder(entry, parent, name, path)?;
                if was_whiteout {
                    let made = open_folder(parent, name).map_err(failed("opening", &entry.path))?;
                    set_opaque(made.as_fd(), &entry.path)?;
                }
            }
            EntryType::Regular | EntryType::Continuous => self.file(entry, parent, name, body)?,
            EntryType::Link => self.hard_link(entry, parent, name, path)?,
            EntryType::Symlink => symlink(entry, parent, name)?,
            EntryType::Char => node(entry, parent, name, FileType::CharacterDevice)?,
            EntryType::Block => node(entry, parent, name, FileType::BlockDevice)?,
            EntryType::Fifo => node(entry, parent, name, FileType::Fifo)?,
            other => {
                return Err(damaged(&entry.path, &format!("has the unknown type {:?}", other.as_byte())));
            }
        }
        Ok(replaced)
    }

    /// Opens the folder that a member lies in, making what is missing. Takes it out of the cache if it is there.
    fn open_parent(&mut self, path: Vec<u8>) -> Result<(Vec<u8>, OwnedFd), Error> {
        if let Some(cached) = self.parent.take_if(|(known, _)| *known == path) {
            return Ok(cached);
        }
        self.parent = None;
        let folder = self.open_or_make(&path, 0)?;
        Ok((path, folder))
    }

    fn open_or_make(&mut self, path: &[u8], links: u32) -> Result<OwnedFd, Error> {
        match self.open_in_root(path) {
            Err(Errno::NOENT) if links < MAX_LINKS => {}
            other => return other.map_err(failed("opening", path)),
        }
        let mut folder = self.open_in_root(b"").map_err(failed("opening", b"/"))?;
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            let name = &path[start..end];
            let upto = &path[..end];
            folder = match self.open_in_root(upto) {
                Err(Errno::NOENT) => self.make_one(folder.as_fd(), name, upto, links)?,
                other => other.map_err(failed("opening", upto))?,
            };
            start = end + 1;
        }
        Ok(folder)
    }

    /// Makes the folder `path`, which is `name` in `parent` and cannot be opened.
    fn make_one(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        links: u32,
    ) -> Result<OwnedFd, Error> {
        match rustix::fs::mkdirat(parent, bytes_path(name), Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.done.implied.insert(path.to_vec());
                open_folder(parent, name).map_err(failed("opening", path))
            }
            // A link to what is not there (yet): make what it points to, as if it were written there.
            Err(Errno::EXIST) => {
                let link = rustix::fs::readlinkat(parent, bytes_path(name), Vec::new())
                    .map_err(failed("opening", path))?;
                let target = link.as_bytes();
                let above = &path[..path.len() - name.len()];
                let joined = match target.first() {
                    Some(b'/') => target.to_vec(),
                    _ => [above, target].concat(),
                };
                let parts = components(&joined)
                    .map_err(|_| damaged(path, "is reached through a link out of the layer"))?;
                self.open_or_make(&parts.join(&b'/'), links + 1)
            }
            Err(e) => Err(failed("making", path)(e)),
        }
    }

    fn open_in_root(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_folder_in_root(path, OFlags::DIRECTORY | OFlags::CLOEXEC)
    }

    /// A path with `..` is told to try again when anything on the machine was renamed or mounted meanwhile (openat2(2)).
    fn open_folder_in_root(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = bytes_path(if path.is_empty() { b"." } else { path });
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..128 {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn root_folder(&mut self, entry: &Entry) -> Result<(), Error> {
        let root = self.open_in_root(b"").map_err(failed("opening", b"/"))?;
        set_owner_and_mode(root.as_fd(), entry)?;
        set_xattrs(root.as_fd(), entry)?;
        self.folders.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn folder(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Error> {
        let folder = open_folder(parent, name).map_err(failed("opening", &entry.path))?;
        set_owner_and_mode(folder.as_fd(), entry)?;
        set_xattrs(folder.as_fd(), entry)?;
        self.done.implied.remove(&path);
        self.folders.push((path, entry.mtime));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        body: &mut impl Read,
    ) -> Result<(), Error> {
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        if self.done.bytes > self.limits.bytes {
            return Err(Error::Damaged(format!("layer is larger than {} bytes", self.limits.bytes)));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, bytes_path(name), flags, Mode::from_raw_mode(0o600))
            .map_err(failed("making", &entry.path))?;
        let file = File::from(file);
        self.fill(entry, &file, body)?;
        set_owner_and_mode(file.as_fd(), entry)?;
        set_xattrs(file.as_fd(), entry)?; // after chown, which takes capabilities away
        rustix::fs::futimens(&file, &times(entry.mtime)).map_err(failed("setting the time of", &entry.path))
    }

    fn fill(&mut self, entry: &Entry, file: &File, body: &mut impl Read) -> Result<(), Error> {
        let writing = |e| Error::io(format!("writing {:?} of a layer", bytes_path(&entry.path)), e);
        let whole = [(0, entry.size)];
        let segments = match &entry.sparse {
            Some(Sparse { length, segments }) => {
                file.set_len(*length).map_err(writing)?;
                segments.as_slice()
            }
            None => &whole,
        };
        for (start, length) in segments {
            let (mut at, end) = (*start, start + length);
            while at < end {
                let most = self.buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let n = body.read(&mut self.buffer[..most]).map_err(|e| Error::io("reading layer", e))?;
                if n == 0 {
                    return Err(damaged(&entry.path, "is cut short"));
                }
                file.write_all_at(&self.buffer[..n], at).map_err(writing)?;
                at += n as u64;
            }
        }
        Ok(())
    }

    /// Whether a member that is here already is the one that a hard link names.
    fn is_same_file(&self, existing: &Stat, link: &[u8]) -> Result<bool, Error> {
        let Some((target, name)) = self.find_target(link)? else { return Ok(false) };
        let found = stat(target.as_fd(), &name, link)?;
        Ok(found.is_some_and(|s| (s.st_dev, s.st_ino) == (existing.st_dev, existing.st_ino)))
    }

    /// The folder and name of a hard link's target, if that folder is in this layer.
    fn find_target(&self, link: &[u8]) -> Result<Option<(OwnedFd, Vec<u8>)>, Error> {
        let mut parts = components(link)?;
        let name = parts.pop().ok_or_else(|| damaged(link, "cannot be linked to"))?.to_vec();
        match self.open_in_root(&parts.join(&b'/')) {
            Ok(folder) => Ok(Some((folder, name))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(failed("opening", link)(e)),
        }
    }

    fn hard_link(
        &mut self,
        entry: &Entry,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<(), Error> {
        if let Some((target, target_name)) = self.find_target(&entry.link)? {
            match stat(target.as_fd(), &target_name, &entry.link)? {
                Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => {
                    return Err(damaged(&entry.link, "is a folder and cannot be linked to"));
                }
                Some(s) if !is_whiteout(&s) => {
                    let (from, to) = (bytes_path(&target_name), bytes_path(name));
                    return rustix::fs::linkat(&target, from, parent, to, AtFlags::empty())
                        .map_err(failed("linking", &entry.path));
                }
                _ => {}
            }
        }
        let target = components(&entry.link)?.join(&b'/');
        self.done.foreign_links.push((path, target));
        Ok(())
    }

    /// A folder was replaced: nothing that was noted of what lay in it holds any more.
    fn forget_below(&mut self, path: &[u8]) {
        let below =
            |known: &[u8]| known.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
        self.done.implied.retain(|known| !below(known));
        self.done.foreign_links.retain(|(known, _)| !below(known));
    }

    fn finish(self) -> Result<Unpacked, Error> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, mtime) in self.folders.iter().rev() {
            match self.open_folder_in_root(path, flags) {
                Ok(folder) => rustix::fs::futimens(&folder, &times(*mtime))
                    .map_err(failed("setting the time of", path))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // replaced by a later member
                Err(e) => return Err(failed("opening", path)(e)),
            }
        }
        Ok(self.done)
    }
}

pub(super) fn bytes_path(bytes: &[u8]) -> &Path {
    Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes))
}

fn open_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, bytes_path(name), flags, Mode::empty())
}

fn make_folder(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Error> {
    rustix::fs::mkdirat(parent, bytes_path(name), Mode::from_raw_mode(0o700)).map_err(failed("making", path))
}

fn stat(parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<Option<Stat>, Error> {
    match rustix::fs::statat(parent, bytes_path(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(failed("looking at", path)(e)),
    }
}

/// Overlayfs's mark for "nothing here": a character device 0/0.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(folder: BorrowedFd<'_>, path: &[u8]) -> Result<(), Error> {
    rustix::fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty()).map_err(failed("marking", path))
}

/// Hides what the layers below have under a name; what this layer itself has there stays (image-spec, "Whiteouts").
fn whiteout(parent: BorrowedFd<'_>, hidden: &[u8], path: &[u8]) -> Result<(), Error> {
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(damaged(path, "hides nothing"));
    }
    match stat(parent, hidden, path)? {
        Some(s) if FileType::from_raw_mode(s.st_mode) == FileType::Directory => {
            let folder = open_folder(parent, hidden).map_err(failed("opening", path))?;
            set_opaque(folder.as_fd(), path)
        }
        Some(_) => Ok(()),
        None => {
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            rustix::fs::mknodat(parent, bytes_path(hidden), kind, mode, 0).map_err(failed("making", path))
        }
    }
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Error> {
    let id = |n: u64| match u32::try_from(n) {
        Ok(n) if n != u32::MAX => Ok(n),
        _ => Err(damaged(&entry.path, "has an owner that is no 32-bit number")),
    };
    Ok((Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?)))
}

fn set_owner_and_mode(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Error> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed("setting the owner of", &entry.path))?;
    // After chown, which takes set-user-id bits away.
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .map_err(failed("setting the mode of", &entry.path))
}

fn set_xattrs(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), Error> {
    for (name, value) in &entry.xattrs {
        // An archive has no say in what overlayfs believes: a redirect in there could point anywhere.
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // The file system or a security module does not take it; other runtimes go on without it, too.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => {}
            Err(e) => return Err(failed("setting an attribute of", &entry.path)(e)),
        }
    }
    Ok(())
}

fn times((tv_sec, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec, tv_nsec: nanos.into() },
    }
}

/// Owner and time of what cannot be opened for writing.
fn finish_special(entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
    let name = bytes_path(name);
    let (uid, gid) = owner(entry)?;
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("setting the owner of", &entry.path))?;
    if entry.kind != EntryType::Symlink {
        // Not a link: it was made just now, in a folder that nobody else can enter.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(failed("setting the mode of", &entry.path))?;
    }
    rustix::fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("setting the time of", &entry.path))
}

fn symlink(entry: &Entry, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Error> {
    rustix::fs::symlinkat(bytes_path(&entry.link), parent, bytes_path(name))
        .map_err(failed("making", &entry.path))?;
    finish_special(entry, parent, name)
}

fn node(entry: &Entry, parent: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<(), Error> {
    let device = rustix::fs::makedev(entry.device.0, entry.device.1);
    rustix::fs::mknodat(parent, bytes_path(name), kind, Mode::from_raw_mode(entry.mode), device)
        .map_err(failed("making", &entry.path))?;
    finish_special(entry, parent, name)
}

/// For tests and for [`super::inherit`]: the mode, owner and times of a path, links not followed.
pub(super) fn lstat(path: &Path) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
