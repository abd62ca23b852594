//! `orlop agent`: this machine as a worker of a cluster whose API server runs elsewhere. It joins with a token once, and from then
//! on starts with what it kept. It wires the node's parts together as the server does for its own node.

use crate::{
    Error,
    certificates::Certificates,
    dns::DnsArguments,
    join::{self, Refusal, in_words, persist},
    layout::Layout,
    lock,
    logging::{self, LogArguments},
    membership::{Membership, Settings},
    node::{self, NodePlan},
    pressure::PressureArguments,
    roles::{DRAIN, Roles, listen, signalled},
    service_manager,
};
use clap::Args;
use http::Uri;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, watcher, watcher::watch_object},
};
use orlop_client::{api_reason, remote};
use orlop_pki::{Credential, JoinToken, join_token, tls};
use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket},
    os::unix::process::CommandExt,
    path::PathBuf,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long the server may take to give the node its range before that is said.
const RANGE_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct AgentArguments {
    /// URL of the API server: https://ADDRESS:6443 [default: the one that was joined]
    #[arg(long, env = "ORLOP_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Token to join with, as `orlop token create` prints it on the server; not needed again after that
    #[arg(long, env = "ORLOP_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// The folder that holds everything: credentials, images, containers
    #[arg(long, default_value = orlop_cli::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address that the node's own endpoint (logs, exec) listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    bind_address: IpAddr,
    /// Port of the node's own endpoint
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    kubelet_port: u16,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Address by which others reach this node [default: the one from which it reaches the server]
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Option<IpAddr>,
    /// A registry (host or host:port) spoken to over plain HTTP, besides those on the loopback; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    dns: DnsArguments,
    #[command(flatten)]
    pressure: PressureArguments,
    #[command(flatten)]
    log: LogArguments,
}

/// How the agent ended.
enum End {
    /// It was asked to.
    Asked,
    /// The cluster gave the node other ranges: it must begin anew with them.
    Moved,
}

pub(crate) fn run(arguments: AgentArguments) -> Result<(), Error> {
    logging::start(&arguments.log)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Configuration(
            "the agent makes namespaces, links and cgroups: run it as root".into(),
        ));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::at("starting"))?;
    let outcome = runtime.block_on(serve(arguments));
    // Whatever still blocks a thread must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome? {
        End::Asked => Ok(()),
        End::Moved => {
            let program = std::env::current_exe().map_err(Error::at("finding this program"))?;
            let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
            Err(Error::at("starting again with the node's new range")(error))
        }
    }
}

async fn serve(arguments: AgentArguments) -> Result<End, Error> {
    // What is wrong with an argument ends it before anything is changed.
    let (eviction, image_gc) = (arguments.pressure.eviction()?, arguments.pressure.image_gc()?);
    let token = arguments.token.as_deref().map(str::parse::<JoinToken>).transpose();
    let token = token.map_err(Error::at("reading --token"))?;
    if arguments.data_dir.join("store").exists() {
        return Err(Error::Configuration(format!(
            "{} holds the state of a server: give the agent another --data-dir, or make this one free with `orlop reset`",
            arguments.data_dir.display()
        )));
    }
    let kept = match Layout::find(&arguments.data_dir)? {
        Some(layout) => Membership::read(&layout)?,
        None => None,
    };
    let url = url(&arguments, kept.as_ref())?;
    check_same_cluster(kept.as_ref(), token.as_ref(), &arguments)?;
    let name = match (&arguments.node_name, &kept) {
        (Some(name), Some(kept)) if *name != kept.settings.node => {
            return Err(Error::Configuration(format!(
                "this machine joined as {:?}: to join as {name:?}, `orlop reset` it first",
                kept.settings.node
            )));
        }
        (_, Some(kept)) => kept.settings.node.clone(),
        (Some(name), None) => name.clone(),
        (None, None) => crate::address::host_name()?,
    };
    let address = match arguments.node_ip {
        Some(address) => address,
        None => persist("finding this machine's address", || async { address_towards(&url) }).await?,
    };
    // A port that is taken should end the start before anything is changed.
    let listener = listen(SocketAddr::new(arguments.bind_address, arguments.kubelet_port)).await?;
    let interrupted = signalled();
    tokio::pin!(interrupted);
    let joining = async {
        match kept {
            Some(kept) => {
                let layout = Layout::create(&arguments.data_dir)?;
                let lock = lock::take(&layout.lock())?;
                Ok((layout, lock, kept))
            }
            None => join(&arguments, &url, token.as_ref(), &name, address).await,
        }
    };
    let (layout, _lock, membership) = tokio::select! {
        joined = joining => joined?,
        () = &mut interrupted => return Ok(End::Asked),
    };
    let mut settings = membership.settings;
    settings.server = url.to_string().trim_end_matches('/').to_string();

    let mut certificates = Certificates::new(&layout, &name, address, membership.client, membership.serving)?;
    wake(&mut certificates, &url, &settings, token.as_ref()).await?;
    let api_tls = certificates
        .client()
        .client_config(&settings.authority)
        .map_err(Error::at("preparing the way to the API server"))?;
    let node_tls = certificates
        .serving()
        .server_config(&settings.authority, &["http/1.1"])
        .map_err(Error::at("preparing the node's TLS"))?;
    let client = remote::connect(&url, &api_tls, None);
    if settings.pod_ranges.is_empty() {
        let given = persist("registering the node", || pod_ranges(client.clone(), &name));
        settings.pod_ranges = tokio::select! {
            given = given => given?,
            () = &mut interrupted => return Ok(End::Asked),
        };
    } else if let Ok(Ok(cluster)) =
        tokio::time::timeout(Duration::from_secs(1), join::cluster(client.clone())).await
    {
        // Changed at the server meanwhile; without an answer what is known goes on.
        settings.cluster = cluster;
    }
    settings.write(&layout)?;

    let plan = NodePlan {
        layout: layout.clone(),
        name: name.clone(),
        address,
        // A worker is known by the address on the way to the server alone.
        second_address: None,
        kubelet_port: arguments.kubelet_port,
        pod_ranges: settings.pod_ranges.clone(),
        cluster: settings.cluster.clone(),
        dns: arguments.dns.clone(),
        insecure_registries: arguments.insecure_registry.clone(),
        eviction,
        image_gc,
    };
    let machine = node::open_machine(&plan).await?;
    let shutdown = CancellationToken::new();
    let mut roles = Roles::default();
    let clients = node::Clients { node: client.clone(), network: client.clone() };
    node::start(&mut roles, plan, machine, clients, (listener, node_tls), &shutdown).await?;
    roles.start_endless(certificates.keep(client.clone()), &shutdown);
    println!("this machine is the node {name:?} of the cluster at {}", settings.server);

    service_manager::ready();
    let outcome = tokio::select! {
        outcome = roles.first_end() => outcome.map(|()| End::Asked),
        () = interrupted => Ok(End::Asked),
        news = news(client, &name, &settings.pod_ranges) => match news {
            News::Ranges(ranges) => {
                tracing::warn!(?ranges, "the cluster gave this node other ranges of pod addresses; starting again with them");
                settings.pod_ranges = ranges;
                settings.write(&layout).map(|()| End::Moved)
            }
            News::Removed(why) => Err(Error::Configuration(format!(
                "{why}, or `orlop reset` this machine to make it free"
            ))),
        }
    };
    service_manager::stopping();
    shutdown.cancel();
    let _ = tokio::time::timeout(DRAIN, roles.all_ends()).await;
    outcome
}

fn url(arguments: &AgentArguments, kept: Option<&Membership>) -> Result<Uri, Error> {
    let text = arguments.server.as_deref().or(kept.map(|k| k.settings.server.as_str())).ok_or_else(|| {
        Error::Configuration(
            "this machine has not joined a cluster: give --server and --token, as `orlop token create --print-join-command` prints them \
             on the server"
                .into(),
        )
    })?;
    remote::server_url(text).map_err(Error::at("reading --server"))
}

/// A machine is in one cluster.
fn check_same_cluster(
    kept: Option<&Membership>,
    token: Option<&JoinToken>,
    arguments: &AgentArguments,
) -> Result<(), Error> {
    let (Some(kept), Some(token)) = (kept, token) else { return Ok(()) };
    let pin =
        join_token::pin(&kept.settings.authority).map_err(Error::at("reading the cluster's authority"))?;
    if pin == token.pin {
        return Ok(());
    }
    Err(Error::Configuration(format!(
        "{} belongs to another cluster than the token: leave that one with `orlop reset` first",
        arguments.data_dir.display()
    )))
}

/// The address from which this machine reaches the server. Nothing is sent.
fn address_towards(url: &Uri) -> Result<IpAddr, Refusal> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let later = |e: std::io::Error| Refusal::Later(format!("there is no way to {host}: {e}"));
    let to = (host, url.port_u16().unwrap_or(443)).to_socket_addrs().map_err(later)?.next();
    let to = to.ok_or_else(|| Refusal::Later(format!("{host} has no address")))?;
    let from: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(from).map_err(later)?;
    socket.connect(to).map_err(later)?;
    Ok(socket.local_addr().map_err(later)?.ip())
}

/// Joins, and only then writes anything.
async fn join(
    arguments: &AgentArguments,
    url: &Uri,
    token: Option<&JoinToken>,
    name: &str,
    address: IpAddr,
) -> Result<(Layout, lock::Lock, Membership), Error> {
    let token = token.ok_or_else(|| {
        Error::Configuration(
            "this machine has not joined a cluster: give --token, as `orlop token create` prints it on the server".into(),
        )
    })?;
    let authority = persist("joining", || join::authority(url, token)).await?;
    let plain = tls::client_config(&authority, None).map_err(Error::at("preparing the way to the server"))?;
    let client = remote::connect(url, &plain, Some(&token.bearer()));
    let own = persist("joining", || join::client_certificate(client.clone(), name)).await?;
    let shown = tls::client_config(&authority, Some(&own)).map_err(Error::at("reading the certificate"))?;
    let client = remote::connect(url, &shown, None);
    let addresses = [address];
    let (serving, cluster) = tokio::try_join!(
        persist("asking for the node's serving certificate", || {
            join::serving_certificate(client.clone(), name, &addresses)
        }),
        persist("reading how the cluster is laid out", || join::cluster(client.clone())),
    )?;
    let layout = Layout::create(&arguments.data_dir)?;
    let lock = lock::take(&layout.lock())?;
    let settings =
        Settings { server: url.to_string(), node: name.into(), authority, cluster, pod_ranges: Vec::new() };
    let membership = Membership { settings, client: own, serving };
    membership.write(&layout)?;
    Ok((layout, lock, membership))
}

/// After having slept through the end of the client certificate: a new one by the old one, else by a token. After having been
/// removed from the cluster: a new one by a token.
async fn wake(
    certificates: &mut Certificates,
    url: &Uri,
    settings: &Settings,
    token: Option<&JoinToken>,
) -> Result<(), Error> {
    let now = jiff::Timestamp::now().as_second();
    let tls = certificates.client().client_config(&settings.authority);
    let tls = tls.map_err(Error::at("preparing the way to the API server"))?;
    if !certificates.is_over(now)? {
        let Some(token) = token else { return Ok(()) };
        // A token is only needed by a node that was removed since: its certificate is good for nothing.
        let asked = Api::<Node>::all(remote::connect(url, &tls, None)).get_opt(&settings.node).await;
        return match asked {
            Err(error) if join::removal(&error).is_some() => {
                certificates.set_client(by_token(url, settings, token).await?)
            }
            _ => Ok(()),
        };
    }
    let by_old = persist("renewing the node's certificate, which is over", || async {
        // A connection of its own each time: by then the server knows the node again.
        join::client_certificate(remote::connect(url, &tls, None), &settings.node).await
    });
    let renewed = match (by_old.await, token) {
        (Err(error), Some(token)) => {
            tracing::warn!(why = in_words(&error), "joining anew with the token");
            by_token(url, settings, token).await?
        }
        (outcome, _) => outcome?,
    };
    certificates.set_client(renewed)
}

/// A client certificate for the same node by a new token.
async fn by_token(url: &Uri, settings: &Settings, token: &JoinToken) -> Result<Credential, Error> {
    let plain = tls::client_config(&settings.authority, None);
    let plain = plain.map_err(Error::at("preparing the way to the API server"))?;
    let client = remote::connect(url, &plain, Some(&token.bearer()));
    persist("joining", || join::client_certificate(client.clone(), &settings.node)).await
}

fn ranges_of(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().filter_map(|r| r.parse().ok()).collect()
}

/// Registers the node, and waits until the cluster has given it its ranges.
pub(crate) async fn pod_ranges(client: Client, name: &str) -> Result<Vec<IpNet>, Refusal> {
    let api = Api::<Node>::all(client);
    let node =
        Node { metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }, ..Node::default() };
    match api.create(&PostParams::default(), &node).await {
        Err(error) if api_reason(&error) != Some("AlreadyExists") => return Err(Refusal::of(&error)),
        _ => {}
    }
    let given = kube::runtime::wait::await_condition(api, name, |node: Option<&Node>| {
        node.is_some_and(|node| !ranges_of(node).is_empty())
    });
    match tokio::time::timeout(RANGE_PATIENCE, given).await {
        Ok(Ok(Some(node))) => Ok(ranges_of(&node)),
        Ok(Err(error)) => Err(Refusal::Later(in_words(&error))),
        _ => Err(Refusal::Later(format!(
            "the cluster has not given it a range of pod addresses: those of --cluster-cidr may be used up (kubectl describe node {name})"
        ))),
    }
}

/// What the cluster does with the node that ends this process.
enum News {
    /// It has other ranges, which happens when it is made anew.
    Ranges(Vec<IpNet>),
    /// It was removed, and what it shows is not taken any more.
    Removed(String),
}

/// Waits for either.
async fn news(client: Client, name: &str, ours: &[IpNet]) -> News {
    use futures::StreamExt;
    let mut news = std::pin::pin!(watch_object(Api::<Node>::all(client), name).default_backoff());
    while let Some(item) = news.next().await {
        match item {
            Ok(Some(node)) => {
                let ranges = ranges_of(&node);
                if !ranges.is_empty() && ranges != ours {
                    return News::Ranges(ranges);
                }
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(why) = removed(&error) {
                    return News::Removed(why);
                }
            }
        }
    }
    std::future::pending().await
}

/// Why a watch failed, if it is that the node was removed.
fn removed(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => join::removal(e),
        watcher::Error::WatchError(status) => join::removal(&kube::Error::Api(status.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_towards_the_server_is_the_one_on_the_way_there() {
        let url = remote::server_url("https://127.0.0.1:6443").expect("a URL");
        assert!(address_towards(&url).expect("an address").is_loopback());
    }

    #[test]
    fn a_nodes_ranges_are_those_that_it_was_given() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {}, "spec": {"podCIDRs": ["10.42.1.0/24", "fd00::/64"]}}))
        .expect("a node");
        assert_eq!(
            ranges_of(&node),
            ["10.42.1.0/24".parse::<IpNet>().expect("v4"), "fd00::/64".parse().expect("v6")]
        );
        assert!(ranges_of(&Node::default()).is_empty());
    }
}
