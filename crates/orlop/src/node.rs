//! What a node is made of, whether it is the server's own or a worker: runtime, network, service proxy, DNS, agent and its
//! endpoint. It wires them together; who the node is and how it reaches the API is handed in.

use crate::{
    Error,
    cluster_layout::ClusterLayout,
    dns::{DnsArguments, DnsPlan},
    layout::Layout,
    roles::Roles,
};
use ipnet::IpNet;
use jiff::Timestamp;
use orlop_network::{
    Network, NetworkConfig,
    mesh::{Mesh, MeshConfig},
    overlay::{OverlayConfig, Overlays},
};
use orlop_node::{
    Agent, ImageGcConfig, NodeConfig,
    eviction::EvictionConfig,
    networks::{ConnectedNetwork, Networks, NetworksConfig},
    peers,
    policies::{Policies, ProtectedNetwork},
    services,
};
use orlop_runtime::{
    Runtime, RuntimeConfig,
    image::{ImageStore, StoreOptions, control},
};
use std::{net::IpAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a node is started with.
pub(crate) struct NodePlan {
    pub(crate) layout: Layout,
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// Its address of the other family, if it has one.
    pub(crate) second_address: Option<IpAddr>,
    pub(crate) kubelet_port: u16,
    /// Its own ranges of pod addresses.
    pub(crate) pod_ranges: Vec<IpNet>,
    pub(crate) cluster: ClusterLayout,
    pub(crate) dns: DnsArguments,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) eviction: EvictionConfig,
    pub(crate) image_gc: ImageGcConfig,
}

/// The ways to the API.
pub(crate) struct Clients {
    /// As the node.
    pub(crate) node: kube::Client,
    /// As who sees Services, their endpoints and all nodes.
    pub(crate) network: kube::Client,
}

/// What the node stands on.
pub(crate) struct Machine {
    images: Arc<ImageStore>,
    runtime: Arc<Runtime>,
    network: Arc<Network>,
    mesh: Arc<Mesh>,
    overlays: Overlays,
}

pub(crate) async fn open_machine(plan: &NodePlan) -> Result<Machine, Error> {
    let options =
        StoreOptions { root: plan.layout.images(), insecure_registries: plan.insecure_registries.clone() };
    let layout = plan.layout.clone();
    let containers = async move {
        let images = tokio::task::spawn_blocking(move || ImageStore::open(options))
            .await
            .map_err(Error::at("opening the images"))?
            .map_err(Error::at("opening the images"))?;
        let mut config = RuntimeConfig::new(layout.runtime(), images.clone());
        config.cgroup_root = layout.cgroup();
        let runtime = Runtime::open(config).await.map_err(Error::at("opening the runtime"))?;
        Ok((images, Arc::new(runtime)))
    };
    let ((images, runtime), (network, mesh, overlays)) = tokio::try_join!(containers, open_network(plan))?;
    Ok(Machine { images, runtime, network: Arc::new(network), mesh: Arc::new(mesh), overlays })
}

async fn open_network(plan: &NodePlan) -> Result<(Network, Mesh, Overlays), Error> {
    let failed = Error::at::<orlop_network::Error>;
    let mesh = Mesh::open(MeshConfig {
        instance: plan.layout.instance.clone(),
        node: plan.name.clone(),
        address: plan.address,
        ranges: plan.pod_ranges.clone(),
        cluster_ranges: plan.cluster.cluster_cidrs.clone(),
        settings: plan.cluster.mesh,
        state_dir: plan.layout.network(),
    })
    .await
    .map_err(failed("opening the network between nodes"))?;
    let config = NetworkConfig {
        instance: plan.layout.instance.clone(),
        pod_ranges: plan.pod_ranges.clone(),
        cluster_ranges: plan.cluster.cluster_cidrs.clone(),
        service_ranges: plan.cluster.service_cidrs.clone(),
        dns_addresses: plan.cluster.cluster_dns.clone(),
        state_dir: plan.layout.network(),
        mtu: Some(mesh.pod_mtu()),
    };
    let network = Network::open(config).await.map_err(failed("opening the pod network"))?;
    let overlays = Overlays::open(OverlayConfig {
        instance: plan.layout.instance.clone(),
        node_address: plan.address,
        port: plan.cluster.mesh.port,
        mtu: mesh.tunnel_mtu(),
    })
    .map_err(failed("opening the networks that people make"))?;
    Ok((network, mesh, overlays))
}

/// Starts the node's roles: agent, its own endpoint, service proxy, network policies, routes to other nodes, networks that people
/// make, cluster DNS, image control.
pub(crate) async fn start(
    roles: &mut Roles,
    plan: NodePlan,
    machine: Machine,
    clients: Clients,
    (listener, tls): (TcpListener, Arc<rustls::ServerConfig>),
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let cluster = &plan.cluster;
    let (server, names, network_names) = plan.dns.open(DnsPlan {
        domain: &cluster.cluster_domain,
        addresses: cluster.cluster_dns.clone(),
        node: plan.address,
        pods: cluster.cluster_cidrs.clone(),
        services: cluster.service_cidrs.clone(),
    })?;
    let dns_metrics = server.metrics();
    roles.start("cluster DNS", server.run(shutdown.clone().cancelled_owned()));
    let proxy = services::run(
        clients.network.clone(),
        machine.network.clone(),
        names,
        services::ServicesConfig { node_name: plan.name.clone() },
        shutdown.clone().cancelled_owned(),
    );
    roles.start_endless(proxy, shutdown);
    roles.start_endless(peers::run(clients.network.clone(), machine.mesh), shutdown);
    let policies = Policies::new(clients.network, plan.name.clone(), &plan.layout.instance)
        .map_err(Error::at("opening the network policies"))?;
    roles.start_endless(policies.clone().run(shutdown.clone().cancelled_owned()), shutdown);
    let protected = ProtectedNetwork { network: machine.network, policies };
    let networks = Networks::new(
        clients.node.clone(),
        machine.overlays,
        network_names,
        NetworksConfig {
            node_name: plan.name.clone(),
            node_address: plan.address,
            clock: Arc::new(Timestamp::now),
        },
    );
    roles.start_endless(networks.clone().run(shutdown.clone().cancelled_owned()), shutdown);
    let network = Arc::new(ConnectedNetwork { network: protected, networks });

    let mut config = NodeConfig::new(plan.name.clone(), plan.layout.node(), plan.address);
    config.second_node_ip = plan.second_address;
    config.volumes_dir = plan.layout.volumes();
    config.images_dir = plan.layout.images();
    config.eviction = plan.eviction;
    config.image_gc = plan.image_gc;
    config.kubelet_port = plan.kubelet_port;
    config.lease = Duration::from_secs(cluster.node_seconds.into());
    config.cluster_dns.clone_from(&cluster.cluster_dns);
    config.cluster_domain.clone_from(&cluster.cluster_domain);
    let agent = Agent::new(config, clients.node, machine.runtime, machine.images.clone(), network);
    agent.show_metrics(|registry| dns_metrics.register(registry));
    roles.start(
        "node's endpoint",
        orlop_node::streaming::serve(Arc::new(agent.clone()), listener, tls, shutdown.clone()),
    );
    let socket = plan.layout.control_socket();
    let (images, stop) = (machine.images, shutdown.clone().cancelled_owned());
    roles.start("image control", async move { control::serve(images, &socket, stop).await });
    let stop = shutdown.clone();
    roles.start("node agent", async move { Box::pin(agent.run(stop)).await });
    Ok(())
}
