//! The rules of one node as data: sets, chains and which pod goes through which chain; how two states differ, and how they read.
//!
//! A packet that opens a connection is looked up by its source (what may leave that pod) and by its destination (what may come to
//! it). A pod that policies isolate leads to a chain that is shared by all pods which the same policies select; it asks the chain
//! of each policy in turn, then drops. A policy's chain lets through by sets: equal peers of all policies share one. So a packet
//! costs two look-ups and what the policies of its own two pods say, however many others there are.

use super::model::{Direction, ObjectName};
use crate::Protocol;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

/// Everything that is in the table besides its fixed chains and maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRules {
    /// Sets by name.
    pub sets: BTreeMap<String, Content>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// The chain that a pod's packets go through, by its address.
    pub pods: BTreeMap<(Direction, IpAddr), String>,
    /// Named counters.
    pub counters: BTreeMap<String, CounterOf>,
}

/// What a set holds: of one family, as its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Addresses of pods.
    Addresses {
        /// Whether they are IPv6.
        v6: bool,
        /// What stands beside the set.
        comment: String,
        /// They.
        members: Arc<BTreeSet<IpAddr>>,
    },
    /// Ranges of addresses, both ends included. A set of them never changes.
    Ranges {
        /// Whether they are IPv6.
        v6: bool,
        /// They.
        members: Arc<Vec<(IpAddr, IpAddr)>>,
    },
    /// Ports of pods.
    Ports {
        /// Whether they are IPv6.
        v6: bool,
        /// They.
        members: Arc<BTreeSet<(IpAddr, Protocol, u16)>>,
    },
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Which end it is about.
    pub direction: Direction,
    /// Whether its packets are IPv6.
    pub v6: bool,
    /// Its rules.
    pub rules: Vec<ChainRule>,
}

/// A rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainRule {
    /// Ask another chain.
    Jump(String),
    /// Let through what fits.
    Accept {
        /// The other end; `None`: all.
        peers: Option<PeerTest>,
        /// The destination's port; `None`: all, of all protocols.
        port: Option<PortTest>,
        /// Where it is counted.
        counter: String,
    },
    /// Drop what came as far as this.
    Drop {
        /// Where it is counted.
        counters: Vec<String>,
    },
}

/// The set that the other end's address must be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTest {
    /// Its name.
    pub set: String,
}

/// What the destination's port must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortTest {
    /// Any of this protocol.
    Any(Protocol),
    /// From the first to the second, both included.
    Range(Protocol, u16, u16),
    /// One of this set of ports of pods.
    Named(String),
}

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterOf {
    /// The policy.
    pub policy: ObjectName,
    /// Which of its sides.
    pub direction: Direction,
    /// Packets that it lets through (they open a connection), or those that no policy does which selects the pod.
    pub allowed: bool,
}

/// What must be done to get from one state to another, all in one transaction, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Sets to make.
    pub new_sets: Vec<String>,
    /// Counters to make.
    pub new_counters: Vec<String>,
    /// Chains to make.
    pub new_chains: Vec<String>,
    /// Chains whose rules are to be written, anew where they are not new.
    pub written_chains: Vec<String>,
    /// Elements to remove, of sets that stay.
    pub removed: Vec<(String, Element)>,
    /// Elements to add.
    pub added: Vec<(String, Element)>,
    /// Pods that lead elsewhere now or nowhere, with the chain that they led to.
    pub unled: Vec<(Direction, IpAddr, String)>,
    /// Pods that lead somewhere, with the chain.
    pub led: Vec<(Direction, IpAddr, String)>,
    /// Chains that are not used any more.
    pub old_chains: Vec<String>,
    /// Sets that are not used any more.
    pub old_sets: Vec<String>,
    /// Counters that are not used any more.
    pub old_counters: Vec<String>,
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// An address.
    Address(IpAddr),
    /// A range of addresses.
    Range(IpAddr, IpAddr),
    /// A port of a pod.
    Port(IpAddr, Protocol, u16),
}

impl Change {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Content {
    /// Its elements.
    #[must_use]
    pub fn elements(&self) -> Vec<Element> {
        match self {
            Self::Addresses { members, .. } => members.iter().copied().map(Element::Address).collect(),
            Self::Ranges { members, .. } => members.iter().map(|(a, b)| Element::Range(*a, *b)).collect(),
            Self::Ports { members, .. } => {
                members.iter().map(|(a, p, n)| Element::Port(*a, *p, *n)).collect()
            }
        }
    }

    /// Whether it is known without looking that another one holds the same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Addresses { members: one, .. }, Self::Addresses { members: other, .. }) => {
                Arc::ptr_eq(one, other)
            }
            (Self::Ranges { members: one, .. }, Self::Ranges { members: other, .. }) => {
                Arc::ptr_eq(one, other)
            }
            (Self::Ports { members: one, .. }, Self::Ports { members: other, .. }) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl PolicyRules {
    /// What must be done to get from here to `wanted`.
    #[must_use]
    pub fn change_to(&self, wanted: &Self) -> Change {
        let mut change = Change::default();
        for (name, content) in &wanted.sets {
            match self.sets.get(name) {
                Some(known) if known.is(content) => {}
                Some(known) => {
                    let (before, after) = (sorted(known), sorted(content));
                    change.removed.extend(before.difference(&after).map(|element| (name.clone(), *element)));
                    change.added.extend(after.difference(&before).map(|element| (name.clone(), *element)));
                }
                None => {
                    change.new_sets.push(name.clone());
                    change
                        .added
                        .extend(content.elements().into_iter().map(|element| (name.clone(), element)));
                }
            }
        }
        for (name, chain) in &wanted.chains {
            let known = self.chains.get(name);
            if known.is_none() {
                change.new_chains.push(name.clone());
            }
            if known != Some(chain) {
                change.written_chains.push(name.clone());
            }
        }
        for ((direction, address), chain) in &self.pods {
            if wanted.pods.get(&(*direction, *address)) != Some(chain) {
                change.unled.push((*direction, *address, chain.clone()));
            }
        }
        for ((direction, address), chain) in &wanted.pods {
            if self.pods.get(&(*direction, *address)) != Some(chain) {
                change.led.push((*direction, *address, chain.clone()));
            }
        }
        change.new_counters = missing(&wanted.counters, &self.counters);
        change.old_counters = missing(&self.counters, &wanted.counters);
        change.old_chains = missing(&self.chains, &wanted.chains);
        change.old_sets = missing(&self.sets, &wanted.sets);
        change
    }
}

fn sorted(content: &Content) -> BTreeSet<Element> {
    content.elements().into_iter().collect()
}

fn missing<V, W>(these: &BTreeMap<String, V>, there: &BTreeMap<String, W>) -> Vec<String> {
    these.keys().filter(|name| !there.contains_key(*name)).cloned().collect()
}

impl fmt::Display for Element {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(out, "{address}"),
            Self::Range(first, last) => write!(out, "{first}-{last}"),
            Self::Port(address, protocol, port) => write!(out, "{address} . {protocol} . {port}"),
        }
    }
}

impl fmt::Display for PortTest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(protocol) => write!(out, "{protocol}"),
            Self::Range(protocol, first, last) if first == last => write!(out, "{protocol} {first}"),
            Self::Range(protocol, first, last) => write!(out, "{protocol} {first}-{last}"),
            Self::Named(set) => write!(out, "to @{set}"),
        }
    }
}

/// As a listing that a person can check.
impl fmt::Display for PolicyRules {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((direction, address), chain) in &self.pods {
            writeln!(out, "{} of {address}: {chain}", direction.name())?;
        }
        for (name, chain) in &self.chains {
            writeln!(out, "chain {name}")?;
            for rule in &chain.rules {
                match rule {
                    ChainRule::Jump(to) => writeln!(out, "  jump {to}")?,
                    ChainRule::Drop { counters } => writeln!(out, "  drop, count {}", counters.join(" "))?,
                    ChainRule::Accept { peers, port, counter } => {
                        let whom = peers.as_ref().map_or("all".into(), |peers| format!("@{}", peers.set));
                        let what = port.as_ref().map_or("everything".into(), ToString::to_string);
                        writeln!(out, "  accept {whom} {what}, count {counter}")?;
                    }
                }
            }
        }
        for (name, content) in &self.sets {
            let comment = match content {
                Content::Addresses { comment, .. } => format!(" ({comment})"),
                _ => String::new(),
            };
            writeln!(out, "set {name}{comment}")?;
            for element in content.elements() {
                writeln!(out, "  {element}")?;
            }
        }
        Ok(())
    }
}
