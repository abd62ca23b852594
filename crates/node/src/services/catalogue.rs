//! The Services and slices as last heard of, and which of them changed since they were last carried on. Pure.

use super::{
    cluster_dns::service_record,
    endpoint_selection::service_ports,
    facts::{ServiceFacts, ServiceName, SliceFacts},
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::runtime::watcher::Event;
use orlop_dns::ServiceRecord;
use orlop_network::ServicePort;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

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
    changed: BTreeSet<ServiceName>,
    ports: BTreeMap<ServiceName, Vec<ServicePort>>,
}

/// What changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    /// Names to set.
    pub set: Vec<ServiceRecord>,
    /// Names to forget.
    pub removed: Vec<ServiceName>,
    /// Whether the network's rules are not the same any more.
    pub ports_changed: bool,
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
            changed: BTreeSet::new(),
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
            let slices: Vec<&SliceFacts> = self
                .slices_of
                .get(&name)
                .into_iter()
                .flatten()
                .filter_map(|slice| self.slices.get(slice))
                .collect();
            news.set.push(service_record(service, &slices));
            let ports = service_ports(service, &slices);
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
