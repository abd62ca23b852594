//! What a Service is called in the cluster's DNS. Pure.

use super::{
    exported_dns::{Nodes, Side, through_nodes},
    facts::{EndpointFacts, PortFacts, ServiceFacts, SliceFacts},
};
use orlop_dns::{EndpointRecord, PortRecord, Protocol, Rank, ServiceRecord, ServiceTarget};

/// A Service's record.
pub(super) fn service_record(service: &ServiceFacts, slices: &[&SliceFacts], nodes: &Nodes) -> ServiceRecord {
    let target = if let Some(name) = &service.external_name {
        ServiceTarget::External { name: name.clone() }
    } else if service.naming.through_nodes {
        ServiceTarget::Headless { endpoints: through_nodes(service, slices, nodes, Side::Inside) }
    } else if service.headless {
        let published =
            slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
        let endpoints = published
            .filter(|(_, endpoint)| endpoint.ready || service.publish_not_ready)
            .map(|(slice, endpoint)| EndpointRecord {
                address: endpoint.address,
                hostname: endpoint.hostname.clone(),
                ports: slice.ports.iter().map(port_record).collect(),
                rank: rank_of(service, slice, endpoint),
                pointer: true,
            })
            .collect();
        ServiceTarget::Headless { endpoints }
    } else {
        ServiceTarget::Cluster {
            addresses: service.cluster_ips.clone(),
            ports: service.ports.iter().map(port_record).collect(),
            rank: service.naming.rank.known(),
        }
    };
    ServiceRecord { namespace: service.name.namespace.clone(), name: service.name.name.clone(), target }
}

/// An endpoint's rank: its own word, else its slice's, else its Service's.
pub(super) fn rank_of(service: &ServiceFacts, slice: &SliceFacts, endpoint: &EndpointFacts) -> Rank {
    endpoint.notes.rank.or(slice.rank).or(service.naming.rank).known()
}

pub(super) fn port_record(port: &PortFacts) -> PortRecord {
    PortRecord { name: port.name.clone(), protocol: protocol(port.protocol), port: port.port }
}

pub(super) fn protocol(protocol: orlop_network::Protocol) -> Protocol {
    match protocol {
        orlop_network::Protocol::Tcp => Protocol::Tcp,
        orlop_network::Protocol::Udp => Protocol::Udp,
        orlop_network::Protocol::Sctp => Protocol::Sctp,
    }
}
