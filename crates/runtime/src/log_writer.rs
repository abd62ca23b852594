//! Writes a container's output in the CRI log format (Kubernetes CRI, "container log format"):
//! `2024-01-01T00:00:00.000000000Z stdout F a line`. A line longer than [`LINE_LIMIT`] becomes pieces tagged `P`, the
//! last one `F`. Puts the file aside when it has grown. A log that cannot be written never holds up its container.

use crate::protocol::LogLimits;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Longest piece of a line.
pub const LINE_LIMIT: usize = 16 << 10;

/// Standard output or error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `stdout`.
    Stdout,
    /// `stderr`.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into lines. Keeps what has no end yet.
pub struct LineCutter {
    stream: Stream,
    rest: Vec<u8>,
}

impl LineCutter {
    /// For a stream, at the beginning of a line.
    pub fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new() }
    }

    /// Takes bytes and appends the entries that they complete to `out`, stamped with `now` (RFC 3339).
    pub fn cut(&mut self, mut bytes: &[u8], now: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LINE_LIMIT - self.rest.len(); // 0 if a full piece waits for the byte that says whether it is whole
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.entry(&bytes[..end], b'F', now, out);
                    bytes = &bytes[end + 1..];
                }
                // A newline right behind a full piece ends it: no empty entry follows.
                None if window.len() == room && bytes.get(room) == Some(&b'\n') => {
                    self.entry(window, b'F', now, out);
                    bytes = &bytes[room + 1..];
                }
                None if window.len() == room && bytes.len() > room => {
                    self.entry(window, b'P', now, out);
                    bytes = &bytes[room..];
                }
                None => {
                    self.rest.extend_from_slice(window);
                    bytes = &[];
                }
            }
        }
    }

    /// The stream has ended: what has no newline is a piece of a line.
    pub fn end(&mut self, now: &str, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.entry(&[], b'P', now, out);
        }
    }

    fn entry(&mut self, tail: &[u8], tag: u8, now: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(now.as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.extend_from_slice(&self.rest);
        out.extend_from_slice(tail);
        out.push(b'\n');
        // A container that writes whole lines keeps no memory here.
        self.rest = Vec::new();
    }
}

/// Now, as the log format wants it.
pub fn timestamp() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

/// A log file and the older ones beside it (`0.log`, `0.log.1`, …).
pub struct LogFile {
    path: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    size: u64,
}

impl LogFile {
    /// Opens a log for appending; makes its folder.
    pub fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut log = Self { path: path.to_path_buf(), limits, file: None, size: 0 };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file anew, after somebody has renamed it away.
    pub fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Appends whole entries. On failure (a full disk) they are dropped.
    pub fn append(&mut self, mut entries: &[u8]) {
        while !entries.is_empty() {
            let fitting = self.fitting(entries);
            if fitting == 0 {
                self.rotate();
                continue;
            }
            self.write(&entries[..fitting]);
            entries = &entries[fitting..];
        }
    }

    /// How many bytes of whole entries the current file still takes. An empty file takes at least one entry.
    fn fitting(&self, entries: &[u8]) -> usize {
        let room = self.limits.max_size.saturating_sub(self.size);
        if self.limits.max_size == 0 || entries.len() as u64 <= room {
            return entries.len();
        }
        let end_of_entry = |n: usize| n + 1;
        match entries[..room as usize].iter().rposition(|b| *b == b'\n').map(end_of_entry) {
            Some(end) => end,
            None if self.size > 0 => 0,
            None => entries.iter().position(|b| *b == b'\n').map_or(entries.len(), end_of_entry),
        }
    }

    fn write(&mut self, entries: &[u8]) {
        if self.file.is_none() && self.reopen().is_err() {
            return;
        }
        if let Some(file) = &mut self.file {
            match file.write_all(entries) {
                Ok(()) => self.size += entries.len() as u64,
                Err(_) => self.file = None,
            }
        }
    }

    fn rotate(&mut self) {
        let older = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let kept = self.limits.max_files.saturating_sub(1);
        if kept == 0 {
            let _ = std::fs::remove_file(&self.path);
        } else {
            for n in (1..kept).rev() {
                let _ = std::fs::rename(older(n), older(n + 1));
            }
            let _ = std::fs::rename(&self.path, older(1));
        }
        self.file = None;
        self.size = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(pieces: &[&[u8]], end: bool) -> String {
        let mut cutter = LineCutter::new(Stream::Stdout);
        let mut out = Vec::new();
        for piece in pieces {
            cutter.cut(piece, "T", &mut out);
        }
        if end {
            cutter.end("T", &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_entries_wherever_the_reads_cut_them() {
        assert_eq!(cut(&[b"one\ntw", b"o\n", b"\n"], false), "T stdout F one\nT stdout F two\nT stdout F \n");
    }

    #[test]
    fn what_has_no_newline_at_the_end_is_a_partial_entry() {
        assert_eq!(cut(&[b"half"], false), "");
        assert_eq!(cut(&[b"half"], true), "T stdout P half\n");
    }

    #[test]
    fn a_long_line_is_cut_at_the_limit() {
        let line = [vec![b'x'; LINE_LIMIT + 3], b"\n".to_vec()].concat();
        let (x, rest) = ("x".repeat(LINE_LIMIT), "xxx");
        assert_eq!(cut(&[&line], false), format!("T stdout P {x}\nT stdout F {rest}\n"));
        let exact = [vec![b'x'; LINE_LIMIT], b"\n".to_vec()].concat();
        assert_eq!(cut(&[&exact], false), format!("T stdout F {x}\n"));
    }

    proptest! {
        /// However the bytes are cut into reads, pieces put together again are what was written.
        #[test]
        fn nothing_is_lost_or_added(lines in prop::collection::vec(0usize..40_000, 1..5), step in 1usize..20_000) {
            let text: Vec<u8> = lines.iter().flat_map(|n| [vec![b'a'; *n], b"\n".to_vec()].concat()).collect();
            let pieces: Vec<&[u8]> = text.chunks(step).collect();
            let out = cut(&pieces, true);
            let mut joined = String::new();
            for entry in out.lines() {
                let body = entry.strip_prefix("T stdout ").unwrap();
                prop_assert!(body.len() - 2 <= LINE_LIMIT);
                joined.push_str(&body[2..]);
                if body.starts_with('F') { joined.push('\n'); }
            }
            prop_assert_eq!(joined.into_bytes(), text);
        }
    }

    #[test]
    fn a_grown_file_is_put_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web/0.log");
        let mut log = LogFile::open(&path, LogLimits { max_size: 10, max_files: 3 }).unwrap();
        for entry in ["1111111\n", "2222222\n", "3333333\n", "4444444\n"] {
            log.append(entry.as_bytes());
        }
        let read =
            |suffix: &str| std::fs::read_to_string(folder.path().join(format!("web/0.log{suffix}"))).ok();
        assert_eq!(read("").as_deref(), Some("4444444\n"));
        assert_eq!(read(".1").as_deref(), Some("3333333\n"));
        assert_eq!(read(".2").as_deref(), Some("2222222\n"));
        assert_eq!(read(".3"), None);
    }

    #[test]
    fn many_entries_at_once_are_spread_over_files_without_tearing_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(&path, LogLimits { max_size: 10, max_files: 9 }).unwrap();
        log.append(b"1\n22\n333\n4444\nlonger than a file\n5\n");
        let read =
            |suffix: &str| std::fs::read_to_string(folder.path().join(format!("0.log{suffix}"))).unwrap();
        assert_eq!(
            [".3", ".2", ".1", ""].map(read),
            ["1\n22\n333\n", "4444\n", "longer than a file\n", "5\n"]
        );
    }

    #[test]
    fn a_file_that_was_renamed_away_is_followed_until_it_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = LogFile::open(&path, LogLimits::default()).unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        log.append(b"a\n");
        log.reopen().unwrap();
        log.append(b"b\n");
        assert_eq!(std::fs::read(folder.path().join("old")).unwrap(), b"a\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"b\n");
    }

    #[test]
    fn a_timestamp_has_nanoseconds_and_is_utc() {
        let now = timestamp();
        assert_eq!(now.len(), "2024-01-01T00:00:00.000000000Z".len(), "{now}");
        assert!(now.ends_with('Z'));
    }
}
