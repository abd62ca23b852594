//! The service rules of one address family as data: maps of the nftables table with their elements, what a change is, and how
//! they read. Pure; it knows neither Services nor netlink.
//!
//! A packet's first lookup (destination, protocol, port) yields a verdict: which chain picks the endpoint. That chain is
//! shared by all targets with the same number of endpoints; it draws a random slot below that number, and looks up (target,
//! slot) for the endpoint. So a packet costs the same with one service as with ten thousand, and a changed endpoint changes a
//! handful of elements. An endpoint that weighs more has more slots.
//!
//! A sticky target's chain asks the dynamic map of affinities first. It is filled where the packet leaves, from what the
//! connection was opened to and where it was sent; targets in [`Map::Sticky`] say for how long.

use crate::Protocol;
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// Where a packet's target is looked up. "Outside" tables hold only what differs from "inside" and are asked first, for
/// packets whose source is not in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lookup {
    /// Service addresses.
    Inside,
    /// Service addresses, for clients outside.
    Outside,
    /// Ports of this node.
    InsideNode,
    /// Ports of this node, for clients outside.
    OutsideNode,
}

impl Lookup {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Inside, Self::Outside, Self::InsideNode, Self::OutsideNode];

    /// As part of names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inside => "services",
            Self::Outside => "services-outside",
            Self::InsideNode => "node-ports",
            Self::OutsideNode => "node-ports-outside",
        }
    }

    /// Whether the key is a node port, without an address.
    pub fn is_node_port(self) -> bool {
        matches!(self, Self::InsideNode | Self::OutsideNode)
    }
}

/// A map or set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Map {
    /// Target to verdict.
    Verdicts(Lookup),
    /// Target and slot to endpoint.
    Endpoints(Lookup),
    /// Target to how long its clients keep their endpoint.
    Sticky,
    /// Node port to how long its clients keep their endpoint.
    StickyNode,
    /// Host port on one address to pod.
    HostAddressPorts,
    /// Host port on all addresses to pod.
    HostPorts,
    /// Pods that may reach themselves through a service: their own address twice.
    Hairpin,
    /// Endpoints elsewhere: replies must come back through this node.
    Remote,
    /// Target to the chain that lets only some sources through.
    Guards,
}

impl Map {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Verdicts(Lookup::Inside),
        Self::Verdicts(Lookup::Outside),
        Self::Verdicts(Lookup::InsideNode),
        Self::Verdicts(Lookup::OutsideNode),
        Self::Endpoints(Lookup::Inside),
        Self::Endpoints(Lookup::Outside),
        Self::Endpoints(Lookup::InsideNode),
        Self::Endpoints(Lookup::OutsideNode),
        Self::Sticky,
        Self::StickyNode,
        Self::HostAddressPorts,
        Self::HostPorts,
        Self::Hairpin,
        Self::Remote,
        Self::Guards,
    ];

    /// Its name in the kernel.
    pub fn name(self) -> String {
        match self {
            Self::Verdicts(lookup) => lookup.name().to_owned(),
            Self::Endpoints(lookup) => format!("{}-endpoints", lookup.name()),
            Self::Sticky => "sticky".into(),
            Self::StickyNode => "sticky-node-ports".into(),
            Self::HostAddressPorts => "host-address-ports".into(),
            Self::HostPorts => "host-ports".into(),
            Self::Hairpin => "hairpin".into(),
            Self::Remote => "remote".into(),
            Self::Guards => "guards".into(),
        }
    }
}

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// A destination.
    Target(IpAddr, Protocol, u16),
    /// A slot of a destination.
    TargetSlot(IpAddr, Protocol, u16, u32),
    /// A port of this node.
    Port(Protocol, u16),
    /// A slot of a port of this node.
    PortSlot(Protocol, u16, u32),
    /// An address, as source and as destination.
    Twice(IpAddr),
}

impl Key {
    /// A slot of this target.
    pub fn slot(self, slot: u32) -> Self {
        match self {
            Self::Target(address, protocol, port) => Self::TargetSlot(address, protocol, port, slot),
            Self::Port(protocol, port) => Self::PortSlot(protocol, port, slot),
            other => other,
        }
    }

    /// The target that a slot is of.
    pub fn target(self) -> Self {
        match self {
            Self::TargetSlot(address, protocol, port, _) => Self::Target(address, protocol, port),
            Self::PortSlot(protocol, port, _) => Self::Port(protocol, port),
            other => other,
        }
    }
}

/// The chain that picks an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pick {
    /// Where the target's endpoints are looked up.
    pub lookup: Lookup,
    /// Among how many slots.
    pub count: u32,
    /// Whether a client keeps its endpoint.
    pub sticky: bool,
}

/// A chain that is there as long as an element leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Branch {
    /// Picks an endpoint.
    Pick(Pick),
    /// Remembers the endpoint of a client for so many seconds.
    Remember(u32),
    /// Drops what comes from elsewhere than certain ranges. They are told apart by their [`digest`].
    Sources(u64),
}

/// What names a list of ranges: the same ones have the same name in every run (FNV-1a).
pub(crate) fn digest(ranges: &[IpNet]) -> u64 {
    ranges
        .iter()
        .flat_map(|range| format!("{range},").into_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for Branch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pick(Pick { lookup, count, sticky }) => {
                write!(out, "pick-{}-{count}{}", lookup.name(), if *sticky { "-sticky" } else { "" })
            }
            Self::Remember(seconds) => write!(out, "remember-{seconds}"),
            Self::Sources(digest) => write!(out, "sources-{digest:016x}"),
        }
    }
}

impl std::str::FromStr for Branch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(seconds) = text.strip_prefix("remember-") {
            return seconds.parse().map(Self::Remember).map_err(drop);
        }
        if let Some(digest) = text.strip_prefix("sources-") {
            return u64::from_str_radix(digest, 16).map(Self::Sources).map_err(drop);
        }
        let rest = text.strip_prefix("pick-").ok_or(())?;
        let (rest, sticky) = rest.strip_suffix("-sticky").map_or((rest, false), |rest| (rest, true));
        let (name, count) = rest.rsplit_once('-').ok_or(())?;
        let lookup = Lookup::ALL.into_iter().find(|lookup| lookup.name() == name).ok_or(())?;
        Ok(Self::Pick(Pick { lookup, count: count.parse().map_err(drop)?, sticky }))
    }
}

/// What an element maps its key to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Value {
    /// Nothing: the element of a set.
    Member,
    /// Verdict: go on in a chain.
    Branch(Branch),
    /// Verdict: answer that nobody is there.
    Refuse,
    /// Verdict: no answer.
    Drop,
    /// An endpoint.
    Endpoint(IpAddr, u16),
}

impl Value {
    /// The address of an endpoint.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Endpoint(address, _) => Some(*address),
            _ => None,
        }
    }
}

/// All elements of all maps. The chains follow from them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    /// The elements.
    pub elements: BTreeMap<(Map, Key), Value>,
    /// What the digests of [`Branch::Sources`] stand for; of chains that were found in the kernel it is not known.
    pub sources: BTreeMap<u64, Vec<IpNet>>,
}

/// What must be done to get from one ruleset to another; all of it in one transaction, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Chains to make.
    pub new_branches: Vec<Branch>,
    /// Elements to remove.
    pub remove: Vec<(Map, Key, Value)>,
    /// Elements to add.
    pub add: Vec<(Map, Key, Value)>,
    /// Chains that nothing leads to any more.
    pub old_branches: Vec<Branch>,
    /// What the digests of new chains stand for.
    pub sources: BTreeMap<u64, Vec<IpNet>>,
}

impl Change {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

impl Ruleset {
    /// The value of a key.
    pub fn get(&self, map: Map, key: Key) -> Option<Value> {
        self.elements.get(&(map, key)).copied()
    }

    /// The elements of one map.
    pub fn map(&self, map: Map) -> impl Iterator<Item = (Key, Value)> {
        // `Target` of the lowest address sorts before every other key.
        let first = (map, Key::Target(Ipv4Addr::UNSPECIFIED.into(), Protocol::Tcp, 0));
        self.elements
            .range(first..)
            .take_while(move |((of, _), _)| *of == map)
            .map(|((_, key), value)| (*key, *value))
    }

    /// The endpoints of a target, by slot.
    pub fn slots(&self, lookup: Lookup, target: Key) -> Vec<(IpAddr, u16)> {
        let map = Map::Endpoints(lookup);
        self.elements
            .range((map, target.slot(0))..=(map, target.slot(u32::MAX)))
            .filter_map(|(_, value)| match value {
                Value::Endpoint(address, port) => Some((*address, *port)),
                _ => None,
            })
            .collect()
    }

    /// The chains that elements lead to.
    pub fn branches(&self) -> BTreeSet<Branch> {
        Lookup::ALL
            .into_iter()
            .map(Map::Verdicts)
            .chain([Map::Sticky, Map::StickyNode, Map::Guards])
            .flat_map(|map| self.map(map))
            .filter_map(|(_, value)| match value {
                Value::Branch(branch) => Some(branch),
                _ => None,
            })
            .collect()
    }

    /// Whether clients of a target keep their endpoint.
    pub fn is_sticky(&self, (address, protocol, port): (IpAddr, Protocol, u16)) -> bool {
        self.get(Map::Sticky, Key::Target(address, protocol, port)).is_some()
            || self.get(Map::StickyNode, Key::Port(protocol, port)).is_some()
    }

    /// Whether every client of a target, inside and outside, may be sent to this endpoint.
    pub fn leads_all_to(
        &self,
        (address, protocol, port): (IpAddr, Protocol, u16),
        endpoint: (IpAddr, u16),
    ) -> bool {
        let (by_address, by_port) = (Key::Target(address, protocol, port), Key::Port(protocol, port));
        let ways = [
            (Lookup::Inside, by_address),
            (Lookup::Outside, by_address),
            (Lookup::InsideNode, by_port),
            (Lookup::OutsideNode, by_port),
        ];
        let mut known = ways
            .into_iter()
            .filter(|(lookup, key)| self.get(Map::Verdicts(*lookup), *key).is_some())
            .peekable();
        known.peek().is_some() && known.all(|(lookup, key)| self.slots(lookup, key).contains(&endpoint))
    }

    /// All of it as a change to nothing.
    pub fn as_change(&self) -> Change {
        Change {
            new_branches: self.branches().into_iter().collect(),
            add: self.elements.iter().map(|((map, key), value)| (*map, *key, *value)).collect(),
            sources: self.sources.clone(),
            ..Change::default()
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Target(address, protocol, port) => write!(out, "{address} . {protocol} . {port}"),
            Self::TargetSlot(address, protocol, port, slot) => {
                write!(out, "{address} . {protocol} . {port} . {slot}")
            }
            Self::Port(protocol, port) => write!(out, "{protocol} . {port}"),
            Self::PortSlot(protocol, port, slot) => write!(out, "{protocol} . {port} . {slot}"),
            Self::Twice(address) => write!(out, "{address} . {address}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member => Ok(()),
            Self::Branch(branch) => write!(out, " : {branch}"),
            Self::Refuse => out.write_str(" : refuse"),
            Self::Drop => out.write_str(" : drop"),
            Self::Endpoint(address, port) => write!(out, " : {address} . {port}"),
        }
    }
}

/// As a listing, one element a line, sorted.
impl fmt::Display for Ruleset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((map, key), value) in &self.elements {
            writeln!(out, "{}: {key}{value}", map.name())?;
        }
        Ok(())
    }
}
