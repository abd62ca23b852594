//! Policies, pods and namespaces as plain structs, and the two questions that selectors and ports answer.

use super::block;
use crate::Protocol;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// What a rule is about, seen from the selected pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// What comes to the pod.
    Ingress,
    /// What leaves it.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// As part of names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A label selector: all requirements hold. Without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// `matchLabels` and `matchExpressions`; equal selectors have them in the same order.
    pub requirements: BTreeSet<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what, for `In` and `NotIn`.
    pub values: BTreeSet<String>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values, or is not there.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether labels are as required.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|required| {
            let value = labels.get(&required.key);
            match required.operator {
                Operator::In => value.is_some_and(|value| required.values.contains(value)),
                Operator::NotIn => value.is_none_or(|value| !required.values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// As `kubectl` writes it.
impl fmt::Display for Selector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return out.write_str("all");
        }
        for (at, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let list = || values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match operator {
                Operator::In if values.len() == 1 => write!(out, "{comma}{key}={}", list())?,
                Operator::In => write!(out, "{comma}{key} in ({})", list())?,
                Operator::NotIn => write!(out, "{comma}{key} notin ({})", list())?,
                Operator::Exists => write!(out, "{comma}{key}")?,
                Operator::DoesNotExist => write!(out, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub name: ObjectName,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may come to them; `None` if it is not about that (`policyTypes`).
    pub ingress: Option<Vec<Rule>>,
    /// What may leave them; `None` if it is not about that.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of one direction; `None` if it is not about that.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it isolates a pod in a direction.
    #[must_use]
    pub fn selects(&self, pod: &Pod, direction: Direction) -> bool {
        self.rules(direction).is_some()
            && !pod.host_network
            && pod.name.namespace == self.name.namespace
            && self.pods.matches(&pod.labels)
    }
}

/// A rule: lets through what one of its peers and one of its ports fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The other ends; empty: all.
    pub peers: Vec<Peer>,
    /// The ports; empty: all, of all protocols.
    pub ports: Vec<PortMatch>,
}

/// The other end of a connection, as a rule describes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods.
    Pods {
        /// Which namespaces they are in; `None`: the policy's own.
        namespaces: Option<Selector>,
        /// Which pods there.
        pods: Selector,
    },
    /// Addresses, whoever has them.
    Block {
        /// These,
        cidr: IpNet,
        /// but not these.
        except: Vec<IpNet>,
    },
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub ports: Ports,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every one.
    All,
    /// From the first to the second, both included.
    Range(u16, u16),
    /// The one that the destination's pod calls so.
    Named(String),
}

/// A port that a container names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Unique for all times.
    pub uid: String,
    /// Its name.
    pub name: ObjectName,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses; none before it has some and after it has ended.
    pub addresses: Vec<IpAddr>,
    /// Named ports of its containers.
    pub ports: Vec<NamedPort>,
    /// The node that it runs on.
    pub node: String,
    /// Addresses of that node.
    pub node_addresses: Vec<IpAddr>,
    /// Whether it is in the node's network.
    pub host_network: bool,
}

impl Peer {
    /// Whether the other end is meant by this peer of a policy in `namespace`. `pod` is the one that has the address, with the
    /// labels of its namespace, if any has.
    #[must_use]
    pub fn matches(&self, namespace: &str, address: IpAddr, pod: Option<(&Pod, &Labels)>) -> bool {
        match self {
            Self::Pods { namespaces, pods } => pod.is_some_and(|(pod, labels)| {
                let inside = match namespaces {
                    None => pod.name.namespace == namespace,
                    Some(selector) => selector.matches(labels),
                };
                inside && pods.matches(&pod.labels)
            }),
            Self::Block { cidr, except } => block::contains(*cidr, except, address),
        }
    }
}

impl PortMatch {
    /// Whether a destination is meant: a port of the pod with these named ports.
    #[must_use]
    pub fn matches(&self, protocol: Protocol, port: u16, named: &[NamedPort]) -> bool {
        self.protocol == protocol
            && match &self.ports {
                Ports::All => true,
                Ports::Range(first, last) => (*first..=*last).contains(&port),
                Ports::Named(name) => named
                    .iter()
                    .any(|known| known.name == *name && known.protocol == protocol && known.port == port),
            }
    }
}
