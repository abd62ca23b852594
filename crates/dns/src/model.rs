//! What the server is told, as plain structs.

use ipnet::IpNet;
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

impl Protocol {
    /// The second label of an SRV name.
    pub(crate) fn label(self) -> &'static [u8] {
        match self {
            Self::Tcp => b"_tcp",
            Self::Udp => b"_udp",
            Self::Sctp => b"_sctp",
        }
    }
}

/// A port of a Service or of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRecord {
    /// Name of the Service's port; empty if it has none (then it has no SRV record).
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port number.
    pub port: u16,
}

/// Which of several targets a client should choose (RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// Lower ones are to be tried first.
    pub priority: u16,
    /// Share of those of the same priority.
    pub weight: u16,
}

impl Default for Rank {
    fn default() -> Self {
        Self { priority: 0, weight: 100 }
    }
}

/// An address of a Service that has no address of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointRecord {
    /// Its address.
    pub address: IpAddr,
    /// Its own name below the Service; without one, a name is made from the address.
    pub hostname: Option<String>,
    /// Its ports.
    pub ports: Vec<PortRecord>,
    /// For SRV.
    pub rank: Rank,
    /// Its address leads back to its own name, if it has one.
    pub pointer: bool,
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
        /// For SRV.
        rank: Rank,
    },
    /// Its endpoints: those that are ready, or all with `publishNotReadyAddresses`; the caller has chosen. Without any, the
    /// name does not exist (specification, 2.4.1).
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

/// How names of Services are made in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The cluster's: `SERVICE.NAMESPACE.svc.ZONE`, and all else that the specification says.
    Cluster,
    /// For strangers, of all namespaces: `SERVICE.NAMESPACE.ZONE`.
    Namespaces,
    /// Of networks: what stands for a Service is a namespace's members, and for its namespace the network: `MEMBER.NAMESPACE.NETWORK.ZONE`.
    Networks,
    /// For strangers, of one namespace: `SERVICE.ZONE`.
    OneNamespace,
}

/// Where the names that are not ours are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// The `nameserver` lines of this file (`/etc/resolv.conf`), read again when it changes.
    ResolvConf(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// A domain whose names are asked elsewhere than all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StubDomain {
    /// The domain; all names below it are meant too.
    pub domain: String,
    /// Who knows them.
    pub servers: Vec<SocketAddr>,
}

/// How the server answers.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Addresses for the cluster's own clients, UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Addresses for strangers: they are told what is in exported zones, and nothing else.
    pub export_listen: Vec<SocketAddr>,
    /// Whose questions are answered at `listen`, besides those of this machine.
    pub clients: Vec<IpNet>,
    /// Addresses of the cluster: whether they have a name is known here, so nobody else is asked.
    pub own_ranges: Vec<IpNet>,
    /// Who is asked for all other names; addresses that this server listens on are never asked.
    pub upstreams: Upstreams,
    /// Exceptions from that.
    pub stubs: Vec<StubDomain>,
    /// Time to live of the cluster's records, in seconds. 5 is customary.
    pub ttl: u32,
    /// How much memory remembered answers of others may take, in bytes.
    pub cache_bytes: usize,
}

impl DnsConfig {
    /// How many bytes of others' answers are customary.
    pub const CACHE_BYTES: usize = 8 << 20;
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The domain of a zone or of a stub is not a domain name.
    #[error("{domain:?} is not a domain name")]
    Domain {
        /// As given.
        domain: String,
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
    /// The thread that answers could not be started.
    #[error("starting to answer DNS")]
    Start(#[source] std::io::Error),
    /// The server ended by itself.
    #[error("the DNS server stopped")]
    Stopped,
}
