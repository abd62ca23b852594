//! Checkpoints: every key as of one revision, so that the log before it is no longer needed.
//!
//! A file is a header, blocks of entries, and an empty block as the end. Each block is its payload's length, a salted
//! checksum, the number of entries, then the entries. Never decides when one is due.

use super::{
    folder::{CHECKPOINT_MAGIC, FILE_HEADER, FileHeader, Folder, decode_header, encode_header, failed, salt},
    frame::{Reader, put_bytes, put_len, read_u32},
    state::{LIST_STEP, State},
};
use crate::{Entry, Error, Revision};
use bytes::Bytes;
use parking_lot::RwLock;
use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::Path,
    sync::Arc,
};

/// Bytes before a block's payload.
const BLOCK_HEADER: usize = 12;
/// Blocks are written when they have grown to this.
const BLOCK: usize = 256 << 10;
/// So much is written between two syncs, to leave the disk to the log in between.
const SYNC_EVERY: usize = 8 << 20;

/// Writes a checkpoint of the oldest kept revision, step by step beside reads and commits, and removes the log before it.
/// `stopping` ends it early.
pub(crate) fn write(
    folder: &Folder,
    state: &RwLock<State>,
    stopping: impl Fn() -> bool,
) -> Result<Option<Revision>, Error> {
    let mut listing = {
        let mut state = state.write();
        let floor = state.floor();
        state.pin(Some(floor));
        state.listing("", None, Some(floor), 0)?
    };
    let at = listing.at();
    let result = (|| {
        let fail = failed("writing a checkpoint");
        let mut file = folder.create_checkpoint().map_err(&fail)?;
        let salt = salt();
        let header = encode_header(CHECKPOINT_MAGIC, FileHeader { salt, revision: at });
        file.write_all(&header).map_err(&fail)?;
        let mut block = Block::new(salt);
        let mut unsynced = 0;
        let mut done = false;
        while !done {
            if stopping() {
                return Ok(None);
            }
            done = state.read().list(&mut listing, LIST_STEP)?;
            for entry in listing.take() {
                block.push(&entry);
                if block.bytes.len() >= BLOCK {
                    unsynced += block.write(&mut file).map_err(&fail)?;
                }
            }
            if unsynced > SYNC_EVERY {
                file.sync_data().map_err(&fail)?;
                unsynced = 0;
            }
        }
        if block.count > 0 {
            block.write(&mut file).map_err(&fail)?;
        }
        block.write(&mut file).map_err(&fail)?; // the end
        folder.adopt_checkpoint(&file, at).map_err(&fail)?;
        Ok(Some(at))
    })();
    state.write().pin(None);
    if !matches!(result, Ok(Some(_))) {
        folder.discard_checkpoint();
    }
    result
}

/// Reads the checkpoint of `revision`.
pub(crate) fn read(path: &Path, revision: Revision) -> Result<State, Error> {
    let fail = failed("reading a checkpoint");
    let mut file = BufReader::with_capacity(BLOCK, File::open(path).map_err(&fail)?);
    let mut header = [0; FILE_HEADER];
    file.read_exact(&mut header).map_err(|error| cut_short(path, error))?;
    let salt = decode_header(path, &header, CHECKPOINT_MAGIC, revision)?.salt;
    let mut entries = Vec::new();
    let mut bytes = Vec::new();
    loop {
        bytes.resize(BLOCK_HEADER, 0);
        file.read_exact(&mut bytes).map_err(|error| cut_short(path, error))?;
        let len = read_u32(&bytes, 0).unwrap_or(0) as u64;
        (&mut file).take(len).read_to_end(&mut bytes).map_err(&fail)?;
        match decode_block(&bytes, salt) {
            Some(block) if block.is_empty() => break,
            Some(mut block) => entries.append(&mut block),
            None => {
                return Err(Error::Corrupt { path: path.into(), what: "a block's checksum is wrong".into() });
            }
        }
    }
    Ok(State::restore(revision, entries))
}

fn cut_short(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::Corrupt { path: path.into(), what: "its end is missing".into() }
        }
        _ => failed("reading a checkpoint")(error),
    }
}

struct Block {
    bytes: Vec<u8>,
    count: usize,
    salt: u32,
}

impl Block {
    fn new(salt: u32) -> Self {
        Self { bytes: vec![0; BLOCK_HEADER], count: 0, salt }
    }

    fn push(&mut self, entry: &Entry) {
        self.bytes.extend_from_slice(&entry.created.0.to_le_bytes());
        self.bytes.extend_from_slice(&entry.modified.0.to_le_bytes());
        put_bytes(&mut self.bytes, entry.key.as_bytes());
        put_bytes(&mut self.bytes, &entry.value);
        self.count += 1;
    }

    /// Writes the block out and starts the next one. Returns the bytes written.
    fn write(&mut self, file: &mut File) -> io::Result<usize> {
        let mut head = Vec::with_capacity(BLOCK_HEADER);
        put_len(&mut head, self.bytes.len() - BLOCK_HEADER);
        head.extend_from_slice(&[0; 4]);
        put_len(&mut head, self.count);
        self.bytes[..BLOCK_HEADER].copy_from_slice(&head);
        let sum = checksum(self.salt, &self.bytes);
        self.bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        file.write_all(&self.bytes)?;
        let written = self.bytes.len();
        self.bytes.truncate(BLOCK_HEADER);
        self.count = 0;
        Ok(written)
    }
}

fn decode_block(bytes: &[u8], salt: u32) -> Option<Vec<Entry>> {
    let len = read_u32(bytes, 0)? as usize;
    if bytes.len() != BLOCK_HEADER + len || checksum(salt, bytes) != read_u32(bytes, 4)? {
        return None;
    }
    let mut reader = Reader { bytes, at: BLOCK_HEADER };
    let mut entries = Vec::new();
    for _ in 0..read_u32(bytes, 8)? {
        let (created, modified) = (reader.revision()?, reader.revision()?);
        let key = Arc::from(std::str::from_utf8(reader.bytes()?).ok()?);
        let value = Bytes::copy_from_slice(reader.bytes()?);
        entries.push(Entry { key, value, created, modified });
    }
    Some(entries)
}

fn checksum(salt: u32, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&block[..4]);
    hasher.update(&block[8..]);
    hasher.finalize()
}
