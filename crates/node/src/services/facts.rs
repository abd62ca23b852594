//! What is kept of a Service and of an EndpointSlice: the few fields that rules and names follow from, parsed. Pure.

use super::naming::{EndpointNotes, Naming, Notes, Rank};
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use std::{collections::BTreeMap, net::IpAddr};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that leaves a Service to another proxy.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// The label of a node that outside traffic should not come through.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// On a Service with addresses of the cluster's own balancer: the node that answers for them.
const ANNOUNCER: &str = orlop_api::balancer::ANNOUNCER;
/// On a slice: the weights of its endpoints that do not weigh what others do.
const WEIGHTS: &str = orlop_api::balancer::WEIGHTS;
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
    pub external_ips: Vec<IpAddr>,
    /// Where a load balancer says that it is, by addresses and by names.
    pub balancer: Vec<IpAddr>,
    pub balancer_names: Vec<String>,
    /// Those of its addresses that nodes carry themselves.
    pub balancer_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// Where the node tells a load balancer whether it has endpoints.
    pub health_check_port: Option<u16>,
    /// The node that answers for the load balancer IPs on the link, if a cluster's own balancer gave them.
    pub announcer: Option<String>,
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
    /// What its annotations say about its name.
    pub naming: Naming,
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
    /// What its annotations say of all its endpoints.
    pub rank: Rank,
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
    pub node: Option<String>,
    /// What is noted of it beside the slice's own fields.
    pub notes: EndpointNotes,
    /// Its share of the traffic.
    pub weight: u16,
    /// Whether this node is one of those that it is meant for; `None`: it is meant for no node in particular.
    pub for_this_node: Option<bool>,
    /// The zones that it is meant for.
    pub for_zones: Vec<String>,
}

/// A node, as far as it carries traffic for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub internal: Vec<IpAddr>,
    pub external: Vec<IpAddr>,
    /// It is ready, and nobody wants it to be left out.
    pub carries: bool,
}

impl ServiceFacts {
    /// `None` for an object without name, which no server stores.
    pub fn new(service: Service) -> Option<Self> {
        let (mut metadata, spec) = (service.metadata, service.spec.unwrap_or_default());
        let name = ServiceName { namespace: metadata.namespace?, name: metadata.name? };
        let alias = spec.type_.as_deref() == Some("ExternalName");
        let headless = !alias && spec.cluster_ip.as_deref() == Some("None");
        let cluster_ips = match spec.cluster_ips {
            Some(ips) if !ips.is_empty() => addresses(&ips),
            _ => addresses(&spec.cluster_ip),
        };
        let naming = Naming::of(metadata.annotations.as_ref());
        let balancer = service
            .status
            .and_then(|status| status.load_balancer)
            .and_then(|status| status.ingress)
            .unwrap_or_default();
        let balancer_names = balancer.iter().filter_map(|ingress| ingress.hostname.clone()).collect();
        let balancer_addresses = addresses(balancer.iter().filter_map(|ingress| ingress.ip.as_ref()));
        // With `Proxy` the balancer wants to see the traffic itself.
        let virtual_ips = balancer.into_iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
        let balancer_ips: Vec<String> = virtual_ips.filter_map(|ingress| ingress.ip).collect();
        let sticky = spec.session_affinity.as_deref() == Some("ClientIP");
        let seconds = spec
            .session_affinity_config
            .and_then(|config| config.client_ip)
            .and_then(|config| config.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok());
        Some(Self {
            cluster_ips: if alias { vec![] } else { cluster_ips },
            external_ips: addresses(&spec.external_ips.unwrap_or_default()),
            balancer_ips: addresses(&balancer_ips),
            source_ranges: spec
                .load_balancer_source_ranges
                .unwrap_or_default()
                .iter()
                .filter_map(|range| range.trim().parse().ok())
                .collect(),
            health_check_port: spec
                .health_check_node_port
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port > 0),
            announcer: metadata.annotations.as_mut().and_then(|all| all.remove(ANNOUNCER)),
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
            balancer: balancer_addresses,
            balancer_names,
            naming,
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
        let notes = Notes::of(slice.metadata.annotations.as_ref());
        let service = slice.metadata.labels?.remove(SERVICE_NAME)?;
        let weights = slice.metadata.annotations.as_ref().and_then(|all| all.get(WEIGHTS));
        let weights = weights.map(|text| parse_weights(text)).unwrap_or_default();
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
                .filter_map(|endpoint| EndpointFacts::new(endpoint, node_name, &notes, &weights))
                .collect(),
            rank: notes.rank,
        })
    }
}

impl EndpointFacts {
    fn new(
        endpoint: Endpoint,
        node_name: &str,
        notes: &Notes,
        weights: &BTreeMap<IpAddr, u16>,
    ) -> Option<Self> {
        let hints = endpoint.hints.unwrap_or_default();
        let for_nodes = hints.for_nodes.filter(|nodes| !nodes.is_empty());
        let text = endpoint.addresses.first()?;
        let address: IpAddr = text.parse().ok()?;
        let conditions = endpoint.conditions.unwrap_or_default();
        // Unknown readiness is ready; unknown serving is what readiness is (API reference, `EndpointConditions`).
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        Some(Self {
            notes: notes.endpoints.get(text).cloned().unwrap_or_default(),
            address,
            hostname: endpoint.hostname.filter(|name| !name.is_empty()),
            ready,
            serving_last: serving && conditions.terminating.unwrap_or_default(),
            local: endpoint.node_name.as_deref() == Some(node_name),
            weight: weights.get(&address).copied().unwrap_or(1),
            for_this_node: for_nodes.map(|nodes| nodes.iter().any(|node| node.name == node_name)),
            for_zones: hints.for_zones.unwrap_or_default().into_iter().map(|zone| zone.name).collect(),
            node: endpoint.node_name,
        })
    }
}

impl NodeFacts {
    pub fn new(node: Node) -> Self {
        let status = node.status.unwrap_or_default();
        let of = |kind: &str| {
            let all = status.addresses.iter().flatten();
            addresses(all.filter(|address| address.type_ == kind).map(|address| &address.address))
        };
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let excluded = node.metadata.labels.is_some_and(|labels| labels.contains_key(EXCLUDED));
        Self { internal: of("InternalIP"), external: of("ExternalIP"), carries: ready && !excluded }
    }
}

/// `10.42.0.5=30,fd42::5=30`; what cannot be read weighs what others do.
fn parse_weights(text: &str) -> BTreeMap<IpAddr, u16> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(address, weight)| Some((address.parse().ok()?, weight.parse().ok()?))).collect()
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
