//! What follows from a [`NetworkConfig`]: names, addresses, and whether the ranges make sense together. Pure.

use crate::{
    Error, NetworkConfig,
    family::{Family, nth, offset},
};
use ipnet::IpNet;
use std::net::IpAddr;

/// What the network is in one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// This node's pods.
    pub pod_range: IpNet,
    /// All pods of the cluster.
    pub cluster_range: IpNet,
    /// ClusterIPs.
    pub service_range: IpNet,
    /// The cluster's DNS, an address of this node.
    pub dns_address: IpAddr,
}

impl Side {
    /// Which family.
    pub fn family(&self) -> Family {
        Family::of(self.dns_address)
    }

    /// The node's own address in the pod network.
    pub fn gateway(&self) -> IpAddr {
        nth(self.pod_range, 1)
    }

    fn check(&self) -> Result<(), Error> {
        let Self { pod_range, cluster_range, service_range, dns_address } = self;
        let (from, to) = match self.family() {
            Family::V4 => (16, 29),
            Family::V6 => (48, 125),
        };
        if !(from..=to).contains(&pod_range.prefix_len()) {
            return Err(Error::Config(format!("pod range {pod_range} must be a /{from} to a /{to}")));
        }
        if !cluster_range.contains(pod_range) {
            return Err(Error::Config(format!(
                "pod range {pod_range} is not inside the cluster range {cluster_range}"
            )));
        }
        if overlap(*cluster_range, *service_range) {
            return Err(Error::Config(format!(
                "cluster range {cluster_range} and service range {service_range} overlap"
            )));
        }
        if cluster_range.contains(dns_address) {
            return Err(Error::Config(format!(
                "DNS address {dns_address} is inside the cluster range {cluster_range}"
            )));
        }
        Ok(())
    }
}

/// A configuration that is known to be consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Tells apart several Orlops on one machine.
    pub instance: String,
    /// One or both families, the primary one first.
    pub sides: Vec<Side>,
}

impl Layout {
    /// Checks a configuration.
    pub fn new(config: &NetworkConfig) -> Result<Self, Error> {
        check_instance(&config.instance)?;
        let mut sides = Vec::new();
        for pod_range in &config.pod_ranges {
            let family = Family::of(pod_range.addr());
            let one = |ranges: &[IpNet], what: &str| -> Result<IpNet, Error> {
                let mut found = ranges.iter().filter(|range| Family::of(range.addr()) == family);
                match (found.next(), found.next()) {
                    (Some(range), None) => Ok(range.trunc()),
                    (None, _) => Err(Error::Config(format!(
                        "pod range {pod_range} has no {what} of its address family"
                    ))),
                    (Some(one), Some(other)) => {
                        Err(Error::Config(format!("{what}s {one} and {other} are of one address family")))
                    }
                }
            };
            let dns = config.dns_addresses.iter().find(|address| Family::of(**address) == family);
            let side = Side {
                pod_range: one(&config.pod_ranges, "pod range")?,
                cluster_range: one(&config.cluster_ranges, "cluster range")?,
                service_range: one(&config.service_ranges, "service range")?,
                dns_address: *dns.ok_or_else(|| {
                    Error::Config(format!("pod range {pod_range} has no DNS address of its address family"))
                })?,
            };
            side.check()?;
            sides.push(side);
        }
        let lonely = config
            .cluster_ranges
            .iter()
            .chain(&config.service_ranges)
            .find(|range| sides.iter().all(|side: &Side| side.family() != Family::of(range.addr())));
        if let Some(range) = lonely {
            return Err(Error::Config(format!("{range} has no pod range of its address family")));
        }
        if sides.is_empty() {
            return Err(Error::Config("there is no pod range".into()));
        }
        Ok(Self { instance: config.instance.clone(), sides })
    }

    /// The network in one family.
    pub fn side(&self, family: Family) -> Option<&Side> {
        self.sides.iter().find(|side| side.family() == family)
    }

    /// The node's own link in the pod network. The nftables table of each family has the same name.
    pub fn node_link(&self) -> String {
        node_link_name(&self.instance)
    }

    /// The host's end of the link of the pod that has these addresses. It is named after the IPv4 address where there is one.
    pub fn host_link(&self, addresses: &[IpAddr]) -> String {
        let named = Family::ALL
            .into_iter()
            .find_map(|family| self.side(family))
            .and_then(|side| addresses.iter().find_map(|address| offset(side.pod_range, *address)));
        format!("{}{:04x}", link_prefix(&self.instance), named.unwrap_or_default())
    }

    /// Which of our ranges a route of this machine collides with, by name.
    pub fn collision(&self, route: IpNet) -> Option<(&'static str, IpNet)> {
        self.sides
            .iter()
            .flat_map(|side| [("pod range", side.pod_range), ("service range", side.service_range)])
            .find(|(_, range)| route.prefix_len() > 0 && overlap(*range, route))
    }
}

/// The node's link (and the table) of an instance.
pub(crate) fn node_link_name(instance: &str) -> String {
    format!("orlop-{instance}")
}

/// What the names of an instance's pod links begin with; four hexadecimal digits follow.
pub(crate) fn link_prefix(instance: &str) -> String {
    format!("v-{instance}-")
}

/// Whether a link is one of the instance's pod links.
pub(crate) fn is_pod_link(instance: &str, link: &str) -> bool {
    link.strip_prefix(&link_prefix(instance))
        .is_some_and(|rest| rest.len() == 4 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether an instance's name makes names that the kernel takes.
pub(crate) fn check_instance(instance: &str) -> Result<(), Error> {
    let fits = (1..=8).contains(&instance.len())
        && instance.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits {
        Ok(())
    } else {
        Err(Error::Config(format!("instance {instance:?} must be 1 to 8 of a-z and 0-9")))
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges<const N: usize>(texts: [&str; N]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn config() -> NetworkConfig {
        NetworkConfig {
            instance: "test".into(),
            pod_ranges: ranges(["10.42.0.0/24", "fd42::/64"]),
            cluster_ranges: ranges(["10.42.0.0/16", "fd42::/56"]),
            service_ranges: ranges(["10.43.0.0/16", "fd43::/112"]),
            dns_addresses: vec!["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()],
            state_dir: "/nowhere".into(),
            mtu: None,
        }
    }

    fn only(family: Family) -> NetworkConfig {
        let mut config = config();
        for ranges in [&mut config.pod_ranges, &mut config.cluster_ranges, &mut config.service_ranges] {
            ranges.retain(|range| Family::of(range.addr()) == family);
        }
        config
    }

    #[test]
    fn names_fit_the_kernels_fifteen_characters() {
        let layout = Layout::new(&NetworkConfig { instance: "abcdefgh".into(), ..config() }).unwrap();
        assert_eq!(layout.node_link(), "orlop-abcdefgh");
        let link = layout.host_link(&["fd42::7".parse().unwrap(), "10.42.0.254".parse().unwrap()]);
        assert_eq!(link, "v-abcdefgh-00fe");
        assert!(is_pod_link("abcdefgh", &link));
        assert!(!is_pod_link("abc", &link));
        let layout = Layout::new(&only(Family::V6)).unwrap();
        assert_eq!(layout.host_link(&["fd42::ff02".parse().unwrap()]), "v-test-ff02");
    }

    #[test]
    fn each_family_alone_and_both_in_either_order_are_a_network() {
        assert_eq!(Layout::new(&only(Family::V4)).unwrap().sides.len(), 1);
        assert_eq!(Layout::new(&only(Family::V6)).unwrap().sides[0].gateway().to_string(), "fd42::1");
        let mut turned = config();
        turned.pod_ranges.reverse();
        let families: Vec<_> = Layout::new(&turned).unwrap().sides.iter().map(Side::family).collect();
        assert_eq!(families, [Family::V6, Family::V4]);
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused_by_name() {
        let pods = |text| NetworkConfig { pod_ranges: ranges([text, "fd42::/64"]), ..config() };
        let cases = [
            (pods("10.42.0.0/30"), "/16 to a /29"),
            (pods("10.44.0.0/24"), "not inside the cluster range"),
            (pods("fd42:0:0:1::/64"), "of one address family"),
            (NetworkConfig { service_ranges: ranges(["10.42.7.0/24", "fd43::/112"]), ..config() }, "overlap"),
            (NetworkConfig { service_ranges: ranges(["10.43.0.0/16", "fd42::/112"]), ..config() }, "overlap"),
            (
                NetworkConfig { service_ranges: ranges(["fd43::/112"]), ..config() },
                "10.42.0.0/24 has no service range",
            ),
            (
                NetworkConfig { pod_ranges: ranges(["10.42.0.0/24"]), ..config() },
                "fd42::/56 has no pod range",
            ),
            (
                NetworkConfig { dns_addresses: vec!["fd43::a".parse().unwrap()], ..config() },
                "has no DNS address",
            ),
            (
                NetworkConfig {
                    dns_addresses: vec!["10.42.0.10".parse().unwrap(), "fd43::a".parse().unwrap()],
                    ..config()
                },
                "inside the cluster range",
            ),
            (NetworkConfig { instance: "Toolongname".into(), ..config() }, "1 to 8"),
        ];
        for (config, word) in cases {
            let error = Layout::new(&config).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_route_collides_only_if_it_is_not_the_default() {
        let layout = Layout::new(&config()).unwrap();
        let collision = |route: &str| layout.collision(route.parse().unwrap()).map(|(which, _)| which);
        assert_eq!(collision("0.0.0.0/0"), None);
        assert_eq!(collision("::/0"), None);
        assert_eq!(collision("10.42.0.128/25"), Some("pod range"));
        assert_eq!(collision("10.0.0.0/8"), Some("pod range"));
        assert_eq!(collision("10.43.1.0/24"), Some("service range"));
        assert_eq!(collision("fd43::/120"), Some("service range"));
        assert_eq!(collision("192.168.0.0/16"), None);
    }
}
