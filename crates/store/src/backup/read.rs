//! Reads a backup to its end and says everything that is wrong with it.

use super::{AFTER, BEFORE, END, ENTRY, FILE, FORMAT, HEADER, LONGEST, MAGIC, MANIFEST, Manifest, SideFile};
use crate::{
    Entry, Revision,
    embedded::frame::{Reader, read_u32, read_u64},
};
use bytes::Bytes;
use ring::digest::{Context, SHA256};
use std::{
    io::{self, Read},
    sync::Arc,
};

/// So many problems are told; a file that is damaged all over is not worth more words.
const MOST: usize = 20;

/// Something that is wrong with a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {what}")]
pub struct Problem {
    /// Where in the file.
    pub at: u64,
    /// What.
    pub what: String,
}

/// What a backup holds, as far as it can be read.
#[derive(Debug, Default)]
pub struct Contents {
    /// What it is of.
    pub manifest: Option<Manifest>,
    /// Files.
    pub files: Vec<SideFile>,
    /// Entries, in key order.
    pub entries: Vec<Entry>,
    /// What is wrong; empty: nothing.
    pub problems: Vec<Problem>,
}

/// Reads all of it. Damage is in [`Contents::problems`].
///
/// # Errors
/// Only where reading itself fails.
pub fn read(from: impl Read) -> io::Result<Contents> {
    let mut reading =
        Reading { from, at: 0, digest: Context::new(&SHA256), contents: Contents::default(), ended: false };
    reading.all()?;
    Ok(reading.contents)
}

struct Reading<R> {
    from: R,
    at: u64,
    /// Of all bytes so far.
    digest: Context,
    contents: Contents,
    ended: bool,
}

impl<R: Read> Reading<R> {
    fn all(&mut self) -> io::Result<()> {
        let mut header = [0; HEADER];
        if !self.fill(&mut header)? || header[..8] != MAGIC {
            self.problem(0, "this is no backup of Orlop");
            return Ok(());
        }
        self.digest.update(&header);
        self.at = HEADER as u64;
        let format = read_u32(&header, 8).unwrap_or(0);
        if format != FORMAT {
            self.problem(
                8,
                &format!(
                    "it has format {format}, this program reads {FORMAT}: use the version that wrote it"
                ),
            );
            return Ok(());
        }
        while !self.ended && self.contents.problems.len() < MOST {
            if !self.record()? {
                return Ok(());
            }
        }
        if self.ended && self.fill(&mut [0])? {
            self.problem(self.at, "something follows its end");
        }
        if self.contents.manifest.is_none() {
            self.problem(HEADER as u64, "it does not say what it is of");
        }
        Ok(())
    }

    /// Reads so many bytes; `false` where the file ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        match self.from.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn problem(&mut self, at: u64, what: &str) {
        self.contents.problems.push(Problem { at, what: what.into() });
    }

    /// Reads a record. `false` where it cannot go on.
    fn record(&mut self) -> io::Result<bool> {
        let at = self.at;
        let cut = "its end is missing";
        let mut head = [0; BEFORE];
        if !self.fill(&mut head)? {
            self.problem(at, cut);
            return Ok(false);
        }
        let length = read_u32(&head, 1).unwrap_or(0) as usize;
        if length > LONGEST {
            self.problem(at, "the length of a record is impossible; what follows cannot be read");
            return Ok(false);
        }
        let mut rest = Vec::new();
        (&mut self.from).take((length + AFTER) as u64).read_to_end(&mut rest)?;
        if rest.len() < length + AFTER {
            self.problem(at, cut);
            return Ok(false);
        }
        let (payload, sum) = rest.split_at(length);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head);
        hasher.update(payload);
        let is_right = read_u32(sum, 0) == Some(hasher.finalize());
        let whole = self.digest.clone();
        self.digest.update(&head);
        self.digest.update(&rest);
        self.at += (BEFORE + length + AFTER) as u64;
        if !is_right {
            let after = self.contents.entries.last().map_or(String::new(), |e| format!(", after {}", e.key));
            self.problem(at, &format!("the checksum of a record is wrong{after}"));
            return Ok(true);
        }
        if self.take(head[0], payload, whole).is_none() {
            self.problem(at, "a record makes no sense");
        }
        Ok(true)
    }

    /// Takes in what a record holds; `None` if it is not as it must be.
    fn take(&mut self, kind: u8, payload: &[u8], whole: Context) -> Option<()> {
        let mut reader = Reader { bytes: payload, at: 0 };
        let contents = &mut self.contents;
        match kind {
            MANIFEST if contents.manifest.is_none() => {
                contents.manifest = Some(serde_json::from_slice(payload).ok()?);
            }
            FILE => {
                let name = std::str::from_utf8(reader.bytes()?).ok()?.to_string();
                contents.files.push(SideFile { name, bytes: reader.bytes()?.to_vec() });
            }
            ENTRY => {
                let (created, modified) = (reader.revision()?, reader.revision()?);
                let key: Arc<str> = std::str::from_utf8(reader.bytes()?).ok()?.into();
                let value = Bytes::copy_from_slice(reader.bytes()?);
                let newest = contents.manifest.as_ref().map_or(Revision(u64::MAX), |m| m.revision);
                let follows = contents.entries.last().is_none_or(|last| last.key < key);
                if !follows || created > modified || modified > newest {
                    return None;
                }
                contents.entries.push(Entry { key, value, created, modified });
            }
            END => {
                self.ended = true;
                let counts = [read_u64(payload, 0)?, read_u64(payload, 8)?];
                let found = [contents.files.len() as u64, contents.entries.len() as u64];
                if counts != found {
                    let what = format!(
                        "{} files and {} entries are there, of {} and {}",
                        found[0], found[1], counts[0], counts[1]
                    );
                    self.problem(self.at, &what);
                }
                if payload.get(16..)? != whole.finish().as_ref() {
                    self.problem(self.at, "the checksum of the whole is wrong");
                }
            }
            _ => return None,
        }
        Some(())
    }
}
