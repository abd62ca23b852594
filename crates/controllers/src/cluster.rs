//! What all controllers share: the client, the clock, one cache a kind, the event recorder; and the function that runs them all.

use crate::{Error, node_lifecycle};
use futures::FutureExt;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::{CronJob, Job},
    coordination::v1::Lease,
    core::v1::{
        Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
        Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
    storage::v1::StorageClass,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, PostParams},
    core::NamespaceResourceScope,
};
use orlop_api::orlop_v1::{Network, NetworkAttachment};
use orlop_client::{Caches, Clock, Informer, Recorder, run_all};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, sync::Arc, time::Duration};

macro_rules! caches {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)+) => {
        /// What all controllers share. Clones share everything.
        #[derive(Clone)]
        pub struct Cluster {
            /// The way to the API.
            pub client: Client,
            /// The time of day.
            pub clock: Clock,
            /// Events.
            pub recorder: Recorder,
            /// How long a node may be silent before it counts as gone.
            pub node_grace: Duration,
            $($(#[$doc])* pub $field: Arc<Informer<$kind>>,)+
        }

        impl Cluster {
            /// With caches that may be shared with others.
            pub fn new(client: Client, clock: Clock, caches: &Caches) -> Self {
                let recorder = Recorder::new(client.clone(), "controller-manager", None, clock.clone());
                let node_grace = node_lifecycle::GRACE;
                Self { client, clock, recorder, node_grace, $($field: caches.of(),)+ }
            }

            /// Registers a listener with all caches: it hears of what kind an object is, and what its metadata was and is.
            pub(crate) fn on_any_change(
                &self,
                listener: impl Fn(&Arc<ApiResource>, Option<&ObjectMeta>, Option<&ObjectMeta>)
                    + Clone + Send + Sync + 'static,
            ) {
                $({
                    let resource = Arc::new(ApiResource::erase::<$kind>(&()));
                    let listener = listener.clone();
                    self.$field.on_change(move |old, new| {
                        listener(&resource, old.map(|o| o.meta()), new.map(|o| o.meta()));
                    });
                })+
            }

            /// The kinds that have a cache.
            pub(crate) fn cached_kinds() -> Vec<ApiResource> {
                vec![$(ApiResource::erase::<$kind>(&()),)+]
            }

            /// Feeds the caches until dropped.
            async fn watch(&self) {
                run_all([$(self.$field.clone().run(Api::all(self.client.clone())).boxed(),)+]).await;
            }

            /// Waits until all caches hold their first list.
            async fn synced(&self) {
                $(self.$field.synced().await;)+
            }
        }
    };
}

caches! {
    /// Pods.
    pods: Pod,
    /// Nodes.
    nodes: Node,
    /// Namespaces.
    namespaces: Namespace,
    /// Services.
    services: Service,
    /// Endpoints.
    endpoints: Endpoints,
    /// EndpointSlices.
    endpoint_slices: EndpointSlice,
    /// ServiceAccounts.
    service_accounts: ServiceAccount,
    /// Leases of nodes and leaders.
    leases: Lease,
    /// ReplicaSets.
    replica_sets: ReplicaSet,
    /// ReplicationControllers.
    replication_controllers: ReplicationController,
    /// Deployments.
    deployments: Deployment,
    /// DaemonSets.
    daemon_sets: DaemonSet,
    /// StatefulSets.
    stateful_sets: StatefulSet,
    /// Jobs.
    jobs: Job,
    /// CronJobs.
    cron_jobs: CronJob,
    /// PodDisruptionBudgets.
    disruption_budgets: PodDisruptionBudget,
    /// HorizontalPodAutoscalers.
    autoscalers: HorizontalPodAutoscaler,
    /// ControllerRevisions.
    controller_revisions: ControllerRevision,
    /// ClusterRoles.
    cluster_roles: ClusterRole,
    /// PersistentVolumeClaims.
    persistent_volume_claims: PersistentVolumeClaim,
    /// PersistentVolumes.
    persistent_volumes: PersistentVolume,
    /// StorageClasses.
    storage_classes: StorageClass,
    /// Networks.
    networks: Network,
    /// NetworkAttachments.
    network_attachments: NetworkAttachment,
}

impl Cluster {
    /// The time of day.
    pub fn now(&self) -> jiff::Timestamp {
        (self.clock)()
    }

    /// The API of a namespaced kind.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Writes an object's status subresource and takes the answer into the cache.
    pub(crate) async fn write_status<K>(&self, cache: &Informer<K>, object: &K) -> Result<(), Error>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
        K::DynamicType: Default,
    {
        let api = self.api::<K>(object.meta().namespace.as_deref().unwrap_or_default());
        let name = object.meta().name.as_deref().unwrap_or_default();
        let written = api
            .replace_status(name, &PostParams::default(), object)
            .await
            .map_err(Error::at("writing a status"))?;
        cache.observe(written);
        Ok(())
    }
}

/// Runs all controllers until dropped. Workers start when the caches are filled. `authority` is the certificate (PEM) by which
/// pods know the API server.
pub async fn run(client: Client, clock: Clock, authority: String) {
    run_sharing(client, clock, authority, &Caches::default()).await;
}

/// The same with caches that others in this process use too.
pub async fn run_sharing(client: Client, clock: Clock, authority: String, caches: &Caches) {
    run_cluster(Cluster::new(client, clock, caches), authority).await;
}

/// The same for a cluster that was set up.
pub async fn run_cluster(cluster: Cluster, authority: String) {
    cluster.pods.keep_less(orlop_client::slim::pod);
    let controllers = run_all([
        crate::replicas::start(&cluster),
        crate::deployment::start(&cluster),
        crate::daemon_set::start(&cluster),
        crate::stateful_set::start(&cluster),
        crate::job::start(&cluster),
        crate::cron_job::start(&cluster),
        crate::disruption::start(&cluster),
        crate::autoscaler::start(&cluster),
        crate::endpoints::start(&cluster),
        crate::service_account::start(&cluster, authority),
        crate::namespace::start(&cluster),
        node_lifecycle::start(&cluster),
        crate::pod_garbage::start(&cluster),
        crate::garbage::start(&cluster),
        crate::cluster_role_aggregation::start(&cluster),
        crate::resource_quota::start(&cluster),
        crate::storage_protection::start(&cluster),
        crate::volume_binder::start(&cluster),
        crate::ephemeral_volume::start(&cluster),
        crate::network_attachment::start(&cluster),
    ]);
    let work = async {
        cluster.synced().await;
        controllers.await;
    };
    tokio::join!(Box::pin(cluster.watch()), Box::pin(work));
}
