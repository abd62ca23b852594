//! From service ports and host ports to the elements of the table. Pure: the same input gives the same elements, and a
//! changed endpoint moves as few slots as it can.

use crate::{
    Endpoint, HostPort, Protocol, ServicePort,
    layout::Layout,
    ruleset::{Branch, Key, Lookup, Map, Pick, Ruleset, Value},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// The elements for all services. `before` is what is in force: slots that can stay stay.
pub(crate) fn service_rules(layout: &Layout, services: &[ServicePort], before: &Ruleset) -> Ruleset {
    let mut sorted: Vec<&ServicePort> = services.iter().collect();
    sorted.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    let mut rules = Builder { layout, before, rules: Ruleset::default() };
    for service in sorted {
        rules.service(service);
    }
    rules.rules
}

/// The elements for the host ports of the pods on this node.
pub(crate) fn host_port_rules<'a>(pods: impl Iterator<Item = (Ipv4Addr, &'a [HostPort])>) -> Ruleset {
    let mut rules = Ruleset::default();
    for (address, ports) in pods {
        for port in ports {
            let to = Value::Endpoint(address, port.pod_port);
            match port.host_ip {
                None => {
                    rules.insert(Map::HostPorts, Key::Port(port.protocol, port.host_port), to);
                }
                Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => {
                    rules.insert(Map::HostPorts, Key::Port(port.protocol, port.host_port), to);
                }
                Some(IpAddr::V4(on)) => {
                    rules.insert(Map::HostAddressPorts, Key::Target(on, port.protocol, port.host_port), to);
                }
                Some(IpAddr::V6(_)) => continue,
            }
            rules.insert(Map::Hairpin, Key::Twice(address), Value::Member);
        }
    }
    rules
}

/// UDP targets whose flows may now go the wrong way, with the endpoints that are right. A target with an address of `None` is
/// a port of this node.
pub(crate) fn changed_udp_targets(
    before: &Ruleset,
    after: &Ruleset,
) -> BTreeMap<UdpTarget, BTreeSet<(Ipv4Addr, u16)>> {
    let (old, new) = (udp_targets(before), udp_targets(after));
    let gone = old.keys().filter(|target| !new.contains_key(target)).map(|target| (*target, BTreeSet::new()));
    let changed = new.iter().filter_map(|(target, endpoints)| {
        let kept = old.get(target).is_some_and(|old| old.is_subset(endpoints));
        (!kept).then(|| (*target, endpoints.clone()))
    });
    gone.chain(changed).collect()
}

/// A UDP destination: address (or this node) and port.
pub(crate) type UdpTarget = (Option<Ipv4Addr>, u16);

fn udp_targets(rules: &Ruleset) -> BTreeMap<UdpTarget, BTreeSet<(Ipv4Addr, u16)>> {
    let mut targets: BTreeMap<UdpTarget, BTreeSet<(Ipv4Addr, u16)>> = BTreeMap::new();
    let maps = Lookup::ALL.map(Map::Endpoints).into_iter().chain([Map::HostPorts, Map::HostAddressPorts]);
    for (key, value) in maps.flat_map(|map| rules.map(map)) {
        let target = match key {
            Key::Target(address, Protocol::Udp, port) | Key::TargetSlot(address, Protocol::Udp, port, _) => {
                (Some(address), port)
            }
            Key::Port(Protocol::Udp, port) | Key::PortSlot(Protocol::Udp, port, _) => (None, port),
            _ => continue,
        };
        if let Value::Endpoint(address, port) = value {
            targets.entry(target).or_default().insert((address, port));
        }
    }
    targets
}

struct Builder<'a> {
    layout: &'a Layout,
    before: &'a Ruleset,
    rules: Ruleset,
}

impl Builder<'_> {
    fn service(&mut self, service: &ServicePort) {
        let inside = backends(&service.endpoints);
        let outside = backends(&service.external_endpoints);
        // The node itself answers DNS on that address; a Service that names it must not take the queries away.
        let dns = self.layout.dns_address;
        let to_key = |address| Key::Target(address, service.protocol, service.port);
        let cluster = v4(&service.cluster_addresses).filter(|address| *address != dns).map(to_key);
        let external: Vec<Key> =
            v4(&service.external_addresses).filter(|address| *address != dns).map(to_key).collect();
        let node_port = service.node_port.map(|port| Key::Port(service.protocol, port));

        for target in cluster.chain(external.iter().copied()) {
            self.lead(Lookup::Inside, target, &inside, service);
        }
        if let Some(target) = node_port {
            self.lead(Lookup::InsideNode, target, &inside, service);
        }
        if outside != inside {
            for target in external {
                self.lead(Lookup::Outside, target, &outside, service);
            }
            if let Some(target) = node_port {
                self.lead(Lookup::OutsideNode, target, &outside, service);
            }
        }

        for endpoint in service.endpoints.iter().chain(&service.external_endpoints) {
            let SocketAddr::V4(to) = endpoint.to else { continue };
            if self.layout.pod_range.contains(to.ip()) {
                self.rules.insert(Map::Hairpin, Key::Twice(*to.ip()), Value::Member);
            }
            if !endpoint.local {
                self.rules.insert(
                    Map::Remote,
                    Key::Target(*to.ip(), service.protocol, to.port()),
                    Value::Member,
                );
            }
        }
    }

    /// Leads a target to endpoints. Where two services claim one target, the first by name has it.
    fn lead(&mut self, lookup: Lookup, target: Key, to: &BTreeSet<(Ipv4Addr, u16)>, service: &ServicePort) {
        let from_outside = matches!(lookup, Lookup::Outside | Lookup::OutsideNode);
        let slots = arrange(&self.before.slots(lookup, target), to);
        let verdict = if slots.is_empty() {
            // With the local policy there are endpoints elsewhere: silence makes a balancer's client go there.
            if from_outside && service.external_local && !service.endpoints.is_empty() {
                Value::Drop
            } else {
                Value::Refuse
            }
        } else {
            let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            Value::Branch(Branch::Pick(Pick { lookup, count, sticky: service.affinity_seconds.is_some() }))
        };
        if !self.rules.insert(Map::Verdicts(lookup), target, verdict) {
            return;
        }
        for (slot, (address, port)) in (0..).zip(&slots) {
            self.rules.insert(Map::Endpoints(lookup), target.slot(slot), Value::Endpoint(*address, *port));
        }
        if let Some(seconds) = service.affinity_seconds
            && !slots.is_empty()
        {
            let sticky = if lookup.is_node_port() { Map::StickyNode } else { Map::Sticky };
            self.rules.insert(sticky, target, Value::Branch(Branch::Remember(seconds)));
        }
    }
}

/// Puts the wanted endpoints into slots 0.. so that those that were there keep their slot wherever that leaves no hole.
fn arrange(before: &[(Ipv4Addr, u16)], wanted: &BTreeSet<(Ipv4Addr, u16)>) -> Vec<(Ipv4Addr, u16)> {
    let mut slots: Vec<Option<(Ipv4Addr, u16)>> = vec![None; wanted.len()];
    let mut placed = BTreeSet::new();
    for (slot, backend) in slots.iter_mut().zip(before) {
        if wanted.contains(backend) && placed.insert(*backend) {
            *slot = Some(*backend);
        }
    }
    let mut rest = wanted.difference(&placed);
    slots.into_iter().filter_map(|slot| slot.or_else(|| rest.next().copied())).collect()
}

fn backends(endpoints: &[Endpoint]) -> BTreeSet<(Ipv4Addr, u16)> {
    endpoints
        .iter()
        .filter_map(|endpoint| match endpoint.to {
            SocketAddr::V4(to) => Some((*to.ip(), to.port())),
            SocketAddr::V6(_) => None,
        })
        .collect()
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> + Clone {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

#[cfg(test)]
mod tests;
