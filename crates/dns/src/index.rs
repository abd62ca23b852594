//! The index of names that a zone is answered from: what each Service's name leads to, and which names an address has.
//! Pure of I/O.

use crate::{
    EndpointRecord, Error, Layout, PortRecord, Rank, ServiceRecord, ServiceTarget,
    name::{MAX_NAME, Name},
};
use parking_lot::RwLock;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Maps are split so that a change holds up no more than a fraction of the readers, and those for an insertion only.
const SHARDS: usize = 16;

/// The names of a zone. A change replaces one Service at once: a reader sees all of it or nothing.
pub struct DnsIndex {
    pub(crate) zone: Name,
    pub(crate) depth: usize,
    pub(crate) layout: Layout,
    pub(crate) apex: Apex,
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

/// The names that a zone has by itself.
pub(crate) struct Apex {
    /// `ns.dns.ZONE`, its name server.
    pub server: Name,
    /// `hostmaster.ZONE`.
    pub mailbox: Name,
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
    /// Addresses with pointers of this Service.
    pointers: HashSet<IpAddr>,
}

/// See [`ServiceTarget`].
#[derive(Debug)]
pub(crate) enum Target {
    /// Virtual addresses.
    Cluster { addresses: Addresses, ports: Vec<PortRecord>, rank: Rank },
    /// Endpoints.
    Headless { addresses: Addresses, hosts: HashMap<Box<[u8]>, Host>, ports: Vec<HostPort> },
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub port: PortRecord,
    /// Which of the hosts.
    pub host: Box<[u8]>,
    pub rank: Rank,
}

impl Addresses {
    /// Each address once, in their order.
    pub fn of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let (mut split, mut seen) = (Self::default(), HashSet::new());
        for address in addresses.into_iter().filter(|address| seen.insert(*address)) {
            match address {
                IpAddr::V4(address) => split.v4.push(address),
                IpAddr::V6(address) => split.v6.push(address),
            }
        }
        split
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl DnsIndex {
    /// An empty index for a cluster's domain (`cluster.local`).
    ///
    /// # Errors
    /// [`Error::Domain`].
    pub fn new(domain: &str) -> Result<Self, Error> {
        Self::with_layout(domain, Layout::Cluster)
    }

    /// An empty index for a zone.
    ///
    /// # Errors
    /// [`Error::Domain`].
    pub fn with_layout(domain: &str, layout: Layout) -> Result<Self, Error> {
        let bad = || Error::Domain { domain: domain.to_owned() };
        let zone = Name::parse(domain).filter(|zone| zone.depth() > 0).ok_or_else(bad)?;
        let below = |labels: &[&'static [u8]]| zone.below(labels.iter().copied()).ok_or_else(bad);
        let apex = Apex { server: below(&[b"ns", b"dns"])?, mailbox: below(&[b"hostmaster"])? };
        Ok(Self {
            depth: zone.depth(),
            zone,
            layout,
            apex,
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
        let namespace = self.namespace(&service.namespace);
        let key = key(namespace, service.name.as_bytes());
        let _alone = self.writing.lock();
        let Some((new, pointers)) = self.prepare(&service) else {
            self.forget(&key, namespace);
            return;
        };
        let old = self.shard(&key).write().insert(key.clone(), Arc::new(new));
        match old {
            Some(old) => self.forget_pointers(&key, &old),
            None => *self.namespaces.write().entry(namespace.into()).or_default() += 1,
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
        let namespace = self.namespace(namespace);
        self.forget(&key(namespace, name.as_bytes()), namespace);
    }

    /// The namespace as far as it is part of names.
    fn namespace<'a>(&self, namespace: &'a str) -> &'a [u8] {
        if self.layout == Layout::OneNamespace { b"" } else { namespace.as_bytes() }
    }

    /// How many Services it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.namespaces.read().values().sum()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rises with every change: the zone's serial number.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// A Service, by the labels of its name in lower case.
    pub(crate) fn service(&self, namespace: &[u8], name: &[u8]) -> Option<Arc<Service>> {
        let mut buffer = [0_u8; MAX_NAME];
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
        for address in service.pointers.iter().copied() {
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
        let labels: &[&str] = match self.layout {
            Layout::Cluster => &[&service.name, &service.namespace, "svc"],
            Layout::Namespaces | Layout::Networks => &[&service.name, &service.namespace],
            Layout::OneNamespace => &[&service.name],
        };
        let name = self.zone.below(labels.iter().map(|label| label.as_bytes()))?;
        let mut pointers = Vec::new();
        let target = match &service.target {
            ServiceTarget::Cluster { addresses, ports, rank } => {
                pointers.extend(addresses.iter().map(|address| (*address, name.clone())));
                let addresses = Addresses::of(addresses.iter().copied());
                Target::Cluster { addresses, ports: ports.clone(), rank: *rank }
            }
            ServiceTarget::External { name } => {
                Target::External { name: Name::parse(name).filter(|name| name.depth() > 0)? }
            }
            ServiceTarget::Headless { endpoints } => headless(&name, endpoints, &mut pointers),
        };
        let addresses = pointers.iter().map(|(address, _)| *address).collect();
        Some((Service { name, target, pointers: addresses }, pointers))
    }
}

fn headless(name: &Name, endpoints: &[EndpointRecord], pointers: &mut Vec<(IpAddr, Name)>) -> Target {
    let mut by_host: HashMap<Box<[u8]>, (Name, Vec<IpAddr>)> = HashMap::new();
    let (mut ports, mut known, mut pointed) = (Vec::new(), HashSet::new(), HashSet::new());
    for endpoint in endpoints {
        let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(endpoint.address)).to_lowercase();
        let Some(host_name) = name.below([label.as_bytes()]) else { continue };
        if endpoint.hostname.is_some()
            && endpoint.pointer
            && pointed.insert((endpoint.address, label.clone()))
        {
            pointers.push((endpoint.address, host_name.clone()));
        }
        let label: Box<[u8]> = label.into_bytes().into();
        by_host.entry(label.clone()).or_insert_with(|| (host_name, vec![])).1.push(endpoint.address);
        for port in &endpoint.ports {
            let port = HostPort { port: port.clone(), host: label.clone(), rank: endpoint.rank };
            if known.insert((port.host.clone(), port.port.clone())) {
                ports.push(port);
            }
        }
    }
    let hosts = by_host
        .into_iter()
        .map(|(label, (name, addresses))| (label, Host { name, addresses: Addresses::of(addresses) }))
        .collect();
    let addresses = Addresses::of(endpoints.iter().map(|endpoint| endpoint.address));
    Target::Headless { addresses, hosts, ports }
}

fn key(namespace: &[u8], name: &[u8]) -> Box<[u8]> {
    [namespace, b"/", name].concat().into()
}

/// The name of an endpoint that has none: its address with dashes.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
