//! The records of the log, as bytes: one frame a group of transactions, so that a group is there whole or not at all.
//!
//! A frame is a header of [`HEADER`] bytes (magic, payload length, checksum, number of revisions, first revision, time,
//! floor), then for each revision its changes. The checksum covers everything but itself and is salted by the segment, so
//! that neither a stale frame in a recycled segment nor a value that imitates one is ever taken for real. Pure.

use crate::{Op, Revision, Txn, WatchBatch};
use bytes::Bytes;
use std::sync::Arc;

/// Frames start at multiples of this.
pub(crate) const ALIGN: usize = 64;
/// Bytes before the payload.
pub(crate) const HEADER: usize = 40;

const MAGIC: u32 = u32::from_le_bytes(*b"OrLf");
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What a frame says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The revision of the first transaction.
    pub(crate) first: Revision,
    /// When it was committed, in milliseconds since the epoch.
    pub(crate) time: u64,
    /// The compaction floor at that time.
    pub(crate) floor: Revision,
    /// What each revision wrote.
    pub(crate) writes: Vec<Vec<Write>>,
}

/// One written key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put(Arc<str>, Bytes),
    Delete(Arc<str>),
}

impl Write {
    fn into_op(self) -> Op {
        match self {
            Self::Put(key, value) => Op::Put(key, value),
            Self::Delete(key) => Op::Delete(key),
        }
    }
}

/// The unconditional transaction that repeats these writes.
pub(crate) fn replay(writes: Vec<Write>) -> Txn {
    Txn { conditions: Vec::new(), ops: writes.into_iter().map(Write::into_op).collect() }
}

/// Writes a frame into `buffer` (emptied first), still without its checksum, padded to [`ALIGN`].
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    first: Revision,
    batches: &[Arc<WatchBatch>],
    time: u64,
    floor: Revision,
) {
    buffer.clear();
    buffer.extend_from_slice(&MAGIC.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]); // length and checksum, below
    put_len(buffer, batches.len());
    for number in [first.0, time, floor.0] {
        buffer.extend_from_slice(&number.to_le_bytes());
    }
    for batch in batches {
        put_len(buffer, batch.changes.len());
        for change in &batch.changes {
            buffer.push(if change.deleted { DELETE } else { PUT });
            put_bytes(buffer, change.entry.key.as_bytes());
            if !change.deleted {
                put_bytes(buffer, &change.entry.value);
            }
        }
    }
    let payload = u32::try_from(buffer.len() - HEADER).unwrap_or(u32::MAX); // groups are far below 4 GB
    buffer[4..8].copy_from_slice(&payload.to_le_bytes());
    buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
}

/// Puts the checksum into an encoded frame.
pub(crate) fn seal(buffer: &mut [u8], salt: u32) {
    let end = HEADER + read_u32(buffer, 4).map_or(0, |n| n as usize);
    let sum = checksum(salt, &buffer[..end]);
    buffer[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// The frame at the start of `bytes` and how many bytes it takes with its padding; `None` where there is none that is whole.
pub(crate) fn decode(bytes: &[u8], salt: u32) -> Option<(Frame, usize)> {
    if read_u32(bytes, 0)? != MAGIC {
        return None;
    }
    let end = HEADER.checked_add(read_u32(bytes, 4)? as usize)?;
    let whole = bytes.get(..end)?;
    if checksum(salt, whole) != read_u32(bytes, 8)? {
        return None;
    }
    let count = read_u32(whole, 12)?;
    let mut reader = Reader { bytes: whole, at: HEADER };
    let mut writes = Vec::new();
    for _ in 0..count {
        let mut of_revision = Vec::new();
        for _ in 0..reader.number()? {
            let kind = *reader.take(1)?.first()?;
            let key = Arc::from(std::str::from_utf8(reader.bytes()?).ok()?);
            of_revision.push(match kind {
                PUT => Write::Put(key, Bytes::copy_from_slice(reader.bytes()?)),
                DELETE => Write::Delete(key),
                _ => return None,
            });
        }
        writes.push(of_revision);
    }
    let number = |at| read_u64(whole, at).map(Revision);
    let frame = Frame { first: number(16)?, time: number(24)?.0, floor: number(32)?, writes };
    Some((frame, end.next_multiple_of(ALIGN)))
}

/// Reads length-prefixed fields.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        read_u32(self.take(4)?, 0)
    }

    pub(crate) fn revision(&mut self) -> Option<Revision> {
        read_u64(self.take(8)?, 0).map(Revision)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(len as usize)
    }
}

pub(crate) fn put_len(buffer: &mut Vec<u8>, len: usize) {
    buffer.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

pub(crate) fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_len(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// CRC-32 of the salt, the header without its checksum, and the payload.
fn checksum(salt: u32, frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&frame[..8]);
    hasher.update(&frame[12..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::state::State;

    fn sealed(values: &[(&str, Option<&str>)], salt: u32) -> Vec<u8> {
        let mut state = State::default();
        let put_first = Txn {
            ops: values.iter().map(|(k, _)| Op::Put((*k).into(), "old".into())).collect(),
            ..Txn::default()
        };
        let mut draft = state.draft();
        draft.decide(&put_first);
        let batches = draft.into_batches();
        state.apply(&batches, 0);
        let mut draft = state.draft();
        for (key, value) in values {
            let op = match value {
                Some(value) => Op::Put((*key).into(), value.to_string().into()),
                None => Op::Delete((*key).into()),
            };
            draft.decide(&Txn { ops: vec![op], ..Txn::default() });
        }
        let mut buffer = Vec::new();
        encode(&mut buffer, Revision(2), &draft.into_batches(), 77, Revision(1));
        seal(&mut buffer, salt);
        buffer
    }

    #[test]
    fn a_frame_comes_back_as_written() {
        let bytes = sealed(&[("/a", Some("1")), ("/b", None)], 9);
        let (frame, used) = decode(&bytes, 9).expect("whole");
        assert_eq!(used, bytes.len());
        assert_eq!(used % ALIGN, 0);
        assert_eq!((frame.first, frame.time, frame.floor), (Revision(2), 77, Revision(1)));
        let expected = vec![vec![Write::Put("/a".into(), "1".into())], vec![Write::Delete("/b".into())]];
        assert_eq!(frame.writes, expected);
    }

    #[test]
    fn no_frame_is_taken_with_another_salt_or_with_any_byte_changed_or_missing() {
        let bytes = sealed(&[("/a", Some("some value"))], 9);
        assert!(decode(&bytes, 8).is_none());
        let payload_end = HEADER + read_u32(&bytes, 4).expect("length") as usize;
        for at in 0..payload_end {
            let mut broken = bytes.clone();
            broken[at] ^= 0x10;
            assert!(decode(&broken, 9).is_none(), "byte {at}");
            assert!(decode(&bytes[..at], 9).is_none(), "cut at {at}");
        }
    }
}
