//! Random operations on a store beside a model that is too simple to be wrong: a copy of everything for each revision.

use crate::{Change, Commit, Condition, Entry, Error, Expect, Op, Revision, Store, Txn};
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};

/// The keys that operations choose from; some are prefixes of others.
pub const KEYS: [&str; 8] = ["/a", "/a/b", "/a/c", "/ab", "/b", "/b/x", "/b/y", "/c"];
/// The prefixes that listings choose from.
pub const PREFIXES: [&str; 7] = ["", "/", "/a", "/a/", "/b/", "/c", "/d"];

/// One random step. Numbers are taken modulo what there is to choose from.
#[derive(Clone, Debug)]
pub enum Step {
    /// Commits a transaction.
    Commit {
        /// Keys, and what is expected of them.
        conditions: Vec<(usize, Expected)>,
        /// Keys, with a value to put or none to delete. Keys may repeat.
        writes: Vec<(usize, Option<u8>)>,
    },
    /// Lists a page.
    List {
        /// Which prefix.
        prefix: usize,
        /// The key to start after.
        after: Option<usize>,
        /// How many revisions before the newest; negative for the future.
        back: Option<i8>,
        /// At most so many; 0 for all.
        limit: usize,
    },
    /// Compacts to so many revisions before the newest; negative for the future.
    Compact(i8),
    /// Closes and opens the store.
    Reopen,
}

/// What a step expects of a key.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// That it is absent.
    Absent,
    /// That it is present.
    Present,
    /// That it is as it is in the model.
    Same,
    /// That it was modified so many revisions ago.
    Ago(u8),
}

type Snapshot = BTreeMap<&'static str, Entry>;

/// The model.
struct Model {
    base: u64,
    floor: Revision,
    /// Of each revision from `base` on.
    snapshots: Vec<Snapshot>,
    /// What each revision after `base` changed.
    changes: Vec<Vec<Change>>,
}

/// Runs the steps on a fresh store and compares every answer with the model's; at the end also what a watch tells.
/// `reopen` closes the store and opens it again (or leaves it as it is).
pub async fn check(
    mut store: Arc<dyn Store>,
    steps: &[Step],
    reopen: impl AsyncFn(Arc<dyn Store>) -> Arc<dyn Store>,
) {
    let base = store.revision().await.unwrap();
    let mut model =
        Model { base: base.0, floor: base, snapshots: vec![Snapshot::new()], changes: Vec::new() };
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Commit { conditions, writes } => {
                let txn = model.txn(conditions, writes);
                let expected = model.commit(&txn);
                let found = store.commit(txn).await;
                match (&found, &expected) {
                    (Err(Error::BadTxn(_)), None) => {}
                    (Ok(found), Some(expected)) => assert_eq!(found, expected, "step {i}"),
                    _ => panic!("step {i}: {found:?} instead of {expected:?}"),
                }
            }
            Step::List { prefix, after, back, limit } => {
                let prefix = PREFIXES[prefix % PREFIXES.len()];
                let after = after.map(|a| KEYS[a % KEYS.len()]);
                let at = back.map(|back| model.back(back));
                let found = store.list(prefix, after, at, *limit).await;
                model.compare_list(prefix, after, at, *limit, found);
            }
            Step::Compact(back) => {
                let to = model.back(*back);
                let found = store.compact(to).await;
                if to > model.newest() {
                    assert!(matches!(found, Err(Error::Future { .. })), "step {i}: {found:?}");
                } else {
                    found.unwrap();
                    model.floor = model.floor.max(to);
                }
            }
            Step::Reopen => store = reopen(store).await,
        }
        assert_eq!(store.revision().await.unwrap(), model.newest(), "after step {i}");
    }
    model.compare_all(&*store).await;
}

impl Model {
    fn newest(&self) -> Revision {
        Revision(self.base + self.changes.len() as u64)
    }

    fn back(&self, back: i8) -> Revision {
        Revision(self.newest().0.saturating_add_signed(-i64::from(back)).max(self.base))
    }

    fn at(&self, revision: Revision) -> &Snapshot {
        &self.snapshots[(revision.0 - self.base) as usize]
    }

    fn txn(&self, conditions: &[(usize, Expected)], writes: &[(usize, Option<u8>)]) -> Txn {
        let condition = |(key, expected): &(usize, Expected)| {
            let key = KEYS[key % KEYS.len()];
            let expect = match expected {
                Expected::Absent => Expect::Absent,
                Expected::Present => Expect::Present,
                Expected::Same => {
                    self.at(self.newest()).get(key).map_or(Expect::Absent, |e| Expect::Modified(e.modified))
                }
                Expected::Ago(ago) => {
                    Expect::Modified(Revision(self.newest().0.saturating_sub(u64::from(*ago))))
                }
            };
            Condition { key: key.into(), expect }
        };
        let op = |(key, value): &(usize, Option<u8>)| match value {
            Some(value) => {
                Op::Put(KEYS[key % KEYS.len()].into(), Bytes::from(vec![*value; usize::from(*value)]))
            }
            None => Op::Delete(KEYS[key % KEYS.len()].into()),
        };
        Txn { conditions: conditions.iter().map(condition).collect(), ops: writes.iter().map(op).collect() }
    }

    /// What a commit should give; `None` for a bad transaction.
    fn commit(&mut self, txn: &Txn) -> Option<Commit> {
        let key_of = |op: &Op| match op {
            Op::Put(key, _) | Op::Delete(key) => KEYS.into_iter().find(|k| *k == &**key),
        };
        let mut written: Vec<_> = txn.ops.iter().map(key_of).collect();
        written.sort_unstable();
        if written.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        let mut snapshot = self.at(self.newest()).clone();
        for condition in &txn.conditions {
            let current = snapshot.get(&*condition.key).cloned();
            let holds = match condition.expect {
                Expect::Absent => current.is_none(),
                Expect::Present => current.is_some(),
                Expect::Modified(revision) => current.as_ref().map(|e| e.modified) == Some(revision),
            };
            if !holds {
                return Some(Commit::Conflict { key: condition.key.clone(), current });
            }
        }
        let revision = Revision(self.newest().0 + 1);
        let mut changes = Vec::new();
        for op in &txn.ops {
            let key = key_of(op).expect("a key of the model");
            match op {
                Op::Put(_, value) => {
                    let previous = snapshot.get(key).cloned();
                    let created = previous.as_ref().map_or(revision, |p| p.created);
                    let entry = Entry { key: key.into(), value: value.clone(), created, modified: revision };
                    snapshot.insert(key, entry.clone());
                    changes.push(Change { entry, previous, deleted: false });
                }
                Op::Delete(_) => {
                    if let Some(previous) = snapshot.remove(key) {
                        let entry = Entry { value: Bytes::new(), modified: revision, ..previous.clone() };
                        changes.push(Change { entry, previous: Some(previous), deleted: true });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.snapshots.push(snapshot);
            self.changes.push(changes);
        }
        Some(Commit::Done(self.newest()))
    }

    fn compare_list(
        &self,
        prefix: &str,
        after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
        found: Result<crate::Page, Error>,
    ) {
        let at = at.unwrap_or(self.newest());
        if at > self.newest() {
            assert!(matches!(found, Err(Error::Future { .. })), "{found:?}");
            return;
        }
        if at < self.floor {
            assert!(matches!(found, Err(Error::Compacted { .. })), "{found:?}");
            return;
        }
        let found = found.unwrap();
        let all: Vec<_> = self
            .at(at)
            .values()
            .filter(|e| e.key.starts_with(prefix) && after.is_none_or(|after| &*e.key > after))
            .cloned()
            .collect();
        let wanted = if limit == 0 { all.len() } else { limit.min(all.len()) };
        assert_eq!(found.entries, all[..wanted], "{prefix:?} after {after:?} at {at} limit {limit}");
        assert_eq!((found.more, found.revision), (wanted < all.len(), at));
    }

    /// Every kept revision, and the watch of all of them.
    async fn compare_all(&self, store: &dyn Store) {
        for at in self.floor.0..=self.newest().0 {
            let at = Some(Revision(at));
            self.compare_list("", None, at, 0, store.list("", None, at, 0).await);
        }
        for prefix in ["", "/a"] {
            let mut watch = store.watch(prefix, self.floor).await.unwrap();
            for revision in self.floor.0 + 1..=self.newest().0 {
                let changes = &self.changes[(revision - self.base - 1) as usize];
                let expected: Vec<_> =
                    changes.iter().filter(|c| c.entry.key.starts_with(prefix)).cloned().collect();
                if expected.is_empty() {
                    continue;
                }
                let batch = super::next(&mut watch).await;
                assert_eq!((batch.revision, &batch.changes), (Revision(revision), &expected));
            }
        }
    }
}
