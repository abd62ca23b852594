//! What the index is told, as plain structs.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Transport protocol of a port, as the second label of an SRV name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `_tcp`.
    Tcp,
    /// `_udp`.
    Udp,
    /// `_sctp`.
    Sctp,
}

/// A port of a Service or of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// Name of the Service's port; empty if it has none (then it has no SRV record).
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port number.
    pub port: u16,
}

/// An address of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRecord {
    /// Its address.
    pub address: IpAddr,
    /// Its own name below the Service; without one, a name is made from the address.
    pub hostname: Option<String>,
    /// Its ports.
    pub ports: Vec<PortRecord>,
    /// SRV priority: lower ones are to be tried first.
    pub priority: u16,
    /// SRV weight among those of the same priority.
    pub weight: u16,
}

/// What a Service's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTarget {
    /// Its virtual addresses and ports.
    Cluster {
        /// ClusterIPs.
        addresses: Vec<IpAddr>,
        /// Ports.
        ports: Vec<PortRecord>,
    },
    /// Its endpoints: those that are ready, or all with `publishNotReadyAddresses`; the caller has chosen.
    Headless {
        /// Endpoints.
        endpoints: Vec<EndpointRecord>,
    },
    /// Another name (`ExternalName`).
    External {
        /// The name.
        name: String,
    },
}

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub target: ServiceTarget,
}

/// Where the names that are not ours are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// The `nameserver` lines of this file (`/etc/resolv.conf`), read again when it changes.
    ResolvConf(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// How the server answers.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses to listen on, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Who is asked for all other names; addresses in `listen` are never asked.
    pub upstreams: Upstreams,
    /// Time to live of the cluster's records, in seconds. 5 is customary.
    pub ttl: u32,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is not a domain name.
    #[error("{domain:?} is not a domain name: {why}")]
    Domain {
        /// As given.
        domain: String,
        /// What is wrong.
        why: String,
    },
    /// An address cannot be listened on.
    #[error("listening for DNS on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The server ended by itself.
    #[error("the DNS server stopped: {0}")]
    Stopped(String),
}
