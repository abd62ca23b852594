//! What the network is told and what it answers, as plain structs.

use ipnet::IpNet;
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// How this machine's pod network is laid out.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Tells apart the links, tables and rules of several Orlops on one machine: 1 to 8 of [a-z0-9]. The node's
    /// link and the nftables table are `orlop-INSTANCE`, the pods' links `v-INSTANCE-XXXX`.
    pub instance: String,
    /// This node's ranges of pod addresses, at most one a family, the primary family first. The first address of each is the
    /// node's own.
    pub pod_ranges: Vec<IpNet>,
    /// The whole cluster's pod ranges, of the same families: traffic inside them is not masqueraded.
    pub cluster_ranges: Vec<IpNet>,
    /// Ranges of ClusterIPs, of the same families.
    pub service_ranges: Vec<IpNet>,
    /// Addresses of the cluster's DNS, one a family, put onto the node's link so that the binary can listen on them.
    pub dns_addresses: Vec<IpAddr>,
    /// Where allocations are remembered.
    pub state_dir: PathBuf,
    /// MTU of pod links; `None` takes that of the default route's link.
    pub mtu: Option<u32>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostPort {
    /// Only on this address of the node; `None`: on all.
    pub host_ip: Option<IpAddr>,
    /// Port on the node.
    pub host_port: u16,
    /// Port in the pod.
    pub pod_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A pod to link.
#[derive(Clone, Debug)]
pub struct PodLink {
    /// Unique, stable over restarts of the agent (the sandbox id).
    pub id: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Host ports.
    pub host_ports: Vec<HostPort>,
}

/// What a pod got.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodAddress {
    /// Its addresses, one of each family that the network had then; the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Name of the link on the host.
    pub host_link: String,
}

/// Where packets for one service port may go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address and port of the pod.
    pub to: SocketAddr,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its share of the traffic, in relation to those of the others; at least 1 and at most [`Endpoint::MAX_WEIGHT`].
    pub weight: u16,
}

impl Endpoint {
    /// The most that an endpoint may weigh: it takes so many slots.
    pub const MAX_WEIGHT: u16 = 100;

    /// One that weighs what others do.
    #[must_use]
    pub fn new(to: SocketAddr, local: bool) -> Self {
        Self { to, local, weight: 1 }
    }
}

/// One port of one Service, with its endpoints already chosen (ready ones; terminating ones if there are no others).
///
/// "Inside" is a pod or this node; "outside" is everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name:port`, unique together with the protocol.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Addresses inside the cluster: the ClusterIPs.
    pub cluster_addresses: Vec<IpAddr>,
    /// Addresses that clients outside use too: external IPs.
    pub external_addresses: Vec<IpAddr>,
    /// The same, given by a load balancer: of clients only those of `source_ranges` are let through.
    pub balancer_addresses: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`; none: everybody.
    pub source_ranges: Vec<IpNet>,
    /// Port on those addresses.
    pub port: u16,
    /// Port on the node's own addresses.
    pub node_port: Option<u16>,
    /// All that may answer, wherever they run: where traffic from inside to the node port and the external addresses goes.
    pub endpoints: Vec<Endpoint>,
    /// Where traffic to the cluster addresses goes (`internalTrafficPolicy`).
    pub internal_endpoints: Vec<Endpoint>,
    /// Where traffic from outside to the node port and the external addresses goes (`externalTrafficPolicy`). Of `Local` policy
    /// the client's address is kept.
    ///
    /// Traffic that finds no endpoint here, while there are some elsewhere, is dropped, not refused, so that a load balancer's
    /// client tries again elsewhere.
    pub external_endpoints: Vec<Endpoint>,
    /// Seconds that a client keeps its endpoint (`sessionAffinity: ClientIP`).
    pub affinity_seconds: Option<u32>,
}

/// Why the network could not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration does not fit this machine (a range that is in use, one too small).
    #[error("{0}")]
    Config(String),
    /// No address left in the node's range.
    #[error("no free address left in {0}")]
    Exhausted(IpNet),
    /// A host port is taken.
    #[error("host port {port} is used by {by}")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// The id of the pod that has it.
        by: String,
    },
    /// The kernel refused; the text says at which step.
    #[error("{step}: {why}")]
    Kernel {
        /// What was being done.
        step: String,
        /// What the kernel said.
        why: String,
    },
    /// Remembered state could not be read or written.
    #[error("{step}")]
    Io {
        /// What was being done, with the path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}
