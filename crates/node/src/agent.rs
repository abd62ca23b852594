//! The agent as a whole: what its parts share, and the handle through which the streaming endpoints find pods. It decides
//! nothing about a pod.

use crate::{
    Error, NodeConfig, PodNetwork,
    capacity::Capacity,
    dispatch,
    events::Events,
    eviction,
    image_gc::{self, ImageAges},
    image_pull::Puller,
    local_volumes,
    metrics::Metrics,
    objects::ObjectCache,
    pod::PodExt as _,
    registration,
    worker::Message,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};
use orlop_client::{Clock, Informer};
use orlop_runtime::{ContainerRuntime, Images};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A node agent. Clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    config: NodeConfig,
    client: Client,
    runtime: Arc<dyn ContainerRuntime>,
    images: Arc<dyn Images>,
    network: Arc<dyn PodNetwork>,
    clock: Clock,
    pods: Arc<Pods>,
    metrics: Arc<Metrics>,
}

/// The pods that workers have told of, by uid.
type Pods = RwLock<HashMap<String, PodHandle>>;
/// How each worker is told things, by uid of its pod.
pub(crate) type Outboxes = Arc<RwLock<HashMap<String, mpsc::UnboundedSender<Message>>>>;

/// What all parts of a running agent use.
pub(crate) struct Shared {
    pub config: NodeConfig,
    pub client: Client,
    pub runtime: Arc<dyn ContainerRuntime>,
    pub images: Arc<dyn Images>,
    pub network: Arc<dyn PodNetwork>,
    pub capacity: Capacity,
    pub events: Events,
    pub objects: ObjectCache,
    pub services: Arc<Informer<Service>>,
    pub puller: Puller,
    pub outboxes: Outboxes,
    pub metrics: Arc<Metrics>,
    pub eviction: eviction::State,
    pub image_ages: ImageAges,
    clock: Clock,
    pods: Arc<Pods>,
    node_labels: RwLock<Option<BTreeMap<String, String>>>,
}

impl Shared {
    /// The time of day.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Shows a pod to the streaming endpoints.
    pub fn publish(&self, handle: PodHandle) {
        let uid = handle.pod.metadata.uid.clone().unwrap_or_default();
        self.pods.write().insert(uid, handle);
    }

    /// All pods on this node.
    pub fn handles(&self) -> Vec<PodHandle> {
        self.pods.read().values().cloned().collect()
    }

    /// Whether anything of a pod runs.
    pub fn runs(&self, uid: &str) -> bool {
        self.pods.read().get(uid).is_some_and(|p| p.containers.values().flatten().any(|c| c.running))
    }

    /// The pods on this node besides one that have not ended.
    pub fn others(&self, uid: &str) -> Vec<Arc<Pod>> {
        let pods = self.pods.read();
        pods.iter().filter(|(other, p)| *other != uid && !p.pod.ended()).map(|(_, p)| p.pod.clone()).collect()
    }

    /// Shows a pod no longer.
    pub fn forget(&self, uid: &str) {
        self.pods.write().remove(uid);
    }

    /// Takes note of the labels that the Node object has.
    pub fn set_node_labels(&self, labels: BTreeMap<String, String>) {
        *self.node_labels.write() = Some(labels);
    }

    /// The labels of the Node object; before it is known, those that it will be made with.
    pub fn node_labels(&self) -> BTreeMap<String, String> {
        self.node_labels.read().clone().unwrap_or_else(|| crate::node_object::labels(&self.config))
    }
}

/// A pod on this node as the streaming endpoints need it.
#[derive(Clone, Debug)]
pub struct PodHandle {
    /// The pod as the API last gave it.
    pub pod: Arc<Pod>,
    /// Its sandbox, if it has one.
    pub sandbox_id: Option<String>,
    /// Its containers (init containers too) by name, each with its tries, oldest first. Only the newest can be running.
    pub containers: BTreeMap<String, Vec<ContainerHandle>>,
}

/// One try of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerHandle {
    /// The runtime's name for it.
    pub id: String,
    /// 0 for the first, counted up at each restart.
    pub attempt: u32,
    /// Whether its process runs.
    pub running: bool,
    /// Its log file (CRI log format); rotated pieces stand beside it.
    pub log_path: PathBuf,
}

impl Agent {
    /// An agent that does nothing yet.
    pub fn new(
        config: NodeConfig,
        client: Client,
        runtime: Arc<dyn ContainerRuntime>,
        images: Arc<dyn Images>,
        network: Arc<dyn PodNetwork>,
    ) -> Self {
        let clock: Clock = Arc::new(Timestamp::now);
        let pods = Arc::default();
        let metrics = Arc::new(Metrics::new(&config.name));
        Self { inner: Arc::new(Inner { config, client, runtime, images, network, clock, pods, metrics }) }
    }

    /// Registers the node, runs its pods, and returns when `shutdown` is cancelled. Containers keep running; the next agent
    /// adopts them.
    ///
    /// # Errors
    /// When the root folder cannot be made or the runtime does not answer at the start. Everything later is tried again.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let root = &self.inner.config.root_dir;
        for folder in ["pods", "logs/pods"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(|e| Error::path("making", &folder, e))?;
        }
        let shared = self.shared();
        let services = Api::<Service>::all(shared.client.clone());
        let informer = shared.services.clone();
        let registered = registration::run(shared.clone());
        // Before anybody is told how the node is.
        eviction::look(&shared);
        let removing = local_volumes::run(shared.clone());
        let (evicting, collecting) = (eviction::run(shared.clone()), image_gc::run(shared.clone()));
        let dispatched = dispatch::run(shared, shutdown.clone());
        tokio::select! {
            result = dispatched => result,
            () = registered => Ok(()),
            () = informer.run(services) => Ok(()),
            () = removing => Ok(()),
            () = evicting => Ok(()),
            () = collecting => Ok(()),
            () = shutdown.cancelled() => Ok(()),
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        let inner = &*self.inner;
        let outboxes = Outboxes::default();
        let to = outboxes.clone();
        let changed = Arc::new(move |uid: &str| {
            if let Some(outbox) = to.read().get(uid) {
                let _ = outbox.send(Message::ObjectsChanged);
            }
        });
        Arc::new(Shared {
            capacity: Capacity::read(&inner.config),
            events: Events::new(inner.client.clone(), &inner.config.name, inner.clock.clone()),
            objects: ObjectCache::new(inner.client.clone(), changed),
            services: Arc::default(),
            puller: Puller::new(inner.images.clone(), inner.clock.clone()),
            outboxes,
            metrics: inner.metrics.clone(),
            eviction: eviction::State::default(),
            image_ages: ImageAges::default(),
            node_labels: RwLock::default(),
            config: inner.config.clone(),
            client: inner.client.clone(),
            runtime: inner.runtime.clone(),
            images: inner.images.clone(),
            network: inner.network.clone(),
            clock: inner.clock.clone(),
            pods: inner.pods.clone(),
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &NodeConfig {
        &self.inner.config
    }

    /// The runtime that its containers live in.
    pub fn runtime(&self) -> &Arc<dyn ContainerRuntime> {
        &self.inner.runtime
    }

    /// A pod on this node.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        let pods = self.inner.pods.read();
        let of_name = |p: &&PodHandle| {
            p.pod.metadata.name.as_deref() == Some(name)
                && p.pod.metadata.namespace.as_deref() == Some(namespace)
        };
        // While a pod that was deleted by force still ends here, its successor may have the same name already.
        let created = |p: &&PodHandle| p.pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        pods.values().filter(of_name).max_by_key(created).cloned()
    }

    /// Shows what other parts of the node count at `/metrics` too.
    pub fn show_metrics(&self, register: impl FnOnce(&mut Registry)) {
        self.inner.metrics.show(register);
    }

    /// What the node has to say of itself at `/metrics`, in the Prometheus text format.
    pub async fn metrics(&self) -> String {
        let (mut text, more) = (self.inner.metrics.text(&self.pods()), self.inner.network.metrics().await);
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &more);
        text
    }

    /// All pods on this node.
    pub fn pods(&self) -> Vec<PodHandle> {
        self.inner.pods.read().values().cloned().collect()
    }
}

/// Runs a node agent until `shutdown` is cancelled: see [`Agent::run`].
///
/// # Errors
/// See [`Agent::run`].
pub async fn run(
    config: NodeConfig,
    client: Client,
    runtime: Arc<dyn ContainerRuntime>,
    images: Arc<dyn Images>,
    network: Arc<dyn PodNetwork>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    Box::pin(Agent::new(config, client, runtime, images, network).run(shutdown)).await
}
