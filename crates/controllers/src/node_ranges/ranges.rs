//! Which node has which part of the cluster's pod ranges. Pure: it remembers, gives and takes back, and never gives a part that
//! overlaps one that somebody has.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, HashMap};

/// A range of the whole cluster, and how large the part of each node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterRange {
    /// All pods.
    pub range: IpNet,
    /// The prefix length of a node's part.
    pub mask: u8,
}

impl ClusterRange {
    /// How many parts there are.
    fn parts(&self) -> u64 {
        1u64.checked_shl(self.mask.saturating_sub(self.range.prefix_len()).into()).unwrap_or(u64::MAX)
    }

    /// One part.
    fn part(&self, index: u64) -> Option<IpNet> {
        match self.range {
            IpNet::V4(range) => {
                let step = u64::from(32 - self.mask.min(32));
                let base = u64::from(u32::from(range.network()));
                let address = u32::try_from(base + index.checked_shl(step as u32)?).ok()?;
                Ipv4Net::new(address.into(), self.mask).ok().map(IpNet::V4)
            }
            IpNet::V6(range) => {
                let step = u32::from(128 - self.mask.min(128));
                let base = u128::from(range.network());
                let address = base.checked_add(u128::from(index).checked_shl(step)?)?;
                Ipv6Net::new(address.into(), self.mask).ok().map(IpNet::V6)
            }
        }
    }

    /// The parts that a range touches, first and last.
    fn touched(&self, range: &IpNet) -> Option<(u64, u64)> {
        let overlap = self.range.contains(range) || range.contains(&self.range);
        if !overlap {
            return None;
        }
        let (base, first, last, step) = match (self.range, range) {
            (IpNet::V4(all), IpNet::V4(one)) => (
                u128::from(u32::from(all.network())),
                u128::from(u32::from(one.network())),
                u128::from(u32::from(one.broadcast())),
                u32::from(32 - self.mask.min(32)),
            ),
            (IpNet::V6(all), IpNet::V6(one)) => (
                u128::from(all.network()),
                u128::from(one.network()),
                u128::from(one.broadcast()),
                u32::from(128 - self.mask.min(128)),
            ),
            _ => return None,
        };
        let index = |address: u128| u64::try_from(address.saturating_sub(base) >> step).unwrap_or(u64::MAX);
        let last = index(last).min(self.parts().saturating_sub(1));
        Some((index(first), last))
    }
}

/// One range and its parts: by the first part touched, the last one and whose they are.
struct Family {
    cluster: ClusterRange,
    taken: BTreeMap<u64, (u64, String)>,
    /// Where to look first: a part that was given back is not given again at once.
    next: u64,
}

impl Family {
    fn holder(&self, first: u64, last: u64) -> Option<&str> {
        let (_, (end, node)) = self.taken.range(..=last).next_back()?;
        (*end >= first).then_some(node.as_str())
    }

    fn free(&self, first_is_kept: bool) -> Option<u64> {
        let lowest = u64::from(first_is_kept);
        let mut at = self.next.clamp(lowest, self.cluster.parts());
        let start = at;
        let mut wrapped = false;
        loop {
            if at >= self.cluster.parts() {
                if wrapped {
                    return None;
                }
                (wrapped, at) = (true, lowest);
                continue;
            }
            if wrapped && at >= start {
                return None;
            }
            match self.taken.range(..=at).next_back().filter(|(_, (end, _))| *end >= at) {
                None => return Some(at),
                Some((_, (end, _))) => at = end + 1,
            }
        }
    }
}

/// See the module.
pub(super) struct Ranges {
    families: Vec<Family>,
    /// The node that gets the first part of each range; nobody else does.
    first: Option<String>,
    held: HashMap<String, Vec<IpNet>>,
    /// What nodes had that are gone: they get it again if it is free.
    before: HashMap<String, Vec<IpNet>>,
}

impl Ranges {
    pub fn new(cluster: Vec<ClusterRange>, first: Option<String>) -> Self {
        let family = |cluster| Family { cluster, taken: BTreeMap::new(), next: 0 };
        let families = cluster.into_iter().map(family).collect();
        Self { families, first, held: HashMap::new(), before: HashMap::new() }
    }

    /// Notes what a node has. Fails, naming the other, where somebody else has part of it.
    pub fn occupy(&mut self, node: &str, ranges: &[IpNet]) -> Result<(), String> {
        if self.held.get(node).is_some_and(|held| held == ranges) {
            return Ok(());
        }
        for range in ranges {
            for family in &self.families {
                let Some((first, last)) = family.cluster.touched(range) else { continue };
                if let Some(other) = family.holder(first, last).filter(|other| *other != node) {
                    return Err(format!("{range} of node {node:?} is also part of what node {other:?} has"));
                }
            }
        }
        self.release(node);
        for range in ranges {
            for family in &mut self.families {
                if let Some((first, last)) = family.cluster.touched(range) {
                    family.taken.insert(first, (last, node.to_string()));
                }
            }
        }
        self.held.insert(node.to_string(), ranges.to_vec());
        Ok(())
    }

    /// Gives a node a part of each range, or what it was given already. `None` where there is not one of each.
    pub fn give(&mut self, node: &str) -> Option<Vec<IpNet>> {
        if let Some(held) = self.held.get(node) {
            return Some(held.clone());
        }
        if let Some(before) = self.before.remove(node)
            && self.occupy(node, &before).is_ok()
        {
            return Some(before);
        }
        let is_first = self.first.as_deref() == Some(node);
        let mut found = Vec::new();
        for family in &self.families {
            let index = if is_first && family.holder(0, 0).is_none() {
                0
            } else {
                family.free(self.first.is_some() && !is_first)?
            };
            found.push((index, family.cluster.part(index)?));
        }
        for (family, (index, _)) in self.families.iter_mut().zip(&found) {
            family.next = index + 1;
        }
        let ranges: Vec<IpNet> = found.into_iter().map(|(_, range)| range).collect();
        self.occupy(node, &ranges).ok()?;
        Some(ranges)
    }

    /// Takes back what a node had. Says whether it had anything.
    pub fn release(&mut self, node: &str) -> bool {
        for family in &mut self.families {
            family.taken.retain(|_, (_, holder)| holder != node);
        }
        let held = self.held.remove(node);
        let had = held.is_some();
        if let Some(held) = held {
            self.before.insert(node.to_string(), held);
        }
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a range")
    }

    fn ranges(cluster: &[(&str, u8)], first: Option<&str>) -> Ranges {
        let cluster = cluster.iter().map(|(range, mask)| ClusterRange { range: net(range), mask: *mask });
        Ranges::new(cluster.collect(), first.map(Into::into))
    }

    #[test]
    fn each_node_has_a_part_of_each_family_and_the_server_the_first() {
        let mut all = ranges(&[("10.42.0.0/16", 24), ("fd00:42::/56", 64)], Some("server"));
        assert_eq!(all.give("a"), Some(vec![net("10.42.1.0/24"), net("fd00:42:0:1::/64")]));
        assert_eq!(all.give("server"), Some(vec![net("10.42.0.0/24"), net("fd00:42::/64")]));
        assert_eq!(all.give("b"), Some(vec![net("10.42.2.0/24"), net("fd00:42:0:2::/64")]));
        assert_eq!(all.give("a"), Some(vec![net("10.42.1.0/24"), net("fd00:42:0:1::/64")]), "the same again");
    }

    #[test]
    fn what_is_used_up_is_not_given_until_somebody_goes() {
        let mut all = ranges(&[("10.42.0.0/22", 24)], Some("server"));
        for node in ["a", "b", "c"] {
            all.give(node).expect("a range");
        }
        assert_eq!(all.give("d"), None, "the first part is kept for the server");
        assert!(all.give("server").is_some());
        assert!(all.release("b") && !all.release("b"));
        assert_eq!(all.give("d"), Some(vec![net("10.42.2.0/24")]));
    }

    #[test]
    fn a_part_that_came_back_is_the_last_to_be_given_to_others_and_its_node_gets_it_again() {
        let mut all = ranges(&[("10.42.0.0/16", 24)], None);
        let a = all.give("a");
        all.release("a");
        assert_eq!(all.give("b"), Some(vec![net("10.42.1.0/24")]));
        assert_eq!(all.give("a"), a);
    }

    #[test]
    fn what_nodes_have_already_is_respected_whatever_its_size() {
        let mut all = ranges(&[("10.42.0.0/16", 24)], None);
        all.occupy("old", &[net("10.42.0.0/22")]).expect("noted");
        all.occupy("small", &[net("10.42.4.64/26")]).expect("noted");
        assert_eq!(all.give("a"), Some(vec![net("10.42.5.0/24")]));
        assert!(all.occupy("thief", &[net("10.42.3.0/24")]).unwrap_err().contains("old"));
        all.occupy("elsewhere", &[net("192.168.0.0/24")]).expect("not ours to judge");
    }

    proptest! {
        #[test]
        fn no_two_nodes_ever_overlap(steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..200)) {
            let mut all = ranges(&[("10.42.0.0/21", 24), ("fd00::/60", 64)], Some("n0"));
            let mut held: HashMap<String, Vec<IpNet>> = HashMap::new();
            for (node, come) in steps {
                let node = format!("n{node}");
                if come {
                    match all.give(&node) {
                        Some(given) => {
                            prop_assert_eq!(given.len(), 2);
                            for (other, theirs) in &held {
                                let apart = *other == node || given.iter().all(|a| theirs.iter().all(|b| !a.contains(b) && !b.contains(a)));
                                prop_assert!(apart, "{} and {}", node, other);
                            }
                            held.insert(node, given);
                        }
                        None => prop_assert!(held.len() >= 7, "{} held", held.len()),
                    }
                } else {
                    prop_assert_eq!(all.release(&node), held.remove(&node).is_some());
                }
            }
        }
    }
}
