//! Entries of a log file (Kubernetes CRI, "container log format"), and the text that a reader sees of them. Pure.

use super::options::LogOptions;
use jiff::Timestamp;

/// Standard output or error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// RFC 3339, as written.
    pub time: &'a str,
    pub stream: Stream,
    /// A piece of a line whose rest comes in the next entry of the stream.
    pub partial: bool,
    pub text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads a line of the file, without its newline.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(fields.next()?).ok().filter(|t| t.contains('T'))?;
        let stream = match fields.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // More tags may follow the first one after a colon.
        let partial = fields.next()?.split(|b| *b == b':').next() == Some(b"P");
        Some(Self { time, stream, partial, text: fields.next()? })
    }
}

/// Where in a line a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Position {
    #[default]
    Start,
    Shown,
    Skipped,
}

/// Turns entries into what the options ask for.
#[derive(Debug)]
pub struct Formatter {
    options: LogOptions,
    position: [Position; 2],
    left: Option<u64>,
}

impl Formatter {
    pub fn new(options: LogOptions) -> Self {
        let left = options.limit;
        Self { options, position: Default::default(), left }
    }

    /// Whether the limit of bytes is reached: nothing more will come out.
    pub fn full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what is seen of a line of the file. Lines that are not entries are passed over.
    pub fn push(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = Entry::parse(line) else { return };
        if self.options.stream.is_some_and(|only| only != entry.stream) {
            return;
        }
        let before = self.position[entry.stream as usize];
        let now = match before {
            Position::Start if self.too_old(entry.time) => Position::Skipped,
            Position::Start => Position::Shown,
            within => within,
        };
        let start = out.len();
        if now == Position::Shown {
            if self.options.timestamps && before == Position::Start {
                out.extend_from_slice(entry.time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(entry.text);
            if !entry.partial {
                out.push(b'\n');
            }
        }
        self.position[entry.stream as usize] = if entry.partial { now } else { Position::Start };
        if let Some(left) = &mut self.left {
            let written = (out.len() - start) as u64;
            out.truncate(start + written.min(*left) as usize);
            *left = left.saturating_sub(written);
        }
    }

    fn too_old(&self, time: &str) -> bool {
        let Some(since) = self.options.since else { return false };
        time.parse::<Timestamp>().is_ok_and(|time| time < since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(options: LogOptions, lines: &[&str]) -> String {
        let (mut formatter, mut out) = (Formatter::new(options), Vec::new());
        lines.iter().for_each(|l| formatter.push(l.as_bytes(), &mut out));
        String::from_utf8(out).expect("text")
    }

    const LINES: [&str; 5] = [
        "2026-07-01T00:00:01.000000001Z stdout F one",
        "2026-07-01T00:00:02.000000000Z stdout P tw",
        "2026-07-01T00:00:03.000000000Z stderr F oops",
        "2026-07-01T00:00:04.000000000Z stdout F:x o",
        "2026-07-01T00:00:05.000000000Z stdout F ",
    ];

    #[test]
    fn an_entry_has_a_time_a_stream_a_tag_and_text_with_spaces() {
        let entry = Entry::parse(b"2026-07-01T00:00:00Z stderr P:a  b c ").expect("an entry");
        let want =
            Entry { time: "2026-07-01T00:00:00Z", stream: Stream::Stderr, partial: true, text: b" b c " };
        assert_eq!(entry, want);
        for bad in ["", "2026-07-01T00:00:00Z", "2026-07-01T00:00:00Z stdin F x", "x stdout F y"] {
            assert_eq!(Entry::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn pieces_are_joined_and_only_the_first_has_a_timestamp() {
        let only = |timestamps| LogOptions { timestamps, stream: Some(Stream::Stdout), ..Default::default() };
        assert_eq!(seen(only(false), &LINES), "one\ntwo\n\n");
        let want = "2026-07-01T00:00:01.000000001Z one\n2026-07-01T00:00:02.000000000Z two\n2026-07-01T00:00:05.000000000Z \n";
        assert_eq!(seen(only(true), &LINES), want);
    }

    #[test]
    fn a_line_that_began_too_early_is_left_out_as_a_whole() {
        let since = |text: &str| LogOptions { since: text.parse().ok(), ..Default::default() };
        assert_eq!(seen(since("2026-07-01T00:00:02Z"), &LINES[1..4]), "twoops\no\n");
        assert_eq!(seen(since("2026-07-01T00:00:03Z"), &LINES), "oops\n\n");
    }

    proptest! {
        #[test]
        fn the_limit_cuts_exactly_and_changes_nothing_else(limit in 1u64..40) {
            let whole = seen(LogOptions::default(), &LINES);
            let cut = seen(LogOptions { limit: Some(limit), ..Default::default() }, &LINES);
            prop_assert_eq!(cut.as_str(), &whole[..whole.len().min(limit as usize)]);
        }

        #[test]
        fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut out = Vec::new();
            Formatter::new(LogOptions { since: Some(Timestamp::UNIX_EPOCH), ..Default::default() }).push(&line, &mut out);
            prop_assert!(out.len() <= line.len());
        }
    }
}
