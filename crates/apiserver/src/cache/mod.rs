//! What the API server keeps in memory: each live object once, fed by one watch of the whole store, so that every read and
//! every watch is served from here. It never writes.

pub(crate) mod codec;
pub(crate) mod kind_cache;
pub(crate) mod object;

use crate::Error;
use futures::StreamExt;
use kind_cache::KindCache;
use orlop_api::Kind;
use orlop_store::{Change, Entry, Revision, Store, Watch};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Under which all keys lie.
const ROOT: &str = "/registry/";
/// Entries taken from the store at once while filling.
const PAGE: usize = 1000;

/// Takes in keys that are not objects (allocations), or objects that must be found by other things than their names.
pub(crate) trait Index: Send + Sync {
    /// The keys that it wants.
    fn key_prefix(&self) -> &str;
    /// Replaces everything.
    fn fill(&self, entries: &[Entry]);
    /// One change.
    fn apply(&self, change: &Change);
}

/// The caches of all kinds.
pub(crate) struct Caches {
    store: Arc<dyn Store>,
    kinds: HashMap<String, Arc<KindCache>>,
    indexes: Vec<Arc<dyn Index>>,
    applied: AtomicU64,
    /// Nothing feeds the caches any more.
    ended: AtomicBool,
    waiters: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
}

impl Caches {
    pub(crate) fn new(store: Arc<dyn Store>, kinds: &[Arc<Kind>], indexes: Vec<Arc<dyn Index>>) -> Self {
        let kinds = kinds
            .iter()
            .map(|kind| KindCache::new(kind.clone()))
            .map(|cache| (cache.key_prefix.clone(), Arc::new(cache)))
            .collect();
        Self {
            store,
            kinds,
            indexes,
            applied: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// The cache of a kind that was given to [`Caches::new`].
    pub(crate) fn of(&self, kind: &Kind) -> Option<Arc<KindCache>> {
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        self.kinds.get(&format!("{ROOT}{group}/{}/", kind.plural)).cloned()
    }

    /// All caches.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<KindCache>> {
        self.kinds.values()
    }

    /// The revision up to which everything is here.
    pub(crate) fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// Returns when everything up to `revision` is here, or nothing more will come.
    pub(crate) async fn wait(&self, revision: Revision) {
        if self.applied() >= revision {
            return;
        }
        let (tell, told) = oneshot::channel();
        self.waiters.lock().entry(revision).or_default().push(tell);
        // The feeder may have passed between the look and the entry.
        if self.applied() < revision && !self.ended.load(Ordering::Acquire) {
            let _ = told.await;
        }
    }

    /// Reads all of the store, and starts the task that follows it until `stop`.
    pub(crate) async fn start(self: &Arc<Self>, stop: CancellationToken) -> Result<(), Error> {
        let watch = self.fill().await?;
        let caches = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = caches.follow(watch) => {}
            }
            caches.ended.store(true, Ordering::Release);
            caches.waiters.lock().clear();
        });
        Ok(())
    }

    async fn fill(&self) -> Result<Watch, Error> {
        let failed = |source| Error::Store { step: "reading the state", source };
        let revision = self.store.revision().await.map_err(failed)?;
        let mut objects: HashMap<&str, Vec<object::Object>> = HashMap::new();
        let mut indexed = Vec::new();
        let mut after: Option<Arc<str>> = None;
        loop {
            let page = self.store.list(ROOT, after.as_deref(), Some(revision), PAGE).await.map_err(failed)?;
            after = page.entries.last().map(|e| e.key.clone());
            for entry in page.entries {
                if self.indexes.iter().any(|index| entry.key.starts_with(index.key_prefix())) {
                    indexed.push(entry.clone());
                }
                if let Some(cache) = self.cache_of(&entry.key) {
                    match cache.read(&entry) {
                        Some(object) => objects.entry(&cache.key_prefix).or_default().push(object),
                        None => tracing::error!(key = %entry.key, "a value in the store is not an object"),
                    }
                }
            }
            if !page.more {
                break;
            }
        }
        for index in &self.indexes {
            let prefix = index.key_prefix();
            let entries: Vec<Entry> = indexed.iter().filter(|e| e.key.starts_with(prefix)).cloned().collect();
            index.fill(&entries);
        }
        for cache in self.kinds.values() {
            cache.fill(objects.remove(cache.key_prefix.as_str()).unwrap_or_default(), revision);
        }
        self.advance(revision);
        self.store.watch(ROOT, revision).await.map_err(failed)
    }

    fn cache_of(&self, key: &str) -> Option<&Arc<KindCache>> {
        let rest = key.get(ROOT.len()..)?;
        let group = rest.find('/')? + 1;
        let resource = rest.get(group..)?.find('/')? + 1;
        self.kinds.get(key.get(..ROOT.len() + group + resource)?)
    }

    async fn follow(&self, mut watch: Watch) {
        loop {
            match watch.next().await {
                Some(Ok(batch)) => {
                    let now = Instant::now();
                    let mut touched: Vec<&Arc<KindCache>> = Vec::new();
                    for change in &batch.changes {
                        if let Some(cache) = self.cache_of(&change.entry.key) {
                            cache.apply(change, now);
                            if !touched.iter().any(|t| Arc::ptr_eq(t, cache)) {
                                touched.push(cache);
                            }
                        }
                        for index in &self.indexes {
                            if change.entry.key.starts_with(index.key_prefix()) {
                                index.apply(change);
                            }
                        }
                    }
                    self.advance(batch.revision);
                    touched.iter().for_each(|cache| cache.publish());
                }
                Some(Err(orlop_store::Error::Closed)) | None => return,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of the store broke; reading everything anew");
                    watch = loop {
                        match self.fill().await {
                            Ok(watch) => break watch,
                            Err(Error::Store { source: orlop_store::Error::Closed, .. }) => return,
                            Err(error) => {
                                tracing::error!(%error, "cannot read the state; trying again");
                                tokio::time::sleep(Duration::from_secs(1)).await;
                            }
                        }
                    };
                }
            }
        }
    }

    fn advance(&self, revision: Revision) {
        self.applied.fetch_max(revision.0, Ordering::AcqRel);
        let mut waiters = self.waiters.lock();
        while let Some(first) = waiters.first_entry() {
            if *first.key() > revision {
                break;
            }
            for waiter in first.remove() {
                let _ = waiter.send(());
            }
        }
    }
}
