//! Backups: everything that a store holds at one revision, with the files that go with it, in one file that proves itself.
//!
//! | bytes | what |
//! |---|---|
//! | 12 | `ORLOPBAK`, then the format's version (32 bits, as all numbers little-endian) |
//! | records | kind (1), length of what follows (4), that, CRC-32 of the three (4) |
//!
//! The first record is the [`Manifest`] as JSON; then come files (a name and bytes), then entries in key order, and last the end: how
//! many files and entries there are, and the SHA-256 of all bytes before it. Works over any [`Store`]; knows nothing of disks.

mod read;
mod write;

pub use read::{Contents, Problem, read};
pub use write::Chunks;

use crate::{Entry, Error, Revision, Store};
use serde::{Deserialize, Serialize};

const MAGIC: [u8; 8] = *b"ORLOPBAK";
/// The version of the format.
const FORMAT: u32 = 1;
/// Bytes before the first record.
const HEADER: usize = 12;
/// Bytes of a record before and after what it holds.
const BEFORE: usize = 5;
const AFTER: usize = 4;
/// No record is longer: a transaction is not.
const LONGEST: usize = 128 << 20;
const MANIFEST: u8 = 1;
const FILE: u8 = 2;
const ENTRY: u8 = 3;
const END: u8 = 4;

/// Added to the revision of a backup when it is restored: clients may have seen revisions after the backup, which must not come
/// again for something else.
pub const LEAP: u64 = 1_000_000_000;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// When it was made (RFC 3339).
    pub created: String,
    /// By which version of the program.
    pub program: String,
    /// The revision that it shows.
    pub revision: Revision,
    /// The machine that it is of.
    pub node: String,
}

/// A file that belongs to the state without being in the store: keys, certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Its path in the data folder.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Everything under a prefix at one revision, the newest. The values are as the store keeps them: give it the innermost one, so that
/// what is encrypted stays so.
///
/// # Errors
/// Those of the store.
pub async fn snapshot(store: &dyn Store, prefix: &str) -> Result<(Revision, Vec<Entry>), Error> {
    let page = store.list(prefix, None, None, 0).await?;
    Ok((page.revision, page.entries))
}

#[cfg(test)]
mod tests;
