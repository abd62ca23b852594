//! Links, addresses, routes and the sysctls that go with them.

use super::kernel;
use crate::{
    Error,
    layout::{Layout, is_pod_link},
};
use ipnet::Ipv4Net;
use nlink::{
    Connection, Route,
    netlink::{
        addr::Ipv4Address,
        devconf::Ipv4Devconf,
        link::{BridgeLink, LinkCreateExt, VethLink},
        messages::AddressMessage,
        route::Ipv4Route,
        types::route::RouteScope,
    },
};
use std::{
    collections::HashMap,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::Path,
};

/// The table that routes are in unless told otherwise (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;
/// The link inside a pod.
const POD_LINK: &str = "eth0";

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
            let Some(IpAddr::V4(to)) = route.destination() else { continue };
            let Ok(range) = Ipv4Net::new(*to, route.dst_len()) else { continue };
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
        let uplink =
            routes.iter().find(|route| route.dst_len() == 0 && route.family() == libc::AF_INET as u8);
        let Some(index) = uplink.and_then(|route| route.oif()) else { return Ok(1500) };
        let link = self.route.get_link_by_index(index).await.map_err(kernel("reading the uplink"))?;
        Ok(link.and_then(|link| link.mtu()).unwrap_or(1500))
    }

    /// Makes the node's link with its addresses and the routes of our ranges, as far as they are not there.
    pub async fn ensure_node_link(&self, layout: &Layout) -> Result<(), Error> {
        let name = layout.node_link();
        let step = |what: &str| kernel(format!("{what} {name}"));
        let addresses = [layout.gateway(), layout.dns_address];
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
            let config = Ipv4Address::with_index(index, address, 32);
            self.route.replace_address(config).await.map_err(step("giving an address to link"))?;
        }
        // Clients on the node itself take the gateway's address as their own. The rules refuse what gets as far as this link:
        // packets to addresses that no service and no pod has, which otherwise would leave by the default route.
        for range in [layout.service_range, layout.pod_range] {
            let route = Ipv4Route::from_addr(range.network(), range.prefix_len())
                .dev_index(index)
                .scope(RouteScope::Link)
                .prefsrc(layout.gateway());
            self.route
                .replace_route(route)
                .await
                .map_err(kernel(format!("routing {range} to link {name}")))?;
        }
        Ok(())
    }

    async fn has_only(&self, index: u32, wanted: &[Ipv4Addr]) -> Result<bool, Error> {
        let step = kernel("listing addresses");
        let addresses = self.route.get_addresses_by_index(index).await.map_err(step)?;
        Ok(addresses.iter().filter_map(ipv4).all(|address| wanted.contains(&address)))
    }

    /// Whether a link exists.
    pub async fn exists(&self, name: &str) -> Result<bool, Error> {
        Ok(self.index_of(name).await?.is_some())
    }

    /// Makes a pod's pair of links: `host_link` here with the route to the pod, `eth0` in the pod's namespace with its
    /// address and routes.
    pub async fn link_pod(&self, link: PodEnds<'_>) -> Result<(), Error> {
        let step = |what: &str| format!("{what} ({} in {})", link.host_link, link.netns.display());
        let netns = File::open(link.netns)
            .map_err(|source| Error::Io { step: format!("opening {}", link.netns.display()), source })?;
        let pair = VethLink::new(link.host_link, POD_LINK).mtu(link.mtu).peer_netns_fd(&netns);
        self.route.add_link(pair.up()).await.map_err(kernel(step("making the pod's links")))?;
        let host_index = self
            .index_of(link.host_link)
            .await?
            .ok_or_else(|| vanished(step("finding the pod's host link")))?;
        self.set_pod_sysctls(host_index, link.host_link).await;
        let to_pod = Ipv4Route::new(link.address, 32)
            .dev_index(host_index)
            .scope(RouteScope::Link)
            .prefsrc(link.gateway);
        self.route.replace_route(to_pod).await.map_err(kernel(step("routing to the pod")))?;

        let inside = Connection::<Route>::new_in(netns.as_fd())
            .map_err(kernel(step("entering the pod's namespace")))?;
        let found =
            inside.get_link_by_name(POD_LINK).await.map_err(kernel(step("finding the pod's link")))?;
        let index =
            found.map(|link| link.ifindex()).ok_or_else(|| vanished(step("finding the pod's link")))?;
        let gateway = Ipv4Route::new(link.gateway, 32).dev_index(index).scope(RouteScope::Link);
        let default = Ipv4Route::default_route().gateway(link.gateway).dev_index(index);
        let address = Ipv4Address::with_index(index, link.address, 32);
        inside.add_address(address).await.map_err(kernel(step("giving the pod its address")))?;
        inside.set_link_up_by_index(index).await.map_err(kernel(step("setting up the pod's link")))?;
        inside.add_route(gateway).await.map_err(kernel(step("routing to the pod's gateway")))?;
        inside.add_route(default).await.map_err(kernel(step("giving the pod its default route")))
    }

    async fn set_pod_sysctls(&self, index: u32, name: &str) {
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
    pub async fn local_addresses(&self) -> Result<Vec<Ipv4Addr>, Error> {
        let addresses = self.route.get_addresses().await.map_err(kernel("listing addresses"))?;
        Ok(addresses.iter().filter_map(ipv4).collect())
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
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The node's address on the pod network.
    pub gateway: Ipv4Addr,
    /// Of both ends.
    pub mtu: u32,
}

fn vanished(step: String) -> Error {
    Error::Kernel { step, why: "it is not there".into() }
}

fn ipv4(message: &AddressMessage) -> Option<Ipv4Addr> {
    match message.local().or(message.address()) {
        Some(IpAddr::V4(address)) => Some(*address),
        _ => None,
    }
}
