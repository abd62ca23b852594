//! The routes of this machine as the kernel lists them in `/proc/net/route` and `/proc/net/ipv6_route` (proc(5)): the main table, and
//! what leads into a range there. What is not as expected is left out.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The route is in use.
const UP: u32 = 1;
/// It refuses what it is for.
const REJECT: u32 = 0x200;

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    to: IpNet,
    via: Option<IpAddr>,
    link: String,
}

/// All routes.
pub(super) struct Routes(Vec<Route>);

impl Routes {
    /// Those of this machine; none where they cannot be read.
    pub fn of_this_machine() -> Self {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        Self::parse(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
    }

    fn parse(v4: &str, v6: &str) -> Self {
        Self(v4.lines().skip(1).filter_map(route4).chain(v6.lines().filter_map(route6)).collect())
    }

    /// What leads to a range: the narrowest route that holds all of it, but no default route.
    pub fn to(&self, range: &IpNet) -> Option<String> {
        let holds = |route: &&Route| route.to.prefix_len() > 0 && route.to.contains(range);
        let route = self.0.iter().filter(holds).max_by_key(|route| route.to.prefix_len())?;
        Some(match route.via {
            Some(via) => format!("via {via} dev {}", route.link),
            None => format!("dev {}", route.link),
        })
    }
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses as the machine's own numbers.
fn route4(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let address = |at: usize| Some(Ipv4Addr::from(number(at)?.to_ne_bytes()));
    let flags = number(3)?;
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    Some(Route {
        to: IpNet::V4(Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?),
        via: address(2).filter(|via| !via.is_unspecified()).map(IpAddr::V4),
        link: (*fields.first()?).to_owned(),
    })
}

/// `Destination PrefixLength Source PrefixLength NextHop Metric RefCnt Use Flags Iface`.
fn route6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let address = |at: usize| Some(Ipv6Addr::from(u128::from_str_radix(fields.get(at)?, 16).ok()?));
    let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
    let flags = number(8)?;
    if flags & UP == 0 || flags & REJECT != 0 {
        return None;
    }
    Some(Route {
        to: IpNet::V6(Ipv6Net::new(address(0)?, u8::try_from(number(1)?).ok()?).ok()?),
        via: address(4).filter(|via| !via.is_unspecified()).map(IpAddr::V6),
        link: (*fields.get(9)?).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a little-endian machine writes it.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_narrowest_route_is_the_way() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\tFE0200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0000000A\tFE0200C0\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n\
            eth0\t00012A0A\t020200C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            vx-o\t00022A0A\t00022A0A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            garbage\n";
        let v6 = "fd420000000000000001000000000000 50 00000000000000000000000000000000 00 \
            fd000000000000000000000000000002 00000400 00000001 00000000 00000003     eth0\n";
        let routes = Routes::parse(v4, v6);
        let to = |range: &str| routes.to(&range.parse().unwrap());
        assert_eq!(to("10.42.1.0/24").as_deref(), Some("via 192.0.2.2 dev eth0"));
        assert_eq!(to("10.42.2.0/24").as_deref(), Some("via 10.42.2.0 dev vx-o"));
        assert_eq!(to("10.42.3.0/24").as_deref(), Some("via 192.0.2.254 dev eth0"));
        assert_eq!(to("192.168.0.0/24"), None, "a default route is no way to a range of pods");
        assert_eq!(to("fd42:0:0:0:1::/80").as_deref(), Some("via fd00::2 dev eth0"));
    }
}
