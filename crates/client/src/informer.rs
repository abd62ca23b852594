//! A cache of all objects of one kind, fed by one watch and shared by all controllers, with the change notices that
//! fill their queues. It reads its own writes: what a write returned is put in with [`Informer::observe`], so a
//! controller never acts twice because its cache lags behind. It never writes to the API.

use crate::watch::{Event, Object, Source, Watcher};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt::Debug,
    sync::{Arc, OnceLock},
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
    /// Held while something changes and is told of, so that listeners hear of changes in the order in which they were made.
    listeners: Mutex<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
    /// Held by the one who feeds it.
    feeding: tokio::sync::Mutex<()>,
    slimming: OnceLock<fn(&mut K)>,
}

/// One [`Informer`] a kind, for all parts of a process that follow all objects of their kinds: what is shared is watched, decoded
/// and kept once.
#[derive(Clone, Default)]
pub struct Caches(Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>);

impl Caches {
    /// The informer of a kind.
    pub fn of<K: Send + Sync + 'static>(&self) -> Arc<Informer<K>> {
        let mut all = self.0.lock();
        let any = all.entry(TypeId::of::<K>()).or_insert_with(|| Arc::<Informer<K>>::default());
        // What stands under a type is an informer of that type.
        any.clone().downcast().unwrap_or_default()
    }
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
            listeners: Mutex::default(),
            synced: watch::Sender::new(false),
            feeding: tokio::sync::Mutex::default(),
            slimming: OnceLock::new(),
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
    K: Resource + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    /// Has something taken out of every object before it is kept: what nobody who uses this reads. Say it before [`Informer::run`]; what is
    /// said first stands.
    pub fn keep_less(&self, slimming: fn(&mut K)) {
        let _ = self.slimming.set(slimming);
    }

    /// An object as it is kept.
    fn kept(&self, mut object: K) -> Arc<K> {
        // No client that follows objects reads who wrote them.
        object.meta_mut().managed_fields = None;
        if let Some(slimming) = self.slimming.get() {
            slimming(&mut object);
        }
        Arc::new(object)
    }

    /// Registers a listener. Of what is here already it hears at once, as of something new. A listener must not block, nor change
    /// what is in here.
    pub fn on_change(&self, listener: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        let mut listeners = self.listeners.lock();
        self.all().iter().for_each(|object| listener(None, Some(object)));
        listeners.push(Box::new(listener));
    }

    /// Watches until dropped. Retries with back-off for ever. When several ask for it, one does it; the next takes its place when it
    /// is dropped.
    pub async fn run(self: Arc<Self>, api: Api<K>) {
        let source = Source::of(&api);
        self.run_selected(api.into_client(), source).await;
    }

    /// The same for the objects of a source.
    pub async fn run_selected(self: Arc<Self>, client: Client, source: Source) {
        let _feeding = self.feeding.lock().await;
        // In order, so that who follows hears of it in the same order each time.
        let mut listing = BTreeMap::new();
        let mut take_in = |event| self.take_in(&mut listing, event);
        Box::pin(feed(Watcher::new(client, source), &mut take_in)).await;
    }

    fn take_in(
        &self,
        listing: &mut BTreeMap<Key, Arc<K>>,
        event: Event<Object>,
    ) -> Result<(), serde_json::Error> {
        match event {
            Event::Init => {
                listing.clear();
                self.state.write().written = Some(HashSet::new());
            }
            Event::InitApply(object) => match object.decode::<K>() {
                Ok(object) => {
                    listing.insert(Key::of(&object), self.kept(object));
                }
                Err(error) => {
                    // What cannot be read is not therefore gone.
                    if let (Ok(named), Some(written)) =
                        (object.decode::<Named>(), &mut self.state.write().written)
                    {
                        written.insert(Key::new(named.metadata.namespace, named.metadata.name));
                    }
                    return Err(error);
                }
            },
            Event::InitDone => {
                self.replace(std::mem::take(listing));
                self.synced.send_replace(true);
            }
            Event::Apply(object) => self.observe(object.decode()?),
            Event::Delete(object) => self.forget(&object.decode()?),
        }
        Ok(())
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        // The sender lives as long as self, so this cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Takes in an object, unless what is here is as new or the object is known to be gone.
    pub fn observe(&self, object: K) {
        let object = self.kept(object);
        let key = Key::of(&*object);
        let listeners = self.listeners.lock();
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
        tell_of(&listeners, old, Some(object), successor);
    }

    /// Takes out an object that is gone.
    pub fn forget(&self, object: &K) {
        let key = Key::of(object);
        let listeners = self.listeners.lock();
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
        tell(&listeners, old.as_ref(), None);
    }

    fn replace(&self, listing: BTreeMap<Key, Arc<K>>) {
        let newest = listing.values().map(|o| revision(&**o)).max().unwrap_or(0);
        let mut changes: Vec<Change<K>> = Vec::new();
        let listeners = self.listeners.lock();
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
            tell_of(&listeners, old, new, successor);
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

/// An object that took the name of another is told of as one that went and one that came.
fn tell_of<K>(listeners: &[Listener<K>], old: Option<Arc<K>>, new: Option<Arc<K>>, successor: bool) {
    if successor {
        tell(listeners, old.as_ref(), None);
        tell(listeners, None, new.as_ref());
    } else {
        tell(listeners, old.as_ref(), new.as_ref());
    }
}

fn tell<K>(listeners: &[Listener<K>], old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
    for listener in listeners {
        listener(old, new);
    }
}

/// Whose object it is, where nothing else can be read.
#[derive(Deserialize)]
struct Named {
    metadata: NamedMetadata,
}

#[derive(Deserialize)]
struct NamedMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

/// What takes in the events of a kind.
type TakeIn<'a> = &'a mut (dyn FnMut(Event<Object>) -> Result<(), serde_json::Error> + Send);

/// Brings in what a watcher tells, for ever. One function for all kinds.
async fn feed(mut watcher: Watcher, take_in: TakeIn<'_>) {
    loop {
        match watcher.next().await {
            Ok(event) => {
                if let Err(error) = take_in(event) {
                    tracing::warn!(source = %watcher.source(), %error, "an object cannot be read");
                }
            }
            Err(error) => tracing::debug!(source = %watcher.source(), %error, "watch interrupted"),
        }
    }
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

    fn listening(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        informer.on_change(move |old, new| {
            let name = |o: Option<&Arc<ConfigMap>>| o.and_then(|o| o.uid()).unwrap_or_else(|| "-".into());
            told.lock().push(format!("{}>{}", name(old), name(new)));
        });
        // What was there already is told of first.
        seen.lock().clear();
        seen
    }

    fn list(objects: Vec<ConfigMap>) -> BTreeMap<Key, Arc<ConfigMap>> {
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
        informer.replace(BTreeMap::new());
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
