//! The cluster's address ranges, one a family: how they are written, whether they make sense together, and what follows from them
//! for a node. Pure.

use crate::Error;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// One range, or one of each family: `10.42.0.0/16,fd42::/56`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges(pub(crate) Vec<IpNet>);

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |text: &str| -> Result<IpNet, String> {
            text.trim().parse::<IpNet>().map(|range| range.trunc()).map_err(|e| format!("{text:?}: {e}"))
        };
        let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        match ranges.as_slice() {
            [_] => Ok(Self(ranges)),
            [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => Ok(Self(ranges)),
            [_, _] => Err("two ranges must be of different address families".into()),
            _ => Err("at most one range of each address family".into()),
        }
    }
}

/// Addresses, one of each family at most: `192.0.2.1,2001:db8::1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses(pub(crate) Vec<IpAddr>);

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|e| format!("{text:?}: {e}"));
        let addresses = text.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        match addresses.as_slice() {
            [_] => Ok(Self(addresses)),
            [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(Self(addresses)),
            _ => Err("at most one address of each address family".into()),
        }
    }
}

/// What follows from the ranges. All lists are in the order of the cluster's range: the primary family first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressPlan {
    /// All pods.
    pub(crate) cluster: Vec<IpNet>,
    /// ClusterIPs.
    pub(crate) services: Vec<IpNet>,
    /// This node's pods.
    pub(crate) pods: Vec<IpNet>,
    /// The `kubernetes` Service.
    pub(crate) service_address: IpAddr,
    /// The cluster's DNS.
    pub(crate) dns: Vec<IpAddr>,
}

impl AddressPlan {
    /// Checks the ranges. `mask` is the prefix length of a node's part of the IPv4 range.
    pub(crate) fn new(cluster: &Ranges, services: &Ranges, mask: u8) -> Result<Self, Error> {
        let wrong = Error::Configuration;
        let (mut of_services, mut pods) = (Vec::new(), Vec::new());
        for range in &cluster.0 {
            let v4 = range.addr().is_ipv4();
            let Some(service) = services.0.iter().find(|service| service.addr().is_ipv4() == v4) else {
                return Err(wrong(format!(
                    "--cluster-cidr {range} has no --service-cidr of its address family"
                )));
            };
            // As large as Kubernetes makes them (`--node-cidr-mask-size-ipv4`, `--node-cidr-mask-size-ipv6`).
            let (longest, longest_service, of_node) = if v4 { (24, 28, mask) } else { (112, 124, 64) };
            let fits = |range: &IpNet, what: &str, longest: u8| {
                if range.prefix_len() <= longest {
                    return Ok(());
                }
                Err(wrong(format!("{what} {range} is too small: it needs at least a /{longest}")))
            };
            fits(range, "--cluster-cidr", longest)?;
            fits(service, "--service-cidr", longest_service)?;
            if range.contains(service) || service.contains(range) {
                return Err(wrong(format!("--cluster-cidr {range} and --service-cidr {service} overlap")));
            }
            if v4 && (mask < range.prefix_len() || !(16..=29).contains(&mask)) {
                return Err(wrong(format!(
                    "--node-cidr-mask-size {mask} must be 16 to 29, and no less than that of --cluster-cidr {range}"
                )));
            }
            of_services.push(*service);
            pods.push(first_part(*range, of_node)?);
        }
        if let Some(lonely) = services.0.iter().find(|range| !of_services.contains(range)) {
            return Err(wrong(format!(
                "--service-cidr {lonely} has no --cluster-cidr of its address family"
            )));
        }
        let dns = of_services.iter().map(|range| nth(*range, 10)).collect();
        let first = of_services.first().map(|range| nth(*range, 1));
        let service_address =
            first.ok_or_else(|| Error::Configuration("--service-cidr is missing".into()))?;
        Ok(Self { cluster: cluster.0.clone(), services: of_services, pods, service_address, dns })
    }

    /// This node as its pods see it, by family.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.pods.iter().map(|range| nth(*range, 1))
    }

    /// The node's address of each family of the cluster: the given one, else the machine's, else the one that pods see.
    pub(crate) fn node_addresses(
        &self,
        given: Option<&Addresses>,
        of_this_machine: impl Fn(bool) -> Option<IpAddr>,
    ) -> Vec<IpAddr> {
        let of_family = |v4: bool| {
            let given =
                given.and_then(|given| given.0.iter().copied().find(|address| address.is_ipv4() == v4));
            given.or_else(|| of_this_machine(v4))
        };
        self.gateways().map(|gateway| of_family(gateway.is_ipv4()).unwrap_or(gateway)).collect()
    }
}

/// The part of a range that is this node's: the first one of that size, or all of a smaller range.
fn first_part(range: IpNet, size: u8) -> Result<IpNet, Error> {
    let size = size.max(range.prefix_len());
    let part = match range.network() {
        IpAddr::V4(first) => Ipv4Net::new(first, size).map(IpNet::V4),
        IpAddr::V6(first) => Ipv6Net::new(first, size).map(IpNet::V6),
    };
    part.map_err(Error::at("dividing the cluster's range"))
}

fn nth(range: IpNet, offset: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cluster: &str, services: &str) -> Result<AddressPlan, String> {
        AddressPlan::new(&cluster.parse()?, &services.parse()?, 24).map_err(|e| e.to_string())
    }

    #[test]
    fn a_node_gets_the_first_part_of_each_range() {
        let plan = plan("10.42.0.0/16,fd42::/56", "fd43::/112,10.43.0.0/16").unwrap();
        assert_eq!(plan.pods, ["10.42.0.0/24".parse().unwrap(), "fd42::/64".parse().unwrap()]);
        assert_eq!(plan.service_address.to_string(), "10.43.0.1");
        assert_eq!(plan.dns, ["10.43.0.10".parse::<IpAddr>().unwrap(), "fd43::a".parse().unwrap()]);
    }

    #[test]
    fn ranges_that_make_no_sense_are_refused_in_words() {
        for (cluster, services, word) in [
            ("10.42.0.0/25", "10.43.0.0/16", "at least a /24"),
            ("10.42.0.0/16", "10.43.0.0/29", "at least a /28"),
            ("10.42.0.0/16", "10.42.7.0/24", "overlap"),
            ("10.42.0.0/16", "fd43::/112", "has no --service-cidr"),
            ("10.42.0.0/16", "10.43.0.0/16,fd43::/112", "has no --cluster-cidr"),
            ("10.42.0.0/16,10.44.0.0/16", "10.43.0.0/16", "different address families"),
            ("10.42.0.0/16,", "10.43.0.0/16", "\"\""),
        ] {
            let error = plan(cluster, services).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_size_of_a_nodes_part_is_that_of_ipv4() {
        let sized = |mask| {
            let (cluster, services) = ("10.42.0.0/20,fd42::/56", "10.43.0.0/16,fd43::/112");
            AddressPlan::new(&cluster.parse().unwrap(), &services.parse().unwrap(), mask)
        };
        assert_eq!(sized(26).unwrap().pods, ["10.42.0.0/26".parse().unwrap(), "fd42::/64".parse().unwrap()]);
        for wrong in [19, 30] {
            assert!(sized(wrong).unwrap_err().to_string().contains("--node-cidr-mask-size"));
        }
    }

    #[test]
    fn a_node_has_an_address_of_each_family() {
        let plan = plan("fd42::/64,10.42.0.0/16", "fd43::/112,10.43.0.0/16").unwrap();
        let machine = |v4: bool| v4.then(|| "192.0.2.1".parse().unwrap());
        let shown = |given: Option<&Addresses>| -> Vec<String> {
            plan.node_addresses(given, machine).iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(None), ["fd42::1", "192.0.2.1"]);
        assert_eq!(
            shown(Some(&"198.51.100.1,2001:db8::1".parse().unwrap())),
            ["2001:db8::1", "198.51.100.1"]
        );
    }
}
