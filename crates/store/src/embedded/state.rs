//! What the store holds, in memory: the newest version of every key, and the history since the last compaction.
//!
//! Pure: decides what a transaction does, answers reads at any kept revision by undoing later changes, and forgets. It
//! never touches a disk, a clock or a thread; whoever owns it makes changes durable before applying them.

use crate::{Change, Commit, Condition, Entry, Error, Expect, Op, Revision, Txn, WatchBatch};
use bytes::Bytes;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

/// How many keys one step of a listing looks at while it holds the state's lock.
pub(crate) const LIST_STEP: usize = 2048;

/// What a history record weighs beside its values; a rough figure for the limit in bytes.
const RECORD_OVERHEAD: usize = 256;

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every revision younger than this is kept,
    pub age: Duration,
    /// and the newest this many however old they are,
    pub revisions: u64,
    /// unless values that only history holds weigh more than this: then the oldest go first.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(300), revisions: 10_000, bytes: 64 << 20 }
    }
}

/// The newest version of a key.
#[derive(Clone, Debug)]
struct Version {
    value: Bytes,
    created: Revision,
    modified: Revision,
}

/// All keys and the history.
#[derive(Debug, Default)]
pub(crate) struct State {
    current: BTreeMap<Arc<str>, Version>,
    /// Every revision after `history_start() - 1`, without gaps.
    history: VecDeque<Arc<WatchBatch>>,
    /// The newest revision of each batch in history and when it was committed, in milliseconds since the epoch.
    times: VecDeque<(Revision, u64)>,
    /// What the records of history weigh.
    history_bytes: usize,
    newest: Revision,
    /// The oldest revision that may be read.
    floor: Revision,
    /// While a checkpoint is written, history after this revision stays whatever the floor says.
    pinned: Option<Revision>,
}

/// Changes of one group of transactions, decided but not yet applied.
pub(crate) struct Draft<'a> {
    state: &'a State,
    overlay: HashMap<Arc<str>, Option<Entry>>,
    newest: Revision,
    batches: Vec<Arc<WatchBatch>>,
}

/// Where a listing stands between two steps.
#[derive(Debug)]
pub(crate) struct Listing {
    prefix: Box<str>,
    /// The last key looked at.
    after: Option<Arc<str>>,
    at: Revision,
    /// The changes up to here are in `undo`.
    undone: Revision,
    /// What the keys changed after `at` were at `at`.
    undo: BTreeMap<Arc<str>, Option<Entry>>,
    entries: Vec<Entry>,
    /// How many entries are wanted.
    want: usize,
}

impl State {
    /// A state as a checkpoint describes it, ready for the log to be replayed.
    pub(crate) fn restore(revision: Revision, entries: impl IntoIterator<Item = Entry>) -> Self {
        let current = entries
            .into_iter()
            .map(|e| (e.key, Version { value: e.value, created: e.created, modified: e.modified }))
            .collect();
        Self { current, newest: revision, floor: revision, ..Self::default() }
    }

    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.current.get_key_value(key).map(|(k, v)| entry(k, v))
    }

    /// Starts deciding a group of transactions.
    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft { state: self, overlay: HashMap::new(), newest: self.newest, batches: Vec::new() }
    }

    /// Makes decided changes visible; `time` is when they were committed.
    pub(crate) fn apply(&mut self, batches: &[Arc<WatchBatch>], time: u64) {
        let Some(last) = batches.last() else { return };
        for batch in batches {
            debug_assert_eq!(batch.revision.0, self.newest.0 + 1, "history has no gaps");
            for change in &batch.changes {
                let entry = &change.entry;
                if change.deleted {
                    self.current.remove(&entry.key);
                } else {
                    let version = Version {
                        value: entry.value.clone(),
                        created: entry.created,
                        modified: entry.modified,
                    };
                    self.current.insert(entry.key.clone(), version);
                }
            }
            self.history_bytes += weight(batch);
            self.history.push_back(batch.clone());
            self.newest = batch.revision;
        }
        self.times.push_back((last.revision, time));
    }

    /// Raises the floor to `to`. What becomes unreachable stays until [`State::forget`].
    pub(crate) fn compact(&mut self, to: Revision) -> Result<(), Error> {
        if to > self.newest {
            return Err(Error::Future { requested: to, newest: self.newest });
        }
        self.floor = self.floor.max(to);
        Ok(())
    }

    /// The floor that the policy asks for at the time `now`.
    pub(crate) fn floor_by(&self, policy: &Retention, now: u64) -> Revision {
        let cutoff = now.saturating_sub(u64::try_from(policy.age.as_millis()).unwrap_or(u64::MAX));
        let old = self.times.partition_point(|(_, time)| *time < cutoff);
        let aged = old.checked_sub(1).map_or(Revision(0), |i| self.times[i].0);
        let counted = Revision(self.newest.0.saturating_sub(policy.revisions));
        let mut floor = aged.min(counted).max(self.floor);
        let mut bytes = self.history_bytes;
        if self.is_heavy(policy) {
            // Somewhat below the limit, so as not to be there again at once.
            let target = policy.bytes - policy.bytes / 8;
            for batch in &self.history {
                if bytes <= target {
                    break;
                }
                bytes -= weight(batch);
                floor = floor.max(batch.revision);
            }
        }
        floor
    }

    /// Whether history weighs more than the policy allows.
    pub(crate) fn is_heavy(&self, policy: &Retention) -> bool {
        self.history_bytes > policy.bytes
    }

    /// Keeps history after `at` until it is unpinned, so that a listing at `at` can be taken step by step.
    pub(crate) fn pin(&mut self, at: Option<Revision>) {
        self.pinned = at;
    }

    /// Takes up to `limit` revisions of history below the floor out, to be dropped when no lock is held.
    pub(crate) fn forget(&mut self, limit: usize) -> Vec<Arc<WatchBatch>> {
        let keep_after = self.pinned.map_or(self.floor, |p| p.min(self.floor));
        let gone = keep_after.0.saturating_sub(self.history_start().0 - 1);
        let count = usize::try_from(gone).unwrap_or(usize::MAX).min(limit).min(self.history.len());
        let taken: Vec<_> = self.history.drain(..count).collect();
        self.history_bytes -= taken.iter().map(|b| weight(b)).sum::<usize>();
        let start = self.history_start();
        while self.times.front().is_some_and(|(last, _)| *last < start) {
            self.times.pop_front();
        }
        if self.history.len() * 4 < self.history.capacity() && self.history.capacity() > 4096 {
            self.history.shrink_to(self.history.len() * 2);
        }
        taken
    }

    /// The first revision that history holds.
    fn history_start(&self) -> Revision {
        Revision(self.newest.0 + 1 - self.history.len() as u64)
    }

    /// The changes under `prefix` from revision `from` on, at most `limit` batches of them, put into `out`. Returns the last
    /// revision looked at.
    pub(crate) fn changes(
        &self,
        prefix: &str,
        from: Revision,
        limit: usize,
        out: &mut VecDeque<Arc<WatchBatch>>,
    ) -> Result<Revision, Error> {
        if from > self.newest {
            return Ok(Revision(from.0 - 1));
        }
        if from <= self.floor {
            return Err(Error::Compacted { requested: Revision(from.0 - 1), oldest: self.floor });
        }
        let mut last = Revision(from.0 - 1);
        for batch in self.history_from(from).take(limit * 16) {
            last = batch.revision;
            out.extend(narrowed(batch, prefix));
            if out.len() >= limit {
                break;
            }
        }
        Ok(last)
    }

    fn history_from(&self, from: Revision) -> impl Iterator<Item = &Arc<WatchBatch>> {
        let skip = from.0.saturating_sub(self.history_start().0);
        self.history.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.history.len())..)
    }

    /// Starts a listing; see [`crate::Store::list`].
    pub(crate) fn listing(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Listing, Error> {
        let at = at.unwrap_or(self.newest);
        if at > self.newest {
            return Err(Error::Future { requested: at, newest: self.newest });
        }
        if at < self.floor {
            return Err(Error::Compacted { requested: at, oldest: self.floor });
        }
        Ok(Listing {
            prefix: prefix.into(),
            after: start_after.map(Arc::from),
            at,
            undone: at,
            undo: BTreeMap::new(),
            entries: Vec::new(),
            // One more than asked for tells whether more follow.
            want: if limit == 0 { usize::MAX } else { limit.saturating_add(1) },
        })
    }

    /// Goes on with a listing, looking at no more than `step` keys; true when it is complete.
    pub(crate) fn list(&self, listing: &mut Listing, step: usize) -> Result<bool, Error> {
        self.undo_into(listing)?;
        let lower: Bound<&str> = match &listing.after {
            Some(after) if **after >= *listing.prefix => Bound::Excluded(after),
            _ => Bound::Included(&listing.prefix),
        };
        let prefix = &*listing.prefix;
        let within = |key: &str| key.starts_with(prefix);
        let mut now = self.current.range::<str, _>((lower, Bound::Unbounded)).peekable();
        let mut then = listing.undo.range::<str, _>((lower, Bound::Unbounded)).peekable();
        let mut last = None;
        for _ in 0..step {
            let order = match (now.peek(), then.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Ok(true),
            };
            let newer = if order.is_le() { now.next() } else { None };
            let older = if order.is_ge() { then.next() } else { None };
            let (key, found) = match (newer, older) {
                (_, Some((key, entry))) => (key, entry.clone()),
                (Some((key, version)), None) => (key, Some(entry(key, version))),
                (None, None) => return Ok(true),
            };
            if !within(key) {
                return Ok(true);
            }
            listing.entries.extend(found);
            last = Some(key.clone());
            if listing.entries.len() >= listing.want {
                return Ok(true);
            }
        }
        listing.after = last.or(listing.after.take());
        Ok(false)
    }

    /// Folds what was committed since the listing's last step into its undo map.
    fn undo_into(&self, listing: &mut Listing) -> Result<(), Error> {
        let from = Revision(listing.undone.0 + 1);
        if from < self.history_start() {
            return Err(Error::Compacted { requested: listing.at, oldest: self.floor });
        }
        for batch in self.history_from(from) {
            for change in &batch.changes {
                if change.entry.key.starts_with(&*listing.prefix) {
                    listing.undo.entry(change.entry.key.clone()).or_insert_with(|| change.previous.clone());
                }
            }
        }
        listing.undone = self.newest;
        Ok(())
    }
}

impl Draft<'_> {
    /// The revision after the transactions decided so far.
    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// Decides one transaction, seeing what those before it did.
    pub(crate) fn decide(&mut self, txn: &Txn) -> Commit {
        for Condition { key, expect } in &txn.conditions {
            let current = self.lookup(key);
            let holds = match expect {
                Expect::Absent => current.is_none(),
                Expect::Present => current.is_some(),
                Expect::Modified(revision) => current.as_ref().is_some_and(|e| e.modified == *revision),
            };
            if !holds {
                return Commit::Conflict { key: key.clone(), current };
            }
        }
        let revision = Revision(self.newest.0 + 1);
        let changes: Vec<Change> = txn.ops.iter().filter_map(|op| self.change(op, revision)).collect();
        if changes.is_empty() {
            return Commit::Done(self.newest);
        }
        for change in &changes {
            let after = (!change.deleted).then(|| change.entry.clone());
            self.overlay.insert(change.entry.key.clone(), after);
        }
        self.newest = revision;
        self.batches.push(Arc::new(WatchBatch { revision, changes }));
        Commit::Done(revision)
    }

    /// The changes decided, one batch a revision.
    pub(crate) fn into_batches(self) -> Vec<Arc<WatchBatch>> {
        self.batches
    }

    fn lookup(&self, key: &str) -> Option<Entry> {
        match self.overlay.get(key) {
            Some(entry) => entry.clone(),
            None => self.state.get(key),
        }
    }

    fn change(&self, op: &Op, revision: Revision) -> Option<Change> {
        match op {
            Op::Put(key, value) => {
                let previous = self.lookup(key);
                let created = previous.as_ref().map_or(revision, |p| p.created);
                // The key that is there already is shared rather than held twice.
                let key = previous.as_ref().map_or_else(|| key.clone(), |p| p.key.clone());
                let entry = Entry { key, value: value.clone(), created, modified: revision };
                Some(Change { entry, previous, deleted: false })
            }
            Op::Delete(key) => {
                let previous = self.lookup(key)?;
                let entry = Entry {
                    key: previous.key.clone(),
                    value: Bytes::new(),
                    created: previous.created,
                    modified: revision,
                };
                Some(Change { entry, previous: Some(previous), deleted: true })
            }
        }
    }
}

impl Listing {
    /// The revision that the listing shows.
    pub(crate) fn at(&self) -> Revision {
        self.at
    }

    /// What has been found so far, taken out; for consumers that stream without a limit.
    pub(crate) fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// The page of a complete listing.
    pub(crate) fn into_page(mut self) -> crate::Page {
        let more = self.entries.len() >= self.want;
        if more {
            self.entries.pop();
        }
        crate::Page { entries: self.entries, revision: self.at, more }
    }
}

/// Refuses a transaction that is wrong whatever the state is.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    let bad = |text: String| Err(Error::BadTxn(text));
    if txn.conditions.iter().any(|c| c.key.is_empty()) {
        return bad("a condition on an empty key".into());
    }
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for op in &txn.ops {
        let (key, value) = match op {
            Op::Put(key, value) => (key, value.len()),
            Op::Delete(key) => (key, 0),
        };
        if key.is_empty() {
            return bad("an operation on an empty key".into());
        }
        if txn.ops.len() > 1 && !seen.insert(&**key) {
            return bad(format!("key {key:?} is written twice"));
        }
        bytes += key.len() + value;
    }
    if bytes > MAX_TXN_BYTES {
        return bad(format!("it writes {bytes} bytes; at most {MAX_TXN_BYTES} go into one transaction"));
    }
    Ok(())
}

/// The most that one transaction may write, keys and values together.
pub(crate) const MAX_TXN_BYTES: usize = 64 << 20;

/// The part of a batch under `prefix`: the batch itself where that is all of it.
pub(crate) fn narrowed(batch: &Arc<WatchBatch>, prefix: &str) -> Option<Arc<WatchBatch>> {
    let matching = batch.changes.iter().filter(|c| c.entry.key.starts_with(prefix)).count();
    if matching == batch.changes.len() {
        return Some(batch.clone());
    }
    if matching == 0 {
        return None;
    }
    let changes = batch.changes.iter().filter(|c| c.entry.key.starts_with(prefix)).cloned().collect();
    Some(Arc::new(WatchBatch { revision: batch.revision, changes }))
}

fn entry(key: &Arc<str>, version: &Version) -> Entry {
    Entry {
        key: key.clone(),
        value: version.value.clone(),
        created: version.created,
        modified: version.modified,
    }
}

/// What a batch adds to the memory of history: the values that it superseded, and itself.
fn weight(batch: &WatchBatch) -> usize {
    batch.changes.iter().map(|c| RECORD_OVERHEAD + c.previous.as_ref().map_or(0, |p| p.value.len())).sum()
}
