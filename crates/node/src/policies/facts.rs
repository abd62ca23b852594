//! What policies need of a NetworkPolicy, a Pod and a Namespace, as the network's plain structs. Pure. What cannot be read (a
//! later version's word) lets nothing through.

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod as ApiPod},
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicyPort,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use orlop_network::{
    Protocol,
    policy::{
        Labels, NamedPort, ObjectName, Operator, Peer, Pod, Policy, PortMatch, Ports, Requirement, Rule,
        Selector,
    },
};
use std::{collections::BTreeSet, net::IpAddr};

/// A policy. `None` for an object without name, which no server stores.
#[must_use]
pub fn policy(object: &NetworkPolicy) -> Option<Policy> {
    let metadata = &object.metadata;
    let name = ObjectName { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? };
    let spec = object.spec.clone().unwrap_or_default();
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    // The server fills this in; without it, it means this.
    let types = spec.policy_types.filter(|types| !types.is_empty()).unwrap_or_else(|| {
        let egress = has_egress.then(|| "Egress".to_owned());
        ["Ingress".to_owned()].into_iter().chain(egress).collect()
    });
    let about = |direction: &str| types.iter().any(|known| known == direction);
    let ingress = spec.ingress.unwrap_or_default().iter().map(ingress_rule).collect();
    let egress = spec.egress.unwrap_or_default().iter().map(egress_rule).collect();
    Some(Policy {
        name,
        pods: spec.pod_selector.as_ref().map(selector).unwrap_or_default(),
        ingress: about("Ingress").then_some(ingress),
        egress: about("Egress").then_some(egress),
    })
}

/// A pod. `None` for an object without name.
#[must_use]
pub fn pod(object: &ApiPod) -> Option<Pod> {
    let metadata = &object.metadata;
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let own = status.map(|s| {
        let listed = s.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
        addresses(listed.chain(s.pod_ip.as_deref()))
    });
    let of_node = status.map(|s| {
        let listed = s.host_ips.iter().flatten().map(|ip| ip.ip.as_str());
        addresses(listed.chain(s.host_ip.as_deref()))
    });
    Some(Pod {
        uid: metadata.uid.clone().unwrap_or_default(),
        name: ObjectName { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? },
        labels: metadata.labels.clone().unwrap_or_default(),
        addresses: if ended { vec![] } else { own.unwrap_or_default() },
        ports: spec.map(named_ports).unwrap_or_default(),
        node: spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        node_addresses: of_node.unwrap_or_default(),
        host_network: spec.is_some_and(|s| s.host_network == Some(true)),
    })
}

/// A namespace's name and labels.
#[must_use]
pub fn namespace(object: &Namespace) -> Option<(String, Labels)> {
    let metadata = &object.metadata;
    Some((metadata.name.clone()?, metadata.labels.clone().unwrap_or_default()))
}

fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for address in texts.filter_map(|text| text.parse().ok()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// Those of containers that run beside each other: sidecars too.
fn named_ports(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<NamedPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(NamedPort {
                name: port.name.clone()?,
                protocol: protocol(port.protocol.as_deref())?,
                port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn ingress_rule(rule: &NetworkPolicyIngressRule) -> Rule {
    rule_of(rule.from.as_deref(), rule.ports.as_deref())
}

fn egress_rule(rule: &NetworkPolicyEgressRule) -> Rule {
    rule_of(rule.to.as_deref(), rule.ports.as_deref())
}

fn rule_of(peers: Option<&[NetworkPolicyPeer]>, ports: Option<&[NetworkPolicyPort]>) -> Rule {
    Rule {
        peers: peers.unwrap_or_default().iter().map(peer).collect(),
        ports: ports.unwrap_or_default().iter().map(port).collect(),
    }
}

fn peer(peer: &NetworkPolicyPeer) -> Peer {
    let selected = |pods: &Option<LabelSelector>| pods.as_ref().map(selector).unwrap_or_default();
    match peer {
        NetworkPolicyPeer { ip_block: Some(found), .. } => block(found).unwrap_or_else(nobody),
        NetworkPolicyPeer { namespace_selector: Some(namespaces), pod_selector, .. } => {
            Peer::Pods { namespaces: Some(selector(namespaces)), pods: selected(pod_selector) }
        }
        NetworkPolicyPeer { pod_selector: Some(pods), .. } => {
            Peer::Pods { namespaces: None, pods: selector(pods) }
        }
        _ => nobody(),
    }
}

fn block(block: &IPBlock) -> Option<Peer> {
    let except: Result<Vec<_>, _> = block.except.iter().flatten().map(|hole| hole.parse()).collect();
    Some(Peer::Block { cidr: block.cidr.parse().ok()?, except: except.ok()? })
}

fn nobody() -> Peer {
    Peer::Pods { namespaces: None, pods: nothing() }
}

/// Selects nothing: no label is one of no values.
fn nothing() -> Selector {
    let never = Requirement { key: String::new(), operator: Operator::In, values: BTreeSet::new() };
    Selector { requirements: [never].into() }
}

fn port(port: &NetworkPolicyPort) -> PortMatch {
    // No port is called so.
    let none = Ports::Named(String::new());
    let Some(protocol) = protocol(port.protocol.as_deref()) else {
        return PortMatch { protocol: Protocol::Tcp, ports: none };
    };
    let number = |number: i32| u16::try_from(number).ok();
    let ports = match (&port.port, port.end_port) {
        (None, _) => Ports::All,
        (Some(IntOrString::String(name)), _) => Ports::Named(name.clone()),
        (Some(IntOrString::Int(first)), last) => match (number(*first), number(last.unwrap_or(*first))) {
            (Some(first), Some(last)) if first <= last => Ports::Range(first, last),
            _ => none,
        },
    };
    PortMatch { protocol, ports }
}

fn selector(selector: &LabelSelector) -> Selector {
    let mut requirements = BTreeSet::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        let values = [value.clone()].into();
        requirements.insert(Requirement { key: key.clone(), operator: Operator::In, values });
    }
    for expression in selector.match_expressions.iter().flatten() {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return nothing(),
        };
        let values = expression.values.iter().flatten().cloned().collect();
        requirements.insert(Requirement { key: expression.key.clone(), operator, values });
    }
    Selector { requirements }
}
