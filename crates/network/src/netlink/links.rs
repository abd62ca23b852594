//! Links, addresses, routes and the sysctls that go with them.

use super::kernel;
use crate::{
    Error,
    announce::Uplink,
    family::Family,
    layout::{Layout, Side, is_pod_link},
    sysctl,
};
use ipnet::IpNet;
use nlink::{
    Connection, Route,
    netlink::{
        addr::{Ipv4Address, Ipv6Address},
        devconf::Ipv4Devconf,
        link::{BridgeLink, LinkCreateExt, VethLink},
        messages::{AddressMessage, RouteMessage},
        neigh::Neighbor,
        route::{Ipv4Route, Ipv6Route},
        types::route::RouteScope,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

/// The table that routes are in unless told otherwise (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;
/// The link inside a pod.
const POD_LINK: &str = "eth0";
/// The IPv6 gateway as pods see it. No link has it: pods are told which link-layer address it is at.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Links of the network namespace in which this was made.
pub(crate) struct Links {
    route: Connection<Route>,
}

impl Links {
    /// Opens a netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { route: Connection::<Route>::new().map_err(kernel("opening a netlink socket"))? })
    }

    /// Refuses ranges that this machine already routes elsewhere.
    pub async fn check_routes(&self, layout: &Layout) -> Result<(), Error> {
        let names = self.route.get_interface_names().await.map_err(kernel("listing links"))?;
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
        for route in routes {
            let Some(to) = route.destination() else { continue };
            let Ok(range) = IpNet::new(*to, route.dst_len()) else { continue };
            if let Some((which, ours)) = layout.collision(range) {
                let link = route.oif().and_then(|index| names.get(&index)).map_or("nowhere", String::as_str);
                if link == layout.node_link() || is_pod_link(&layout.instance, link) {
                    continue;
                }
                return Err(Error::Config(format!(
                    "{which} {ours} overlaps {range}, which this machine already routes to {link}: choose another range"
                )));
            }
        }
        Ok(())
    }

    /// The MTU of the default route's link; 1500 without one.
    pub async fn uplink_mtu(&self) -> Result<u32, Error> {
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
        let default = |family: i32| {
            routes.iter().find(move |route| route.dst_len() == 0 && i32::from(route.family()) == family)
        };
        let uplink = default(libc::AF_INET).or_else(|| default(libc::AF_INET6));
        let Some(index) = uplink.and_then(|route| route.oif()) else { return Ok(1500) };
        let link = self.route.get_link_by_index(index).await.map_err(kernel("reading the uplink"))?;
        Ok(link.and_then(|link| link.mtu()).unwrap_or(1500))
    }

    /// Makes the node's link with its addresses and the routes of our ranges, as far as they are not there.
    pub async fn ensure_node_link(&self, layout: &Layout) -> Result<(), Error> {
        let name = layout.node_link();
        let step = |what: &str| kernel(format!("{what} {name}"));
        let addresses: Vec<IpAddr> =
            layout.sides.iter().flat_map(|side| [side.gateway(), side.dns_address]).collect();
        let index = match self.index_of(&name).await? {
            Some(index) if self.has_only(index, &addresses).await? => index,
            found => {
                if found.is_some() {
                    // It was made for other ranges; its routes go with it.
                    self.remove(&name).await?;
                }
                // A bridge without ports: it only holds addresses, and is in more kernels than the dummy link.
                self.route.add_link(BridgeLink::new(&name)).await.map_err(step("making link"))?;
                self.index_of(&name).await?.ok_or_else(|| vanished(format!("making link {name}")))?
            }
        };
        self.route.set_link_up_by_index(index).await.map_err(step("setting up link"))?;
        for address in addresses {
            let given = match address {
                IpAddr::V4(address) => {
                    self.route.replace_address(Ipv4Address::with_index(index, address, 32)).await
                }
                // Without `nodad` it would be tentative for ever: a bridge without ports has no carrier.
                IpAddr::V6(address) => {
                    self.route.replace_address(Ipv6Address::with_index(index, address, 128).nodad()).await
                }
            };
            given.map_err(step("giving an address to link"))?;
        }
        // Clients on the node itself take the gateway's address as their own. The rules refuse what gets as far as this link:
        // packets to addresses that no service and no pod has, which otherwise would leave by the default route.
        for side in &layout.sides {
            for range in [side.service_range, side.pod_range] {
                self.route_to(range, index, Some(side))
                    .await
                    .map_err(kernel(format!("routing {range} to link {name}")))?;
            }
        }
        Ok(())
    }

    /// Routes a range to a link; what this machine itself sends there comes from its address in the pod network.
    async fn route_to(&self, range: IpNet, index: u32, from: Option<&Side>) -> nlink::Result<()> {
        match range {
            IpNet::V4(range) => {
                let mut route = Ipv4Route::from_addr(range.network(), range.prefix_len())
                    .dev_index(index)
                    .scope(RouteScope::Link);
                if let Some(IpAddr::V4(from)) = from.map(Side::gateway) {
                    route = route.prefsrc(from);
                }
                self.route.replace_route(route).await
            }
            IpNet::V6(range) => {
                let mut route = Ipv6Route::from_addr(range.network(), range.prefix_len()).dev_index(index);
                if let Some(IpAddr::V6(from)) = from.map(Side::gateway) {
                    route = route.prefsrc(from);
                }
                self.route.replace_route(route).await
            }
        }
    }

    async fn has_only(&self, index: u32, wanted: &[IpAddr]) -> Result<bool, Error> {
        let step = kernel("listing addresses");
        let addresses = self.route.get_addresses_by_index(index).await.map_err(step)?;
        // The kernel gives links addresses of its own that are of the link alone.
        let given = |address: &IpAddr| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Ok(addresses.iter().filter_map(address_of).filter(given).all(|address| wanted.contains(&address)))
    }

    /// The links of this machine by which neighbours ask for these addresses.
    pub async fn uplinks(
        &self,
        layout: &Layout,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<BTreeMap<IpAddr, Uplink>, Error> {
        let node_link = self.index_of(&layout.node_link()).await?;
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
        let mut found = BTreeMap::new();
        for address in addresses {
            let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
            let leads_there = |route: &&RouteMessage| {
                i32::from(route.family()) == family
                    && route.oif() != node_link
                    && match route.destination() {
                        Some(to) => {
                            IpNet::new(*to, route.dst_len()).is_ok_and(|range| range.contains(address))
                        }
                        None => route.dst_len() == 0,
                    }
            };
            let best = routes.iter().filter(leads_there).max_by_key(|route| route.dst_len());
            let link = match best.and_then(|route| route.oif()) {
                Some(index) => {
                    self.route.get_link_by_index(index).await.map_err(kernel("reading an uplink"))?
                }
                None => None,
            };
            let mac = link.as_ref().and_then(|link| link.address()).and_then(|mac| mac.try_into().ok());
            match (link, mac) {
                (Some(link), Some(mac)) => {
                    found.insert(*address, Uplink { index: link.ifindex(), mac });
                }
                _ => tracing::warn!(%address, "no link of this machine leads to this load balancer address"),
            }
        }
        Ok(found)
    }

    /// Leads what is sent to these addresses, and to no service on them, to the node's link, where it ends.
    pub async fn divert(&self, layout: &Layout, addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        let Some(index) = self.index_of(&layout.node_link()).await? else { return Ok(()) };
        let own: Vec<IpAddr> =
            layout.sides.iter().flat_map(|side| [side.gateway(), side.dns_address]).collect();
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
        let diverted: BTreeSet<IpAddr> = routes
            .iter()
            .filter(|route| route.oif() == Some(index))
            .filter_map(|route| route.destination().map(|to| (*to, route.dst_len())))
            .filter(|(to, length)| *length == Family::of(*to).bits() && !own.contains(to))
            .map(|(to, _)| to)
            .collect();
        for address in diverted.difference(addresses) {
            let gone = match address {
                IpAddr::V4(address) => {
                    self.route.del_route(Ipv4Route::new(*address, 32).dev_index(index)).await
                }
                IpAddr::V6(address) => {
                    self.route.del_route(Ipv6Route::new(*address, 128).dev_index(index)).await
                }
            };
            match gone {
                Err(error) if !error.is_not_found() => {
                    return Err(kernel(format!("taking away the route to {address}"))(error));
                }
                _ => {}
            }
        }
        for address in addresses.difference(&diverted) {
            let side = layout.side(Family::of(*address));
            self.route_to(IpNet::from(*address), index, side)
                .await
                .map_err(kernel(format!("routing {address} to the node's link")))?;
        }
        Ok(())
    }

    /// Whether a link exists.
    pub async fn exists(&self, name: &str) -> Result<bool, Error> {
        Ok(self.index_of(name).await?.is_some())
    }

    /// Makes a pod's pair of links: `host_link` here with the routes to the pod, `eth0` in the pod's namespace with its
    /// addresses and routes. Nothing of it waits for the neighbours to speak up: link-layer addresses are given and told.
    pub async fn link_pod(&self, link: PodEnds<'_>) -> Result<(), Error> {
        let step = |what: &str| format!("{what} ({} in {})", link.host_link, link.netns.display());
        let netns = File::open(link.netns)
            .map_err(|source| Error::Io { step: format!("opening {}", link.netns.display()), source })?;
        let [host_mac, pod_mac] = link_layer_addresses(link.addresses);
        let pair = VethLink::new(link.host_link, POD_LINK)
            .mtu(link.mtu)
            .address(host_mac)
            .peer_address(pod_mac)
            .peer_netns_fd(&netns);
        self.route.add_link(pair.up()).await.map_err(kernel(step("making the pod's links")))?;
        let host_index = self
            .index_of(link.host_link)
            .await?
            .ok_or_else(|| vanished(step("finding the pod's host link")))?;
        self.set_pod_sysctls(host_index, &link).await;
        for address in link.addresses {
            let side = link.layout.side(Family::of(*address));
            self.route_to(IpNet::from(*address), host_index, side)
                .await
                .map_err(kernel(step("routing to the pod")))?;
            if let IpAddr::V6(address) = address {
                let neighbour = Neighbor::with_index_v6(host_index, *address).lladdr(pod_mac).permanent();
                self.route
                    .replace_neighbor(neighbour)
                    .await
                    .map_err(kernel(step("telling the pod's link-layer address")))?;
            }
        }

        let inside = Connection::<Route>::new_in(netns.as_fd())
            .map_err(kernel(step("entering the pod's namespace")))?;
        let found =
            inside.get_link_by_name(POD_LINK).await.map_err(kernel(step("finding the pod's link")))?;
        let index =
            found.map(|link| link.ifindex()).ok_or_else(|| vanished(step("finding the pod's link")))?;
        inside.set_link_up_by_index(index).await.map_err(kernel(step("setting up the pod's link")))?;
        for address in link.addresses {
            let Some(side) = link.layout.side(Family::of(*address)) else { continue };
            match (address, side.gateway()) {
                (IpAddr::V4(address), IpAddr::V4(gateway)) => {
                    let own = Ipv4Address::with_index(index, *address, 32);
                    let to_gateway = Ipv4Route::new(gateway, 32).dev_index(index).scope(RouteScope::Link);
                    let default = Ipv4Route::default_route().gateway(gateway).dev_index(index);
                    inside.add_address(own).await.map_err(kernel(step("giving the pod its address")))?;
                    inside
                        .add_route(to_gateway)
                        .await
                        .map_err(kernel(step("routing to the pod's gateway")))?;
                    inside
                        .add_route(default)
                        .await
                        .map_err(kernel(step("giving the pod its default route")))?;
                }
                (IpAddr::V6(address), _) => {
                    let own = Ipv6Address::with_index(index, *address, 128).nodad();
                    let gateway = Neighbor::with_index_v6(index, GATEWAY6).lladdr(host_mac).permanent();
                    let default = Ipv6Route::default_route().gateway(GATEWAY6).dev_index(index);
                    inside.add_address(own).await.map_err(kernel(step("giving the pod its IPv6 address")))?;
                    inside
                        .add_neighbor(gateway)
                        .await
                        .map_err(kernel(step("telling the pod its IPv6 gateway")))?;
                    inside
                        .add_route(default)
                        .await
                        .map_err(kernel(step("giving the pod its IPv6 default route")))?;
                }
                (IpAddr::V4(_), IpAddr::V6(_)) => {}
            }
        }
        Ok(())
    }

    async fn set_pod_sysctls(&self, index: u32, link: &PodEnds<'_>) {
        let name = link.host_link;
        if link.addresses.iter().any(IpAddr::is_ipv6) {
            sysctl::distrust_routers(name);
        }
        let settings = [
            // Connections to 127.0.0.1:NODEPORT leave by this link; the table keeps pods from using it the other way.
            (Ipv4Devconf::RouteLocalnet, 1),
            // A pod cannot pose as another.
            (Ipv4Devconf::RpFilter, 1),
            // A pod is not to be told of shorter ways: packets must come back through the address translation.
            (Ipv4Devconf::SendRedirects, 0),
        ];
        if let Err(error) = self.route.set_ipv4_devconf_by_index(index, &settings).await {
            tracing::warn!(%error, link = name, "sysctls of the pod's link cannot be set: its node ports on 127.0.0.1 will not work");
        }
    }

    /// Removes a link if it is there (and with it, its other end and its routes).
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.route.del_link_if_exists(name).await.map(drop).map_err(kernel(format!("removing link {name}")))
    }

    /// Names of the instance's pod links.
    pub async fn pod_links(&self, instance: &str) -> Result<Vec<String>, Error> {
        let names: HashMap<u32, String> =
            self.route.get_interface_names().await.map_err(kernel("listing links"))?;
        Ok(names.into_values().filter(|name| is_pod_link(instance, name)).collect())
    }

    /// Whether any Orlop's link is there.
    pub async fn any_node_link(&self) -> Result<bool, Error> {
        let names = self.route.get_interface_names().await.map_err(kernel("listing links"))?;
        Ok(names.values().any(|name| name.starts_with("orlop-")))
    }

    /// This machine's own addresses.
    pub async fn local_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let addresses = self.route.get_addresses().await.map_err(kernel("listing addresses"))?;
        Ok(addresses.iter().filter_map(address_of).collect())
    }

    async fn index_of(&self, name: &str) -> Result<Option<u32>, Error> {
        let link =
            self.route.get_link_by_name(name).await.map_err(kernel(format!("looking for link {name}")))?;
        Ok(link.map(|link| link.ifindex()))
    }
}

/// The two ends of a pod's link.
pub(crate) struct PodEnds<'a> {
    /// Name on the host.
    pub host_link: &'a str,
    /// The pod's namespace.
    pub netns: &'a Path,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// The network that it joins.
    pub layout: &'a Layout,
    /// Of both ends.
    pub mtu: u32,
}

fn vanished(step: String) -> Error {
    Error::Kernel { step, why: "it is not there".into() }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    message.local().or(message.address()).copied()
}

/// Those of the host's and of the pod's end: of our own making (IEEE 802, "locally administered"), from the pod's address, so
/// that they are told apart in a trace.
fn link_layer_addresses(addresses: &[IpAddr]) -> [[u8; 6]; 2] {
    let last = match addresses.first() {
        Some(IpAddr::V4(address)) => address.octets(),
        Some(IpAddr::V6(address)) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
        None => [0; 4],
    };
    let [a, b, c, d] = last;
    [[0x0e, 0x58, a, b, c, d], [0x0a, 0x58, a, b, c, d]]
}
