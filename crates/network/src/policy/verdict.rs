//! The meaning of policies, in the simplest words: a connection is allowed if at both ends no policy isolates the pod, or a rule
//! of one that does lets it through. It also says which.

use super::model::{Direction, Labels, ObjectName, Pod, Policy};
use crate::Protocol;
use std::{collections::BTreeMap, net::IpAddr};

/// All that a decision depends on.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Labels of namespaces, by name.
    pub namespaces: BTreeMap<String, Labels>,
    /// All pods.
    pub pods: Vec<Pod>,
    /// All policies.
    pub policies: Vec<Policy>,
}

/// A connection as the pods' links see it: after a Service's address was translated to an endpoint's, before the sender's is to
/// the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who opens it.
    pub from: IpAddr,
    /// To whom.
    pub to: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The destination's port.
    pub port: u16,
}

/// What is decided at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Where the connection leaves.
    pub egress: Verdict,
    /// Where it arrives.
    pub ingress: Verdict,
}

impl Judgement {
    /// Whether the connection comes about.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.egress.is_allowed() && self.ingress.is_allowed()
    }
}

/// What is decided at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no pod with that address: policies are not about it.
    NoPod,
    /// A pod and its own node may always talk.
    OwnNode,
    /// A pod may talk to itself.
    Itself,
    /// No policy selects the pod for this direction.
    NotSelected,
    /// These rules let it through.
    Allowed(Vec<Allowance>),
    /// These policies select the pod, and no rule of theirs lets it through.
    Denied(Vec<Refusal>),
}

impl Verdict {
    /// Whether this end lets it through.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        !matches!(self, Self::Denied(_))
    }
}

/// A rule that lets a connection through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The policy.
    pub policy: ObjectName,
    /// The rule's index in `ingress` or `egress`.
    pub rule: usize,
}

/// A policy that isolates a pod and does not let a connection through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The policy.
    pub policy: ObjectName,
    /// For each of its rules, what does not fit.
    pub misses: Vec<Miss>,
}

/// Why a rule does not let a connection through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// None of its peers is the other end.
    pub peers: bool,
    /// None of its ports is the connection's.
    pub ports: bool,
}

impl World {
    /// The pod that has an address of its own.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.iter().find(|pod| !pod.host_network && pod.addresses.contains(&address))
    }
}

/// Decides about a connection.
#[must_use]
pub fn judge(world: &World, connection: Connection) -> Judgement {
    let end = |direction, own, other| judge_end(world, connection, direction, own, other);
    Judgement {
        egress: end(Direction::Egress, connection.from, connection.to),
        ingress: end(Direction::Ingress, connection.to, connection.from),
    }
}

fn judge_end(
    world: &World,
    connection: Connection,
    direction: Direction,
    own: IpAddr,
    other: IpAddr,
) -> Verdict {
    let Some(pod) = world.pod_at(own) else { return Verdict::NoPod };
    if own == other {
        return Verdict::Itself;
    }
    let other_pod = world.pod_at(other);
    if other_pod.is_none() && pod.node_addresses.contains(&other) {
        return Verdict::OwnNode;
    }
    let nothing = Labels::new();
    let other_pod = other_pod.map(|pod| (pod, world.namespaces.get(&pod.name.namespace).unwrap_or(&nothing)));
    let destination = world.pod_at(connection.to).map_or(&[][..], |pod| &pod.ports);
    let (mut allowances, mut refusals) = (Vec::new(), Vec::new());
    for policy in world.policies.iter().filter(|policy| policy.selects(pod, direction)) {
        let mut misses = Vec::new();
        let known = allowances.len();
        for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            let peers = rule.peers.is_empty()
                || rule.peers.iter().any(|peer| peer.matches(&policy.name.namespace, other, other_pod));
            let ports = rule.ports.is_empty()
                || rule
                    .ports
                    .iter()
                    .any(|port| port.matches(connection.protocol, connection.port, destination));
            if peers && ports {
                allowances.push(Allowance { policy: policy.name.clone(), rule: index });
            } else {
                misses.push(Miss { peers: !peers, ports: !ports });
            }
        }
        if allowances.len() == known {
            refusals.push(Refusal { policy: policy.name.clone(), misses });
        }
    }
    if !allowances.is_empty() {
        Verdict::Allowed(allowances)
    } else if refusals.is_empty() {
        Verdict::NotSelected
    } else {
        Verdict::Denied(refusals)
    }
}
