//! Reads a log through all its files, in order and across rotation. It never waits.

use super::{
    entry::Formatter,
    options::LogOptions,
    pieces::{Piece, newer_than, open_all},
    tail,
};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

const BLOCK: usize = 64 << 10;
/// Longest line of a file that is kept together; the writers' limit is 16 KiB.
const LONGEST: usize = 1 << 20;

/// How far a reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// All that is written has been read.
    CaughtUp,
    /// As many bytes as were wanted.
    Full,
}

/// A position in a log.
pub struct LogReader {
    path: PathBuf,
    /// The file being read; none before the first one is there.
    piece: Option<Piece>,
    /// Those that come after it, as far as known.
    later: VecDeque<Piece>,
    /// Whether to read on past what was there at the opening.
    follow: bool,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    formatter: Formatter,
}

impl LogReader {
    /// Opens a log where the options want it to begin. If it is to be followed it need not exist yet; if not, what is read is the
    /// log as it was at this moment, however fast it grows.
    pub fn open(path: PathBuf, options: LogOptions) -> io::Result<Self> {
        let mut pieces = open_all(&path)?;
        let mut position = 0;
        if let Some(lines) = options.tail {
            let (index, offset) = tail::start(&pieces, lines, options.stream)?;
            pieces.truncate(index + 1);
            position = offset;
        }
        if let Some(since) = options.since {
            // A file that was last written to before is too old as a whole; the newest one is kept to go on from.
            let old = pieces.iter().skip(1).position(|p| written_before(p, since)).map(|n| n + 1);
            if let Some(first) = old {
                pieces.truncate(first);
                position = 0;
            }
        }
        let mut later: VecDeque<Piece> = pieces.into_iter().rev().collect();
        let mut piece = later.pop_front();
        if let Some(piece) = &mut piece {
            piece.file.seek(SeekFrom::Start(position))?;
        }
        Ok(Self {
            path,
            piece,
            later,
            follow: options.follow,
            rest: Vec::new(),
            formatter: Formatter::new(options),
        })
    }

    /// Reads a block and appends what is seen of it.
    pub fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Progress> {
        if self.formatter.full() {
            return Ok(Progress::Full);
        }
        let read = match &mut self.piece {
            Some(piece) => fill(piece, self.follow, &mut self.rest)?,
            None => 0,
        };
        if read > 0 {
            self.cut(out);
            return Ok(if self.formatter.full() { Progress::Full } else { Progress::More });
        }
        self.next_piece(out)
    }

    /// At the end of a file: goes on to the one that came after it, if there is one.
    fn next_piece(&mut self, out: &mut Vec<u8>) -> io::Result<Progress> {
        if self.later.is_empty() && self.follow {
            self.later = match &self.piece {
                Some(piece) => newer_than(&self.path, piece)?.into(),
                None => open_all(&self.path)?.into_iter().rev().collect(),
            };
            // Between its last reading and now the file may have got its last lines.
            if !self.later.is_empty()
                && let Some(piece) = &mut self.piece
                && fill(piece, self.follow, &mut self.rest)? > 0
            {
                self.cut(out);
                return Ok(Progress::More);
            }
        }
        let Some(next) = self.later.pop_front() else { return Ok(Progress::CaughtUp) };
        self.finish(out);
        self.piece = Some(next);
        Ok(Progress::More)
    }

    /// Nothing will be added to the file: takes its last line even without a newline.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let rest = std::mem::take(&mut self.rest);
        self.formatter.push(&rest, out);
    }

    fn cut(&mut self, out: &mut Vec<u8>) {
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|b| *b == b'\n') {
            self.formatter.push(&self.rest[start..start + length], out);
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > LONGEST {
            self.finish(out);
        }
    }
}

/// Appends the next block of a file; what came after its opening only if it is followed.
fn fill(piece: &mut Piece, follow: bool, rest: &mut Vec<u8>) -> io::Result<usize> {
    let before = rest.len();
    let wanted = match follow {
        true => BLOCK,
        false => piece.length.saturating_sub(piece.file.stream_position()?).min(BLOCK as u64) as usize,
    };
    rest.resize(before + wanted, 0);
    let read = loop {
        match piece.file.read(&mut rest[before..]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            outcome => break outcome,
        }
    };
    rest.truncate(before + *read.as_ref().unwrap_or(&0));
    read
}

fn written_before(piece: &Piece, since: Timestamp) -> bool {
    let modified = piece.file.metadata().and_then(|m| m.modified());
    modified.is_ok_and(|time| Timestamp::try_from(time).is_ok_and(|time| time < since))
}
