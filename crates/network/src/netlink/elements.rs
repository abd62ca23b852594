//! Elements of the table's maps as the kernel has them, and back.

use super::kernel;
use crate::{
    Error, Protocol,
    family::Family,
    ruleset::{Branch, Key, Map, Ruleset, Value},
    service_rules::StaleAffinities,
};
use nlink::netlink::nftables::{ChainName, SetElement, SetElementData, Verdict};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// The chain that answers that nobody is there.
pub(super) const REFUSE: &str = "refuse";

/// An element as the kernel takes it.
pub(super) fn encode(key: Key, value: Value) -> Result<SetElement, Error> {
    let chain = |name: &str| ChainName::new(name).map_err(kernel("naming a chain"));
    let address_of = |address| match address {
        IpAddr::V4(address) => SetElement::ipv4(address),
        IpAddr::V6(address) => SetElement::ipv6(address),
    };
    let endpoint = |address, port| SetElement::concat([address_of(address), SetElement::port(port)]);
    let by_port =
        |protocol, port| [SetElement::inet_proto(protocol_number(protocol)), SetElement::port(port)];
    let by_address = |address, protocol, port| {
        let [protocol, port] = by_port(protocol, port);
        [address_of(address), protocol, port]
    };
    let element = match key {
        Key::Target(address, protocol, port) => SetElement::concat(by_address(address, protocol, port)),
        Key::TargetSlot(address, protocol, port, slot) => SetElement::concat(
            by_address(address, protocol, port).into_iter().chain([SetElement::mark(slot)]),
        ),
        Key::Port(protocol, port) => SetElement::concat(by_port(protocol, port)),
        Key::PortSlot(protocol, port, slot) => {
            SetElement::concat(by_port(protocol, port).into_iter().chain([SetElement::mark(slot)]))
        }
        Key::Twice(address) => SetElement::concat([address_of(address), address_of(address)]),
    };
    Ok(match value {
        Value::Member => element,
        Value::Branch(branch @ Branch::Pick(_)) => {
            element.verdict(Verdict::GotoTo(chain(&branch.to_string())?))
        }
        // Something is still to be done after this: source addresses translated, or endpoints picked.
        Value::Branch(branch @ (Branch::Remember(_) | Branch::Sources(_))) => {
            element.verdict(Verdict::JumpTo(chain(&branch.to_string())?))
        }
        Value::Refuse => element.verdict(Verdict::GotoTo(chain(REFUSE)?)),
        Value::Drop => element.verdict(Verdict::Drop),
        Value::Endpoint(address, port) => element.value(endpoint(address, port)),
    })
}

/// The reverse of `encode`; `None` for what this version would not have written.
pub(super) fn decode(family: Family, map: Map, element: &SetElement) -> Option<(Key, Value)> {
    let mut key = element.key();
    let key = match map {
        Map::Verdicts(lookup) if lookup.is_node_port() => port_key(&mut key)?,
        Map::HostPorts | Map::StickyNode => port_key(&mut key)?,
        Map::Verdicts(_) | Map::HostAddressPorts | Map::Remote | Map::Sticky | Map::Guards => {
            target_key(family, &mut key)?
        }
        Map::Endpoints(lookup) => {
            let target =
                if lookup.is_node_port() { port_key(&mut key)? } else { target_key(family, &mut key)? };
            target.slot(mark(&mut key)?)
        }
        Map::Hairpin => Key::Twice(address(family, &mut key)?),
    };
    let value = match element.data() {
        None => Value::Member,
        Some(SetElementData::Verdict(Verdict::Drop)) => Value::Drop,
        Some(SetElementData::Verdict(Verdict::GotoTo(chain))) if chain.as_str() == REFUSE => Value::Refuse,
        Some(SetElementData::Verdict(Verdict::GotoTo(chain) | Verdict::JumpTo(chain))) => {
            Value::Branch(chain.as_str().parse().ok()?)
        }
        Some(SetElementData::Value(bytes)) => {
            let mut bytes = bytes.as_slice();
            Value::Endpoint(address(family, &mut bytes)?, port(&mut bytes)?)
        }
        Some(_) => return None,
    };
    Some((key, value))
}

/// Whether an affinity is one that a target has, to an endpoint that all its clients may be sent to.
pub(super) fn is_live(family: Family, affinity: &SetElement, rules: &Ruleset) -> bool {
    read_affinity(family, affinity)
        .is_some_and(|(target, endpoint)| rules.is_sticky(target) && rules.leads_all_to(target, endpoint))
}

/// Whether an affinity is among those to forget.
pub(super) fn is_stale(family: Family, affinity: &SetElement, stale: &StaleAffinities) -> bool {
    read_affinity(family, affinity).is_none_or(|((to, protocol, port), endpoint)| {
        let targets = [(Some(to), protocol, port), (None, protocol, port)];
        targets.iter().any(|target| stale.get(target).is_some_and(|lost| lost.contains(&endpoint)))
    })
}

/// What a client opened its connections to, and the endpoint that it keeps.
type Affinity = ((IpAddr, Protocol, u16), (IpAddr, u16));

fn read_affinity(family: Family, affinity: &SetElement) -> Option<Affinity> {
    let Key::Target(to, protocol, to_port) = target_key(family, &mut affinity.key())? else { return None };
    let Some(SetElementData::Value(bytes)) = affinity.data() else { return None };
    let mut bytes = bytes.as_slice();
    Some(((to, protocol, to_port), (address(family, &mut bytes)?, port(&mut bytes)?)))
}

/// An affinity to carry over into a new table, with the time that is left of it.
pub(super) fn renewed(affinity: &SetElement) -> Option<SetElement> {
    let left = affinity.expiration()?.max(Duration::from_secs(1));
    let Some(SetElementData::Value(bytes)) = affinity.data() else { return None };
    Some(SetElement::new(affinity.key().to_vec()).value(SetElement::new(bytes.clone())).with_timeout(left))
}

fn target_key(family: Family, bytes: &mut &[u8]) -> Option<Key> {
    let address = address(family, bytes)?;
    let Key::Port(protocol, port) = port_key(bytes)? else { return None };
    Some(Key::Target(address, protocol, port))
}

fn field<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn address(family: Family, bytes: &mut &[u8]) -> Option<IpAddr> {
    match family {
        Family::V4 => field::<4>(bytes).map(|bytes| Ipv4Addr::from(bytes).into()),
        Family::V6 => field::<16>(bytes).map(|bytes| Ipv6Addr::from(bytes).into()),
    }
}

fn mark(bytes: &mut &[u8]) -> Option<u32> {
    field(bytes).map(u32::from_ne_bytes)
}

fn port(bytes: &mut &[u8]) -> Option<u16> {
    field::<4>(bytes).map(|[a, b, ..]| u16::from_be_bytes([a, b]))
}

fn port_key(bytes: &mut &[u8]) -> Option<Key> {
    let [number, ..] = field::<4>(bytes)?;
    let protocol = match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some(Key::Port(protocol, port(bytes)?))
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
