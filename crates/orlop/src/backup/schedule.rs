//! Backups that the server makes by itself: when the next one is due, and which of those that there are can go. The files themselves
//! are the memory: a restart goes on where it was.

use super::{Source, new_file::NewFile, write};
use crate::Error;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

const PREFIX: &str = "orlop-";
const SUFFIX: &str = ".backup";
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// After a failure it is tried again soon, however long the interval is.
const RETRY: SignedDuration = SignedDuration::from_mins(1);

/// Backups that the server makes by itself.
#[derive(Args, Clone)]
pub(crate) struct ScheduleArguments {
    /// Make a backup so often: `30m`, `6h` [default: never]
    #[arg(long, value_name = "TIME", value_parser = interval, conflicts_with = "datastore_endpoint")]
    backup_interval: Option<SignedDuration>,
    /// Keep so many of these backups
    #[arg(long, default_value_t = 7, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    backup_keep: u32,
    /// Where these backups are [default: beside the data folder, with -backups added to its name]
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
}

fn interval(text: &str) -> Result<SignedDuration, String> {
    let parsed: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    if parsed < SignedDuration::from_secs(1) { Err("at least 1s".into()) } else { Ok(parsed) }
}

/// When backups are made, and how that went.
pub(crate) struct Schedule {
    interval: Option<SignedDuration>,
    keep: usize,
    folder: PathBuf,
    failure: Mutex<Option<String>>,
}

/// A backup that the schedule made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    at: Timestamp,
    name: String,
}

impl Made {
    fn of(name: &str) -> Option<Self> {
        let at = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let at = jiff::civil::DateTime::strptime(TIME, at)
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()?
            .timestamp();
        Some(Self { at, name: name.into() })
    }
}

impl Schedule {
    pub(crate) fn new(arguments: &ScheduleArguments, data_dir: &Path) -> Self {
        let beside = || {
            let mut name = data_dir.as_os_str().to_os_string();
            name.push("-backups");
            PathBuf::from(name)
        };
        Self {
            interval: arguments.backup_interval,
            keep: arguments.backup_keep as usize,
            folder: arguments.backup_dir.clone().unwrap_or_else(beside),
            failure: Mutex::default(),
        }
    }

    /// Makes backups for ever.
    pub(crate) async fn run(&self, source: &Source) {
        let Some(interval) = self.interval else { return std::future::pending().await };
        loop {
            let now = Timestamp::now();
            let newest = self.made().last().map(|made| made.at);
            let wait = match wait(newest, interval, now) {
                SignedDuration::ZERO => match self.make(source, now).await {
                    Ok(name) => {
                        tracing::info!(name, "made a backup");
                        *self.failure.lock() = None;
                        interval
                    }
                    Err(error) => {
                        let why = crate::join::in_words(&error);
                        tracing::error!(why, "no backup was made");
                        *self.failure.lock() = Some(format!("{now}: {why}"));
                        interval.min(RETRY)
                    }
                },
                wait => wait,
            };
            tokio::time::sleep(Duration::try_from(wait).unwrap_or_default()).await;
        }
    }

    /// Those that are there, the newest last.
    fn made(&self) -> Vec<Made> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut made: Vec<Made> =
            files.filter_map(|file| Made::of(&file.file_name().to_string_lossy())).collect();
        made.sort();
        made
    }

    async fn make(&self, source: &Source, now: Timestamp) -> Result<String, Error> {
        let failed = || Error::at(format!("creating {}", self.folder.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed())?;
        let name = format!("{PREFIX}{}{SUFFIX}", now.strftime(TIME));
        let chunks = source.chunks().await?;
        let path = self.folder.join(&name);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = NewFile::create(&path)?;
            write(file.file(), chunks)?;
            file.keep()
        });
        written.await.map_err(Error::at("writing the backup"))??;
        let made = self.made();
        for old in superfluous(&made, self.keep) {
            let path = self.folder.join(&old.name);
            fs::remove_file(&path).map_err(Error::at(format!("removing {}", path.display())))?;
        }
        Ok(name)
    }

    /// For people.
    pub(crate) fn in_words(&self) -> String {
        let made = self.made();
        let mut text = match self.interval {
            None => "no backups are made: start the server with --backup-interval TIME\n".to_string(),
            Some(interval) => {
                let next = made.last().map_or(Timestamp::now(), |m| m.at + interval);
                format!(
                    "a backup every {interval:#} into {}, the newest {} are kept; the next one at {}\n",
                    self.folder.display(),
                    self.keep,
                    next.strftime("%Y-%m-%dT%H:%M:%SZ")
                )
            }
        };
        if let Some(failure) = &*self.failure.lock() {
            text.push_str(&format!("the last one failed at {failure}\n"));
        }
        for made in made {
            text.push_str(&format!("{}\n", self.folder.join(made.name).display()));
        }
        text
    }
}

/// How long until the next one is due. A clock that was set back is no reason to wait longer than an interval.
fn wait(newest: Option<Timestamp>, interval: SignedDuration, now: Timestamp) -> SignedDuration {
    newest.map_or(SignedDuration::ZERO, |newest| {
        (interval - now.duration_since(newest)).clamp(SignedDuration::ZERO, interval)
    })
}

/// Those that can go, of all in order.
fn superfluous(made: &[Made], keep: usize) -> &[Made] {
    &made[..made.len().saturating_sub(keep)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_is_due_an_interval_after_the_newest_and_the_oldest_go() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let hour = SignedDuration::from_hours(1);
        assert_eq!(wait(None, hour, at(0)), SignedDuration::ZERO);
        assert_eq!(wait(Some(at(0)), hour, at(600)), SignedDuration::from_mins(50));
        assert_eq!(wait(Some(at(0)), hour, at(9000)), SignedDuration::ZERO);
        assert_eq!(wait(Some(at(9000)), hour, at(0)), hour);
        let made = |name: &str| Made::of(name).expect("a name");
        let all = [made("orlop-20260101T000000Z.backup"), made("orlop-20260101T010000Z.backup")];
        assert_eq!(superfluous(&all, 1), &all[..1]);
        assert_eq!(superfluous(&all, 2), &[]);
        assert_eq!(Made::of("orlop-mine.backup"), None);
        assert_eq!(Made::of("another"), None);
        assert!(interval("0s").is_err() && interval("6h").is_ok());
    }
}
