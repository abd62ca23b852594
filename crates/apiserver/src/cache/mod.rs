//! What the API server keeps in memory: each live object once, fed by one watch of the whole store, so that every read and
//! every watch is served from here. It never writes.

pub(crate) mod codec;
pub(crate) mod kind_cache;
pub(crate) mod object;
pub(crate) mod slim;

use crate::Error;
use arc_swap::ArcSwap;
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
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
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

/// The caches by the prefix of their keys.
type ByPrefix = HashMap<String, Arc<KindCache>>;

/// A change of the set of kinds. The task that feeds the caches makes it, so that no change of an object falls between.
enum Order {
    /// Fills a cache and feeds it from then on; an older one with the same keys ends.
    Add(Arc<KindCache>, oneshot::Sender<()>),
    /// Ends a cache.
    Remove(String, oneshot::Sender<()>),
}

/// The caches of all kinds.
pub(crate) struct Caches {
    store: Arc<dyn Store>,
    kinds: ArcSwap<ByPrefix>,
    orders: mpsc::UnboundedSender<Order>,
    /// Taken by the task that feeds the caches.
    ordered: Mutex<Option<mpsc::UnboundedReceiver<Order>>>,
    indexes: Vec<Arc<dyn Index>>,
    applied: AtomicU64,
    /// Nothing feeds the caches any more.
    ended: AtomicBool,
    waiters: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
}

impl Caches {
    pub(crate) fn new(store: Arc<dyn Store>, kinds: &[Arc<Kind>], indexes: Vec<Arc<dyn Index>>) -> Self {
        let kinds: ByPrefix = kinds
            .iter()
            .filter(|kind| kind.stored_as.is_none())
            .map(|kind| KindCache::new(kind.clone()))
            .map(|cache| (cache.key_prefix.clone(), Arc::new(cache)))
            .collect();
        let (orders, ordered) = mpsc::unbounded_channel();
        Self {
            store,
            kinds: ArcSwap::from_pointee(kinds),
            orders,
            ordered: Mutex::new(Some(ordered)),
            indexes,
            applied: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            waiters: Mutex::default(),
        }
    }

    /// The cache in which objects of that group and plural name are kept.
    pub(crate) fn of(&self, group: &str, plural: &str) -> Option<Arc<KindCache>> {
        self.kinds.load().get(&kind_cache::key_prefix(group, plural)).cloned()
    }

    /// All caches.
    pub(crate) fn all(&self) -> Vec<Arc<KindCache>> {
        self.kinds.load().values().cloned().collect()
    }

    /// Adds the cache of a kind that appears, or replaces that of one that changes; returns when it is filled.
    pub(crate) async fn add(&self, cache: Arc<KindCache>) {
        let (tell, told) = oneshot::channel();
        if self.orders.send(Order::Add(cache, tell)).is_ok() {
            let _ = told.await;
        }
    }

    /// Ends the cache of a kind that goes; so do its watches.
    pub(crate) async fn remove(&self, group: &str, plural: &str) {
        let (tell, told) = oneshot::channel();
        if self.orders.send(Order::Remove(kind_cache::key_prefix(group, plural), tell)).is_ok() {
            let _ = told.await;
        }
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
        let Some(orders) = self.ordered.lock().take() else { return Ok(()) };
        let caches = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = caches.follow(watch, orders) => {}
            }
            caches.ended.store(true, Ordering::Release);
            caches.waiters.lock().clear();
        });
        Ok(())
    }

    async fn fill(&self) -> Result<Watch, Error> {
        let failed = |source| Error::Store { step: "reading the state", source };
        let revision = self.store.revision().await.map_err(failed)?;
        let kinds = self.kinds.load_full();
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
                if let Some(cache) = cache_of(&kinds, &entry.key) {
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
        for cache in kinds.values() {
            cache.fill(objects.remove(cache.key_prefix.as_str()).unwrap_or_default(), revision);
        }
        self.advance(revision);
        self.store.watch(ROOT, revision).await.map_err(failed)
    }

    async fn follow(&self, mut watch: Watch, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let batch = tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    self.obey(order).await;
                    continue;
                }
                batch = watch.next() => batch,
            };
            match batch {
                Some(Ok(batch)) => {
                    let now = tokio::time::Instant::now().into_std();
                    let kinds = self.kinds.load();
                    let mut touched: Vec<&Arc<KindCache>> = Vec::new();
                    for change in &batch.changes {
                        if let Some(cache) = cache_of(&kinds, &change.entry.key) {
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

    /// Changes the set of caches. All others show the state of the revision that the new one is filled with, and the watch
    /// goes on from there.
    async fn obey(&self, order: Order) {
        match order {
            Order::Add(cache, done) => {
                let revision = self.applied();
                match self.objects_of(&cache, revision).await {
                    Ok(objects) => cache.fill(objects, revision),
                    // What is not seen now would never be seen: better none than some of the objects.
                    Err(error) => {
                        tracing::error!(%error, kind = ?cache.kind, "cannot read the objects of a new kind");
                        return;
                    }
                }
                let mut kinds = ByPrefix::clone(&self.kinds.load());
                let old = kinds.insert(cache.key_prefix.clone(), cache);
                self.kinds.store(Arc::new(kinds));
                old.iter().for_each(|c| c.close());
                let _ = done.send(());
            }
            Order::Remove(prefix, done) => {
                let mut kinds = ByPrefix::clone(&self.kinds.load());
                let old = kinds.remove(&prefix);
                self.kinds.store(Arc::new(kinds));
                old.iter().for_each(|c| c.close());
                let _ = done.send(());
            }
        }
    }

    async fn objects_of(
        &self,
        cache: &KindCache,
        revision: Revision,
    ) -> Result<Vec<object::Object>, orlop_store::Error> {
        let (mut objects, mut after): (Vec<object::Object>, Option<Arc<str>>) = (Vec::new(), None);
        loop {
            let page = self.store.list(&cache.key_prefix, after.as_deref(), Some(revision), PAGE).await?;
            objects.extend(page.entries.iter().filter_map(|entry| cache.read(entry)));
            after = page.entries.last().map(|e| e.key.clone());
            if !page.more {
                return Ok(objects);
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

fn cache_of<'a>(kinds: &'a ByPrefix, key: &str) -> Option<&'a Arc<KindCache>> {
    let rest = key.get(ROOT.len()..)?;
    let group = rest.find('/')? + 1;
    let resource = rest.get(group..)?.find('/')? + 1;
    kinds.get(key.get(..ROOT.len() + group + resource)?)
}
