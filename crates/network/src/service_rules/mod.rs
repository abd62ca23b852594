//! From service ports and host ports to the elements of one family's table. Pure: the same input gives the same elements, a
//! changed endpoint moves as few slots as it can, and what is not touched by a change is not looked at.

mod slots;

use crate::{
    HostPort, Protocol, ServicePort,
    family::Family,
    layout::Side,
    ruleset::{Branch, Change, Key, Lookup, Map, Pick, Ruleset, Value, digest},
};
use ipnet::IpNet;
use slots::{Backend, Shares, arrange, shares};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

/// A service port: its name and protocol.
type Id = (Arc<str>, Protocol);
/// Who may have a target: cluster addresses before external ones, then the first by name.
type Claim = (bool, Id);
/// A UDP destination: address (or this node) and port.
pub(crate) type UdpTarget = (Option<IpAddr>, u16);
/// Endpoints to forget, by what clients open their connections to: an address and port, or a port of the node.
pub(crate) type StaleAffinities = BTreeMap<(Option<IpAddr>, Protocol, u16), BTreeSet<Backend>>;

/// The rules that are wanted, and for whom.
pub(crate) struct ServiceRules {
    side: Side,
    /// Known services; `None` until they are told for the first time, while what was found in the kernel stays.
    services: Option<HashMap<Id, ServicePort>>,
    host_ports: BTreeMap<(Map, Key), Value>,
    /// Who asks for a target.
    claims: HashMap<Key, BTreeSet<Claim>>,
    /// How many ask for an element of a set.
    members: HashMap<(Map, Key), u32>,
    /// How many elements lead to a chain.
    branches: HashMap<Branch, u32>,
    rules: Ruleset,
}

/// What a new state of things asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct News {
    /// Of the table.
    pub change: Change,
    /// UDP targets whose flows may now go the wrong way, with the endpoints that are right.
    pub stale_udp: BTreeMap<UdpTarget, BTreeSet<Backend>>,
    /// Endpoints that clients may remember for a target, and must not be sent to any more.
    pub stale_affinities: StaleAffinities,
}

impl ServiceRules {
    /// Starts from what is in the kernel.
    pub fn new(side: Side, found: Ruleset) -> Self {
        let mut branches = HashMap::new();
        for value in found.elements.values() {
            if let Value::Branch(branch) = value {
                *branches.entry(*branch).or_default() += 1;
            }
        }
        Self {
            side,
            services: None,
            host_ports: BTreeMap::new(),
            claims: HashMap::new(),
            members: HashMap::new(),
            branches,
            rules: found,
        }
    }

    /// What is wanted.
    pub fn rules(&self) -> &Ruleset {
        &self.rules
    }

    /// Takes in all services.
    pub fn set_services(&mut self, services: &[ServicePort]) -> News {
        let mut touched = Touched::default();
        let mut known = match self.services.take() {
            Some(known) => known,
            None => {
                // Whatever was found and is not asked for goes.
                touched.keys.extend(self.rules.elements.keys().filter_map(|(map, key)| match map {
                    Map::Verdicts(_) | Map::Sticky | Map::StickyNode | Map::Guards => Some(*key),
                    Map::Endpoints(_) => Some(key.target()),
                    _ => None,
                }));
                touched.members.extend(
                    self.rules.elements.keys().filter(|(map, _)| matches!(map, Map::Hairpin | Map::Remote)),
                );
                HashMap::with_capacity(services.len())
            }
        };
        let mut seen = HashSet::with_capacity(services.len());
        for service in services {
            let id: Id = (service.name.as_str().into(), service.protocol);
            let before = known.get(&id);
            if before != Some(service) {
                if let Some(before) = before {
                    self.count(&id, before, false, &mut touched);
                }
                self.count(&id, service, true, &mut touched);
                known.insert(id.clone(), service.clone());
            }
            seen.insert(id);
        }
        if seen.len() < known.len() {
            let gone: Vec<Id> = known.keys().filter(|id| !seen.contains(*id)).cloned().collect();
            for id in gone {
                if let Some(before) = known.remove(&id) {
                    self.count(&id, &before, false, &mut touched);
                }
            }
        }
        self.services = Some(known);
        self.settle(&touched)
    }

    /// Takes in the host ports of all pods on this node.
    pub fn set_host_ports<'a>(&mut self, pods: impl Iterator<Item = (IpAddr, &'a [HostPort])>) -> News {
        let mut touched = Touched::default();
        let wanted = host_ports(self.side.family(), pods);
        let before = std::mem::replace(&mut self.host_ports, wanted);
        let in_kernel = self
            .rules
            .map(Map::HostPorts)
            .map(|(key, _)| (Map::HostPorts, key))
            .chain(self.rules.map(Map::HostAddressPorts).map(|(key, _)| (Map::HostAddressPorts, key)));
        touched.host_ports.extend(in_kernel.chain(self.host_ports.keys().copied()));
        let pods = |ports: &BTreeMap<(Map, Key), Value>| -> Vec<IpAddr> {
            ports.values().filter_map(Value::address).collect()
        };
        for (addresses, more) in [(pods(&before), false), (pods(&self.host_ports), true)] {
            for address in addresses {
                self.count_member((Map::Hairpin, Key::Twice(address)), more, &mut touched);
            }
        }
        self.settle(&touched)
    }

    /// Counts a service in or out.
    fn count(&mut self, id: &Id, service: &ServicePort, more: bool, touched: &mut Touched) {
        for (key, external) in self.targets(service) {
            touched.keys.insert(key);
            let claims = self.claims.entry(key).or_default();
            if more {
                claims.insert((external, id.clone()));
            } else {
                claims.remove(&(external, id.clone()));
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
        let lists = [&service.endpoints, &service.internal_endpoints, &service.external_endpoints];
        let family = self.side.family();
        let mut members = BTreeSet::new();
        for endpoint in lists.into_iter().flatten().filter(|e| Family::of(e.to.ip()) == family) {
            let (address, port) = (endpoint.to.ip(), endpoint.to.port());
            if self.side.pod_range.contains(&address) {
                members.insert((Map::Hairpin, Key::Twice(address)));
            }
            if !endpoint.local {
                members.insert((Map::Remote, Key::Target(address, service.protocol, port)));
            }
        }
        for member in members {
            self.count_member(member, more, touched);
        }
    }

    fn count_member(&mut self, member: (Map, Key), more: bool, touched: &mut Touched) {
        touched.members.insert(member);
        let count = self.members.entry(member).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.members.remove(&member);
        }
    }

    /// The targets of a service in this family, and whether they are such that it was given from outside.
    fn targets(&self, service: &ServicePort) -> Vec<(Key, bool)> {
        // The node itself answers DNS on that address; a Service that names it must not take the queries away.
        let dns = self.side.dns_address;
        // A Service without a cluster address of this family is not one of this family, though it has a node port.
        if !service.cluster_addresses.iter().any(|address| Family::of(*address) == Family::of(dns)) {
            return Vec::new();
        }
        let ours = |address: &&IpAddr| Family::of(**address) == Family::of(dns) && **address != dns;
        let key = |address: &IpAddr| Key::Target(*address, service.protocol, service.port);
        let inside = service.cluster_addresses.iter().filter(ours).map(|address| (key(address), false));
        let outside = service.external_addresses.iter().chain(&service.balancer_addresses);
        let outside = outside.filter(ours).map(|address| (key(address), true));
        let node_port = service.node_port.map(|port| (Key::Port(service.protocol, port), true));
        inside.chain(outside).chain(node_port).collect()
    }

    /// Brings the elements of what was touched to what is asked for.
    fn settle(&mut self, touched: &Touched) -> News {
        let mut edit = Edit { before: &self.rules, wanted: BTreeMap::new(), sources: BTreeMap::new() };
        let mut news = News::default();
        for key in &touched.keys {
            edit.clear(*key);
            let winner = self.claims.get(key).and_then(BTreeSet::first);
            let service = winner.and_then(|(_, id)| self.services.as_ref()?.get(id));
            if let (Some((external, _)), Some(service)) = (winner, service) {
                edit.serve(self.side.family(), *key, *external, service);
            }
        }
        for member in &touched.members {
            let wanted = self.members.contains_key(member).then_some(Value::Member);
            edit.wanted.insert(*member, wanted);
        }
        for port in &touched.host_ports {
            edit.wanted.insert(*port, self.host_ports.get(port).copied());
        }
        let targets = touched.keys.iter().copied().chain(touched.host_ports.iter().map(|(_, key)| *key));
        for key in targets {
            edit.note_udp(key, &mut news.stale_udp);
        }
        for key in &touched.keys {
            edit.note_affinities(*key, &mut news.stale_affinities);
        }
        let Edit { wanted, sources, .. } = edit;
        self.commit(wanted, sources, &mut news.change);
        news
    }

    /// Puts wanted elements into the rules, and notes what that changes.
    fn commit(
        &mut self,
        wanted: BTreeMap<(Map, Key), Option<Value>>,
        sources: BTreeMap<u64, Vec<IpNet>>,
        change: &mut Change,
    ) {
        let mut balance: BTreeMap<Branch, i64> = BTreeMap::new();
        for ((map, key), value) in wanted {
            let before = match value {
                Some(value) => self.rules.elements.insert((map, key), value),
                None => self.rules.elements.remove(&(map, key)),
            };
            if before == value {
                continue;
            }
            if let Some(before) = before {
                change.remove.push((map, key, before));
                if let Value::Branch(branch) = before {
                    *balance.entry(branch).or_default() -= 1;
                }
            }
            if let Some(value) = value {
                change.add.push((map, key, value));
                if let Value::Branch(branch) = value {
                    *balance.entry(branch).or_default() += 1;
                }
            }
        }
        for (branch, more) in balance {
            let before = self.branches.get(&branch).copied().unwrap_or_default();
            let after = u32::try_from((i64::from(before) + more).max(0)).unwrap_or(u32::MAX);
            if before == 0 && after > 0 {
                change.new_branches.push(branch);
            }
            if before > 0 && after == 0 {
                change.old_branches.push(branch);
            }
            if after == 0 {
                self.branches.remove(&branch);
            } else {
                self.branches.insert(branch, after);
            }
        }
        for (digest, ranges) in sources {
            if change.new_branches.contains(&Branch::Sources(digest)) {
                change.sources.insert(digest, ranges.clone());
            }
            self.rules.sources.insert(digest, ranges);
        }
        for branch in &change.old_branches {
            if let Branch::Sources(digest) = branch {
                self.rules.sources.remove(digest);
            }
        }
    }
}

/// What a change concerns.
#[derive(Default)]
struct Touched {
    keys: BTreeSet<Key>,
    members: BTreeSet<(Map, Key)>,
    host_ports: BTreeSet<(Map, Key)>,
}

/// Elements as they should be, over those that are.
struct Edit<'a> {
    before: &'a Ruleset,
    wanted: BTreeMap<(Map, Key), Option<Value>>,
    sources: BTreeMap<u64, Vec<IpNet>>,
}

impl Edit<'_> {
    /// Takes all elements of a target away.
    fn clear(&mut self, key: Key) {
        for lookup in lookups(key) {
            self.wanted.insert((Map::Verdicts(lookup), key), None);
            let map = Map::Endpoints(lookup);
            let slots = self.before.elements.range((map, key.slot(0))..=(map, key.slot(u32::MAX)));
            self.wanted.extend(slots.map(|(place, _)| (*place, None)));
        }
        let maps =
            if matches!(key, Key::Port(..)) { vec![Map::StickyNode] } else { vec![Map::Sticky, Map::Guards] };
        self.wanted.extend(maps.into_iter().map(|map| ((map, key), None)));
    }

    /// Leads a target to a service's endpoints.
    fn serve(&mut self, family: Family, key: Key, external: bool, service: &ServicePort) {
        let all = shares(family, &service.endpoints);
        let [inside_lookup, outside_lookup] = lookups(key);
        if !external {
            let inside = shares(family, &service.internal_endpoints);
            self.lead(inside_lookup, key, &inside, &all, service);
            return;
        }
        self.lead(inside_lookup, key, &all, &all, service);
        let outside = shares(family, &service.external_endpoints);
        if outside != all {
            self.lead(outside_lookup, key, &outside, &all, service);
        }
        if let Key::Target(address, ..) = key
            && service.balancer_addresses.contains(&address)
        {
            let ranges = service.source_ranges.iter().filter(|range| Family::of(range.addr()) == family);
            let ranges: BTreeSet<IpNet> = ranges.map(IpNet::trunc).collect();
            let ranges: Vec<IpNet> = ranges.into_iter().collect();
            if !ranges.is_empty() && ranges.iter().all(|range| range.prefix_len() > 0) {
                let digest = digest(&ranges);
                self.wanted.insert((Map::Guards, key), Some(Value::Branch(Branch::Sources(digest))));
                self.sources.insert(digest, ranges);
            }
        }
    }

    fn lead(&mut self, lookup: Lookup, key: Key, to: &Shares, all: &Shares, service: &ServicePort) {
        let slots = arrange(&self.before.slots(lookup, key), to);
        let verdict = if slots.is_empty() {
            // There are endpoints elsewhere: silence makes a balancer's client go there.
            if all.is_empty() { Value::Refuse } else { Value::Drop }
        } else {
            let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
            Value::Branch(Branch::Pick(Pick { lookup, count, sticky: service.affinity_seconds.is_some() }))
        };
        self.wanted.insert((Map::Verdicts(lookup), key), Some(verdict));
        for (slot, (address, port)) in (0..).zip(&slots) {
            let place = (Map::Endpoints(lookup), key.slot(slot));
            self.wanted.insert(place, Some(Value::Endpoint(*address, *port)));
        }
        if let Some(seconds) = service.affinity_seconds
            && !slots.is_empty()
        {
            let sticky = if lookup.is_node_port() { Map::StickyNode } else { Map::Sticky };
            self.wanted.insert((sticky, key), Some(Value::Branch(Branch::Remember(seconds))));
        }
    }

    fn after(&self, map: Map, key: Key) -> Option<Value> {
        self.wanted.get(&(map, key)).copied().unwrap_or_else(|| self.before.get(map, key))
    }

    fn slots_after(&self, lookup: Lookup, key: Key) -> BTreeSet<Backend> {
        let (map, first, last) = (Map::Endpoints(lookup), key.slot(0), key.slot(u32::MAX));
        let kept = self.before.elements.range((map, first)..=(map, last));
        let kept = kept.filter(|(place, _)| !self.wanted.contains_key(place)).map(|(_, value)| *value);
        let new = self.wanted.range((map, first)..=(map, last)).filter_map(|(_, value)| *value);
        kept.chain(new).filter_map(backend).collect()
    }

    /// Endpoints of a target before and after, whichever way leads there.
    fn endpoints(&self, key: Key) -> [BTreeSet<Backend>; 2] {
        let host_port = if matches!(key, Key::Port(..)) { Map::HostPorts } else { Map::HostAddressPorts };
        let mut before: BTreeSet<Backend> =
            self.before.get(host_port, key).and_then(backend).into_iter().collect();
        let mut after: BTreeSet<Backend> = self.after(host_port, key).and_then(backend).into_iter().collect();
        for lookup in lookups(key) {
            before.extend(self.before.slots(lookup, key));
            after.extend(self.slots_after(lookup, key));
        }
        [before, after]
    }

    /// Notes a UDP target that loses an endpoint, appears or goes.
    fn note_udp(&self, key: Key, stale: &mut BTreeMap<UdpTarget, BTreeSet<Backend>>) {
        let target = match key {
            Key::Target(address, Protocol::Udp, port) => (Some(address), port),
            Key::Port(Protocol::Udp, port) => (None, port),
            _ => return,
        };
        let [before, after] = self.endpoints(key);
        let nothing = before.is_empty() && after.is_empty();
        let only_more = !before.is_empty() && before.is_subset(&after);
        if !nothing && !only_more {
            stale.insert(target, after);
        }
    }

    /// Notes the endpoints that a target with affinity leads some of its clients to no longer. One that has no affinity any more
    /// forgets all: it may have some again later, with other endpoints.
    fn note_affinities(&self, key: Key, stale: &mut StaleAffinities) {
        let map = if matches!(key, Key::Port(..)) { Map::StickyNode } else { Map::Sticky };
        if self.before.get(map, key).is_none() {
            return;
        }
        let sticky = self.after(map, key).is_some();
        let target = match key {
            Key::Target(address, protocol, port) => (Some(address), protocol, port),
            Key::Port(protocol, port) => (None, protocol, port),
            _ => return,
        };
        let [inside, outside] = lookups(key);
        let own = Map::Verdicts(outside);
        // Clients outside have endpoints of their own where there is such a verdict.
        let ways = [
            (inside, inside),
            (
                if self.before.get(own, key).is_some() { outside } else { inside },
                if self.after(own, key).is_some() { outside } else { inside },
            ),
        ];
        for (before, after) in ways {
            let after = if sticky { self.slots_after(after, key) } else { BTreeSet::new() };
            let mut lost = self.before.slots(before, key);
            lost.retain(|backend| !after.contains(backend));
            if !lost.is_empty() {
                stale.entry(target).or_default().extend(lost);
            }
        }
    }
}

fn backend(value: Value) -> Option<Backend> {
    match value {
        Value::Endpoint(address, port) => Some((address, port)),
        _ => None,
    }
}

/// Where a target is looked up: by clients inside, and first by those outside.
fn lookups(key: Key) -> [Lookup; 2] {
    if matches!(key, Key::Port(..)) {
        [Lookup::InsideNode, Lookup::OutsideNode]
    } else {
        [Lookup::Inside, Lookup::Outside]
    }
}

/// The elements for host ports.
fn host_ports<'a>(
    family: Family,
    pods: impl Iterator<Item = (IpAddr, &'a [HostPort])>,
) -> BTreeMap<(Map, Key), Value> {
    let mut elements = BTreeMap::new();
    for (address, ports) in pods.filter(|(address, _)| Family::of(*address) == family) {
        for port in ports {
            let place = match port.host_ip {
                Some(on) if !on.is_unspecified() && Family::of(on) != family => continue,
                Some(on) if !on.is_unspecified() => {
                    (Map::HostAddressPorts, Key::Target(on, port.protocol, port.host_port))
                }
                // `0.0.0.0` and `::` mean all addresses of their family.
                Some(all) if all != family.unspecified() => continue,
                _ => (Map::HostPorts, Key::Port(port.protocol, port.host_port)),
            };
            elements.entry(place).or_insert(Value::Endpoint(address, port.pod_port));
        }
    }
    elements
}

#[cfg(test)]
mod tests;
