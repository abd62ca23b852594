//! The bytes of a backup, piece by piece.

use super::{AFTER, BEFORE, END, ENTRY, FILE, FORMAT, MAGIC, MANIFEST, Manifest, SideFile};
use crate::{
    Entry,
    embedded::frame::{put_bytes, put_len},
};
use ring::digest::{Context, SHA256};

/// Pieces are no smaller than this, but for the last one.
const PIECE: usize = 256 << 10;

/// Makes the bytes of a backup; iterate to have them.
pub struct Chunks {
    head: Option<Vec<u8>>,
    entries: std::vec::IntoIter<Entry>,
    counts: [u64; 2],
    digest: Option<Context>,
}

impl Chunks {
    /// The backup of these entries and files.
    pub fn new(manifest: &Manifest, files: &[SideFile], entries: Vec<Entry>) -> Self {
        let mut head = Vec::new();
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&FORMAT.to_le_bytes());
        // A plain struct of text and numbers always becomes JSON.
        let text = serde_json::to_vec(manifest).unwrap_or_default();
        record(&mut head, MANIFEST, |payload| payload.extend_from_slice(&text));
        for file in files {
            record(&mut head, FILE, |payload| {
                put_bytes(payload, file.name.as_bytes());
                put_bytes(payload, &file.bytes);
            });
        }
        let counts = [files.len() as u64, entries.len() as u64];
        Self { head: Some(head), entries: entries.into_iter(), counts, digest: Some(Context::new(&SHA256)) }
    }
}

impl Iterator for Chunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut digest = self.digest.take()?;
        let mut piece = self.head.take().unwrap_or_default();
        let mut is_last = true;
        for entry in self.entries.by_ref() {
            record(&mut piece, ENTRY, |payload| {
                payload.extend_from_slice(&entry.created.0.to_le_bytes());
                payload.extend_from_slice(&entry.modified.0.to_le_bytes());
                put_bytes(payload, entry.key.as_bytes());
                put_bytes(payload, &entry.value);
            });
            if piece.len() >= PIECE {
                is_last = false;
                break;
            }
        }
        digest.update(&piece);
        if is_last {
            let whole = digest.finish();
            record(&mut piece, END, |payload| {
                for count in self.counts {
                    payload.extend_from_slice(&count.to_le_bytes());
                }
                payload.extend_from_slice(whole.as_ref());
            });
        } else {
            self.digest = Some(digest);
        }
        Some(piece)
    }
}

fn record(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(kind);
    put_len(out, 0);
    fill(out);
    let length = u32::try_from(out.len() - start - BEFORE).unwrap_or(u32::MAX); // a value is far below 4 GB
    out[start + 1..start + BEFORE].copy_from_slice(&length.to_le_bytes());
    let sum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
    debug_assert_eq!(out.len() - start, BEFORE + length as usize + AFTER);
}
