//! What a Service is called in the cluster's DNS. Pure.

use super::facts::{PortFacts, ServiceFacts, SliceFacts};
use orlop_dns::{EndpointRecord, PortRecord, Protocol, ServiceRecord, ServiceTarget};

/// All endpoints of a headless Service are worth the same.
const PRIORITY: u16 = 0;
/// See [`PRIORITY`].
const WEIGHT: u16 = 100;

/// A Service's record.
pub(super) fn service_record(service: &ServiceFacts, slices: &[&SliceFacts]) -> ServiceRecord {
    let target = if let Some(name) = &service.external_name {
        ServiceTarget::External { name: name.clone() }
    } else if service.headless {
        let published =
            slices.iter().flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
        let endpoints = published
            .filter(|(_, endpoint)| endpoint.ready || service.publish_not_ready)
            .map(|(slice, endpoint)| EndpointRecord {
                address: endpoint.address,
                hostname: endpoint.hostname.clone(),
                ports: slice.ports.iter().map(port_record).collect(),
                priority: PRIORITY,
                weight: WEIGHT,
            })
            .collect();
        ServiceTarget::Headless { endpoints }
    } else {
        ServiceTarget::Cluster {
            addresses: service.cluster_ips.clone(),
            ports: service.ports.iter().map(port_record).collect(),
        }
    };
    ServiceRecord { namespace: service.name.namespace.clone(), name: service.name.name.clone(), target }
}

fn port_record(port: &PortFacts) -> PortRecord {
    PortRecord {
        name: port.name.clone(),
        protocol: match port.protocol {
            orlop_network::Protocol::Tcp => Protocol::Tcp,
            orlop_network::Protocol::Udp => Protocol::Udp,
            orlop_network::Protocol::Sctp => Protocol::Sctp,
        },
        port: port.port,
    }
}
