//! A cache of all objects of one kind, fed by one watch and shared by all controllers, with the change notices that
//! fill their queues. It reads its own writes: what a write returned is put in with [`Informer::observe`], so a
//! controller never acts twice because its cache lags behind. It never writes to the API.

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Debug,
    sync::Arc,
};
use tokio::sync::watch;

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace, or the empty string.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Called with the object before (unless it is new) and after (unless it is gone) each change.
type Listener<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

/// How many deletions are remembered, so that a late answer to a write does not bring an object back.
const TOMBSTONES: usize = 8192;

/// An object before and after a change.
type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

struct State<K> {
    objects: HashMap<String, HashMap<String, Arc<K>>>,
    /// Uid of the controller, or [`NOBODY`] → keys of what it owns.
    owned: HashMap<String, HashSet<Key>>,
    tombstones: (VecDeque<String>, HashSet<String>),
    /// While a list is on its way: what was written meanwhile, which it need not contain.
    written: Option<HashSet<Key>>,
}

/// See the module.
pub struct Informer<K> {
    state: RwLock<State<K>>,
    listeners: RwLock<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        Self {
            state: RwLock::new(State {
                objects: HashMap::new(),
                owned: HashMap::new(),
                tombstones: (VecDeque::new(), HashSet::new()),
                written: None,
            }),
            listeners: RwLock::default(),
            synced: watch::Sender::new(false),
        }
    }
}

fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Stands in the index for "has no controller".
const NOBODY: &str = "";

fn controller_uid<K: Resource>(object: &K) -> &str {
    let mut owners = object.meta().owner_references.iter().flatten();
    owners.find(|o| o.controller == Some(true)).map_or(NOBODY, |o| o.uid.as_str())
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    /// Registers a listener. Register before [`Informer::run`]; a listener must not block.
    pub fn on_change(&self, listener: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        self.listeners.write().push(Box::new(listener));
    }

    /// Watches until dropped. Retries with back-off for ever.
    pub async fn run(self: Arc<Self>, api: Api<K>) {
        self.run_selected(api, watcher::Config::default()).await;
    }

    /// The same for the objects that the selectors of `config` choose.
    pub async fn run_selected(self: Arc<Self>, api: Api<K>, config: watcher::Config) {
        let mut events = std::pin::pin!(watcher(api, config.any_semantic()).default_backoff());
        let mut listing: Option<HashMap<Key, Arc<K>>> = None;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    listing = Some(HashMap::new());
                    self.state.write().written = Some(HashSet::new());
                }
                Ok(Event::InitApply(object)) => {
                    if let Some(listing) = &mut listing {
                        listing.insert(Key::of(&object), Arc::new(slim(object)));
                    }
                }
                Ok(Event::InitDone) => {
                    self.replace(listing.take().unwrap_or_default());
                    self.synced.send_replace(true);
                }
                Ok(Event::Apply(object)) => self.observe(object),
                Ok(Event::Delete(object)) => self.forget(&object),
                Err(error) => {
                    tracing::debug!(kind = %K::kind(&K::DynamicType::default()), %error, "watch interrupted")
                }
            }
        }
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Takes in an object, unless what is here is as new or the object is known to be gone.
    pub fn observe(&self, object: K) {
        let object = Arc::new(slim(object));
        let key = Key::of(&*object);
        let (old, successor) = {
            let mut state = self.state.write();
            if object.meta().uid.as_ref().is_some_and(|uid| state.tombstones.1.contains(uid)) {
                return;
            }
            let old = state.objects.get(&key.namespace).and_then(|n| n.get(&key.name)).cloned();
            if old.as_ref().is_some_and(|old| revision(&**old) >= revision(&*object)) {
                return;
            }
            let successor = old.as_ref().is_some_and(|old| old.meta().uid != object.meta().uid);
            if let Some(uid) = old.as_ref().filter(|_| successor).and_then(|o| o.uid()) {
                state.bury(uid);
            }
            if let Some(written) = &mut state.written {
                written.insert(key.clone());
            }
            state.insert(key, object.clone());
            (old, successor)
        };
        self.tell_of(old, Some(object), successor);
    }

    /// Takes out an object that is gone.
    pub fn forget(&self, object: &K) {
        let key = Key::of(object);
        let old = {
            let mut state = self.state.write();
            if let Some(uid) = object.uid() {
                state.bury(uid);
            }
            // A successor of the same name stays.
            let here = state.objects.get(&key.namespace).and_then(|n| n.get(&key.name));
            if here.is_none_or(|o| o.uid() != object.uid()) {
                return;
            }
            state.remove(&key)
        };
        self.tell(old.as_ref(), None);
    }

    fn replace(&self, listing: HashMap<Key, Arc<K>>) {
        let newest = listing.values().map(|o| revision(&**o)).max().unwrap_or(0);
        let mut changes: Vec<Change<K>> = Vec::new();
        {
            let mut state = self.state.write();
            // What was written ourselves while the list was on its way need not be in it.
            let written = state.written.take().unwrap_or_default();
            let gone: Vec<Key> = state
                .objects
                .values()
                .flat_map(HashMap::values)
                .map(|o| Key::of(&**o))
                .filter(|key| !listing.contains_key(key) && !written.contains(key))
                .collect();
            for key in gone {
                let old = state.remove(&key);
                // A server may answer with a list that is older than what was seen already: then the watch that follows
                // brings the object back, which a tombstone would hinder.
                if let Some(old) = old.as_ref().filter(|o| revision(&***o) <= newest) {
                    let uid = old.uid().unwrap_or_default();
                    state.bury(uid);
                }
                changes.push((old, None));
            }
            for (key, object) in listing {
                let old = state.objects.get(&key.namespace).and_then(|n| n.get(&key.name)).cloned();
                if old.as_ref().is_none_or(|old| revision(&**old) < revision(&*object)) {
                    state.insert(key, object.clone());
                    changes.push((old, Some(object)));
                }
            }
        }
        for (old, new) in changes {
            let successor = matches!((&old, &new), (Some(o), Some(n)) if o.meta().uid != n.meta().uid);
            self.tell_of(old, new, successor);
        }
    }

    /// An object that took the name of another is told of as one that went and one that came.
    fn tell_of(&self, old: Option<Arc<K>>, new: Option<Arc<K>>, successor: bool) {
        if successor {
            self.tell(old.as_ref(), None);
            self.tell(None, new.as_ref());
        } else {
            self.tell(old.as_ref(), new.as_ref());
        }
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for listener in self.listeners.read().iter() {
            listener(old, new);
        }
    }

    /// The object of that name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.state.read().objects.get(namespace)?.get(name).cloned()
    }

    /// All objects in a namespace (of a cluster-scoped kind: the empty one).
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.state.read().objects.get(namespace).map(|n| n.values().cloned().collect()).unwrap_or_default()
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().flat_map(HashMap::values).cloned().collect()
    }

    /// All objects of a namespace that have no controller.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(objects) = state.objects.get(namespace) else { return Vec::new() };
        let keys = state.owned.get(NOBODY).into_iter().flatten().filter(|k| k.namespace == namespace);
        keys.filter_map(|k| objects.get(&k.name).cloned()).collect()
    }

    /// All objects whose controller has this uid.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let keys = state.owned.get(uid).into_iter().flatten();
        keys.filter_map(|k| state.objects.get(&k.namespace)?.get(&k.name).cloned()).collect()
    }
}

/// What no controller reads need not be kept.
fn slim<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

impl<K: Resource> State<K> {
    fn insert(&mut self, key: Key, object: Arc<K>) {
        self.remove(&key);
        let uid = controller_uid(&*object);
        match self.owned.get_mut(uid) {
            Some(keys) => {
                keys.insert(key.clone());
            }
            None => {
                self.owned.insert(uid.to_string(), HashSet::from([key.clone()]));
            }
        }
        self.objects.entry(key.namespace).or_default().insert(key.name, object);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let namespace = self.objects.get_mut(&key.namespace)?;
        let old = namespace.remove(&key.name)?;
        if namespace.is_empty() {
            self.objects.remove(&key.namespace);
        }
        let uid = controller_uid(&*old);
        if let Some(keys) = self.owned.get_mut(uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.owned.remove(uid);
            }
        }
        Some(old)
    }

    fn bury(&mut self, uid: String) {
        let (order, set) = &mut self.tombstones;
        if set.insert(uid.clone()) {
            order.push_back(uid);
            if order.len() > TOMBSTONES
                && let Some(oldest) = order.pop_front()
            {
                set.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, uid: &str, revision: u64) -> ConfigMap {
        let mut o = ConfigMap::default();
        o.metadata.name = Some(name.into());
        o.metadata.namespace = Some("default".into());
        o.metadata.uid = Some(uid.into());
        o.metadata.resource_version = Some(revision.to_string());
        o
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let informer = Informer::<ConfigMap>::default();
        informer.observe(object("a", "1", 7));
        informer.observe(object("a", "1", 5));
        let here = informer.get("default", "a").expect("there");
        assert_eq!(here.metadata.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn a_late_answer_does_not_bring_a_deleted_object_back() {
        let informer = Informer::<ConfigMap>::default();
        informer.forget(&object("a", "1", 9));
        informer.observe(object("a", "1", 5));
        assert!(informer.get("default", "a").is_none());
        informer.observe(object("a", "2", 10));
        assert!(informer.get("default", "a").is_some(), "its successor is another object");
    }

    fn listening(informer: &Informer<ConfigMap>) -> Arc<parking_lot::Mutex<Vec<String>>> {
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let told = seen.clone();
        informer.on_change(move |old, new| {
            let name = |o: Option<&Arc<ConfigMap>>| o.and_then(|o| o.uid()).unwrap_or_else(|| "-".into());
            told.lock().push(format!("{}>{}", name(old), name(new)));
        });
        seen
    }

    fn list(objects: Vec<ConfigMap>) -> HashMap<Key, Arc<ConfigMap>> {
        objects.into_iter().map(|o| (Key::of(&o), Arc::new(o))).collect()
    }

    #[test]
    fn a_new_list_removes_what_is_not_in_it_and_says_so() {
        let informer = Informer::<ConfigMap>::default();
        informer.observe(object("a", "1", 7));
        informer.observe(object("b", "2", 2));
        let seen = listening(&informer);
        informer.state.write().written = Some(HashSet::new());
        informer.observe(object("mine", "3", 9));
        informer.replace(list(vec![object("b", "2", 5)]));
        assert_eq!(*seen.lock(), ["->3", "1>-", "2>2"]);
        assert!(informer.get("default", "mine").is_some(), "written while the list was on its way");
        informer.replace(HashMap::new());
        assert!(informer.all().is_empty(), "an empty list leaves nothing");
    }

    #[test]
    fn an_object_that_takes_the_name_of_another_is_told_of_as_one_gone_and_one_new() {
        let informer = Informer::<ConfigMap>::default();
        informer.observe(object("a", "1", 1));
        let seen = listening(&informer);
        informer.observe(object("a", "2", 5));
        informer.forget(&object("a", "1", 4));
        assert_eq!(*seen.lock(), ["1>-", "->2"], "and the late word of the first one's end says nothing new");
        informer.replace(list(vec![object("a", "3", 9)]));
        assert_eq!(seen.lock()[2..], ["2>-", "->3"]);
    }
}
