//! What follows from a [`NetworkConfig`]: names, addresses, and whether the ranges make sense together. Pure.

use crate::{Error, NetworkConfig};
use ipnet::{IpNet, Ipv4Net};
use std::net::{IpAddr, Ipv4Addr};

/// A configuration that is known to be consistent. IPv4 for now: an `ip6` twin of the table and of the ranges fits beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Tells apart several Orlops on one machine.
    pub instance: String,
    /// This node's pods.
    pub pod_range: Ipv4Net,
    /// All pods of the cluster.
    pub cluster_range: Ipv4Net,
    /// ClusterIPs.
    pub service_range: Ipv4Net,
    /// The cluster's DNS, an address of this node.
    pub dns_address: Ipv4Addr,
}

impl Layout {
    /// Checks a configuration.
    pub fn new(config: &NetworkConfig) -> Result<Self, Error> {
        check_instance(&config.instance)?;
        let layout = Self {
            instance: config.instance.clone(),
            pod_range: v4(config.pod_range, "pod range")?,
            cluster_range: v4(config.cluster_range, "cluster range")?,
            service_range: v4(config.service_range, "service range")?,
            dns_address: match config.dns_address {
                IpAddr::V4(address) => address,
                IpAddr::V6(address) => {
                    return Err(Error::Config(format!("DNS address {address} is not IPv4")));
                }
            },
        };
        let Self { pod_range, cluster_range, service_range, dns_address, .. } = &layout;
        if !(16..=29).contains(&pod_range.prefix_len()) {
            return Err(Error::Config(format!("pod range {pod_range} must be a /16 to a /29")));
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
        Ok(layout)
    }

    /// The node's own link in the pod network.
    pub fn node_link(&self) -> String {
        node_link_name(&self.instance)
    }

    /// The nftables table.
    pub fn table(&self) -> String {
        node_link_name(&self.instance)
    }

    /// The node's own address there.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_range.network()) + 1)
    }

    /// The host's end of the link of the pod that has `address`.
    pub fn host_link(&self, address: Ipv4Addr) -> String {
        let offset = u32::from(address) - u32::from(self.pod_range.network());
        format!("{}{offset:04x}", link_prefix(&self.instance))
    }

    /// Which of our ranges a route of this machine collides with, by name.
    pub fn collision(&self, route: Ipv4Net) -> Option<(&'static str, Ipv4Net)> {
        [("pod range", self.pod_range), ("service range", self.service_range)]
            .into_iter()
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

fn v4(range: IpNet, what: &str) -> Result<Ipv4Net, Error> {
    match range {
        IpNet::V4(range) => Ok(range.trunc()),
        IpNet::V6(range) => Err(Error::Config(format!("{what} {range} is not IPv4"))),
    }
}

fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other) || other.contains(&one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig {
            instance: "test".into(),
            pod_range: "10.42.0.0/24".parse().unwrap(),
            cluster_range: "10.42.0.0/16".parse().unwrap(),
            service_range: "10.43.0.0/16".parse().unwrap(),
            dns_address: "10.43.0.10".parse().unwrap(),
            state_dir: "/nowhere".into(),
            mtu: None,
        }
    }

    #[test]
    fn names_fit_the_kernels_fifteen_characters() {
        let layout = Layout::new(&NetworkConfig { instance: "abcdefgh".into(), ..config() }).unwrap();
        assert_eq!(layout.node_link(), "orlop-abcdefgh");
        let link = layout.host_link("10.42.0.254".parse().unwrap());
        assert_eq!(link, "v-abcdefgh-00fe");
        assert!(is_pod_link("abcdefgh", &link));
        assert!(!is_pod_link("abc", &link));
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused_by_name() {
        let cases = [
            (NetworkConfig { pod_range: "10.42.0.0/30".parse().unwrap(), ..config() }, "/16 to a /29"),
            (
                NetworkConfig { pod_range: "10.44.0.0/24".parse().unwrap(), ..config() },
                "not inside the cluster range",
            ),
            (NetworkConfig { service_range: "10.42.7.0/24".parse().unwrap(), ..config() }, "overlap"),
            (NetworkConfig { service_range: "fd00::/112".parse().unwrap(), ..config() }, "not IPv4"),
            (
                NetworkConfig { dns_address: "10.42.0.10".parse().unwrap(), ..config() },
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
        assert_eq!(collision("10.42.0.128/25"), Some("pod range"));
        assert_eq!(collision("10.0.0.0/8"), Some("pod range"));
        assert_eq!(collision("10.43.1.0/24"), Some("service range"));
        assert_eq!(collision("192.168.0.0/16"), None);
    }
}
