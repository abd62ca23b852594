//! The addresses that Services of type LoadBalancer may get, and which node answers for one. Pure.

use ipnet::IpNet;
use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Ranges of addresses: `192.0.2.0/28,198.51.100.10-198.51.100.20,2001:db8::/120`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    text: String,
    /// First and last of each; both are given too.
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges = text.split(',').map(|part| range(part.trim())).collect::<Result<Vec<_>, _>>()?;
        for (at, one) in ranges.iter().enumerate() {
            if ranges.iter().skip(at + 1).any(|other| one.0 <= other.1 && other.0 <= one.1) {
                return Err(format!("the range from {} is in another one", one.0));
            }
        }
        Ok(Self { text: text.into(), ranges })
    }
}

fn range(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|e| format!("{text:?}: {e}"));
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(format!("{text:?} is not a range"));
        }
        return Ok((first, last));
    }
    let range: IpNet = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
    // A segment's own address and its broadcast address are nobody's; of IPv6 the first belongs to its routers.
    Ok(match (range.network(), range.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) if range.prefix_len() < 31 => {
            let within = |address: Ipv4Addr, step: i64| {
                let moved = i64::from(u32::from(address)) + step;
                Ipv4Addr::from(u32::try_from(moved).unwrap_or_default())
            };
            (within(first, 1).into(), within(last, -1).into())
        }
        (IpAddr::V6(first), last) if range.prefix_len() < 127 => {
            (Ipv6Addr::from(u128::from(first).saturating_add(1)).into(), last)
        }
        all => all,
    })
}

impl fmt::Display for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Pool {
    /// Whether an address is one of the pool's.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|(first, last)| {
            first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
        })
    }

    /// Whether the pool has addresses of a range.
    #[must_use]
    pub fn overlaps(&self, range: IpNet) -> bool {
        self.ranges.iter().any(|(first, last)| {
            first.is_ipv4() == range.addr().is_ipv4()
                && *first <= range.broadcast()
                && range.network() <= *last
        })
    }

    /// The first free address of a family.
    fn free(&self, v4: bool, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        self.ranges.iter().filter(|(first, _)| first.is_ipv4() == v4).find_map(|(first, last)| {
            std::iter::successors(Some(*first), |address| next(*address).filter(|next| next <= last))
                .find(|address| !taken.contains(address))
        })
    }

    /// The addresses of a Service: those that it `has` as far as they still fit, the ones it asked for, or free ones; one for each
    /// of its families that the pool has.
    pub(super) fn addresses(
        &self,
        families: &[bool],
        asked: &[IpAddr],
        has: &[IpAddr],
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, String> {
        let mut all = Vec::new();
        for v4 in families {
            let wish = asked.iter().copied().find(|address| address.is_ipv4() == *v4);
            if let Some(wish) = wish {
                if !self.contains(wish) {
                    return Err(format!("{wish} is not in the pool {self}"));
                }
                if taken.contains(&wish) {
                    return Err(format!("{wish} is another Service's"));
                }
                all.push(wish);
                continue;
            }
            let kept = has.iter().copied().find(|address| {
                address.is_ipv4() == *v4 && self.contains(*address) && !taken.contains(address)
            });
            match kept.or_else(|| self.free(*v4, taken)) {
                Some(address) => all.push(address),
                None if self.ranges.iter().any(|(first, _)| first.is_ipv4() == *v4) => {
                    let family = if *v4 { "IPv4" } else { "IPv6" };
                    return Err(format!("no {family} address is left in the pool {self}"));
                }
                None => {}
            }
        }
        if all.is_empty() {
            return Err(format!("the pool {self} has no address of the Service's families"));
        }
        Ok(all)
    }
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// The node that answers for a Service: the same one in every run, and when a node comes or goes, only the Services that it gets
/// or had change (rendezvous hashing).
pub(super) fn announcer<'a>(service: &str, nodes: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    nodes.into_iter().max_by_key(|node| (score(service, node), *node))
}

/// FNV-1a with a finish that spreads the last bytes (of MurmurHash3).
fn score(service: &str, node: &str) -> u64 {
    let bytes = service.bytes().chain([0]).chain(node.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pool_is_ranges_of_both_kinds_and_families() {
        let pool: Pool = "192.0.2.0/30, 198.51.100.9-198.51.100.10,2001:db8::/126".parse().unwrap();
        for (address, inside) in [
            ("192.0.2.0", false),
            ("192.0.2.1", true),
            ("192.0.2.3", false),
            ("198.51.100.9", true),
            ("198.51.100.11", false),
            ("2001:db8::", false),
            ("2001:db8::3", true),
        ] {
            assert_eq!(pool.contains(ip(address)), inside, "{address}");
        }
        assert!(pool.overlaps("192.0.0.0/16".parse().unwrap()));
        assert!(!pool.overlaps("10.0.0.0/8".parse().unwrap()));
        assert!("192.0.2.7/32".parse::<Pool>().unwrap().contains(ip("192.0.2.7")));
        for wrong in
            ["", "192.0.2.0", "192.0.2.9-192.0.2.1", "192.0.2.0/24,192.0.2.7/32", "192.0.2.1-2001:db8::"]
        {
            assert!(wrong.parse::<Pool>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_service_keeps_its_address_gets_the_one_it_asked_for_or_a_free_one() {
        let pool: Pool = "192.0.2.0/30,2001:db8::/126".parse().unwrap();
        let taken: BTreeSet<IpAddr> = [ip("192.0.2.1")].into();
        let give = |families: &[bool], asked: &[&str], has: &[&str]| {
            let parse = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<Vec<_>>();
            pool.addresses(families, &parse(asked), &parse(has), &taken)
                .map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        };
        assert_eq!(give(&[true, false], &[], &[]).unwrap(), "192.0.2.2,2001:db8::1");
        assert_eq!(give(&[false], &[], &["2001:db8::3"]).unwrap(), "2001:db8::3");
        assert_eq!(give(&[false], &["2001:db8::2"], &["2001:db8::3"]).unwrap(), "2001:db8::2");
        assert_eq!(give(&[true], &["192.0.2.1"], &[]).unwrap_err(), "192.0.2.1 is another Service's");
        assert_eq!(
            give(&[true], &["192.0.2.9"], &[]).unwrap_err(),
            "192.0.2.9 is not in the pool 192.0.2.0/30,2001:db8::/126"
        );
        let v4: Pool = "192.0.2.1-192.0.2.1".parse().unwrap();
        let full = v4.addresses(&[true], &[], &[], &taken).unwrap_err();
        assert!(full.contains("no IPv4 address is left"), "{full}");
        let none = v4.addresses(&[false], &[], &[], &taken).unwrap_err();
        assert!(none.contains("no address of the Service's families"), "{none}");
    }

    #[test]
    fn a_node_that_goes_leaves_only_its_own_services_to_others() {
        let nodes = ["a", "b", "c", "d"];
        let services: Vec<String> = (0..1000).map(|i| format!("default/web-{i}")).collect();
        let of = |nodes: &[&'static str]| -> Vec<&str> {
            services.iter().map(|s| announcer(s, nodes.iter().copied()).unwrap()).collect()
        };
        let (all, fewer) = (of(&nodes), of(&nodes[..3]));
        assert!(all.iter().zip(&fewer).all(|(all, fewer)| all == fewer || *all == "d"));
        for node in nodes {
            let share = all.iter().filter(|n| **n == node).count();
            assert!((150..350).contains(&share), "{node}: {share}");
        }
        assert_eq!(announcer("x", []), None);
    }
}
