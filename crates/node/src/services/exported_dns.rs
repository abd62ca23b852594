//! Where a Service is found by those who reach nodes but not pods: the addresses of its load balancer, its external addresses,
//! or the nodes with the ports that lead to it. Pure.

use super::{
    cluster_dns::{port_record, protocol, rank_of},
    facts::{EndpointFacts, NodeFacts, PortFacts, ServiceFacts, SliceFacts},
};
use orlop_dns::{EndpointRecord, PortRecord, ServiceRecord, ServiceTarget};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Nodes by their names.
pub(super) type Nodes = BTreeMap<String, NodeFacts>;

/// Which of a node's addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Inside,
    /// Its external ones, if it has any.
    Outside,
}

impl NodeFacts {
    fn addresses(&self, side: Side) -> &[IpAddr] {
        match side {
            Side::Outside if !self.external.is_empty() => &self.external,
            _ => &self.internal,
        }
    }
}

/// What strangers are told of a Service; `None` if there is no way to it from outside.
pub(super) fn exported_record(
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    nodes: &Nodes,
) -> Option<ServiceRecord> {
    let public: BTreeSet<IpAddr> = service.external_ips.iter().chain(&service.balancer).copied().collect();
    let target = if let Some(name) = service.external_name.as_ref().or(service.balancer_names.first()) {
        ServiceTarget::External { name: name.clone() }
    } else if !public.is_empty() {
        ServiceTarget::Cluster {
            addresses: public.into_iter().collect(),
            ports: service.ports.iter().map(port_record).collect(),
            rank: service.naming.rank.known(),
        }
    } else {
        let endpoints = through_nodes(service, slices, nodes, Side::Outside);
        if endpoints.is_empty() {
            return None;
        }
        ServiceTarget::Headless { endpoints }
    };
    Some(ServiceRecord { namespace: service.name.namespace.clone(), name: service.name.name.clone(), target })
}

/// The ports of nodes that lead to a Service's pods: those of the pods themselves (`hostPort`, or the node's own network), else
/// those of the Service (`nodePort`).
pub(super) fn through_nodes(
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    nodes: &Nodes,
    side: Side,
) -> Vec<EndpointRecord> {
    let of_pods = through_pods(service, slices, nodes, side);
    if of_pods.is_empty() { through_service(service, slices, nodes, side) } else { of_pods }
}

fn through_pods(
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    nodes: &Nodes,
    side: Side,
) -> Vec<EndpointRecord> {
    let mut records = Vec::new();
    for slice in slices {
        for endpoint in slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready) {
            let Some((name, node)) = endpoint.node.as_ref().and_then(|name| nodes.get_key_value(name)) else {
                continue;
            };
            let ports = ports_on_node(slice, endpoint, node);
            if ports.is_empty() {
                continue;
            }
            records.extend(node.addresses(side).iter().map(|address| EndpointRecord {
                address: *address,
                hostname: endpoint.hostname.clone().or_else(|| label(name)),
                ports: ports.clone(),
                rank: rank_of(service, slice, endpoint),
                pointer: false,
            }));
        }
    }
    records
}

/// The ports under which a pod is reached at its node.
fn ports_on_node(slice: &SliceFacts, endpoint: &EndpointFacts, node: &NodeFacts) -> Vec<PortRecord> {
    let in_its_network = node.internal.contains(&endpoint.address);
    let at = |port: &PortFacts| match endpoint.notes.ports.get(&port.name) {
        Some(port) => Some(*port),
        None => in_its_network.then_some(port.port),
    };
    let found = slice.ports.iter().filter_map(|port| Some((port, at(port)?)));
    found
        .map(|(port, number)| PortRecord {
            name: port.name.clone(),
            protocol: protocol(port.protocol),
            port: number,
        })
        .collect()
}

fn through_service(
    service: &ServiceFacts,
    slices: &[&SliceFacts],
    nodes: &Nodes,
    side: Side,
) -> Vec<EndpointRecord> {
    let ports: Vec<PortRecord> = service
        .ports
        .iter()
        .filter_map(|port| Some(PortRecord { port: port.node_port?, ..port_record(port) }))
        .collect();
    if ports.is_empty() {
        return vec![];
    }
    let endpoints = || slices.iter().flat_map(|slice| &slice.endpoints);
    let has_local = |name: &String| endpoints().any(|e| e.ready && e.node.as_ref() == Some(name));
    let anywhere = endpoints().any(|endpoint| endpoint.ready || endpoint.serving_last);
    let carry = nodes
        .iter()
        .filter(|(name, node)| node.carries && anywhere && (!service.external_local || has_local(name)));
    carry
        .flat_map(|(name, node)| node.addresses(side).iter().map(move |address| (name, *address)))
        .map(|(name, address)| EndpointRecord {
            address,
            hostname: label(name),
            ports: ports.clone(),
            rank: service.naming.rank.known(),
            pointer: false,
        })
        .collect()
}

/// A node's name as one label; one of several labels stands for its address.
fn label(node: &str) -> Option<String> {
    (!node.contains('.') && node.len() <= 63).then(|| node.to_owned())
}
