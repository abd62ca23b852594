//! What is kept of a Service and of an EndpointSlice: the few fields that rules and names follow from, parsed. Pure.

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use std::net::IpAddr;

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that leaves a Service to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` unless given: 3 hours.
const AFFINITY_SECONDS: u32 = 10_800;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceName {
    pub namespace: String,
    pub name: String,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    pub name: ServiceName,
    /// Empty for headless ones and aliases.
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs and load balancer IPs.
    pub external_ips: Vec<IpAddr>,
    pub headless: bool,
    pub external_name: Option<String>,
    pub ports: Vec<PortFacts>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    pub affinity_seconds: Option<u32>,
    pub publish_not_ready: bool,
    /// Another proxy carries its traffic; its name is still ours.
    pub other_proxy: bool,
}

/// A port of a Service or of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortFacts {
    /// Empty if it has none.
    pub name: String,
    pub protocol: orlop_network::Protocol,
    pub port: u16,
    /// Only of a Service.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceFacts {
    pub service: ServiceName,
    pub ports: Vec<PortFacts>,
    pub endpoints: Vec<EndpointFacts>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointFacts {
    /// All of them are the same endpoint; more than the first has no meaning (API reference, `addresses`).
    pub address: IpAddr,
    pub hostname: Option<String>,
    pub ready: bool,
    /// Terminating, and still answers.
    pub serving_last: bool,
    /// Runs on this node.
    pub local: bool,
}

impl ServiceFacts {
    /// `None` for an object without name, which no server stores.
    pub fn new(service: Service) -> Option<Self> {
        let (metadata, spec) = (service.metadata, service.spec.unwrap_or_default());
        let name = ServiceName { namespace: metadata.namespace?, name: metadata.name? };
        let alias = spec.type_.as_deref() == Some("ExternalName");
        let headless = !alias && spec.cluster_ip.as_deref() == Some("None");
        let mut cluster_ips = addresses(spec.cluster_ips.unwrap_or_default().iter().chain(&spec.cluster_ip));
        cluster_ips.dedup();
        let balancer =
            service.status.and_then(|status| status.load_balancer).and_then(|status| status.ingress);
        // With `Proxy` the balancer wants to see the traffic itself.
        let virtual_ips = balancer
            .unwrap_or_default()
            .into_iter()
            .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let balancer_ips: Vec<String> = virtual_ips.filter_map(|ingress| ingress.ip).collect();
        let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec
            .session_affinity_config
            .and_then(|config| config.client_ip)
            .and_then(|config| config.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok());
        Some(Self {
            cluster_ips: if alias { vec![] } else { cluster_ips },
            external_ips: addresses(spec.external_ips.unwrap_or_default().iter().chain(&balancer_ips)),
            headless,
            external_name: spec.external_name.filter(|_| alias),
            ports: spec
                .ports
                .unwrap_or_default()
                .into_iter()
                .filter_map(|port| {
                    Some(PortFacts {
                        name: port.name.unwrap_or_default(),
                        protocol: protocol(port.protocol.as_deref())?,
                        port: u16::try_from(port.port).ok()?,
                        node_port: port
                            .node_port
                            .and_then(|port| u16::try_from(port).ok())
                            .filter(|port| *port > 0),
                    })
                })
                .collect(),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: sticky.then(|| seconds.unwrap_or(AFFINITY_SECONDS)),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
            other_proxy: metadata.labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY)),
            name,
        })
    }
}

impl SliceFacts {
    /// `None` for a slice that belongs to no Service or whose addresses are names.
    pub fn new(slice: EndpointSlice, node_name: &str) -> Option<Self> {
        if slice.address_type == "FQDN" {
            return None;
        }
        let service = slice.metadata.labels?.remove(SERVICE_NAME)?;
        Some(Self {
            service: ServiceName { namespace: slice.metadata.namespace?, name: service },
            ports: slice
                .ports
                .unwrap_or_default()
                .into_iter()
                .filter_map(|port| {
                    Some(PortFacts {
                        name: port.name.unwrap_or_default(),
                        protocol: protocol(port.protocol.as_deref())?,
                        port: u16::try_from(port.port?).ok()?,
                        node_port: None,
                    })
                })
                .collect(),
            endpoints: slice
                .endpoints
                .unwrap_or_default()
                .into_iter()
                .filter_map(|endpoint| EndpointFacts::new(endpoint, node_name))
                .collect(),
        })
    }
}

impl EndpointFacts {
    fn new(endpoint: Endpoint, node_name: &str) -> Option<Self> {
        let conditions = endpoint.conditions.unwrap_or_default();
        // Unknown readiness is ready; unknown serving is what readiness is (API reference, `EndpointConditions`).
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        Some(Self {
            address: endpoint.addresses.first()?.parse().ok()?,
            hostname: endpoint.hostname.filter(|name| !name.is_empty()),
            ready,
            serving_last: serving && conditions.terminating.unwrap_or_default(),
            local: endpoint.node_name.as_deref() == Some(node_name),
        })
    }
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn protocol(name: Option<&str>) -> Option<orlop_network::Protocol> {
    match name {
        None | Some("" | "TCP") => Some(orlop_network::Protocol::Tcp),
        Some("UDP") => Some(orlop_network::Protocol::Udp),
        Some("SCTP") => Some(orlop_network::Protocol::Sctp),
        Some(_) => None,
    }
}
