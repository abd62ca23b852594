//! The server: what a running API server holds, and how it starts.

use crate::{
    Config, Error, Identity, InProcess,
    aggregation::{self, Aggregator, Published},
    audit::Auditor,
    cache::Caches,
    component_status::Components,
    custom,
    discovery::Discovery,
    flow_control::{self, FlowControl},
    hooks::{self, Allocations},
    identity::{
        authenticate::Authenticator,
        authorize::Authorization,
        node::{
            NodeAuthorizer,
            graph::{PodFeed, SliceFeed, VolumeFeed},
        },
        rbac::{self, Rbac},
    },
    metrics::Metrics,
    registry::{Registry, Resource},
    resource_metrics::Sampler,
    streaming::Nodes,
};
use arc_swap::ArcSwap;
use orlop_schema::openapi::OpenApi;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What tells clients which kinds there are.
pub(crate) struct Documents {
    pub discovery: Discovery,
    pub openapi: OpenApi,
}

impl Documents {
    fn new(registry: &Registry, config: &Config, others: &[Published]) -> Self {
        let resources = registry.resources();
        let kinds: Vec<_> = resources.iter().map(|r| r.kind.clone()).collect();
        let foreign = others.iter().filter_map(|other| Some(other.openapi_v2.as_ref()?.0.clone()));
        let mut openapi = OpenApi::new(&kinds, &config.version.git_version).with_foreign(foreign.collect());
        for resource in &resources {
            if let Some(schema) = &resource.schema {
                openapi =
                    openapi.with_schema(&resource.kind.api_version(), &resource.kind.kind, schema.clone());
            }
        }
        Self { discovery: Discovery::new(&resources, others), openapi }
    }
}

/// A running API server.
pub struct ApiServer {
    pub(crate) config: Config,
    pub(crate) registry: Arc<Registry>,
    pub(crate) documents: ArcSwap<Documents>,
    /// Held while documents are made, so that the newest win.
    publishing: Mutex<()>,
    /// What other servers serve.
    pub(crate) aggregator: Arc<Aggregator>,
    pub(crate) authenticator: Authenticator,
    pub(crate) authorization: Arc<Authorization>,
    pub(crate) flow_control: FlowControl,
    pub(crate) metrics: Metrics,
    /// What nodes use.
    pub(crate) sampler: Sampler,
    pub(crate) components: Components,
    pub(crate) auditor: Option<Arc<Auditor>>,
    /// Ends watches and background tasks.
    pub(crate) stop: CancellationToken,
    /// Ends the task that feeds the caches: later than all else, for writes wait for it.
    halt: CancellationToken,
}

impl ApiServer {
    /// Reads the state from the store, makes the objects that every cluster has, and starts the tasks that keep the server
    /// up to date. They end when the server is dropped.
    pub async fn start(mut config: Config) -> Result<Arc<Self>, Error> {
        let definitions = orlop_custom::definition::kind();
        if !config.kinds.iter().any(|k| k.group == definitions.group && k.plural == definitions.plural) {
            config.kinds.push(definitions);
        }
        let (stop, halt) = (CancellationToken::new(), CancellationToken::new());
        let allocations = Arc::new(Allocations::new(&config.service_ranges, config.node_ports.clone())?);
        let rbac = Rbac::default();
        let networks = hooks::NetworkAllocations::new(&config);
        let mut indexes = allocations.indexes();
        indexes.extend(networks.indexes());
        indexes.push(rbac.index.clone());
        let node = NodeAuthorizer::new(rbac::defaults::rules_of("system:node"));
        indexes.push(Arc::new(PodFeed(node.graph.clone())));
        indexes.push(Arc::new(VolumeFeed(node.graph.clone())));
        indexes.push(Arc::new(SliceFeed(node.graph.clone())));
        let authorization = Arc::new(Authorization::new(node, rbac));
        let caches = Arc::new(Caches::new(config.store.clone(), &config.kinds, indexes));
        caches.start(halt.clone()).await?;
        let service_address = allocations.first();
        let nodes = Arc::new(Nodes::new(config.node_tls.clone()));
        let hooks = hooks::Builder {
            config: &config,
            allocations,
            networks,
            nodes: nodes.clone(),
            authorization: authorization.clone(),
        };
        let resources = config
            .kinds
            .iter()
            .filter_map(|kind| Resource::built_in(kind, &caches, hooks.hooks(kind)).map(Arc::new))
            .collect();
        let sources = (config.clock.clone(), config.random.clone());
        let registry =
            Arc::new(Registry::new(config.store.clone(), caches, sources, resources, config.lost_nodes));
        registry.admission.ask(authorization.clone());
        let authenticator = Authenticator::new(&config, registry.clone());
        let metrics = Metrics::new();
        let auditor = Auditor::open(&config, metrics.audit.clone())?;
        let server = Arc::new(Self {
            documents: ArcSwap::from_pointee(Documents::new(&registry, &config, &[])),
            publishing: Mutex::default(),
            aggregator: Arc::new(Aggregator::new(&config)),
            authenticator,
            authorization,
            // Who waits longer than this would hardly be done in time.
            flow_control: FlowControl::new(config.limits.concurrency, config.limits.timeout / 4),
            metrics,
            sampler: Sampler::new(nodes, config.clock.clone()),
            components: Components::default(),
            auditor,
            registry,
            stop,
            halt,
            config,
        });
        custom::Manager::start(&server).await;
        hooks::defaults::reconcile(&server, service_address).await?;
        rbac::defaults::reconcile(&server).await?;
        flow_control::start(&server).await?;
        aggregation::Manager::start(&server);
        hooks::events::start_expiry(&server.registry, server.config.event_ttl, server.stop.clone());
        server.start_trimming();
        Ok(server)
    }

    /// The API for a client in the same process, who is `who`. It is what `kube::Client::new` takes.
    pub fn service_for(self: &Arc<Self>, who: Identity) -> InProcess {
        InProcess::new(self.clone(), who)
    }

    /// Ends watches and background tasks. What is being worked on is finished.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Serves these kinds from now on, and says so in discovery and OpenAPI.
    pub(crate) fn serve_kinds(&self, resources: Vec<Arc<Resource>>) {
        self.registry.serve(resources);
        self.publish();
        self.aggregator.kinds_changed.notify_one();
    }

    /// Says in discovery and OpenAPI what is served now, here and elsewhere.
    pub(crate) fn publish(&self) {
        let _alone = self.publishing.lock();
        let others = self.aggregator.published();
        self.documents.store(Arc::new(Documents::new(&self.registry, &self.config, &others)));
    }

    /// Forgets old events also of kinds where nothing happens any more.
    fn start_trimming(&self) {
        let (caches, stop) = (self.registry.caches.clone(), self.stop.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(std::time::Duration::from_secs(60));
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = tick.tick() => {
                        let now = tokio::time::Instant::now().into_std();
                        caches.all().iter().for_each(|cache| cache.trim(now));
                    }
                }
            }
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.halt.cancel();
    }
}
