//! Which endpoints a Service's traffic goes to: ready ones, terminating ones that still serve if there are no others, only
//! those of this node where the policy says so. Pure.

use super::facts::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts};
use orlop_network::{Endpoint, ServicePort};
use std::{collections::BTreeMap, net::SocketAddr};

/// The service ports that the network carries for a Service: none for a headless one, an alias, or another proxy's.
pub(super) fn service_ports(service: &ServiceFacts, slices: &[&SliceFacts]) -> Vec<ServicePort> {
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
            let candidates = candidates(port, slices);
            ServicePort {
                name: format!("{}/{}:{}", service.name.namespace, service.name.name, port.name),
                protocol: port.protocol,
                cluster_addresses: service.cluster_ips.clone(),
                external_addresses: service.external_ips.clone(),
                port: port.port,
                node_port: port.node_port,
                endpoints: choose(&candidates, service.internal_local),
                external_endpoints: choose(&candidates, service.external_local),
                external_local: service.external_local,
                affinity_seconds: service.affinity_seconds,
            }
        })
        .collect()
}

/// The endpoints behind a port, each once: while a slice is split, an endpoint may be in two.
fn candidates<'a>(port: &PortFacts, slices: &[&'a SliceFacts]) -> BTreeMap<SocketAddr, &'a EndpointFacts> {
    let mut candidates: BTreeMap<SocketAddr, &EndpointFacts> = BTreeMap::new();
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
    candidates
}

fn choose(candidates: &BTreeMap<SocketAddr, &EndpointFacts>, only_local: bool) -> Vec<Endpoint> {
    let those = |wanted: fn(&EndpointFacts) -> bool| -> Vec<Endpoint> {
        candidates
            .iter()
            .filter(|(_, endpoint)| wanted(endpoint) && (endpoint.local || !only_local))
            .map(|(to, endpoint)| Endpoint { to: *to, local: endpoint.local })
            .collect()
    };
    let ready = those(|endpoint| endpoint.ready);
    if ready.is_empty() { those(|endpoint| endpoint.serving_last) } else { ready }
}
