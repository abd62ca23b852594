//! The store of a simulated cluster: in memory, and everybody who asks is told of each commit the moment it happens. It may let
//! somebody else write an object just before it is written.

use crate::{Error as WorldError, faults::Chances};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use orlop_api::kinds;
use orlop_store::{
    Commit, Embedded, Error, Expect, Op, Options, Page, Revision, Store, Txn, Watch, WatchBatch,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
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
    pub(crate) fn objects(&self, prefix: &str) -> Vec<Value> {
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

/// Under which the objects of a resource lie in the store.
pub(crate) fn key_prefix(group: &str, plural: &str) -> String {
    format!("/registry/{}/{plural}/", if group.is_empty() { "core" } else { group })
}

/// Puts objects into the store as they are.
pub(crate) async fn load(
    store: &dyn Store,
    objects: &[Value],
    random: &orlop_apiserver::Random,
    now: Timestamp,
) -> Result<(), WorldError> {
    for object in objects {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let table = kinds::table();
        let found = table.iter().find(|k| k.api_version() == api_version && k.kind == kind);
        let found =
            found.ok_or_else(|| WorldError::Object(format!("there is no kind {kind} in {api_version}")))?;
        if name.is_empty() {
            return Err(WorldError::Object(format!("a {kind} without a name")));
        }
        let (group, plural) = match &found.stored_as {
            Some(stored) => (stored.group.to_string(), stored.plural.to_string()),
            None => (found.group.to_string(), found.plural.to_string()),
        };
        let mut key = key_prefix(&group, &plural);
        if found.namespaced() {
            let namespace = text("/metadata/namespace");
            key += if namespace.is_empty() { "default" } else { namespace };
            key.push('/');
        }
        key += name;
        let mut object = object.clone();
        found.rules.default(&mut object);
        let metadata = &mut object["metadata"];
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.remove("resourceVersion");
            if found.namespaced() {
                metadata.entry("namespace").or_insert_with(|| json!("default"));
            }
            metadata.entry("uid").or_insert_with(|| {
                let n = random();
                json!(format!("{:08x}-{:04x}-4000-8000-{:012x}", n as u32, (n >> 32) as u16, n >> 80))
            });
            metadata
                .entry("creationTimestamp")
                .or_insert_with(|| json!(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
        }
        let text = object.to_string();
        store.commit(Txn::create(key, text.into())).await?;
    }
    Ok(())
}
