//! Garbage collection by owner references: what lost all its owners goes; foreground deletion waits for dependents; orphaning
//! cuts them loose first (Kubernetes documentation, "Garbage Collection", "Cascading deletion").

mod graph;

use crate::{
    Cluster, Error,
    discovery::{self, Deletable},
    pod_control,
};
use futures::{
    StreamExt,
    future::{AbortHandle, Abortable, BoxFuture},
    stream::FuturesUnordered,
};
use graph::{Graph, Item, Owner};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use orlop_client::{Event, Key, Queue, Source, Watcher, found, run_workers};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, watch};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const WORKERS: usize = 8;
/// How often new kinds are looked for, besides whenever a definition of one changes.
const DISCOVER: Duration = Duration::from_secs(30);
/// How long to wait at the start until all kinds are listed.
const LIST_ALL: Duration = Duration::from_secs(30);
/// How soon after discovery failed.
const DISCOVER_AGAIN: Duration = Duration::from_secs(1);
/// How long several changes of definitions are taken together.
const GATHER: Duration = Duration::from_millis(50);

/// apiVersion and kind, as an owner reference names them.
type KindName = (String, String);

struct Collector {
    cluster: Cluster,
    graph: Mutex<Graph>,
    /// The resource of each kind, and whether it is namespaced.
    resources: Mutex<HashMap<KindName, (Arc<ApiResource>, bool)>>,
    queue: Queue,
    /// How many kinds have not been listed yet; `None` until it is known which there are.
    unlisted: watch::Sender<Option<usize>>,
    /// Kinds may have come or gone.
    kinds_changed: Notify,
}

/// The future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let collector = Arc::new(Collector {
        cluster: cluster.clone(),
        graph: Mutex::default(),
        resources: Mutex::default(),
        queue: Queue::default(),
        unlisted: watch::Sender::new(None),
        kinds_changed: Notify::new(),
    });
    // What the controllers keep anyway is not watched a second time.
    let keeper = Arc::downgrade(&collector);
    cluster.on_any_change(move |resource, old, new| {
        let Some(collector) = keeper.upgrade() else { return };
        match (old, new) {
            (_, Some(new)) => collector.put(resource, new),
            (Some(old), None) => collector.remove(old.uid.as_deref().unwrap_or_default()),
            (None, None) => {}
        }
    });
    Box::pin(async move {
        let worker = collector.clone();
        let reconcile = move |key: Key| {
            let worker = worker.clone();
            async move { worker.process(&key.name).await }
        };
        let work = async {
            // Who knows all objects asks less. An aggregated server that does not answer must not hold up the others for ever.
            let mut unlisted = collector.unlisted.subscribe();
            let _ = tokio::time::timeout(LIST_ALL, unlisted.wait_for(|n| *n == Some(0))).await;
            run_workers("garbagecollector", collector.queue.clone(), WORKERS, reconcile).await;
        };
        tokio::join!(collector.watch_all(), work);
    })
}

impl Collector {
    /// Watches every kind that can be deleted, and looks for new ones.
    async fn watch_all(self: &Arc<Self>) {
        let mut watches = FuturesUnordered::new();
        let kept: HashSet<KindName> =
            Cluster::cached_kinds().into_iter().map(|kind| (kind.api_version, kind.kind)).collect();
        let mut watched: HashMap<KindName, AbortHandle> = HashMap::new();
        loop {
            let mut pause = DISCOVER;
            match discovery::deletable(&self.cluster.client).await {
                Ok(served) => {
                    let mut new = Vec::new();
                    let mut gone: HashSet<KindName> = watched.keys().cloned().collect();
                    for (group_version, error) in &served.failed {
                        // What is not known now was not therefore taken away.
                        gone.retain(|(api_version, _)| api_version != group_version);
                        tracing::debug!(%error, group_version, "what is served there is not known");
                    }
                    for Deletable { resource, namespaced, watchable } in served.resources {
                        // Events are many and own nothing.
                        if resource.kind == "Event" || !watchable {
                            continue;
                        }
                        let name = (resource.api_version.clone(), resource.kind.clone());
                        let resource = Arc::new(resource);
                        self.resources.lock().insert(name.clone(), (resource.clone(), namespaced));
                        if !kept.contains(&name) && !gone.remove(&name) {
                            let (abort, registration) = AbortHandle::new_pair();
                            watched.insert(name, abort);
                            new.push((resource, registration));
                        }
                    }
                    // A kind that comes back is watched anew, and not when the old watch tries again.
                    gone.iter().filter_map(|name| watched.remove(name)).for_each(|watch| watch.abort());
                    self.unlisted.send_if_modified(|n| {
                        let first = n.is_none();
                        *n = n.or(Some(new.len()));
                        first
                    });
                    watches.extend(
                        new.into_iter()
                            .map(|(resource, abort)| Abortable::new(self.clone().watch(resource), abort)),
                    );
                }
                Err(error) => {
                    pause = DISCOVER_AGAIN;
                    tracing::debug!(%error, "listing what is served");
                }
            }
            let rest = async {
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(pause) => {}
                    () = self.kinds_changed.notified() => tokio::time::sleep(GATHER).await,
                }
            };
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    biased;
                    () = &mut rest => break,
                    Some(_) = watches.next() => {}
                }
            }
        }
    }

    async fn watch(self: Arc<Self>, resource: Arc<ApiResource>) {
        let all = Source::at(DynamicObject::url_path(&resource, None)).metadata_only();
        let mut events =
            std::pin::pin!(Watcher::new(self.cluster.client.clone(), all).into_stream::<Described>());
        let mut listed = HashSet::new();
        let mut first = true;
        let defines = resource.kind == "CustomResourceDefinition";
        while let Some(event) = events.next().await {
            if defines && matches!(event, Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)) {
                self.kinds_changed.notify_one();
            }
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.clone());
                    self.put(&resource, &object.metadata);
                }
                Ok(Event::InitDone) => {
                    let known = self.graph.lock().of_resource(&resource);
                    for uid in known.iter().filter(|u| !listed.contains(*u)) {
                        self.remove(uid);
                    }
                    if std::mem::take(&mut first) {
                        self.unlisted.send_modify(|n| *n = n.map(|n| n.saturating_sub(1)));
                    }
                }
                Ok(Event::Apply(object)) => self.put(&resource, &object.metadata),
                Ok(Event::Delete(object)) => self.remove(object.metadata.uid.as_deref().unwrap_or_default()),
                Err(error) => tracing::debug!(kind = resource.kind, %error, "watch interrupted"),
            }
        }
    }

    fn put(&self, resource: &Arc<ApiResource>, metadata: &ObjectMeta) {
        if let Some(item) = item_of(resource, metadata) {
            let look = self.graph.lock().put(item);
            self.look_at(look);
        }
    }

    fn remove(&self, uid: &str) {
        let look = self.graph.lock().remove(uid);
        self.look_at(look);
    }

    fn look_at(&self, uids: Vec<String>) {
        for uid in uids {
            self.queue.add(Key::new("", uid));
        }
    }

    fn api(&self, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(self.cluster.client.clone(), namespace, resource),
            None => Api::all_with(self.cluster.client.clone(), resource),
        }
    }

    async fn process(&self, uid: &str) -> Result<(), Error> {
        let Some(item) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        if item.deleting && item.orphan {
            return self.orphan_dependents(&item).await;
        }
        if item.deleting && item.foreground {
            return self.delete_dependents_first(&item).await;
        }
        if item.deleting || item.owners.is_empty() {
            return Ok(());
        }
        // What is known to be all right need not be read anew.
        let all_right = |o: &Owner| self.known_state(o, item.namespace.as_deref()) == Some(OwnerState::There);
        if item.owners.iter().all(all_right) {
            return Ok(());
        }
        self.delete_if_ownerless(&item).await
    }

    /// Cuts the dependents loose, then lets the owner go.
    async fn orphan_dependents(&self, owner: &Item) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents(&owner.uid);
        let uids = [&owner.uid];
        let releases = dependents.iter().map(|dependent| self.drop_owners(dependent, &uids)).collect();
        pod_control::all(releases).await?;
        self.drop_finalizer(owner, ORPHAN).await
    }

    /// Deletes the dependents; the owner goes when none that blocks it is left.
    async fn delete_dependents_first(&self, owner: &Item) -> Result<(), Error> {
        let dependents = self.graph.lock().dependents(&owner.uid);
        let blocks = |d: &Item| d.owners.iter().any(|o| o.uid == owner.uid && o.blocks);
        if !dependents.iter().any(blocks) {
            return self.drop_finalizer(owner, FOREGROUND).await;
        }
        self.look_at(dependents.into_iter().filter(|d| !d.deleting).map(|d| d.uid).collect());
        Ok(())
    }

    /// Deletes an object none of whose owners is left, or only such as wait for it.
    async fn delete_if_ownerless(&self, item: &Item) -> Result<(), Error> {
        let api = self.api(&item.resource, item.namespace.as_deref());
        let live = found(api.get_metadata(&item.name).await).map_err(Error::at("reading a dependent"))?;
        let live = live.and_then(|l| item_of(&item.resource, &l.metadata)).filter(|l| l.uid == item.uid);
        let Some(live) = live else {
            // The watch is late.
            self.remove(&item.uid);
            return Ok(());
        };
        if live.deleting {
            return Ok(());
        }
        let (mut solid, mut waiting, mut dangling) = (0, Vec::new(), Vec::new());
        for owner in &live.owners {
            match self.state_of(owner, live.namespace.as_deref()).await? {
                OwnerState::There => solid += 1,
                OwnerState::Waiting => waiting.push(owner),
                OwnerState::Gone => dangling.push(owner),
            }
        }
        if dangling.is_empty() && waiting.is_empty() {
            return Ok(());
        }
        if solid > 0 {
            let drop: Vec<&String> = dangling.iter().chain(&waiting).map(|o| &o.uid).collect();
            return self.drop_owners(&live, &drop).await;
        }
        let dependents = self.graph.lock().dependents(&live.uid);
        // Owners in a circle would wait for each other for ever.
        if !waiting.is_empty() && dependents.iter().any(|d| d.deleting && d.foreground) {
            self.stop_blocking(&live).await?;
        }
        let has_blocking = dependents.iter().any(|d| d.owners.iter().any(|o| o.uid == live.uid && o.blocks));
        // Where an owner waits, this object waits for its own dependents too; else the rest follows by itself.
        let policy = if !waiting.is_empty() && has_blocking {
            PropagationPolicy::Foreground
        } else if live.orphan {
            PropagationPolicy::Orphan
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(live.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        found(api.delete(&live.name, &params).await).map_err(Error::at("deleting garbage"))?;
        Ok(())
    }

    /// How an owner is, if it is among the known objects under the name that the reference gives.
    fn known_state(&self, owner: &Owner, namespace: Option<&str>) -> Option<OwnerState> {
        let graph = self.graph.lock();
        let known = graph.get(&owner.uid)?;
        let same = known.name == owner.name
            && known.resource.kind == owner.kind
            && (known.namespace.is_none() || known.namespace.as_deref() == namespace);
        let waits = known.deleting && known.foreground;
        same.then_some(if waits { OwnerState::Waiting } else { OwnerState::There })
    }

    /// Lets the owners of an object go without it.
    async fn stop_blocking(&self, live: &Item) -> Result<(), Error> {
        self.write_owners(live, |owners| {
            owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
        })
        .await
    }

    async fn state_of(&self, owner: &Owner, namespace: Option<&str>) -> Result<OwnerState, Error> {
        if let Some(state) = self.known_state(owner, namespace) {
            return Ok(state);
        }
        let resource = self.resources.lock().get(&(owner.api_version.clone(), owner.kind.clone())).cloned();
        let Some((resource, namespaced)) = resource else {
            // Perhaps a kind that is not served yet: to be sure, nothing is deleted.
            return Ok(OwnerState::There);
        };
        let api = self.api(&resource, namespace.filter(|_| namespaced));
        let live = found(api.get_metadata(&owner.name).await).map_err(Error::at("looking for an owner"))?;
        let live = live.and_then(|l| item_of(&resource, &l.metadata)).filter(|l| l.uid == owner.uid);
        Ok(match live {
            None => OwnerState::Gone,
            Some(l) if l.deleting && l.foreground => OwnerState::Waiting,
            Some(_) => OwnerState::There,
        })
    }

    async fn drop_owners(&self, item: &Item, uids: &[&String]) -> Result<(), Error> {
        self.write_owners(item, |owners| owners.retain(|o| !uids.contains(&&o.uid))).await
    }

    /// Changes the owner references of an object, as they are now.
    async fn write_owners(
        &self,
        item: &Item,
        change: impl FnOnce(&mut Vec<OwnerReference>),
    ) -> Result<(), Error> {
        let api = self.api(&item.resource, item.namespace.as_deref());
        let live = found(api.get_metadata(&item.name).await).map_err(Error::at("reading a dependent"))?;
        let Some(live) = live.filter(|l| l.uid().as_ref() == Some(&item.uid)) else { return Ok(()) };
        let mut owners = live.owner_references().to_vec();
        change(&mut owners);
        if owners == live.owner_references() {
            return Ok(());
        }
        let metadata =
            json!({"uid": item.uid, "resourceVersion": live.resource_version(), "ownerReferences": owners});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        found(api.patch_metadata(&item.name, &PatchParams::default(), &patch).await)
            .map_err(Error::at("changing the owners of a dependent"))?;
        Ok(())
    }

    async fn drop_finalizer(&self, item: &Item, finalizer: &str) -> Result<(), Error> {
        let api = self.api(&item.resource, item.namespace.as_deref());
        let Some(live) = found(api.get_metadata(&item.name).await).map_err(Error::at("reading an owner"))?
        else {
            return Ok(());
        };
        if live.uid().as_ref() != Some(&item.uid) || !live.finalizers().iter().any(|f| f == finalizer) {
            return Ok(());
        }
        let keep: Vec<_> = live.finalizers().iter().filter(|f| *f != finalizer).collect();
        let metadata =
            json!({"uid": item.uid, "resourceVersion": live.resource_version(), "finalizers": keep});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        found(api.patch_metadata(&item.name, &PatchParams::default(), &patch).await)
            .map_err(Error::at("taking off a finalizer"))?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnerState {
    There,
    /// Being deleted, and waiting for its dependents.
    Waiting,
    Gone,
}

/// What is read of an object that is watched for its owners alone.
#[derive(Deserialize)]
struct Described {
    metadata: ObjectMeta,
}

fn item_of(resource: &Arc<ApiResource>, metadata: &ObjectMeta) -> Option<Item> {
    let has = |f: &str| metadata.finalizers.iter().flatten().any(|x| x == f);
    let owners = metadata.owner_references.iter().flatten().map(|o| Owner {
        uid: o.uid.clone(),
        api_version: o.api_version.clone(),
        kind: o.kind.clone(),
        name: o.name.clone(),
        blocks: o.block_owner_deletion.unwrap_or(false),
    });
    Some(Item {
        uid: metadata.uid.clone()?,
        resource: resource.clone(),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone().unwrap_or_default(),
        owners: owners.collect(),
        deleting: metadata.deletion_timestamp.is_some(),
        foreground: has(FOREGROUND),
        orphan: has(ORPHAN),
    })
}
