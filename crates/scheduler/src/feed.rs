//! What the loop hears of the cluster: caches fed by watches, whose changes arrive in one stream.

use crate::matcher::Labels;
use futures::FutureExt;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, StatefulSet},
    core::v1::{
        Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController, Service,
    },
    policy::v1::PodDisruptionBudget,
    storage::v1::{CSINode, StorageClass, VolumeAttachment},
};
use kube::{Api, Client, Resource, ResourceExt};
use orlop_api::selector::Selector;
use orlop_client::{Caches, Informer, Key, run_all};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};
use tokio::sync::{mpsc, watch};

/// Something that came, changed or went.
pub(crate) enum Change {
    Pod(Option<Arc<Pod>>, Option<Arc<Pod>>),
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
    Namespace(String, Option<Arc<Namespace>>),
    Service(Key, Option<Labels>),
    Controller(&'static str, Key, Option<Selector>),
    Claim(Key, Option<Arc<PersistentVolumeClaim>>),
    Volume(String, Option<Arc<PersistentVolume>>),
    Class(String, Option<Arc<StorageClass>>),
    CsiNode(String, Option<Arc<CSINode>>),
    Attachment(String, Option<Arc<VolumeAttachment>>),
    Budget(Key, Option<Arc<PodDisruptionBudget>>),
}

/// The caches.
pub(crate) struct Feed {
    pub pods: Arc<Informer<Pod>>,
    pub claims: Arc<Informer<PersistentVolumeClaim>>,
    nodes: Arc<Informer<Node>>,
    namespaces: Arc<Informer<Namespace>>,
    services: Arc<Informer<Service>>,
    replication_controllers: Arc<Informer<ReplicationController>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
    stateful_sets: Arc<Informer<StatefulSet>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    csi_nodes: Arc<Informer<CSINode>>,
    attachments: Arc<Informer<VolumeAttachment>>,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    /// Counts changes of claims, for those that wait for one.
    pub claims_changed: watch::Receiver<u64>,
}

/// A cache whose changes go into the stream.
fn hear<K>(
    caches: &Caches,
    send: &mpsc::UnboundedSender<Change>,
    change: impl Fn(Key, Option<&Arc<K>>, Option<&Arc<K>>) -> Change + Send + Sync + 'static,
) -> Arc<Informer<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    let informer = caches.of::<K>();
    let send = send.clone();
    informer.on_change(move |old, new| {
        let Some(object) = new.or(old) else { return };
        let key = Key::new(object.namespace().unwrap_or_default(), object.name_any());
        let _ = send.send(change(key, old, new));
    });
    informer
}

impl Feed {
    /// Caches, perhaps shared with others, that tell their changes to the receiver.
    pub(crate) fn new(caches: &Caches) -> (Self, mpsc::UnboundedReceiver<Change>) {
        let (send, changes) = mpsc::unbounded_channel();
        let of = |selector: Option<&_>| Selector::of(selector).ok();
        let (count, claims_changed) = watch::channel(0);
        let feed = Self {
            pods: hear(caches, &send, |_, old, new| Change::Pod(old.cloned(), new.cloned())),
            nodes: hear(caches, &send, |_, old, new| Change::Node(old.cloned(), new.cloned())),
            namespaces: hear(caches, &send, |key, _, new| Change::Namespace(key.name, new.cloned())),
            services: hear(caches, &send, |key, _, new: Option<&Arc<Service>>| {
                Change::Service(key, new.and_then(|s| s.spec.as_ref()).and_then(|s| s.selector.clone()))
            }),
            replication_controllers: hear(
                caches,
                &send,
                |key, _, new: Option<&Arc<ReplicationController>>| {
                    let selector = new.and_then(|s| s.spec.as_ref()).and_then(|s| s.selector.as_ref());
                    Change::Controller("ReplicationController", key, selector.map(Selector::from_labels))
                },
            ),
            replica_sets: hear(caches, &send, move |key, _, new: Option<&Arc<ReplicaSet>>| {
                let spec = new.and_then(|s| s.spec.as_ref());
                Change::Controller("ReplicaSet", key, spec.and_then(|s| of(Some(&s.selector))))
            }),
            stateful_sets: hear(caches, &send, move |key, _, new: Option<&Arc<StatefulSet>>| {
                let spec = new.and_then(|s| s.spec.as_ref());
                Change::Controller("StatefulSet", key, spec.and_then(|s| of(Some(&s.selector))))
            }),
            claims: hear(caches, &send, |key, _, new| Change::Claim(key, new.cloned())),
            volumes: hear(caches, &send, |key, _, new| Change::Volume(key.name, new.cloned())),
            classes: hear(caches, &send, |key, _, new| Change::Class(key.name, new.cloned())),
            csi_nodes: hear(caches, &send, |key, _, new| Change::CsiNode(key.name, new.cloned())),
            attachments: hear(caches, &send, |key, _, new| Change::Attachment(key.name, new.cloned())),
            budgets: hear(caches, &send, |key, _, new| Change::Budget(key, new.cloned())),
            claims_changed,
        };
        feed.pods.keep_less(orlop_client::slim::pod);
        feed.claims.on_change(move |_, _| count.send_modify(|n| *n += 1));
        (feed, changes)
    }

    /// Waits until everything is known that decisions rest on.
    pub(crate) async fn synced(&self) {
        self.namespaces.synced().await;
        self.services.synced().await;
        self.replication_controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.volumes.synced().await;
        self.claims.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
        self.attachments.synced().await;
        self.budgets.synced().await;
        self.nodes.synced().await;
        self.pods.synced().await;
    }

    /// Runs the watches until dropped.
    pub(crate) async fn run(&self, client: Client) {
        run_all([
            self.pods.clone().run(Api::all(client.clone())).boxed(),
            self.nodes.clone().run(Api::all(client.clone())).boxed(),
            self.namespaces.clone().run(Api::all(client.clone())).boxed(),
            self.services.clone().run(Api::all(client.clone())).boxed(),
            self.replication_controllers.clone().run(Api::all(client.clone())).boxed(),
            self.replica_sets.clone().run(Api::all(client.clone())).boxed(),
            self.stateful_sets.clone().run(Api::all(client.clone())).boxed(),
            self.claims.clone().run(Api::all(client.clone())).boxed(),
            self.volumes.clone().run(Api::all(client.clone())).boxed(),
            self.classes.clone().run(Api::all(client.clone())).boxed(),
            self.csi_nodes.clone().run(Api::all(client.clone())).boxed(),
            self.attachments.clone().run(Api::all(client.clone())).boxed(),
            self.budgets.clone().run(Api::all(client.clone())).boxed(),
        ])
        .await;
    }
}
