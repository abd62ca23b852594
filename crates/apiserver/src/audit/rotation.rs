//! The file that the audit log is in: when it grows too large it is put aside under a name that tells the time, and what was put
//! aside long ago goes. Knows nothing of what is written.

use crate::registry::Clock;
use jiff::Timestamp;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const NAME_TIME: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const DAY: i64 = 24 * 3600;

/// When a file is put aside, and for how long it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Bytes after which it is put aside.
    pub max_bytes: u64,
    /// How many are kept; 0 is all.
    pub max_backups: usize,
    /// How many days they are kept; 0 is for ever.
    pub max_age_days: u32,
}

/// The name under which a file is put aside: `audit.log` becomes `audit-2026-01-31T12-00-00.000.log`.
fn aside(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", now.strftime(NAME_TIME)))
}

fn parts(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (stem, extension)
}

/// When a file of this name was put aside, if it is one that was.
fn put_aside_at(path: &Path, name: &str) -> Option<Timestamp> {
    let (stem, extension) = parts(path);
    let time = name.strip_prefix(&format!("{stem}-"))?.strip_suffix(&extension)?;
    jiff::civil::DateTime::strptime(NAME_TIME, time)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

/// Which of the files that were put aside have to go.
fn outdated(mut files: Vec<(Timestamp, String)>, rotation: Rotation, now: Timestamp) -> Vec<String> {
    files.sort_unstable_by(|a, b| b.cmp(a));
    let oldest = now.as_second() - i64::from(rotation.max_age_days) * DAY;
    files
        .into_iter()
        .enumerate()
        .filter(|(index, (time, _))| {
            (rotation.max_backups > 0 && *index >= rotation.max_backups)
                || (rotation.max_age_days > 0 && time.as_second() < oldest)
        })
        .map(|(_, (_, name))| name)
        .collect()
}

/// A file that is put aside when it is large.
pub(super) struct Aside {
    path: PathBuf,
    rotation: Rotation,
    clock: Clock,
    file: BufWriter<File>,
    size: u64,
}

fn open(path: &Path) -> io::Result<(BufWriter<File>, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((BufWriter::new(file), size))
}

impl Aside {
    pub(super) fn open(path: PathBuf, rotation: Rotation, clock: Clock) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let (file, size) = open(&path)?;
        let mut this = Self { path, rotation, clock, file, size };
        this.clean();
        Ok(this)
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.rotation.max_bytes {
            self.file.flush()?;
            fs::rename(&self.path, aside(&self.path, (self.clock)()))?;
            (self.file, self.size) = open(&self.path)?;
            self.clean();
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// Removes what is too old. What cannot be removed is tried again the next time.
    fn clean(&mut self) {
        let folder = self.path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                Some((put_aside_at(&self.path, &name)?, name))
            })
            .collect();
        for name in outdated(files, self.rotation, (self.clock)()) {
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    const ALL: Rotation = Rotation { max_bytes: 10, max_backups: 0, max_age_days: 0 };

    #[test]
    fn a_name_tells_when_its_file_was_put_aside() {
        let path = Path::new("/var/log/audit.log");
        let time: Timestamp = "2026-01-31T12:00:00.25Z".parse().unwrap();
        let name = aside(path, time);
        assert_eq!(name, Path::new("/var/log/audit-2026-01-31T12-00-00.250.log"));
        assert_eq!(put_aside_at(path, "audit-2026-01-31T12-00-00.250.log"), Some(time));
        assert_eq!(put_aside_at(path, "audit.log"), None);
        assert_eq!(put_aside_at(path, "audit-old.log"), None);
    }

    #[test]
    fn the_newest_are_kept() {
        let at = |day: i64| Timestamp::from_second(day * DAY).unwrap();
        let files = || (1..=4).map(|day| (at(day), day.to_string())).collect::<Vec<_>>();
        assert!(outdated(files(), ALL, at(100)).is_empty());
        assert_eq!(outdated(files(), Rotation { max_backups: 3, ..ALL }, at(4)), ["1"]);
        assert_eq!(outdated(files(), Rotation { max_age_days: 2, ..ALL }, at(5)), ["2", "1"]);
    }

    #[test]
    fn a_large_file_is_put_aside_and_no_line_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let second = Arc::new(AtomicI64::new(0));
        let clock: Clock =
            Arc::new(move || Timestamp::from_second(second.fetch_add(1, Ordering::Relaxed)).unwrap());
        let mut file = Aside::open(path.clone(), Rotation { max_backups: 2, ..ALL }, clock).unwrap();
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddddddddddd\n", "eeee\n", "ffff\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        file.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "eeee\nffff\n");
        let mut kept: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| *p != path)
            .map(|p| fs::read_to_string(p).unwrap())
            .collect();
        kept.sort();
        assert_eq!(kept, ["cccc\n", "dddddddddddd\n"]);
    }
}
