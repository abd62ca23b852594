//! Logs as real files on disk, read, tailed and followed while they are rotated.

use super::{
    entry::Stream,
    options::LogOptions,
    reader::{LogReader, Progress},
};
use proptest::prelude::*;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("0.log");
        Self { _folder: folder, path }
    }

    fn piece(&self, number: u32) -> PathBuf {
        match number {
            0 => self.path.clone(),
            n => self.path.with_extension(format!("log.{n}")),
        }
    }

    fn append(&self, bytes: &[u8]) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.path).expect("a log");
        file.write_all(bytes).expect("written");
    }

    fn rotate(&self, kept: u32) {
        for n in (0..kept).rev() {
            let _ = fs::rename(self.piece(n), self.piece(n + 1));
        }
    }
}

fn entry(second: u64, stream: &str, tag: char, text: &str) -> String {
    let time = jiff::Timestamp::from_second(1_780_000_000 + second as i64).expect("a time");
    format!("{time:.9} {stream} {tag} {text}\n")
}

fn line(n: u64) -> Vec<u8> {
    entry(n, "stdout", 'F', &format!("line {n}")).into_bytes()
}

fn drain(reader: &mut LogReader) -> String {
    let mut out = Vec::new();
    while reader.read(&mut out).expect("read") == Progress::More {}
    String::from_utf8(out).expect("text")
}

fn read(path: &Path, options: LogOptions) -> String {
    let mut reader = LogReader::open(path.to_path_buf(), options).expect("opened");
    let mut text = drain(&mut reader).into_bytes();
    reader.finish(&mut text);
    String::from_utf8(text).expect("text")
}

fn following() -> LogOptions {
    LogOptions { follow: true, ..Default::default() }
}

fn last(lines: u64) -> LogOptions {
    LogOptions { tail: Some(lines), ..Default::default() }
}

fn numbered(lines: std::ops::Range<u64>) -> String {
    lines.map(|n| format!("line {n}\n")).collect()
}

#[test]
fn all_files_of_a_log_are_read_the_oldest_first() {
    let log = Log::new();
    for n in 0..9 {
        if n % 3 == 0 {
            log.rotate(5);
        }
        log.append(&line(n));
    }
    assert_eq!(read(&log.path, LogOptions::default()), numbered(0..9));
    for lines in 0..12 {
        let first = 9_u64.saturating_sub(lines);
        assert_eq!(read(&log.path, last(lines)), numbered(first..9), "the last {lines}");
    }
}

#[test]
fn a_log_that_is_not_there_is_empty() {
    let log = Log::new();
    assert_eq!(read(&log.path, LogOptions::default()), "");
    assert_eq!(read(&log.path, last(3)), "");
    log.append(b"");
    assert_eq!(read(&log.path, last(3)), "");
}

#[test]
fn the_last_lines_are_found_in_a_file_of_many_blocks() {
    let log = Log::new();
    let long = "x".repeat(16 << 10);
    let lines: Vec<u8> =
        (0..300).flat_map(|n| entry(n, "stdout", 'F', &format!("{n} {long}")).into_bytes()).collect();
    log.append(&lines);
    let text = read(&log.path, last(7));
    let numbers: Vec<_> = text.lines().map(|l| l.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(numbers, ["293", "294", "295", "296", "297", "298", "299"]);
}

#[test]
fn a_line_in_pieces_is_one_line_of_the_last() {
    let log = Log::new();
    log.append(entry(1, "stdout", 'F', "before").as_bytes());
    log.append(entry(2, "stdout", 'P', "to").as_bytes());
    log.append(entry(2, "stdout", 'P', "geth").as_bytes());
    log.append(entry(2, "stdout", 'F', "er").as_bytes());
    assert_eq!(read(&log.path, last(1)), "together\n");
    log.append(entry(3, "stdout", 'P', "no end").as_bytes());
    assert_eq!(read(&log.path, last(1)), "no end");
    assert_eq!(read(&log.path, last(2)), "together\nno end");
}

#[test]
fn only_lines_of_the_wanted_stream_count() {
    let log = Log::new();
    for n in 0..6 {
        let stream = if n % 2 == 0 { "stdout" } else { "stderr" };
        log.append(entry(n, stream, 'F', &n.to_string()).as_bytes());
    }
    let wanted = LogOptions { stream: Some(Stream::Stderr), ..last(2) };
    assert_eq!(read(&log.path, wanted), "3\n5\n");
}

#[test]
fn since_leaves_out_what_is_older_in_all_files() {
    let log = Log::new();
    for n in 0..4 {
        log.append(&line(n));
        log.rotate(5);
    }
    log.append(&line(4));
    let since = |second: i64| LogOptions {
        since: jiff::Timestamp::from_second(1_780_000_000 + second).ok(),
        ..Default::default()
    };
    assert_eq!(read(&log.path, since(2)), numbered(2..5));
    assert_eq!(read(&log.path, since(9)), "");
    // A file that was written to for the last time before is not even read.
    let old = fs::File::options().write(true).open(log.piece(2)).expect("a piece");
    old.set_modified(std::time::UNIX_EPOCH).expect("made old");
    assert_eq!(read(&log.path, since(1)), numbered(3..5));
}

#[test]
fn a_reading_goes_on_through_rotations_and_loses_nothing() {
    let log = Log::new();
    log.append(&line(0));
    let mut reader = LogReader::open(log.path.clone(), following()).expect("opened");
    assert_eq!(drain(&mut reader), numbered(0..1));
    // Its last line comes just before the file is put aside, and two more files follow before anybody looks.
    log.append(&line(1));
    log.rotate(5);
    log.append(&line(2));
    log.rotate(5);
    log.append(&line(3));
    assert_eq!(drain(&mut reader), numbered(1..4));
    // Renamed away, but the new one is not there yet.
    log.rotate(5);
    assert_eq!(drain(&mut reader), "");
    log.append(&line(4));
    assert_eq!(drain(&mut reader), numbered(4..5));
}

#[test]
fn a_half_written_line_is_shown_when_it_is_whole() {
    let log = Log::new();
    let whole = line(0);
    log.append(&whole[..40]);
    let mut reader = LogReader::open(log.path.clone(), following()).expect("opened");
    assert_eq!(drain(&mut reader), "");
    log.append(&whole[40..]);
    assert_eq!(drain(&mut reader), numbered(0..1));
}

#[test]
fn what_comes_after_the_opening_is_not_read_unless_followed() {
    let log = Log::new();
    log.append(&line(0));
    log.append(&line(1));
    let open = |options| LogReader::open(log.path.clone(), options).expect("opened");
    let (mut whole, mut tail, mut followed) = (open(LogOptions::default()), open(last(1)), open(following()));
    log.append(&line(2));
    log.rotate(5);
    log.append(&line(3));
    assert_eq!(drain(&mut whole), numbered(0..2));
    assert_eq!(drain(&mut tail), numbered(1..2));
    assert_eq!(drain(&mut followed), numbered(0..4));
}

proptest! {
    /// Tailing is the end of what reading everything gives, whatever the entries and the files are.
    #[test]
    fn the_last_lines_are_the_end_of_all_lines(
        entries in prop::collection::vec((any::<bool>(), 0usize..3, any::<bool>()), 0..40),
        lines in 0u64..50,
    ) {
        let log = Log::new();
        for (n, (partial, length, rotate)) in entries.iter().enumerate() {
            let text = format!("{n}{}", "x".repeat(length * 40));
            log.append(entry(n as u64, "stdout", if *partial { 'P' } else { 'F' }, &text).as_bytes());
            if *rotate {
                log.rotate(100);
            }
        }
        let all = read(&log.path, LogOptions::default());
        let seen: Vec<&str> = all.split_inclusive('\n').collect();
        let want: String = seen[seen.len().saturating_sub(lines as usize)..].concat();
        prop_assert_eq!(read(&log.path, last(lines)), want);
    }
}
