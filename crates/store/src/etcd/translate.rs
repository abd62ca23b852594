//! Between the store's words and etcd's: pure functions, nothing is sent here.

use super::wire::{self, Compare, KeyValue, RangeRequest, Request, RequestOp, Target, TxnRequest};
use crate::{Change, Commit, Condition, Entry, Error, Expect, Op, Revision, Txn, embedded::state};
use bytes::Bytes;
use std::sync::Arc;

/// etcd's own bound of the operations in one transaction (`--max-txn-ops`), as it is delivered.
const MAX_OPS: usize = 128;

/// A revision as etcd writes it.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A revision as etcd wrote it.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or_default())
}

pub(super) fn bytes(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

/// An entry; a key that is not text was not written by us.
pub(super) fn entry(kv: KeyValue) -> Option<Entry> {
    let key: Arc<str> = std::str::from_utf8(&kv.key).ok()?.into();
    Some(Entry {
        key,
        value: kv.value,
        created: revision(kv.create_revision),
        modified: revision(kv.mod_revision),
    })
}

/// The range of the keys that start with `prefix` and sort after `start_after`: its first key, and the first one behind it.
pub(super) fn range(prefix: &str, start_after: Option<&str>) -> (Bytes, Bytes) {
    let mut first = bytes(prefix);
    if let Some(after) = start_after
        && after >= prefix
    {
        first = [after.as_bytes(), b"\0"].concat().into();
    }
    // Zero stands for the smallest key as a start, and for "no end" as an end.
    let zero = || Bytes::from_static(b"\0");
    if first.is_empty() {
        first = zero();
    }
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        // No byte of UTF-8 is the last one of all.
        Some(last) => *last += 1,
        None => return (first, zero()),
    }
    (first, end.into())
}

fn compare(condition: &Condition) -> Compare {
    let key = bytes(&condition.key);
    let (result, target, value) = match condition.expect {
        Expect::Absent => (wire::EQUAL, wire::CREATED, Target::Created(0)),
        Expect::Present => (wire::GREATER, wire::CREATED, Target::Created(0)),
        // An absent key counts as modified by 0, but no key was: this never holds.
        Expect::Modified(Revision(0)) => (wire::LESS, wire::MODIFIED, Target::Modified(0)),
        Expect::Modified(at) => (wire::EQUAL, wire::MODIFIED, Target::Modified(number(at))),
    };
    Compare { result, target, key, value: Some(value) }
}

/// The transaction; where its conditions fail, it reads what they looked at.
pub(super) fn request(txn: &Txn) -> Result<TxnRequest, Error> {
    state::check(txn)?;
    if txn.ops.len().max(txn.conditions.len()) > MAX_OPS {
        return Err(Error::BadTxn(format!("more than {MAX_OPS} conditions or operations")));
    }
    let op = |request| RequestOp { request: Some(request) };
    let write = |write: &Op| match write {
        Op::Put(key, value) => op(Request::Put(wire::PutRequest { key: bytes(key), value: value.clone() })),
        Op::Delete(key) => op(Request::Delete(wire::DeleteRangeRequest { key: bytes(key) })),
    };
    let look =
        |c: &Condition| op(Request::Range(RangeRequest { key: bytes(&c.key), ..RangeRequest::default() }));
    Ok(TxnRequest {
        compare: txn.conditions.iter().map(compare).collect(),
        success: txn.ops.iter().map(write).collect(),
        failure: txn.conditions.iter().map(look).collect(),
    })
}

/// What became of `txn`. `None` where the answer does not fit to the question.
pub(super) fn outcome(txn: &Txn, response: wire::TxnResponse) -> Option<Commit> {
    if response.succeeded {
        return Some(Commit::Done(revision(response.header?.revision)));
    }
    let found = response.responses.into_iter().map(|r| r.range.and_then(|r| r.kvs.into_iter().next()));
    for (condition, kv) in txn.conditions.iter().zip(found) {
        let current = kv.and_then(entry);
        let holds = match condition.expect {
            Expect::Absent => current.is_none(),
            Expect::Present => current.is_some(),
            Expect::Modified(at) => current.as_ref().is_some_and(|e| e.modified == at),
        };
        if !holds {
            return Some(Commit::Conflict { key: condition.key.clone(), current });
        }
    }
    None
}

/// A change, where its key is text. Fails with what is missing where history before it is gone.
pub(super) fn change(event: wire::Event) -> Result<Option<Change>, Gone> {
    let Some(kv) = event.kv else { return Ok(None) };
    let deleted = event.kind == wire::DELETED;
    let created_now = !deleted && kv.create_revision == kv.mod_revision;
    let previous = event.prev_kv.and_then(entry);
    if previous.is_none() && !created_now {
        // etcd looks for what was there before when it sends, and says nothing where that has been compacted.
        return if std::str::from_utf8(&kv.key).is_ok() { Err(Gone) } else { Ok(None) };
    }
    let created = previous.as_ref().map_or_else(|| revision(kv.create_revision), |p| p.created);
    let previous = if created_now { None } else { previous };
    Ok(entry(kv).map(|mut entry| {
        if deleted {
            entry.created = created;
            entry.value = Bytes::new();
        }
        Change { entry, previous, deleted }
    }))
}

/// The version that a change replaced has been compacted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, created: i64, modified: i64) -> KeyValue {
        KeyValue {
            key: bytes(key),
            value: bytes(value),
            create_revision: created,
            mod_revision: modified,
            version: 1,
        }
    }

    #[test]
    fn a_prefix_is_the_range_up_to_the_next_one() {
        let check = |prefix: &str, after: Option<&str>, first: &[u8], end: &[u8]| {
            let found = range(prefix, after);
            assert_eq!((&*found.0, &*found.1), (first, end), "{prefix:?} after {after:?}");
        };
        check("/a/", None, b"/a/", b"/a0");
        check("", None, b"\0", b"\0");
        check("", Some("/k"), b"/k\0", b"\0");
        check("/a/", Some("/a/x"), b"/a/x\0", b"/a0");
        // Before the prefix: all of it. Behind: nothing, as the range is empty.
        check("/a/", Some("/A"), b"/a/", b"/a0");
        check("/a/", Some("/z"), b"/z\0", b"/a0");
        check("/s/\u{10ffff}", None, "/s/\u{10ffff}".as_bytes(), b"/s/\xf4\x8f\xbf\xc0");
    }

    #[test]
    fn a_change_carries_what_was_there_before_or_says_that_it_is_gone() {
        let put = |kv, prev_kv| wire::Event { kind: 0, kv: Some(kv), prev_kv };
        let new = change(put(kv("/a", "1", 5, 5), None)).unwrap().unwrap();
        assert_eq!((new.previous, new.deleted, new.entry.created), (None, false, Revision(5)));
        let old = kv("/a", "1", 5, 5);
        let updated = change(put(kv("/a", "2", 5, 7), Some(old.clone()))).unwrap().unwrap();
        assert_eq!(updated.previous.unwrap().value, "1");
        assert_eq!(change(put(kv("/a", "2", 5, 7), None)), Err(Gone));
        let tombstone = kv("/a", "", 0, 9);
        let gone = wire::Event { kind: wire::DELETED, kv: Some(tombstone.clone()), prev_kv: Some(old) };
        let gone = change(gone).unwrap().unwrap();
        assert_eq!((gone.deleted, gone.entry.created, gone.entry.modified), (true, Revision(5), Revision(9)));
        let lost = wire::Event { kind: wire::DELETED, kv: Some(tombstone), prev_kv: None };
        assert_eq!(change(lost), Err(Gone));
    }
}
