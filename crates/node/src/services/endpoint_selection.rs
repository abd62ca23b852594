//! Which endpoints a Service's traffic goes to (KEP-1669, "Proxy Terminating Endpoints"; KEP-2433 and KEP-3015, traffic
//! distribution): ready ones that are meant for this place, terminating ones that still serve if there are no others, only those
//! of this node where the policy says so; each address family for itself. Pure.

use super::facts::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts};
use orlop_network::{Endpoint, ServicePort};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

type Candidates<'a> = BTreeMap<SocketAddr, &'a EndpointFacts>;

/// The service ports that the network carries for a Service: none for a headless one, an alias, or another proxy's.
pub(super) fn service_ports(
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    zone: Option<&str>,
) -> Vec<ServicePort> {
    if service.other_proxy
        || service.cluster_ips.is_empty() && service.external_ips.is_empty()
        || service.headless
    {
        return vec![];
    }
    service
        .ports
        .iter()
        .map(|port| {
            let [v4, v6] = candidates(port, slices);
            let both =
                |choose: &dyn Fn(&Candidates<'_>) -> Vec<Endpoint>| [choose(&v4), choose(&v6)].concat();
            let everywhere = both(&|candidates| for_this_place(candidates, zone));
            let policy = |local: bool| if local { both(&of_this_node) } else { everywhere.clone() };
            ServicePort {
                name: format!("{}/{}:{}", service.name.namespace, service.name.name, port.name),
                protocol: port.protocol,
                cluster_addresses: service.cluster_ips.clone(),
                external_addresses: service.external_ips.clone(),
                balancer_addresses: service.balancer_ips.clone(),
                source_ranges: service.source_ranges.clone(),
                port: port.port,
                node_port: port.node_port,
                internal_endpoints: policy(service.internal_local),
                external_endpoints: policy(service.external_local),
                endpoints: everywhere,
                affinity_seconds: service.affinity_seconds,
            }
        })
        .collect()
}

/// How many endpoints of this node are ready: what its load balancer wants to know.
pub(super) fn local_endpoints(slices: &[&SliceFacts]) -> usize {
    let all = slices.iter().flat_map(|slice| &slice.endpoints);
    all.filter(|endpoint| endpoint.local && endpoint.ready)
        .map(|endpoint| endpoint.address)
        .collect::<BTreeSet<IpAddr>>()
        .len()
}

/// The endpoints behind a port by family, each once: while a slice is split, an endpoint may be in two.
fn candidates<'a>(port: &PortFacts, slices: &[&'a SliceFacts]) -> [Candidates<'a>; 2] {
    let mut candidates = Candidates::new();
    for slice in slices {
        let to =
            slice.ports.iter().filter(|other| other.name == port.name && other.protocol == port.protocol);
        for (to, endpoint) in to.flat_map(|to| slice.endpoints.iter().map(|endpoint| (to.port, endpoint))) {
            let place = candidates.entry(SocketAddr::new(endpoint.address, to)).or_insert(endpoint);
            if endpoint.ready {
                *place = endpoint;
            }
        }
    }
    let (v4, v6) = candidates.into_iter().partition(|(to, _)| to.is_ipv4());
    [v4, v6]
}

/// The ready ones of a kind; those that terminate and still serve if there are none.
fn ready_first(candidates: &Candidates<'_>, wanted: impl Fn(&EndpointFacts) -> bool) -> Vec<Endpoint> {
    let those = |usable: fn(&EndpointFacts) -> bool| -> Vec<Endpoint> {
        candidates
            .iter()
            .filter(|(_, endpoint)| usable(endpoint) && wanted(endpoint))
            .map(|(to, endpoint)| Endpoint { weight: endpoint.weight, ..Endpoint::new(*to, endpoint.local) })
            .collect()
    };
    let ready = those(|endpoint| endpoint.ready);
    if ready.is_empty() { those(|endpoint| endpoint.serving_last) } else { ready }
}

fn of_this_node(candidates: &Candidates<'_>) -> Vec<Endpoint> {
    ready_first(candidates, |endpoint| endpoint.local)
}

/// Hints are heeded if all ready endpoints have them and one is meant for this place; a half-written state is no reason to send
/// all traffic to a few.
fn for_this_place(candidates: &Candidates<'_>, zone: Option<&str>) -> Vec<Endpoint> {
    let ready = || candidates.values().filter(|endpoint| endpoint.ready);
    let of_node = |endpoint: &EndpointFacts| endpoint.for_this_node == Some(true);
    let of_zone = |endpoint: &EndpointFacts| {
        zone.is_some_and(|zone| endpoint.for_zones.iter().any(|meant| meant == zone))
    };
    if ready().all(|endpoint| endpoint.for_this_node.is_some()) && ready().any(|endpoint| of_node(endpoint)) {
        ready_first(candidates, of_node)
    } else if ready().all(|endpoint| !endpoint.for_zones.is_empty())
        && ready().any(|endpoint| of_zone(endpoint))
    {
        ready_first(candidates, of_zone)
    } else {
        ready_first(candidates, |_| true)
    }
}
