//! Which service addresses and node ports are taken. Each is a key of its own in the store, created in the transaction of
//! the Service that gets it and deleted in the one that lets it go, so that no two Services can ever have the same. The
//! sets here only say where it is worth trying.

use crate::{Error, cache::Index};
use ipnet::IpNet;
use orlop_api::kinds::service::families::family_of;
use orlop_store::{Change, Entry};
use parking_lot::RwLock;
use std::{collections::HashSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

const ADDRESSES: &str = "/registry/allocations/ip/";
const PORTS: &str = "/registry/allocations/port/";

/// One set of allocations, kept up to date by the cache's feeder.
pub(crate) struct Taken {
    prefix: &'static str,
    names: RwLock<HashSet<String>>,
}

impl Taken {
    /// Those whose keys begin with `prefix`; what follows is the name.
    pub(super) fn new(prefix: &'static str) -> Arc<Self> {
        Arc::new(Self { prefix, names: RwLock::default() })
    }

    /// Whether it is taken.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.read().contains(name)
    }

    #[cfg(test)]
    pub(super) fn insert(&self, name: &str) {
        self.names.write().insert(name.to_string());
    }
}

impl Index for Taken {
    fn key_prefix(&self) -> &str {
        self.prefix
    }

    fn fill(&self, entries: &[Entry]) {
        *self.names.write() =
            entries.iter().filter_map(|e| e.key.strip_prefix(self.prefix)).map(str::to_string).collect();
    }

    fn apply(&self, change: &Change) {
        let Some(name) = change.entry.key.strip_prefix(self.prefix) else { return };
        if change.deleted {
            self.names.write().remove(name);
        } else {
            self.names.write().insert(name.to_string());
        }
    }
}

/// The ranges, and what of them is taken.
pub(crate) struct Allocations {
    /// One a family, the default one first; never empty.
    ranges: Vec<Range>,
    ports: RangeInclusive<u16>,
    taken_addresses: Arc<Taken>,
    taken_ports: Arc<Taken>,
}

/// A range of service addresses.
#[derive(Clone, Copy)]
pub(crate) struct Range(IpNet);

impl Range {
    /// The range itself.
    pub(crate) fn net(self) -> IpNet {
        self.0
    }

    fn family(&self) -> &'static str {
        family_of(self.0.addr())
    }

    /// The address at an offset of the range, if it is one that a Service may have.
    fn nth(self, offset: u128) -> Option<IpAddr> {
        let usable = self.size();
        if offset == 0 || offset > usable {
            return None;
        }
        match self.0.network() {
            IpAddr::V4(base) => Some(IpAddr::V4((u32::from(base).checked_add(offset as u32)?).into())),
            IpAddr::V6(base) => Some(IpAddr::V6((u128::from(base).checked_add(offset)?).into())),
        }
    }

    /// How many addresses Services may have: all but the first, and the last of IPv4. Large IPv6 ranges are used in part.
    fn size(self) -> u128 {
        let bits = self.0.max_prefix_len() - self.0.prefix_len();
        let all = 1u128 << bits.min(20);
        if self.0.addr().is_ipv4() { all - 2 } else { all - 1 }
    }

    fn first(self) -> IpAddr {
        self.nth(1).unwrap_or(self.0.network())
    }

    /// Whether an address may belong to a Service.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
            && address != self.0.network()
            && (address.is_ipv6() || address != self.0.broadcast())
    }
}

impl Allocations {
    pub(crate) fn new(ranges: &[IpNet], ports: RangeInclusive<u16>) -> Result<Self, Error> {
        for range in ranges {
            if range.max_prefix_len() - range.prefix_len() < 3 {
                return Err(Error::Config(format!(
                    "the range for services, {range}, holds fewer than 8 addresses"
                )));
            }
        }
        match ranges {
            [_] => {}
            [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => {}
            _ => {
                return Err(Error::Config("services need one range, or one of each address family".into()));
            }
        }
        if ports.is_empty() {
            return Err(Error::Config("the range for node ports is empty".into()));
        }
        Ok(Self {
            ranges: ranges.iter().map(|range| Range(range.trunc())).collect(),
            ports,
            taken_addresses: Taken::new(ADDRESSES),
            taken_ports: Taken::new(PORTS),
        })
    }

    /// What the cache's feeder keeps up to date.
    pub(crate) fn indexes(&self) -> Vec<Arc<dyn Index>> {
        vec![self.taken_addresses.clone(), self.taken_ports.clone()]
    }

    /// The cluster's address families, the default one first.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        self.ranges.iter().map(Range::family).collect()
    }

    /// The range of an address's family.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<Range> {
        self.ranges.iter().copied().find(|range| range.family() == family_of(address))
    }

    /// The range of node ports.
    pub(crate) fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// The key of an address.
    pub(crate) fn address_key(address: IpAddr) -> String {
        format!("{ADDRESSES}{address}")
    }

    /// The key of a node port. Ports of different protocols are different ports.
    pub(crate) fn port_key(protocol: &str, port: u16) -> String {
        format!("{PORTS}{protocol}/{port}")
    }

    /// The address of the `kubernetes` Service: the first of the default range.
    pub(crate) fn first(&self) -> IpAddr {
        self.ranges.first().map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |range| range.first())
    }

    /// An address of a family that looks free, starting the search at a random one. The lower part of the range is left to those who
    /// ask for a certain address, as long as the upper part has room (Kubernetes documentation, "Service ClusterIP
    /// allocation").
    pub(crate) fn free_address(&self, family: &str, random: u64) -> Option<IpAddr> {
        let range = self.ranges.iter().find(|range| range.family() == family)?;
        let size = range.size();
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let taken = self.taken_addresses.names.read();
        let first = self.first();
        let free =
            |offset: u128| range.nth(offset).filter(|ip| *ip != first && !taken.contains(&ip.to_string()));
        let upper = size - reserved;
        let start = u128::from(random) % upper.max(1);
        let in_upper = (0..upper).map(|i| reserved + 1 + (start + i) % upper).find_map(free);
        in_upper.or_else(|| (1..=reserved).find_map(free))
    }

    /// A node port that looks free for all the protocols, starting the search at a random one.
    pub(crate) fn free_port(&self, protocols: &[&str], random: u64, not: &[u16]) -> Option<u16> {
        let (first, count) = (*self.ports.start(), u64::from(*self.ports.end() - *self.ports.start()) + 1);
        let taken = self.taken_ports.names.read();
        (0..count).map(|i| first + ((random % count + i) % count) as u16).find(|port| {
            !not.contains(port) && protocols.iter().all(|p| !taken.contains(&format!("{p}/{port}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_store::Revision;

    fn small() -> Allocations {
        Allocations::new(&["10.0.0.0/28".parse().unwrap(), "fd00::/125".parse().unwrap()], 30_000..=30_002)
            .unwrap()
    }

    fn take(allocations: &Allocations, key: String) {
        let entry =
            Entry { key: key.into(), value: Default::default(), created: Revision(1), modified: Revision(1) };
        for index in allocations.indexes() {
            if entry.key.starts_with(index.key_prefix()) {
                index.apply(&Change { entry: entry.clone(), previous: None, deleted: false });
            }
        }
    }

    #[test]
    fn every_address_of_the_range_but_the_first_can_be_given_and_none_twice() {
        let allocations = small();
        let mut given = HashSet::new();
        while let Some(address) = allocations.free_address("IPv4", given.len() as u64 * 7) {
            let range = allocations.range_of(address).unwrap();
            assert!(range.contains(address) && address != allocations.first());
            assert!(given.insert(address), "{address} was given twice");
            take(&allocations, Allocations::address_key(address));
        }
        assert_eq!(given.len(), 13, "16 without network, broadcast and the first");
        // The other range is not touched by that, and its first address belongs to nobody in particular.
        while let Some(address) = allocations.free_address("IPv6", given.len() as u64 * 7) {
            assert!(given.insert(address), "{address} was given twice");
            take(&allocations, Allocations::address_key(address));
        }
        assert_eq!(given.len(), 13 + 7);
    }

    #[test]
    fn a_port_can_serve_two_protocols_but_not_one_twice() {
        let allocations = small();
        take(&allocations, Allocations::port_key("TCP", 30_000));
        assert_eq!(allocations.free_port(&["TCP"], 0, &[]), Some(30_001));
        assert_eq!(allocations.free_port(&["UDP"], 0, &[]), Some(30_000));
        take(&allocations, Allocations::port_key("TCP", 30_001));
        assert_eq!(allocations.free_port(&["TCP"], 0, &[30_002]), None);
    }

    #[test]
    fn a_range_that_is_too_small_is_refused() {
        let refused = |ranges: &[&str]| {
            let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            Allocations::new(&ranges, 1..=2).is_err()
        };
        assert!(refused(&["10.0.0.0/30"]));
        assert!(refused(&["10.0.0.0/24", "fd00::/126"]));
        assert!(refused(&["10.0.0.0/24", "10.0.1.0/24"]));
        assert!(refused(&[]));
    }
}
