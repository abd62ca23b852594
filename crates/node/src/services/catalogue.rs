//! The Services, slices and nodes as last heard of, and which of them changed since they were last carried on. Pure.

use super::{
    cluster_dns::service_record,
    endpoint_selection::{local_endpoints, service_ports},
    exported_dns::{Nodes, exported_record},
    facts::{NodeFacts, ServiceFacts, ServiceName, SliceFacts},
};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use orlop_client::Event;
use orlop_dns::ServiceRecord;
use orlop_network::ServicePort;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

/// The label of a node that says where it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Namespace and name of a slice.
type SliceName = (String, String);

/// Services with their slices.
pub(super) struct Catalogue {
    node_name: String,
    services: HashMap<ServiceName, ServiceFacts>,
    slices: HashMap<SliceName, SliceFacts>,
    slices_of: HashMap<ServiceName, BTreeSet<SliceName>>,
    /// Those that are heard again while a list is made anew, and whether one was ever complete.
    services_seen: Option<HashSet<ServiceName>>,
    slices_seen: Option<HashSet<SliceName>>,
    services_complete: bool,
    slices_complete: bool,
    nodes: Nodes,
    nodes_seen: Option<HashSet<String>>,
    nodes_complete: bool,
    changed: BTreeSet<ServiceName>,
    /// `topology.kubernetes.io/zone` of this node.
    zone: Option<String>,
    ports: BTreeMap<ServiceName, Vec<ServicePort>>,
}

/// What a load balancer is told about a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthCheck {
    /// Namespace and name.
    pub of: (String, String),
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// What changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    /// Names to set, and what they are outside the cluster if they are anything there.
    pub set: Vec<(ServiceRecord, Option<Exported>)>,
    /// Names to forget.
    pub removed: Vec<ServiceName>,
    /// Whether the network's rules are not the same any more.
    pub ports_changed: bool,
}

/// What strangers may be told of a Service.
#[derive(Debug, PartialEq)]
pub(super) struct Exported {
    pub record: ServiceRecord,
    /// Whether its annotation says that they may, if it says anything.
    pub wanted: Option<bool>,
}

impl Catalogue {
    pub fn new(node_name: String) -> Self {
        Self {
            node_name,
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            services_seen: None,
            slices_seen: None,
            services_complete: false,
            slices_complete: false,
            nodes: Nodes::default(),
            nodes_seen: None,
            nodes_complete: false,
            changed: BTreeSet::new(),
            zone: None,
            ports: BTreeMap::new(),
        }
    }

    /// Takes in what was heard of Services.
    pub fn service(&mut self, event: Event<Service>) {
        match event {
            Event::Apply(service) | Event::InitApply(service) => {
                let Some(facts) = ServiceFacts::new(service) else { return };
                if let Some(seen) = &mut self.services_seen {
                    seen.insert(facts.name.clone());
                }
                if self.services.get(&facts.name) != Some(&facts) {
                    self.changed.insert(facts.name.clone());
                    self.services.insert(facts.name.clone(), facts);
                }
            }
            Event::Delete(service) => {
                if let (Some(namespace), Some(name)) = (service.metadata.namespace, service.metadata.name) {
                    self.remove_service(&ServiceName { namespace, name });
                }
            }
            Event::Init => self.services_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.services_seen.take().unwrap_or_default();
                let gone: Vec<_> =
                    self.services.keys().filter(|name| !seen.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_service(name));
                self.services_complete = true;
            }
        }
    }

    /// Takes in what was heard of slices.
    pub fn slice(&mut self, event: Event<EndpointSlice>) {
        match event {
            Event::Apply(slice) | Event::InitApply(slice) => {
                let (Some(namespace), Some(name)) =
                    (slice.metadata.namespace.clone(), slice.metadata.name.clone())
                else {
                    return;
                };
                let name = (namespace, name);
                if let Some(seen) = &mut self.slices_seen {
                    seen.insert(name.clone());
                }
                match SliceFacts::new(slice, &self.node_name) {
                    Some(facts) if self.slices.get(&name) == Some(&facts) => {}
                    Some(facts) => {
                        self.remove_slice(&name);
                        self.changed.insert(facts.service.clone());
                        self.slices_of.entry(facts.service.clone()).or_default().insert(name.clone());
                        self.slices.insert(name, facts);
                    }
                    None => self.remove_slice(&name),
                }
            }
            Event::Delete(slice) => {
                if let (Some(namespace), Some(name)) = (slice.metadata.namespace, slice.metadata.name) {
                    self.remove_slice(&(namespace, name));
                }
            }
            Event::Init => self.slices_seen = Some(HashSet::new()),
            Event::InitDone => {
                let seen = self.slices_seen.take().unwrap_or_default();
                let gone: Vec<_> = self.slices.keys().filter(|name| !seen.contains(name)).cloned().collect();
                gone.iter().for_each(|name| self.remove_slice(name));
                self.slices_complete = true;
            }
        }
    }

    /// Takes in what was heard of nodes.
    pub fn node(&mut self, event: Event<Node>) {
        let changed = match event {
            Event::Apply(node) => self.set_node(node),
            Event::InitApply(node) => {
                if let (Some(seen), Some(name)) = (&mut self.nodes_seen, &node.metadata.name) {
                    seen.insert(name.clone());
                }
                self.set_node(node);
                false
            }
            Event::Delete(node) => node.metadata.name.is_some_and(|name| self.nodes.remove(&name).is_some()),
            Event::Init => {
                self.nodes_seen = Some(HashSet::new());
                false
            }
            Event::InitDone => {
                let seen = self.nodes_seen.take().unwrap_or_default();
                self.nodes.retain(|name, _| seen.contains(name));
                if !std::mem::replace(&mut self.nodes_complete, true) {
                    // Whatever was told without knowing them.
                    self.changed.extend(self.services.keys().cloned());
                }
                true
            }
        };
        if changed {
            self.nodes_changed();
        }
    }

    /// Whether that is new.
    fn set_node(&mut self, node: Node) -> bool {
        let Some(name) = node.metadata.name.clone() else { return false };
        if name == self.node_name {
            self.set_zone(node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned());
        }
        let facts = NodeFacts::new(node);
        let new = self.nodes.get(&name) != Some(&facts);
        if new {
            self.nodes.insert(name, facts);
        }
        new
    }

    /// Names that lead to nodes are made anew.
    fn nodes_changed(&mut self) {
        let reached = self.services.values().filter(|service| {
            service.naming.through_nodes || service.ports.iter().any(|port| port.node_port.is_some())
        });
        let with_notes = self
            .slices
            .values()
            .filter(|slice| slice.endpoints.iter().any(|endpoint| !endpoint.notes.ports.is_empty()));
        let names = reached.map(|service| &service.name).chain(with_notes.map(|slice| &slice.service));
        self.changed.extend(names.cloned());
    }

    /// Takes in where this node is. Which endpoints are near may change for all Services.
    fn set_zone(&mut self, zone: Option<String>) {
        if self.zone != zone {
            self.zone = zone;
            self.changed.extend(self.services.keys().cloned());
        }
    }

    /// Whether both kinds were heard of in full: before that, what is not known may still be there.
    pub fn is_complete(&self) -> bool {
        self.services_complete && self.slices_complete
    }

    /// Whether anything changed since the last call of `news`.
    pub fn has_news(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What changed since the last call.
    pub fn news(&mut self) -> News {
        let mut news = News::default();
        for name in std::mem::take(&mut self.changed) {
            let Some(service) = self.services.get(&name) else {
                news.ports_changed |= self.ports.remove(&name).is_some();
                news.removed.push(name);
                continue;
            };
            let slices: Vec<&SliceFacts> = self.slices_of(&name).collect();
            let exported = exported_record(service, &slices, &self.nodes)
                .map(|record| Exported { record, wanted: service.naming.export });
            news.set.push((service_record(service, &slices, &self.nodes), exported));
            let ports = service_ports(service, &slices, self.zone.as_deref());
            if self.ports.get(&name).map_or(!ports.is_empty(), |known| *known != ports) {
                news.ports_changed = true;
                if ports.is_empty() {
                    self.ports.remove(&name);
                } else {
                    self.ports.insert(name, ports);
                }
            }
        }
        news
    }

    /// The ports on which load balancers ask, each with its Service and how many endpoints this node has of it.
    pub fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        let asked = self.services.values().filter_map(|service| Some((service.health_check_port?, service)));
        asked
            .map(|(port, service)| {
                let slices: Vec<&SliceFacts> = self.slices_of(&service.name).collect();
                let of = (service.name.namespace.clone(), service.name.name.clone());
                (port, HealthCheck { of, local_endpoints: local_endpoints(&slices) })
            })
            .collect()
    }

    /// The addresses that this node answers for on its link.
    pub fn announced(&self) -> BTreeSet<IpAddr> {
        let ours =
            self.services.values().filter(|service| service.announcer.as_deref() == Some(&self.node_name));
        ours.flat_map(|service| service.balancer_ips.iter().copied()).collect()
    }

    fn slices_of(&self, name: &ServiceName) -> impl Iterator<Item = &SliceFacts> {
        let names = self.slices_of.get(name).into_iter().flatten();
        names.filter_map(|slice| self.slices.get(slice))
    }

    /// All service ports.
    pub fn ports(&self) -> Vec<ServicePort> {
        self.ports.values().flatten().cloned().collect()
    }

    fn remove_service(&mut self, name: &ServiceName) {
        if self.services.remove(name).is_some() {
            self.changed.insert(name.clone());
        }
    }

    fn remove_slice(&mut self, name: &SliceName) {
        let Some(old) = self.slices.remove(name) else { return };
        if let Some(slices) = self.slices_of.get_mut(&old.service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.changed.insert(old.service);
    }
}
