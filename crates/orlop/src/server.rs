//! `orlop server`: all roles of a cluster in one process. It wires them together and does nothing itself: the parts speak with
//! each other through the API alone.

use crate::{
    Error, address,
    audit::AuditArguments,
    identity::{Identities, Names},
    layout::Layout,
    lock,
    logging::{self, LogArguments},
    node_role,
    pressure::PressureArguments,
    scheduling::SchedulerArguments,
};
use clap::Args;
use ipnet::{IpNet, Ipv4Net};
use orlop_apiserver::{ApiServer, Identity, audit::AuditConfig, identity::CONTROLLERS};
use orlop_dns::{DnsConfig, DnsIndex, DnsServer, Upstreams};
use orlop_network::{Network, NetworkConfig};
use orlop_node::{Agent, ImageGcConfig, NodeConfig, eviction::EvictionConfig, services};
use orlop_runtime::{
    Runtime, RuntimeConfig,
    image::{ImageStore, StoreOptions, control},
};
use orlop_store::{
    Embedded, Options, Store,
    sealed::{Keys, Sealed},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// How long requests and workers have to end after a signal.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct ServerArguments {
    /// The folder that holds everything: state, keys, images, containers. It gets admin.kubeconfig
    #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address that the API listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    bind_address: IpAddr,
    /// Port of the API
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    https_port: u16,
    /// Port of the node's own endpoint (logs, exec)
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address by which others reach this node [default: that of the default route]
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<IpAddr>,
    /// Another name or address of the API server, for its certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Range of pod addresses in the whole cluster
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR")]
    cluster_cidr: Ipv4Net,
    /// Range of Service addresses
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR")]
    service_cidr: Ipv4Net,
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
    pressure: PressureArguments,
    #[command(flatten)]
    audit: AuditArguments,
    #[command(flatten)]
    scheduler: SchedulerArguments,
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
    node_address: IpAddr,
    pod_range: Ipv4Net,
    service_address: Ipv4Addr,
    dns_address: Ipv4Addr,
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
        let layout = Layout::create(&arguments.data_dir)?;
        let node = arguments.node_name.clone().map_or_else(address::host_name, Ok)?;
        let fits = |range: Ipv4Net, what: &str, longest: u8| {
            if range.prefix_len() <= longest {
                return Ok(());
            }
            Err(Error::Configuration(format!("{what} {range} is too small: it needs at least a /{longest}")))
        };
        fits(arguments.cluster_cidr, "--cluster-cidr", 24)?;
        fits(arguments.service_cidr, "--service-cidr", 28)?;
        let (pods, services) = (arguments.cluster_cidr.trunc(), arguments.service_cidr.trunc());
        if pods.contains(&services) || services.contains(&pods) {
            return Err(Error::Configuration(format!(
                "--cluster-cidr {pods} and --service-cidr {services} overlap"
            )));
        }
        // The first /24 of the cluster's range is this node's.
        let pod_range =
            Ipv4Net::new(pods.network(), 24).map_err(Error::at("dividing the cluster's range"))?;
        let nth = |n: u32| Ipv4Addr::from(u32::from(services.network()) + n);
        let gateway = Ipv4Addr::from(u32::from(pod_range.network()) + 1);
        let node_address = arguments.node_ip.or_else(address::of_this_machine).unwrap_or(gateway.into());
        let (service_address, dns_address) = (nth(1), nth(10));
        Ok(Self {
            layout,
            node,
            node_address,
            pod_range,
            service_address,
            dns_address,
            audit,
            scheduling,
            eviction,
            image_gc,
        })
    }
}

pub(crate) fn run(arguments: ServerArguments) -> Result<(), Error> {
    logging::start(&arguments.log)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Configuration(
            "the server makes namespaces, links and cgroups: run it as root".into(),
        ));
    }
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
        node_address: plan.node_address,
        service_address: plan.service_address.into(),
        cluster_domain: arguments.cluster_domain.clone(),
        also: arguments.tls_san.clone(),
    };
    let identities = Arc::new(Identities::open(&plan.layout, &names, now)?);
    // Listening comes first: a port that is taken should end the start before anything is changed.
    let listener = listen(SocketAddr::new(arguments.bind_address, arguments.https_port)).await?;
    let node_listener = listen(SocketAddr::new(arguments.bind_address, arguments.kubelet_port)).await?;

    let (api, machine) =
        tokio::try_join!(start_api(&arguments, &plan, &identities), open_machine(&arguments, &plan))?;
    let mut roles = Roles { running: JoinSet::new() };
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
    start_control_plane(&mut roles, &api, &identities, plan.scheduling.clone(), &shutdown);
    let node = Node {
        api: &api,
        client: client(&api, &format!("system:node:{}", plan.node), &["system:nodes"]),
        arguments: &arguments,
        plan: &plan,
        identities: &identities,
        machine,
        listener: node_listener,
    };
    start_node(&mut roles, node, &shutdown).await?;

    let port = arguments.https_port;
    identities.write_kubeconfig(&plan.layout, &format!("https://127.0.0.1:{port}"))?;
    println!(
        "Orlop serves on https://127.0.0.1:{port}; try: kubectl --kubeconfig {} get nodes",
        plan.layout.kubeconfig().display()
    );

    let outcome = tokio::select! {
        outcome = roles.first_end() => outcome,
        () = signalled() => Ok(()),
    };
    shutdown.cancel();
    let _ = tokio::time::timeout(DRAIN, roles.all_ends()).await;
    outcome
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(Error::at(format!("listening on {address}")))
}

/// The roles that run. Any of them ending unasked ends the server.
struct Roles {
    running: JoinSet<Result<(), Error>>,
}

impl Roles {
    fn start<E>(&mut self, name: &'static str, role: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.running.spawn(async move { role.await.map_err(Error::at(format!("the {name} ended"))) });
    }

    /// A role that ends only with the server.
    fn start_endless(
        &mut self,
        role: impl Future<Output = ()> + Send + 'static,
        shutdown: &CancellationToken,
    ) -> AbortHandle {
        let shutdown = shutdown.clone();
        self.running.spawn(async move {
            tokio::select! {
                () = role => Err(Error::Configuration("a role of the server ended by itself".into())),
                () = shutdown.cancelled() => Ok(()),
            }
        })
    }

    async fn first_end(&mut self) -> Result<(), Error> {
        match self.running.join_next().await {
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => Err(Error::at("running a role")(panic)),
            None => Ok(()),
        }
    }

    async fn all_ends(&mut self) {
        while self.running.join_next().await.is_some() {}
    }
}

async fn start_api(
    arguments: &ServerArguments,
    plan: &Plan,
    identities: &Arc<Identities>,
) -> Result<Arc<ApiServer>, Error> {
    let folder = plan.layout.store();
    let store = tokio::task::spawn_blocking(move || Embedded::open(folder, Options::default()))
        .await
        .map_err(Error::at("opening the store"))?
        .map_err(Error::at("opening the store"))?;
    let store = sealed(Arc::new(store), plan).await?;
    let node_tls =
        orlop_pki::tls::client_config(identities.authority.certificate(), Some(&identities.node_client))
            .map_err(Error::at("preparing the way to nodes"))?;
    let mut config = orlop_apiserver::Config::new(store);
    config.service_range = IpNet::V4(arguments.service_cidr.trunc());
    config.node_ports = arguments.service_node_ports.clone();
    config.advertise = SocketAddr::new(plan.node_address, arguments.https_port);
    config.tokens = Some(identities.service_accounts.clone());
    config.issuer = format!("https://kubernetes.default.svc.{}", arguments.cluster_domain);
    config.node_tls = Some(node_tls);
    config.client_authority = identities.authority.certificate().to_string();
    config.front_proxy = Some(identities.front_proxy.clone());
    config.audit.clone_from(&plan.audit);
    if let Some(audit) = &mut config.audit {
        audit.webhook = arguments.audit.webhook().await?;
    }
    ApiServer::start(config).await.map_err(Error::at("starting the API server"))
}

/// The store, with Secrets encrypted on disk.
async fn sealed(store: Arc<dyn Store>, plan: &Plan) -> Result<Arc<dyn Store>, Error> {
    let make = || Keys::generate().map_err(|e| orlop_pki::Error::certificate("making a key", e));
    let keys = orlop_pki::key_list::read_or_create(&plan.layout.tls(), "secrets.keys", make)
        .map_err(Error::at("reading the keys of Secrets"))?;
    let keys = Keys::new(&keys).map_err(Error::at("reading the keys of Secrets"))?;
    let sealed = Sealed::open(store, keys, &["/registry/core/secrets/"])
        .await
        .map_err(Error::at("reading Secrets"))?;
    Ok(Arc::new(sealed))
}

/// What the node stands on.
struct Machine {
    images: Arc<ImageStore>,
    runtime: Arc<Runtime>,
    network: Arc<Network>,
}

async fn open_machine(arguments: &ServerArguments, plan: &Plan) -> Result<Machine, Error> {
    let options =
        StoreOptions { root: plan.layout.images(), insecure_registries: arguments.insecure_registry.clone() };
    let (layout, network) = (plan.layout.clone(), network_config(arguments, plan));
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
    let network = async move { Network::open(network).await.map_err(Error::at("opening the pod network")) };
    let ((images, runtime), network) = tokio::try_join!(containers, network)?;
    Ok(Machine { images, runtime, network: Arc::new(network) })
}

fn network_config(arguments: &ServerArguments, plan: &Plan) -> NetworkConfig {
    NetworkConfig {
        instance: plan.layout.instance.clone(),
        pod_range: IpNet::V4(plan.pod_range),
        cluster_range: IpNet::V4(arguments.cluster_cidr.trunc()),
        service_range: IpNet::V4(arguments.service_cidr.trunc()),
        dns_address: plan.dns_address.into(),
        state_dir: plan.layout.network(),
        mtu: None,
    }
}

/// A client of the API in this process, with an identity of its own.
fn client(api: &Arc<ApiServer>, user: &str, groups: &[&str]) -> kube::Client {
    kube::Client::new(api.service_for(Identity::new(user, groups)), "default")
}

fn start_control_plane(
    roles: &mut Roles,
    api: &Arc<ApiServer>,
    identities: &Identities,
    scheduling: orlop_scheduler::config::Configuration,
    shutdown: &CancellationToken,
) {
    let clock: orlop_client::Clock = Arc::new(jiff::Timestamp::now);
    let authority = identities.authority.certificate().to_string();
    let controllers = client(api, "system:kube-controller-manager", &[CONTROLLERS]);
    let of_controllers =
        roles.start_endless(orlop_controllers::run(controllers, clock.clone(), authority), shutdown);
    let signers = client(api, "system:kube-controller-manager", &[CONTROLLERS]);
    let keys = orlop_controllers::Keys {
        authority: identities.authority.clone(),
        service_accounts: identities.service_accounts.clone(),
    };
    let of_signers =
        roles.start_endless(orlop_controllers::run_signers(signers, clock.clone(), keys), shutdown);
    let scheduler = client(api, "system:kube-scheduler", &[]);
    let of_scheduler = roles.start_endless(orlop_scheduler::run_with(scheduler, clock, scheduling), shutdown);
    show(api, "controller-manager", vec![of_controllers, of_signers]);
    show(api, "scheduler", vec![of_scheduler]);
}

/// Shows a component as well as long as all its tasks run.
fn show(api: &ApiServer, name: &'static str, tasks: Vec<AbortHandle>) {
    api.show_component(name, move || match tasks.iter().any(AbortHandle::is_finished) {
        true => Err(format!("the {name} has ended")),
        false => Ok(()),
    });
}

/// The node's roles: agent, its own endpoint, service proxy, cluster DNS, image control.
async fn start_node(roles: &mut Roles, node: Node<'_>, shutdown: &CancellationToken) -> Result<(), Error> {
    let Node { api, arguments, plan, identities, client: of_node, machine, listener } = node;
    let dns =
        Arc::new(DnsIndex::new(&arguments.cluster_domain).map_err(Error::at("reading --cluster-domain"))?);
    let config = DnsConfig {
        listen: vec![SocketAddr::new(plan.dns_address.into(), 53)],
        upstreams: Upstreams::ResolvConf("/etc/resolv.conf".into()),
        ttl: 5,
    };
    let server = DnsServer::bind(config).await.map_err(Error::at("starting the cluster's DNS"))?;
    roles.start("cluster DNS", server.run(dns.clone(), shutdown.clone().cancelled_owned()));
    let services_config = services::ServicesConfig { node_name: plan.node.clone() };
    let of_server = client(api, "system:apiserver", &["system:masters"]);
    roles.start_endless(node_role::keep(of_server, plan.node.clone()), shutdown);
    let proxy = services::run(
        client(api, "system:kube-proxy", &[]),
        machine.network.clone(),
        dns,
        services_config,
        shutdown.clone().cancelled_owned(),
    );
    roles.start_endless(proxy, shutdown);

    let mut config = NodeConfig::new(plan.node.clone(), plan.layout.node(), plan.node_address);
    config.volumes_dir = plan.layout.volumes();
    config.images_dir = plan.layout.images();
    config.eviction = plan.eviction.clone();
    config.image_gc = plan.image_gc;
    config.kubelet_port = arguments.kubelet_port;
    config.cluster_dns = vec![plan.dns_address.into()];
    config.cluster_domain.clone_from(&arguments.cluster_domain);
    let agent = Agent::new(config, of_node, machine.runtime, machine.images.clone(), machine.network);
    let tls = orlop_pki::tls::server_config(
        &identities.node,
        identities.authority.certificate(),
        true,
        &["http/1.1"],
    )
    .map_err(Error::at("preparing the node's TLS"))?;
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

/// What a node needs of the server around it.
struct Node<'a> {
    api: &'a Arc<ApiServer>,
    arguments: &'a ServerArguments,
    plan: &'a Plan,
    identities: &'a Identities,
    client: kube::Client,
    machine: Machine,
    listener: TcpListener,
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
