//! The index of names that the server answers from: what each Service's name leads to, and which names an address has.
//! Pure of I/O; it does not know the wire format.

use crate::{Error, PortRecord, Protocol, ServiceRecord, ServiceTarget};
use hickory_server::proto::rr::Name;
use parking_lot::RwLock;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Maps are split so that a change holds up no more than a fraction of the readers, and those for an insertion only.
const SHARDS: usize = 16;

/// The cluster's names. A change replaces one Service at once: a reader sees all of it or nothing.
pub struct DnsIndex {
    domain: Name,
    text: String,
    hasher: RandomState,
    services: [RwLock<Services>; SHARDS],
    pointers: [RwLock<Pointers>; SHARDS],
    /// Namespaces with at least one Service, and how many: their names exist.
    namespaces: RwLock<HashMap<Box<[u8]>, usize>>,
    /// One at a time, so that `services`, `pointers` and `namespaces` agree.
    writing: parking_lot::Mutex<()>,
    serial: AtomicU32,
}

/// By `NAMESPACE/NAME`.
type Services = HashMap<Box<[u8]>, Arc<Service>>;
type Pointers = HashMap<IpAddr, Vec<Pointer>>;

/// A name of an address, and whose it is.
struct Pointer {
    owner: Box<[u8]>,
    name: Name,
}

/// A Service in the form that answers are made from.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its full name.
    pub name: Name,
    /// Where it leads.
    pub target: Target,
}

/// See [`ServiceTarget`].
#[derive(Debug)]
pub(crate) enum Target {
    /// Virtual addresses.
    Cluster { addresses: Addresses, ports: Vec<PortRecord> },
    /// Endpoints.
    Headless { addresses: Addresses, hosts: HashMap<Box<str>, Host>, ports: Vec<HostPort> },
    /// Another name.
    External { name: Name },
}

/// Addresses by family.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
}

/// An endpoint's name.
#[derive(Debug)]
pub(crate) struct Host {
    pub name: Name,
    pub addresses: Addresses,
}

/// A port of an endpoint.
#[derive(Debug)]
pub(crate) struct HostPort {
    pub port: PortRecord,
    /// Which of the hosts.
    pub host: Box<str>,
    pub priority: u16,
    pub weight: u16,
}

impl Addresses {
    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) if !self.v4.contains(&address) => self.v4.push(address),
            IpAddr::V6(address) if !self.v6.contains(&address) => self.v6.push(address),
            _ => {}
        }
    }
}

impl DnsIndex {
    /// An empty index for a cluster's domain (`cluster.local`).
    ///
    /// # Errors
    /// [`Error::Domain`].
    pub fn new(domain: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::Domain { domain: domain.to_owned(), why };
        let mut name = Name::from_ascii(domain).map_err(|error| bad(error.to_string()))?;
        if name.num_labels() == 0 {
            return Err(bad("it has no labels".into()));
        }
        name.set_fqdn(true);
        Ok(Self {
            domain: name.to_lowercase(),
            text: domain.trim_end_matches('.').to_owned(),
            hasher: RandomState::new(),
            services: std::array::from_fn(|_| RwLock::default()),
            pointers: std::array::from_fn(|_| RwLock::default()),
            namespaces: RwLock::default(),
            writing: parking_lot::Mutex::new(()),
            serial: AtomicU32::new(1),
        })
    }

    /// The domain, without a dot at its end.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text
    }

    /// Adds a Service or replaces what was known of it. Parts that cannot be names (no DNS label) are left out.
    pub fn set_service(&self, service: ServiceRecord) {
        let key = key(service.namespace.as_bytes(), service.name.as_bytes());
        let _alone = self.writing.lock();
        let Some((new, pointers)) = self.prepare(&service) else {
            self.forget(&key, service.namespace.as_bytes());
            return;
        };
        let old = self.shard(&key).write().insert(key.clone(), Arc::new(new));
        match old {
            Some(old) => self.forget_pointers(&key, &old),
            None => *self.namespaces.write().entry(service.namespace.into_bytes().into()).or_default() += 1,
        }
        for (address, name) in pointers {
            let pointer = Pointer { owner: key.clone(), name };
            self.pointer_shard(address).write().entry(address).or_default().push(pointer);
        }
        self.serial.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a Service.
    pub fn remove_service(&self, namespace: &str, name: &str) {
        let _alone = self.writing.lock();
        self.forget(&key(namespace.as_bytes(), name.as_bytes()), namespace.as_bytes());
    }

    /// The domain as a name, in lower case.
    pub(crate) fn zone(&self) -> &Name {
        &self.domain
    }

    /// Rises with every change: the zone's serial number.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// A Service, by the labels of its name in lower case.
    pub(crate) fn service(&self, namespace: &[u8], name: &[u8]) -> Option<Arc<Service>> {
        // Names are labels of at most 63 bytes: no allocation for a look-up.
        let mut buffer = [0_u8; 128];
        let length = namespace.len() + 1 + name.len();
        let key = buffer.get_mut(..length)?;
        key[..namespace.len()].copy_from_slice(namespace);
        key[namespace.len()] = b'/';
        key[namespace.len() + 1..].copy_from_slice(name);
        self.shard(key).read().get(&*key).cloned()
    }

    /// Whether a namespace has a Service.
    pub(crate) fn has_namespace(&self, namespace: &[u8]) -> bool {
        self.namespaces.read().contains_key(namespace)
    }

    /// The names of an address.
    pub(crate) fn names_of(&self, address: IpAddr) -> Vec<Name> {
        let shard = self.pointer_shard(address).read();
        shard
            .get(&address)
            .map(|names| names.iter().map(|pointer| pointer.name.clone()).collect())
            .unwrap_or_default()
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Services> {
        &self.services[self.hasher.hash_one(key) as usize % SHARDS]
    }

    fn pointer_shard(&self, address: IpAddr) -> &RwLock<Pointers> {
        &self.pointers[self.hasher.hash_one(address) as usize % SHARDS]
    }

    fn forget(&self, key: &[u8], namespace: &[u8]) {
        let Some(old) = self.shard(key).write().remove(key) else { return };
        self.forget_pointers(key, &old);
        let mut namespaces = self.namespaces.write();
        if let Some(count) = namespaces.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                namespaces.remove(namespace);
            }
        }
        self.serial.fetch_add(1, Ordering::Relaxed);
    }

    fn forget_pointers(&self, key: &[u8], service: &Service) {
        let addresses = match &service.target {
            Target::Cluster { addresses, .. } | Target::Headless { addresses, .. } => addresses,
            Target::External { .. } => return,
        };
        let v4 = addresses.v4.iter().copied().map(IpAddr::V4);
        for address in v4.chain(addresses.v6.iter().copied().map(IpAddr::V6)) {
            let mut shard = self.pointer_shard(address).write();
            if let Some(names) = shard.get_mut(&address) {
                names.retain(|pointer| *pointer.owner != *key);
                if names.is_empty() {
                    shard.remove(&address);
                }
            }
        }
    }

    /// A Service's entry and its pointers; `None` if its name cannot be one.
    fn prepare(&self, service: &ServiceRecord) -> Option<(Service, Vec<(IpAddr, Name)>)> {
        let labels = [service.name.as_str(), service.namespace.as_str(), "svc"];
        let name = Name::from_labels(labels.map(str::as_bytes)).ok()?.append_domain(&self.domain).ok()?;
        let mut pointers = Vec::new();
        let target = match &service.target {
            ServiceTarget::Cluster { addresses, ports } => {
                let mut split = Addresses::default();
                for address in addresses {
                    split.add(*address);
                    pointers.push((*address, name.clone()));
                }
                Target::Cluster { addresses: split, ports: ports.clone() }
            }
            ServiceTarget::External { name } => {
                let mut name = Name::from_ascii(name).ok()?;
                name.set_fqdn(true);
                Target::External { name }
            }
            ServiceTarget::Headless { endpoints } => {
                let mut addresses = Addresses::default();
                let mut hosts: HashMap<Box<str>, Host> = HashMap::new();
                let mut ports = Vec::new();
                for endpoint in endpoints {
                    addresses.add(endpoint.address);
                    let label =
                        endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address)).to_lowercase();
                    let Ok(host_name) = name.prepend_label(label.as_bytes()) else { continue };
                    if endpoint.hostname.is_some() {
                        pointers.push((endpoint.address, host_name.clone()));
                    }
                    let label: Box<str> = label.into();
                    hosts
                        .entry(label.clone())
                        .or_insert_with(|| Host { name: host_name, addresses: Addresses::default() })
                        .addresses
                        .add(endpoint.address);
                    for port in &endpoint.ports {
                        let known = |other: &HostPort| other.host == label && other.port == *port;
                        if !ports.iter().any(known) {
                            let (priority, weight) = (endpoint.priority, endpoint.weight);
                            ports.push(HostPort {
                                port: port.clone(),
                                host: label.clone(),
                                priority,
                                weight,
                            });
                        }
                    }
                }
                Target::Headless { addresses, hosts, ports }
            }
        };
        Some((Service { name, target }, pointers))
    }
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

fn key(namespace: &[u8], name: &[u8]) -> Box<[u8]> {
    [namespace, b"/", name].concat().into()
}

/// The name of an endpoint that has none: its address with dashes.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
