//! The store of a simulated cluster: in memory, and everybody who asks is told of each commit the moment it happens. It may let
//! somebody else write an object just before it is written.

use crate::faults::Chances;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use orlop_store::{
    Commit, Embedded, Error, Expect, Op, Options, Page, Revision, Store, Txn, Watch, WatchBatch,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::SystemTime};

/// Called with the changes of each commit, in order.
pub type Observer = Box<dyn FnMut(&WatchBatch) + Send>;

/// Under which all keys lie.
const ROOT: &str = "/registry/";

/// See the module.
pub(crate) struct Witnessed {
    store: Embedded,
    /// All commits, from the first.
    history: Mutex<Watch>,
    observers: Mutex<Vec<Observer>>,
    /// What was told.
    objects: Mutex<BTreeMap<Arc<str>, Bytes>>,
    chances: Arc<Chances>,
}

impl Witnessed {
    pub(crate) async fn new(
        clock: Arc<dyn Fn() -> SystemTime + Send + Sync>,
        chances: Arc<Chances>,
    ) -> Result<Self, Error> {
        let store = Embedded::in_memory_with(Options { clock, ..Options::default() });
        let history = store.watch(ROOT, Revision(0)).await?;
        Ok(Self {
            store,
            history: Mutex::new(history),
            observers: Mutex::default(),
            objects: Mutex::default(),
            chances,
        })
    }

    pub(crate) fn observe(&self, observer: Observer) {
        self.observers.lock().push(observer);
    }

    /// The values of all keys that start so.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<serde_json::Value> {
        let objects = self.objects.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let these = objects.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        these.filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect()
    }

    /// Tells what was committed since the last time.
    fn tell(&self) {
        let mut history = self.history.lock();
        while let Some(Some(Ok(batch))) = history.next().now_or_never() {
            for change in &batch.changes {
                let mut objects = self.objects.lock();
                match change.deleted {
                    true => objects.remove(&change.entry.key),
                    false => objects.insert(change.entry.key.clone(), change.entry.value.clone()),
                };
            }
            self.observers.lock().iter_mut().for_each(|observer| observer(&batch));
        }
    }

    /// Writes one of the keys that a transaction is about to change, without changing what is in it.
    async fn interfere(&self, txn: &Txn) -> Result<(), Error> {
        let Some(theirs) = txn.conditions.iter().find(|c| matches!(c.expect, Expect::Modified(_))) else {
            return Ok(());
        };
        let changes_it = txn.ops.iter().any(|op| matches!(op, Op::Put(key, _) if *key == theirs.key));
        if let (true, (Some(entry), _)) = (changes_it, self.store.get(&theirs.key).await?) {
            self.store.commit(Txn::replace(entry.key, entry.modified, entry.value)).await?;
            self.tell();
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Witnessed {
    async fn get(&self, key: &str) -> Result<(Option<orlop_store::Entry>, Revision), Error> {
        self.store.get(key).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.store.list(prefix, start_after, at, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, Error> {
        if self.chances.interferes() {
            self.interfere(&txn).await?;
        }
        let outcome = self.store.commit(txn).await;
        self.tell();
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.store.watch(prefix, after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.store.revision().await
    }

    async fn size(&self) -> Result<u64, Error> {
        self.store.size().await
    }
}
