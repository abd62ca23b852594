//! Finds where the last lines of a log begin, reading from its end backwards.

use super::{
    entry::{Entry, Stream},
    pieces::Piece,
};
use std::{io, os::unix::fs::FileExt};

const BLOCK: u64 = 64 << 10;
/// Longest line of a file that is looked at as one; the writers' limit is 16 KiB.
const LONGEST: usize = 1 << 20;

/// Index of the piece and the position in it from which the last `lines` lines of the log are to be read. `pieces` are the
/// newest first, and as long as they were when opened. A line is what the reader sees as one, in however many entries; only those of `stream` count.
pub fn start(pieces: &[Piece], lines: u64, stream: Option<Stream>) -> io::Result<(usize, u64)> {
    if let (0, Some(newest)) = (lines, pieces.first()) {
        return Ok((0, newest.length));
    }
    let mut counter = Counter { lines, stream, unfinished: [true; 2] };
    for (index, piece) in pieces.iter().enumerate() {
        if let Some(position) = counter.scan(piece)? {
            return Ok((index, position));
        }
    }
    Ok((pieces.len().saturating_sub(1), 0))
}

struct Counter {
    /// Still to be found.
    lines: u64,
    stream: Option<Stream>,
    /// For each stream: whether the log's end has been met, but no entry of it; a partial one there is a line of its own.
    unfinished: [bool; 2],
}

impl Counter {
    /// Goes through a file backwards; the position behind which the wanted lines are, if it is in this file.
    fn scan(&mut self, piece: &Piece) -> io::Result<Option<u64>> {
        let mut end = piece.length;
        // What has been read and not yet been cut into lines; it begins at `end` in the file.
        let mut pending: Vec<u8> = Vec::new();
        loop {
            let size = end.min(BLOCK);
            let mut block = vec![0; size as usize];
            piece.file.read_exact_at(&mut block, end - size)?;
            block.append(&mut pending);
            pending = block;
            end -= size;
            // The line at the front may begin in the block before.
            while let Some(newline) = last_newline(&pending) {
                let start = newline + 1;
                if self.enough(&pending[start..]) {
                    return Ok(Some(end + pending.len() as u64));
                }
                pending.truncate(start);
            }
            if end == 0 {
                let found = self.enough(&pending);
                return Ok(found.then_some(pending.len() as u64));
            }
            if pending.len() > LONGEST {
                pending.clear();
            }
        }
    }

    /// Takes the entry before all those that were seen; whether it is beyond what is wanted.
    fn enough(&mut self, line: &[u8]) -> bool {
        let Some(entry) = Entry::parse(line.strip_suffix(b"\n").unwrap_or(line)) else { return false };
        if self.stream.is_some_and(|only| only != entry.stream) {
            return false;
        }
        let unfinished = std::mem::take(&mut self.unfinished[entry.stream as usize]);
        if entry.partial && !unfinished {
            return false;
        }
        if self.lines == 0 {
            return true;
        }
        self.lines -= 1;
        false
    }
}

/// The newline that ends the line before the last one.
fn last_newline(bytes: &[u8]) -> Option<usize> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    body.iter().rposition(|b| *b == b'\n')
}
