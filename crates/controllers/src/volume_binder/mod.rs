//! Persistent volumes: gives claims volumes, takes volumes back, and makes those of the built-in class (Kubernetes documentation,
//! "Persistent Volumes"). It never touches the bytes: those are the node's.

mod decide;
mod default_class;
mod local;
mod matching;
mod provision;
mod reclaim;
mod writes;

use crate::{Cluster, Error, pods};
use decide::{
    BIND_COMPLETED, ClaimStep, ClaimView, LOST_VOLUME, SELECTED_NODE, VolumeStep, claim_step, volume_step,
};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use matching::class_of_claim;
use orlop_api::local_volume::{FINALIZER, FOLDER_ANNOTATION};
use orlop_client::{Key, Queue, found, run_workers};
use std::sync::Arc;

/// The annotations that make a class the default one.
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

struct Binder {
    cluster: Cluster,
    /// Claims by namespace and name, volumes by name alone.
    queue: Queue,
}

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let binder = Arc::new(Binder { cluster: cluster.clone(), queue: Queue::default() });
    binder.listen();
    Box::pin(async move {
        let reconcile = |key: Key| {
            let binder = binder.clone();
            async move {
                if key.namespace.is_empty() {
                    Box::pin(binder.volume(key)).await
                } else {
                    Box::pin(binder.claim(key)).await
                }
            }
        };
        // One worker: two claims that fit one volume are decided one after the other.
        tokio::join!(
            default_class::make(&binder.cluster),
            run_workers("persistentvolume-binder", binder.queue.clone(), 1, reconcile),
        );
    })
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.annotations().contains_key(BIND_COMPLETED)
}

impl Binder {
    /// Says what has to be looked at when something changes.
    fn listen(self: &Arc<Self>) {
        let queue = self.queue.clone();
        self.cluster.persistent_volume_claims.on_change(move |old, new| {
            let Some(claim) = new.or(old) else { return };
            queue.add(Key::of(&**claim));
            if let Some(volume) = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) {
                queue.add(Key::new("", volume));
            }
        });
        let queue = self.queue.clone();
        self.cluster.persistent_volumes.on_change(move |old, new| {
            for volume in [old, new].into_iter().flatten() {
                queue.add(Key::of(&**volume));
                let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
                if let Some((namespace, name)) =
                    reference.and_then(|r| Some((r.namespace.as_deref()?, r.name.as_deref()?)))
                {
                    queue.add(Key::new(namespace, name));
                }
            }
        });
        let binder = self.clone();
        self.cluster.pods.on_change(move |_, new| {
            let Some(pod) = new else { return };
            let namespace = pod.namespace().unwrap_or_default();
            for name in crate::storage_protection::claims_of(pod) {
                let claim = binder.cluster.persistent_volume_claims.get(&namespace, &name);
                if claim.is_some_and(|c| !is_bound(&c)) {
                    binder.queue.add(Key::new(namespace.clone(), name));
                }
            }
        });
        let binder = self.clone();
        self.cluster.storage_classes.on_change(move |_, _| binder.ask_unbound());
        let binder = self.clone();
        self.cluster.nodes.on_change(move |old, new| {
            let offers = |node: Option<&Arc<Node>>| {
                node.map(|n| (n.annotations().get(FOLDER_ANNOTATION).cloned(), ready(n)))
            };
            if new.is_none() {
                // Nobody will remove the directories that it had.
                let held = |v: &Arc<PersistentVolume>| v.finalizers().iter().any(|f| f == FINALIZER);
                let volumes = binder.cluster.persistent_volumes.all().into_iter().filter(held);
                volumes.for_each(|v| binder.queue.add(Key::of(&*v)));
            } else if offers(old) != offers(new) {
                binder.ask_unbound();
            }
        });
    }

    /// All claims without a volume may find one now.
    fn ask_unbound(&self) {
        let claims = self.cluster.persistent_volume_claims.all();
        claims.iter().filter(|c| !is_bound(c)).for_each(|c| self.queue.add(Key::of(&**c)));
    }

    async fn claim(&self, key: Key) -> Result<(), Error> {
        let Some(claim) = self.cluster.persistent_volume_claims.get(&key.namespace, &key.name) else {
            return Ok(());
        };
        let claim = self.with_default_class((*claim).clone()).await?;
        let class = self.cluster.storage_classes.get("", class_of_claim(&claim));
        let users = self.users(&claim);
        let node = self.consumers_node(&claim, &users);
        let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
        let volumes = match named {
            "" => self.cluster.persistent_volumes.all(),
            // Only this one can be its volume: the others need not be looked through.
            named => self.cluster.persistent_volumes.get("", named).into_iter().collect(),
        };
        let view = ClaimView {
            claim: &claim,
            class: class.as_deref(),
            volumes: volumes.iter().map(|v| &**v).collect(),
            node: node.as_deref(),
            unscheduled: users.iter().filter(|p| placed_on(p).is_none()).map(|p| p.name_any()).collect(),
        };
        match claim_step(&view) {
            ClaimStep::Bind(volume) => {
                let volume = volume.clone();
                if is_bound(&claim) {
                    self.grow(volume.clone(), claim.clone()).await?;
                    let claim = self.cluster.persistent_volume_claims.get(&key.namespace, &key.name);
                    let volume = self.cluster.persistent_volumes.get("", &volume.name_any());
                    if let (Some(volume), Some(claim)) = (volume, claim) {
                        return Box::pin(self.bind((*volume).clone(), (*claim).clone())).await;
                    }
                    return Ok(());
                }
                Box::pin(self.bind(volume, claim)).await
            }
            ClaimStep::Wait(happening) => {
                let claim = self.claim_phase(claim, "Pending", None).await?;
                if let Some((event_type, reason, message)) = happening {
                    self.cluster.recorder.event(&claim, event_type, reason, message);
                }
                Ok(())
            }
            ClaimStep::Provision => {
                let claim = self.select_node(claim, class.as_deref(), node.as_deref()).await?;
                let node = node.filter(|_| decide::waits(class.as_deref()));
                Box::pin(self.provision(claim, class, node)).await
            }
            ClaimStep::MissesVolume => self.look_for_volume(claim).await,
            ClaimStep::Lost(reason, message) => self.lose(claim, reason, message).await,
        }
    }

    /// The cache may be older than the claim: the API knows whether the volume is really gone.
    async fn look_for_volume(&self, claim: PersistentVolumeClaim) -> Result<(), Error> {
        let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).unwrap_or_default();
        match found(self.volumes_api().get(&name).await).map_err(Error::at("reading a volume"))? {
            Some(volume) => {
                self.cluster.persistent_volumes.observe(volume);
                Ok(())
            }
            None => match LOST_VOLUME {
                ClaimStep::Lost(reason, message) => self.lose(claim, reason, message).await,
                _ => Ok(()),
            },
        }
    }

    /// A claim from before there was a default class gets it now.
    async fn with_default_class(
        &self,
        mut claim: PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, Error> {
        let spec = claim.spec.get_or_insert_default();
        let open = spec.storage_class_name.is_none() && spec.volume_name.is_none();
        let annotated = claim.annotations().contains_key("volume.beta.kubernetes.io/storage-class");
        if !open || annotated || is_bound(&claim) || claim.metadata.deletion_timestamp.is_some() {
            return Ok(claim);
        }
        let classes = self.cluster.storage_classes.all();
        let marked = |c: &&Arc<StorageClass>| {
            DEFAULT_CLASS.iter().any(|key| c.annotations().get(*key).is_some_and(|v| v == "true"))
        };
        let newest = classes.iter().filter(marked).max_by_key(|c| {
            let made = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (made, std::cmp::Reverse(c.name_any()))
        });
        let Some(class) = newest else { return Ok(claim) };
        claim.spec.get_or_insert_default().storage_class_name = Some(class.name_any());
        self.write_claim(&claim).await
    }

    /// The pods that use a claim and have not ended.
    fn users(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<Pod>> {
        if is_bound(claim) {
            return Vec::new();
        }
        let name = claim.name_any();
        let mut users = self.cluster.pods.in_namespace(&claim.namespace().unwrap_or_default());
        users.retain(|p| !pods::is_finished(p) && crate::storage_protection::claims_of(p).contains(&name));
        users.sort_by_key(|p| p.name_any());
        users
    }

    /// Where the first consumer runs: as the scheduler has said, or where a pod that uses the claim has been placed already.
    fn consumers_node(&self, claim: &PersistentVolumeClaim, users: &[Arc<Pod>]) -> Option<Arc<Node>> {
        let selected = claim.annotations().get(SELECTED_NODE).map(String::as_str);
        let named = selected.or_else(|| users.iter().find_map(|p| placed_on(p)))?;
        self.cluster.nodes.get("", named)
    }

    async fn volume(&self, key: Key) -> Result<(), Error> {
        let Some(volume) = self.cluster.persistent_volumes.get("", &key.name) else { return Ok(()) };
        let volume = (*volume).clone();
        self.let_go_of_lost(volume.clone()).await?;
        let claim = self.claim_of(&volume);
        match volume_step(&volume, claim.as_deref()) {
            VolumeStep::Phase(phase) => {
                let fresh = volume.status.as_ref().and_then(|s| s.phase.as_deref()) != Some(phase);
                self.volume_phase(volume, phase, None).await?;
                if fresh && phase == "Available" {
                    self.ask_unbound();
                }
                Ok(())
            }
            VolumeStep::AskClaim => {
                claim.iter().for_each(|c| self.queue.add(Key::of(&**c)));
                Ok(())
            }
            VolumeStep::MissesClaim => Box::pin(self.look_for_claim(volume)).await,
            VolumeStep::Release => Box::pin(self.release(volume)).await,
            VolumeStep::Unbind => self.unbind(volume).await,
        }
    }

    fn claim_of(&self, volume: &PersistentVolume) -> Option<Arc<PersistentVolumeClaim>> {
        let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
        let (namespace, name) = (reference.namespace.as_deref()?, reference.name.as_deref()?);
        self.cluster.persistent_volume_claims.get(namespace, name)
    }

    /// The cache may be older than the volume: the API knows whether the claim is really gone.
    async fn look_for_claim(&self, volume: PersistentVolume) -> Result<(), Error> {
        let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.clone()).unwrap_or_default();
        let api =
            self.cluster.api::<PersistentVolumeClaim>(reference.namespace.as_deref().unwrap_or_default());
        let claim = found(api.get(reference.name.as_deref().unwrap_or_default()).await)
            .map_err(Error::at("reading a claim"))?;
        match claim.filter(|c| c.metadata.uid == reference.uid) {
            Some(claim) => {
                self.cluster.persistent_volume_claims.observe(claim);
                Ok(())
            }
            None => Box::pin(self.release(volume)).await,
        }
    }
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn placed_on(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}
