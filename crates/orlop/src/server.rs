//! `orlop server`: all roles of a cluster in one process. It wires them together and does nothing itself: the parts speak with
//! each other through the API alone.

use crate::{
    Error, address, agent,
    audit::AuditArguments,
    backup::{self, ScheduleArguments, schedule::Schedule},
    cluster_layout::{self, ClusterLayout, MeshArguments},
    control_plane::{ControlPlane, client},
    datastore::{self, DatastoreArguments},
    dead_nodes::DeadNodeArguments,
    dns::DnsArguments,
    founding,
    identity::{Identities, Names},
    join,
    layout::Layout,
    lock,
    logging::{self, LogArguments},
    membership::Membership,
    node::{self, NodePlan},
    node_role,
    pressure::PressureArguments,
    ranges::{AddressPlan, Addresses, Ranges},
    roles::{DRAIN, Roles, listen, signalled},
    scheduling::SchedulerArguments,
    service_manager,
};
use clap::Args;
use orlop_apiserver::{ApiServer, audit::AuditConfig};
use orlop_controllers::{ClusterRange, NodeRanges};
use orlop_node::{ImageGcConfig, eviction::EvictionConfig};
use orlop_store::{
    Store,
    sealed::{Keys, Sealed},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long giving back what other servers wait for may take.
const RESIGNING: Duration = Duration::from_secs(3);

#[derive(Args)]
pub(crate) struct ServerArguments {
    /// The folder that holds everything: state, keys, images, containers. It gets admin.kubeconfig
    #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address that the API listens on [default: all, of the cluster's address families]
    #[arg(long, value_name = "ADDRESS")]
    bind_address: Option<IpAddr>,
    /// Port of the API
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_port: u16,
    /// Port of the node's own endpoint (logs, exec)
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address by which others reach this node, or one of each address family with a comma [default: that of the default route]
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<Addresses>,
    /// Another name or address of the API server, for its certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Range of pod addresses in the whole cluster; with two address families one of each, with a comma, the primary one first
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR[,CIDR]")]
    cluster_cidr: Ranges,
    /// Size of the IPv4 range that each node gets of it (of IPv6 a /64); cannot be changed once nodes have theirs
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    node_cidr_mask_size: u8,
    #[command(flatten)]
    mesh: MeshArguments,
    #[command(flatten)]
    datastore: DatastoreArguments,
    /// Token of the cluster's servers, for one more of them: what the first one keeps in tls/server-token of its data folder. Not
    /// needed again after that
    #[arg(
        long,
        env = "ORLOP_SERVER_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        requires = "datastore_endpoint"
    )]
    server_token: Option<String>,
    /// Range of Service addresses, of the same address families
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR[,CIDR]")]
    service_cidr: Ranges,
    /// Addresses that Services of type LoadBalancer get: ranges (CIDR or FROM-TO) with commas between them. They are answered for
    /// on the links of the nodes [default: none, somebody else balances]
    #[arg(long, value_name = "RANGE[,RANGE]")]
    load_balancer_pool: Option<orlop_controllers::Pool>,
    /// Ports that Services of type NodePort get
    #[arg(long, default_value = "30000-32767", value_name = "FROM-TO", value_parser = port_range)]
    service_node_ports: RangeInclusive<u16>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// A registry (host or host:port) spoken to over plain HTTP, besides those on the loopback; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    dns: DnsArguments,
    #[command(flatten)]
    pressure: PressureArguments,
    #[command(flatten)]
    audit: AuditArguments,
    #[command(flatten)]
    scheduler: SchedulerArguments,
    #[command(flatten)]
    backup: ScheduleArguments,
    #[command(flatten)]
    dead_nodes: DeadNodeArguments,
    #[command(flatten)]
    log: LogArguments,
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (from, to) = text.split_once('-').ok_or("a range looks like 30000-32767")?;
    let port = |p: &str| p.trim().parse::<u16>().map_err(|e| format!("{p:?}: {e}"));
    let (from, to) = (port(from)?, port(to)?);
    if from == 0 || from > to {
        return Err(format!("{from}-{to} is empty"));
    }
    Ok(from..=to)
}

/// What follows from the arguments and this machine.
struct Plan {
    layout: Layout,
    node: String,
    /// One of each family of the cluster, the primary one first.
    node_addresses: Vec<IpAddr>,
    addresses: AddressPlan,
    node_ranges: NodeRanges,
    /// Where etcd is, if the state is there and other servers may share it.
    etcd: Option<orlop_store::Endpoints>,
    load_balancer_pool: Option<orlop_controllers::Pool>,
    node_grace: Duration,
    audit: Option<AuditConfig>,
    scheduling: orlop_scheduler::config::Configuration,
    eviction: EvictionConfig,
    image_gc: ImageGcConfig,
}

impl Plan {
    fn new(arguments: &ServerArguments) -> Result<Self, Error> {
        let audit = arguments.audit.read()?;
        let scheduling = arguments.scheduler.read()?;
        let (eviction, image_gc) = (arguments.pressure.eviction()?, arguments.pressure.image_gc()?);
        let etcd = arguments.datastore.etcd()?;
        let layout = Layout::create(&arguments.data_dir)?;
        let node = arguments.node_name.clone().map_or_else(address::host_name, Ok)?;
        let addresses = AddressPlan::new(
            &arguments.cluster_cidr,
            &arguments.service_cidr,
            arguments.node_cidr_mask_size,
        )?;
        if let Some(pool) = &arguments.load_balancer_pool
            && let Some(range) =
                addresses.cluster.iter().chain(&addresses.services).find(|range| pool.overlaps(**range))
        {
            return Err(Error::Configuration(format!("--load-balancer-pool {pool} overlaps {range}")));
        }
        let node_addresses = addresses.node_addresses(arguments.node_ip.as_ref(), address::of_this_machine);
        // Where this is the only server, the first part of each range is its node's.
        let parts = addresses.cluster.iter().zip(&addresses.pods);
        let node_ranges = NodeRanges {
            cluster: parts
                .map(|(range, part)| ClusterRange { range: *range, mask: part.prefix_len() })
                .collect(),
            first: etcd.is_none().then(|| node.clone()),
        };
        Ok(Self {
            layout,
            node,
            node_addresses,
            addresses,
            node_ranges,
            etcd,
            load_balancer_pool: arguments.load_balancer_pool.clone(),
            node_grace: arguments.dead_nodes.grace(),
            audit,
            scheduling,
            eviction,
            image_gc,
        })
    }
}

impl Plan {
    /// The node's primary address.
    fn node_address(&self) -> IpAddr {
        self.node_addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Where to listen if the arguments do not say: the one of IPv6 hears IPv4 too.
    fn everywhere(&self) -> IpAddr {
        if self.node_addresses.iter().any(IpAddr::is_ipv6) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        }
    }

    /// What all nodes must know of the cluster.
    fn cluster(&self, arguments: &ServerArguments) -> ClusterLayout {
        ClusterLayout {
            cluster_cidrs: self.addresses.cluster.clone(),
            service_cidrs: self.addresses.services.clone(),
            cluster_dns: self.addresses.dns.clone(),
            cluster_domain: arguments.cluster_domain.clone(),
            mesh: arguments.mesh.settings(),
            node_seconds: arguments.dead_nodes.seconds(),
        }
    }

    /// What this machine's node is.
    fn node_plan(&self, arguments: &ServerArguments, cluster: &ClusterLayout) -> NodePlan {
        NodePlan {
            layout: self.layout.clone(),
            name: self.node.clone(),
            address: self.node_address(),
            second_address: self.node_addresses.get(1).copied(),
            kubelet_port: arguments.kubelet_port,
            pod_ranges: self.addresses.pods.clone(),
            cluster: cluster.clone(),
            dns: arguments.dns.clone(),
            insecure_registries: arguments.insecure_registry.clone(),
            eviction: self.eviction.clone(),
            image_gc: self.image_gc,
        }
    }
}

pub(crate) fn run(arguments: ServerArguments) -> Result<(), Error> {
    logging::start(&arguments.log)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Configuration(
            "the server makes namespaces, links and cgroups: run it as root".into(),
        ));
    }
    if Membership::is_in(&arguments.data_dir) {
        return Err(Error::Configuration(format!(
            "{} belongs to a machine that joined a cluster as a worker: `orlop agent` runs it, `orlop reset` makes it free",
            arguments.data_dir.display()
        )));
    }
    backup::refuse_unfinished(&arguments.data_dir)?;
    let plan = Plan::new(&arguments)?;
    let _lock = lock::take(&plan.layout.lock())?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::at("starting"))?;
    let outcome = runtime.block_on(serve(arguments, plan));
    // Whatever still blocks a thread must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(arguments: ServerArguments, plan: Plan) -> Result<(), Error> {
    let shutdown = CancellationToken::new();
    let now = jiff::Timestamp::now().as_second();
    let names = Names {
        node: plan.node.clone(),
        node_addresses: plan.node_addresses.clone(),
        service_address: plan.addresses.service_address,
        cluster_domain: arguments.cluster_domain.clone(),
        also: arguments.tls_san.clone(),
    };
    let cluster = plan.cluster(&arguments);
    let store = match &plan.etcd {
        Some(endpoints) => {
            let store = datastore::open_etcd(endpoints.clone()).await?;
            let token = arguments.server_token.as_deref();
            if founding::agree(&store, &plan.layout, &cluster, token, now).await? {
                println!(
                    "This is a new cluster in etcd. More servers join it with the same --datastore options and --server-token \"$(cat {})\"",
                    plan.layout.tls().join("server-token").display()
                );
            }
            store
        }
        None => {
            founding::may_be_alone(&plan.layout)?;
            datastore::open_embedded(&plan.layout).await?
        }
    };
    let identities = Arc::new(Identities::open(&plan.layout, &names, now)?);
    // Listening comes first: a port that is taken should end the start before anything is changed.
    let on = arguments.bind_address.unwrap_or(plan.everywhere());
    let listener = listen(SocketAddr::new(on, arguments.https_port)).await?;
    let node_listener = listen(SocketAddr::new(on, arguments.kubelet_port)).await?;

    let mut node_plan = plan.node_plan(&arguments, &cluster);
    let shared = plan.etcd.is_some();
    let opening = async {
        // Where there are other servers, the node's range is not known yet.
        if shared { Ok(None) } else { node::open_machine(&node_plan).await.map(Some) }
    };
    let ((api, source), machine) =
        tokio::try_join!(start_api(&arguments, &plan, &identities, store), opening)?;
    let mut roles = Roles::default();
    roles.start("API server", {
        let tls = orlop_pki::tls::server_config(
            &identities.api_server,
            identities.authority.certificate(),
            false,
            &["h2", "http/1.1"],
        )
        .map_err(Error::at("preparing the API's TLS"))?;
        api.clone().serve(listener, tls, shutdown.clone())
    });
    let at = SocketAddr::new(plan.node_address(), arguments.https_port);
    let of_server = client(&api, "system:apiserver", &["system:masters"]);
    let (resign, resigned) = (CancellationToken::new(), CancellationToken::new());
    let control_plane = ControlPlane {
        api: api.clone(),
        authority: identities.authority.clone(),
        service_accounts: identities.service_accounts.clone(),
        scheduling: plan.scheduling.clone(),
        node_ranges: plan.node_ranges.clone(),
        pool: plan.load_balancer_pool.clone(),
        node_grace: plan.node_grace,
    };
    if shared {
        let us = (plan.node.as_str(), at);
        control_plane.start_elected(&mut roles, us, resign.clone(), resigned.clone())?;
        let clock: orlop_client::Clock = Arc::new(jiff::Timestamp::now);
        let lease = orlop_controllers::keep_lease(of_server.clone(), clock, plan.node.clone(), at);
        roles.start_endless(lease, &shutdown);
    } else {
        control_plane.start_alone(&mut roles, &shutdown);
        resigned.cancel();
    }
    let machine = match machine {
        Some(machine) => machine,
        None => {
            let ranges = join::persist("asking for the node's range of pod addresses", || {
                agent::pod_ranges(of_server.clone(), &plan.node)
            });
            node_plan.pod_ranges = tokio::select! {
                ranges = ranges => ranges?,
                outcome = roles.first_end() => return outcome,
                () = signalled() => return Ok(()),
            };
            node::open_machine(&node_plan).await?
        }
    };
    roles.start_endless(node_role::keep(of_server.clone(), plan.node.clone()), &shutdown);
    let shown = cluster_layout::publish(of_server.clone(), cluster);
    roles.start_endless(shown, &shutdown);
    start_backups(&mut roles, &arguments, &plan, source, &shutdown);
    let tls = orlop_pki::tls::server_config(
        &identities.node,
        identities.authority.certificate(),
        true,
        &["http/1.1"],
    )
    .map_err(Error::at("preparing the node's TLS"))?;
    let clients = node::Clients {
        node: client(&api, &format!("system:node:{}", plan.node), &["system:nodes"]),
        network: client(&api, "system:kube-proxy", &[]),
    };
    node::start(&mut roles, node_plan, machine, clients, (node_listener, tls), &shutdown).await?;

    let port = arguments.https_port;
    identities.write_kubeconfig(&plan.layout, &format!("https://127.0.0.1:{port}"))?;
    println!(
        "Orlop serves on https://127.0.0.1:{port}; try: kubectl --kubeconfig {} get nodes",
        plan.layout.kubeconfig().display()
    );
    if let Some(command) = join::command(&of_server, identities.authority.certificate(), at).await {
        println!("To add a machine, run there within a day: {command}");
    }

    service_manager::ready();
    let outcome = tokio::select! {
        outcome = roles.first_end() => outcome,
        () = signalled() => Ok(()),
    };
    service_manager::stopping();
    if shared {
        // Another server leads and is asked at once, not when the Leases run out.
        resign.cancel();
        let leave = async {
            orlop_controllers::drop_lease(of_server, &plan.node).await;
            resigned.cancelled().await;
        };
        let _ = tokio::time::timeout(RESIGNING, leave).await;
    }
    shutdown.cancel();
    let _ = tokio::time::timeout(DRAIN, roles.all_ends()).await;
    outcome
}

/// Backups on demand, and those that are made by themselves.
fn start_backups(
    roles: &mut Roles,
    arguments: &ServerArguments,
    plan: &Plan,
    source: backup::Source,
    shutdown: &CancellationToken,
) {
    let schedule = Arc::new(Schedule::new(&arguments.backup, plan.layout.root()));
    let served =
        backup::socket::serve(plan.layout.clone(), source.clone(), schedule.clone(), shutdown.clone());
    roles.start("backups", served);
    roles.start_endless(async move { schedule.run(&source).await }, shutdown);
}

async fn start_api(
    arguments: &ServerArguments,
    plan: &Plan,
    identities: &Arc<Identities>,
    store: Arc<dyn Store>,
) -> Result<(Arc<ApiServer>, backup::Source), Error> {
    let source = backup::Source::new(store.clone(), &plan.layout, &plan.node);
    let store = sealed(store, plan).await?;
    let node_tls =
        orlop_pki::tls::client_config(identities.authority.certificate(), Some(&identities.node_client))
            .map_err(Error::at("preparing the way to nodes"))?;
    let mut config = orlop_apiserver::Config::new(store);
    config.service_ranges.clone_from(&plan.addresses.services);
    config.pod_ranges.clone_from(&plan.addresses.cluster);
    config.pod_network_number = Some(arguments.mesh.settings().vni);
    config.node_ports = arguments.service_node_ports.clone();
    config.alone = plan.etcd.is_none();
    config.advertise = SocketAddr::new(plan.node_address(), arguments.https_port);
    config.tokens = Some(identities.service_accounts.clone());
    config.issuer = format!("https://kubernetes.default.svc.{}", arguments.cluster_domain);
    config.node_tls = Some(node_tls);
    config.client_authority = identities.authority.certificate().to_string();
    config.front_proxy = Some(identities.front_proxy.clone());
    config.lost_nodes = arguments.dead_nodes.tolerations();
    config.audit.clone_from(&plan.audit);
    if let Some(audit) = &mut config.audit {
        audit.webhook = arguments.audit.webhook().await?;
    }
    let api = ApiServer::start(config).await.map_err(Error::at("starting the API server"))?;
    Ok((api, source))
}

/// The store, with Secrets encrypted on disk.
async fn sealed(store: Arc<dyn Store>, plan: &Plan) -> Result<Arc<dyn Store>, Error> {
    let keys = founding::secret_keys(&plan.layout.tls())?;
    let keys = Keys::new(&keys).map_err(Error::at("reading the keys of Secrets"))?;
    let sealed = Sealed::open(store, keys, &["/registry/core/secrets/"])
        .await
        .map_err(Error::at("reading Secrets"))?;
    Ok(Arc::new(sealed))
}
