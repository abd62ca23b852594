//! Which service addresses and node ports are taken. Each is a key of its own in the store, created in the transaction of
//! the Service that gets it and deleted in the one that lets it go, so that no two Services can ever have the same. The
//! sets here only say where it is worth trying.

use crate::{Error, cache::Index};
use ipnet::IpNet;
use orlop_store::{Change, Entry};
use parking_lot::RwLock;
use std::{collections::HashSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

const ADDRESSES: &str = "/registry/allocations/ip/";
const PORTS: &str = "/registry/allocations/port/";

/// One set of allocations, kept up to date by the cache's feeder.
struct Taken {
    prefix: &'static str,
    names: RwLock<HashSet<String>>,
}

impl Taken {
    fn new(prefix: &'static str) -> Arc<Self> {
        Arc::new(Self { prefix, names: RwLock::default() })
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
    range: IpNet,
    ports: RangeInclusive<u16>,
    taken_addresses: Arc<Taken>,
    taken_ports: Arc<Taken>,
}

impl Allocations {
    pub(crate) fn new(range: IpNet, ports: RangeInclusive<u16>) -> Result<Self, Error> {
        if range.max_prefix_len() - range.prefix_len() < 3 {
            return Err(Error::Config(format!(
                "the range for services, {range}, holds fewer than 8 addresses"
            )));
        }
        if ports.is_empty() {
            return Err(Error::Config("the range for node ports is empty".into()));
        }
        Ok(Self {
            range: range.trunc(),
            ports,
            taken_addresses: Taken::new(ADDRESSES),
            taken_ports: Taken::new(PORTS),
        })
    }

    /// What the cache's feeder keeps up to date.
    pub(crate) fn indexes(&self) -> Vec<Arc<dyn Index>> {
        vec![self.taken_addresses.clone(), self.taken_ports.clone()]
    }

    /// The range of service addresses.
    pub(crate) fn range(&self) -> IpNet {
        self.range
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

    /// The address at an offset of the range, if it is one that a Service may have.
    fn nth(&self, offset: u128) -> Option<IpAddr> {
        let usable = self.size();
        if offset == 0 || offset > usable {
            return None;
        }
        match self.range.network() {
            IpAddr::V4(base) => Some(IpAddr::V4((u32::from(base).checked_add(offset as u32)?).into())),
            IpAddr::V6(base) => Some(IpAddr::V6((u128::from(base).checked_add(offset)?).into())),
        }
    }

    /// How many addresses Services may have: all but the first, and the last of IPv4. Large IPv6 ranges are used in part.
    fn size(&self) -> u128 {
        let bits = self.range.max_prefix_len() - self.range.prefix_len();
        let all = 1u128 << bits.min(20);
        if self.range.addr().is_ipv4() { all - 2 } else { all - 1 }
    }

    /// The address of the `kubernetes` Service: the first of the range.
    pub(crate) fn first(&self) -> IpAddr {
        self.nth(1).unwrap_or(self.range.network())
    }

    /// Whether an address may belong to a Service.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.range.contains(&address)
            && address != self.range.network()
            && (address.is_ipv6() || address != self.range.broadcast())
    }

    /// An address that looks free, starting the search at a random one. The lower part of the range is left to those who
    /// ask for a certain address, as long as the upper part has room (Kubernetes documentation, "Service ClusterIP
    /// allocation").
    pub(crate) fn free_address(&self, random: u64) -> Option<IpAddr> {
        let size = self.size();
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let taken = self.taken_addresses.names.read();
        let first = self.first();
        let free =
            |offset: u128| self.nth(offset).filter(|ip| *ip != first && !taken.contains(&ip.to_string()));
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
        Allocations::new("10.0.0.0/28".parse().unwrap(), 30_000..=30_002).unwrap()
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
        while let Some(address) = allocations.free_address(given.len() as u64 * 7) {
            assert!(allocations.contains(address) && address != allocations.first());
            assert!(given.insert(address), "{address} was given twice");
            take(&allocations, Allocations::address_key(address));
        }
        assert_eq!(given.len(), 13, "16 without network, broadcast and the first");
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
        assert!(Allocations::new("10.0.0.0/30".parse().unwrap(), 1..=2).is_err());
    }
}
