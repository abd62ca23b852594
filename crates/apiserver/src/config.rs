//! What an API server is started with.

use crate::{
    audit::AuditConfig,
    registry::{Clock, Random},
};
use ipnet::IpNet;
use orlop_api::{Kind, kinds};
use orlop_pki::{Credential, ServiceAccountKey};
use orlop_store::Store;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

/// What `/version` says.
#[derive(Clone, Debug)]
pub struct Version {
    /// The version of the API's kinds with ours behind it: `v1.36.0+orlop0.1.0`.
    pub git_version: String,
    /// The commit it was built from, if known.
    pub git_commit: String,
    /// When it was built, RFC 3339, if known.
    pub build_date: String,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            git_version: concat!("v1.36.0+orlop", env!("CARGO_PKG_VERSION")).into(),
            git_commit: String::new(),
            build_date: String::new(),
        }
    }
}

/// How much is done at the same time. Watches count only while they begin, other streams not at all.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that are worked on at once, of all priority levels but the exempt one together.
    pub concurrency: usize,
    /// How long a request that is no stream may take.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: 600, timeout: Duration::from_secs(60) }
    }
}

/// How long pods that do not say stay on a node that is lost, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct LostNodes {
    /// One that says that it is not ready.
    pub not_ready: u32,
    /// One that says nothing any more.
    pub unreachable: u32,
}

impl Default for LostNodes {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

/// How this server is known to the servers that it hands requests to.
#[derive(Clone)]
pub struct FrontProxy {
    /// The authority that its certificate is from (PEM). It must sign nothing else: who shows a certificate of it can say to be anybody.
    pub authority: String,
    /// Its certificate for these servers, in the name of [`FrontProxy::NAME`].
    pub credential: Credential,
}

impl FrontProxy {
    /// The common name of the certificate.
    pub const NAME: &str = "front-proxy-client";
}

/// What an API server is started with.
#[derive(Clone)]
pub struct Config {
    /// Where the state is.
    pub store: Arc<dyn Store>,
    /// The kinds it serves.
    pub kinds: Vec<Arc<Kind>>,
    /// Where ClusterIPs come from: one range a family, the default family's first. Its first address belongs to the `kubernetes`
    /// Service.
    pub service_ranges: Vec<IpNet>,
    /// Where node ports come from.
    pub node_ports: RangeInclusive<u16>,
    /// Where the pods' addresses in the cluster's own network come from: no Network may have them.
    pub pod_ranges: Vec<IpNet>,
    /// The number of the pod network's own VXLAN: no Network may have it.
    pub pod_network_number: Option<u32>,
    /// Where Networks that name no subnet get one.
    pub network_pools: Vec<IpNet>,
    /// Where pods and nodes reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Whether this is the only server, and so the only endpoint of that Service.
    pub alone: bool,
    /// What `/version` says.
    pub version: Version,
    /// Signs and checks service-account tokens; without it there are none.
    pub tokens: Option<Arc<ServiceAccountKey>>,
    /// The issuer of those tokens, also their default audience.
    pub issuer: String,
    /// How the server speaks to nodes; without it logs, exec and the like are refused.
    pub node_tls: Option<Arc<rustls::ClientConfig>>,
    /// The authority of client certificates (PEM), which other servers are told; empty where there is none.
    pub client_authority: String,
    /// How this server is known to the servers that it hands requests to; without it they get to see no certificate.
    pub front_proxy: Option<FrontProxy>,
    /// How long Events are kept.
    pub event_ttl: Duration,
    /// How long pods that do not say stay on nodes that are lost.
    pub lost_nodes: LostNodes,
    /// How much is done at the same time.
    pub limits: Limits,
    /// What is noted of requests, and where; nothing without it.
    pub audit: Option<AuditConfig>,
    /// The time.
    pub clock: Clock,
    /// Where uids, generated names and choices among what is free come from.
    pub random: Random,
}

impl Config {
    /// The usual configuration over a store: all built-in kinds, services in 10.43.0.0/16, node ports 30000–32767, Networks in
    /// 10.64.0.0/12 and fd6f:726c:6f70::/48.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            kinds: kinds::table(),
            service_ranges: vec![IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 43, 0, 0)), 16)],
            node_ports: 30_000..=32_767,
            pod_ranges: Vec::new(),
            pod_network_number: None,
            network_pools: vec![
                IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(10, 64, 0, 0)), 12),
                IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfd6f, 0x726c, 0x6f70, 0, 0, 0, 0, 0)), 48),
            ],
            advertise: SocketAddr::from((Ipv4Addr::LOCALHOST, 6443)),
            alone: true,
            version: Version::default(),
            tokens: None,
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            node_tls: None,
            client_authority: String::new(),
            front_proxy: None,
            event_ttl: Duration::from_secs(3600),
            lost_nodes: LostNodes::default(),
            limits: Limits::default(),
            audit: None,
            clock: Arc::new(jiff::Timestamp::now),
            random: Arc::new(rand::random),
        }
    }
}
