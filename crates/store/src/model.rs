//! The nouns of the store: revisions, entries, transactions, changes and errors.

use bytes::Bytes;
use std::{pin::Pin, sync::Arc};

/// The cluster-wide number of a commit. 0 is the empty store; the first commit is 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Arc<str>,
    /// The value. Empty in the entry of a deletion.
    pub value: Bytes,
    /// The revision that created the key (since it was last absent).
    pub created: Revision,
    /// The revision that last wrote it.
    pub modified: Revision,
}

/// What must be true of a key for a transaction to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key is absent.
    Absent,
    /// The key is there, in whatever version.
    Present,
    /// The key was last modified by this revision.
    Modified(Revision),
}

/// A condition of a transaction.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The key looked at.
    pub key: Arc<str>,
    /// What must be true of it.
    pub expect: Expect,
}

/// A write of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    /// Sets the value.
    Put(Arc<str>, Bytes),
    /// Removes the key; nothing happens where there is none.
    Delete(Arc<str>),
}

/// Conditions and the writes that they guard. One transaction must not write a key twice.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Applied in one revision.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Creates a key that must not be there.
    pub fn create(key: impl Into<Arc<str>>, value: Bytes) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition { key: key.clone(), expect: Expect::Absent }],
            ops: vec![Op::Put(key, value)],
        }
    }

    /// Replaces a key that must still be as `modified` left it.
    pub fn replace(key: impl Into<Arc<str>>, modified: Revision, value: Bytes) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition { key: key.clone(), expect: Expect::Modified(modified) }],
            ops: vec![Op::Put(key, value)],
        }
    }

    /// Deletes a key that must still be as `modified` left it.
    pub fn delete(key: impl Into<Arc<str>>, modified: Revision) -> Self {
        let key = key.into();
        Self {
            conditions: vec![Condition { key: key.clone(), expect: Expect::Modified(modified) }],
            ops: vec![Op::Delete(key)],
        }
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Applied and durable. A transaction that changes nothing keeps the current revision.
    Done(Revision),
    /// The condition on this key did not hold; nothing was written. `current` is what is there.
    Conflict {
        /// The key of the first condition that failed.
        key: Arc<str>,
        /// Its entry, if it is there.
        current: Option<Entry>,
    },
}

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// After the change. Of a deletion: the key, an empty value, and the revision of the deletion as `modified`.
    pub entry: Entry,
    /// Before the change; `None` where the key was created.
    pub previous: Option<Entry>,
    /// Whether the key is gone.
    pub deleted: bool,
}

/// All changes of one revision that a watch is interested in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Their revision.
    pub revision: Revision,
    /// In the order of the transaction. None where the batch only tells that its revision has passed.
    pub changes: Vec<Change>,
}

/// A running watch.
pub type Watch = Pin<Box<dyn futures::Stream<Item = Result<Arc<WatchBatch>, Error>> + Send>>;

/// Part of a listing.
#[derive(Clone, Debug)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision that the page shows.
    pub revision: Revision,
    /// Whether more keys follow the last one.
    pub more: bool,
}

/// Why the store could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// History before this revision is gone.
    #[error("revision {requested} has been compacted; the oldest kept is {oldest}")]
    Compacted {
        /// Asked for.
        requested: Revision,
        /// The oldest one that can be read.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future; the newest is {newest}")]
    Future {
        /// Asked for.
        requested: Revision,
        /// The newest one.
        newest: Revision,
    },
    /// The disk is full: nothing was written. Reads go on.
    #[error("no space left for the store's file")]
    NoSpace,
    /// etcd's database has reached its quota. The write that filled it may have happened, later ones have not. Reads go on.
    #[error(
        "etcd's database has reached its quota: compact and defragment it, then `etcdctl alarm disarm` (or give it more with --quota-backend-bytes)"
    )]
    Quota,
    /// More than the store takes in one request: nothing was written.
    #[error("the request is larger than etcd takes (--max-request-bytes, 1.5 MB where it is not set)")]
    TooLarge,
    /// Where the store is supposed to be makes no sense.
    #[error("etcd at {address:?}: {why}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it, or with a certificate.
        why: String,
    },
    /// No answer: a write may or may not have happened.
    #[error("{step}: no answer: {cause}")]
    Unreachable {
        /// What was being done.
        step: &'static str,
        /// What was the matter at last.
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The transaction itself is wrong (a key written twice, an empty key).
    #[error("bad transaction: {0}")]
    BadTxn(String),
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
    /// Another process has the store open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The store's place.
        path: std::path::PathBuf,
    },
    /// There is a store already where one was to be made.
    #[error("{path} holds a store already")]
    Occupied {
        /// The store's place.
        path: std::path::PathBuf,
    },
    /// The store was written in a format that this version does not know.
    #[error("{path} has format version {found}; this program reads {known}: use the version that wrote it")]
    Format {
        /// The file.
        path: std::path::PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// What is on disk is damaged; nothing was changed.
    #[error("{path} is damaged: {what}; restore the store from a copy")]
    Corrupt {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Reading or writing failed; the text says at which step.
    #[error("{step}: {cause}")]
    Backend {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        cause: Arc<dyn std::error::Error + Send + Sync>,
    },
}
