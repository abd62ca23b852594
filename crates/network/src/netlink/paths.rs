//! Routes to other nodes, and the VXLAN's device with its neighbours and forwarding entries.

use super::kernel;
use crate::{
    Error,
    mesh::{Hop, Mac, State},
};
use ipnet::IpNet;
use nlink::{
    Connection, Route,
    netlink::{
        fdb::FdbEntryBuilder,
        link::VxlanLink,
        neigh::Neighbor,
        route::{Ipv4Route, Ipv6Route},
        types::route::RouteProtocol,
    },
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The table that routes are in unless told otherwise (`RT_TABLE_MAIN`).
const MAIN_TABLE: u32 = 254;
/// By which our routes can be told from others': no routing daemon has this number.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(79);

/// A VXLAN's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub name: String,
    pub vni: u32,
    pub port: u16,
    /// Where its packets come from.
    pub local: IpAddr,
    pub mac: Mac,
    pub mtu: u32,
}

impl Device {
    /// What it was made for, set as its alias when it is finished: one without is half-made.
    fn alias(&self) -> String {
        let Self { vni, port, local, mac, mtu, .. } = self;
        format!("orlop vni {vni} port {port} local {local} mac {mac:02x?} mtu {mtu}")
    }
}

/// Routes of the network namespace in which this was made.
pub(crate) struct Paths {
    route: Connection<Route>,
}

impl Paths {
    /// Opens a netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { route: Connection::<Route>::new().map_err(kernel("opening a netlink socket"))? })
    }

    /// The segments that this machine is on, but those of links that `leave_out`.
    pub async fn segments(&self, leave_out: impl Fn(&str) -> bool) -> Result<Vec<IpNet>, Error> {
        let names = self.route.get_interface_names().await.map_err(kernel("listing links"))?;
        let addresses = self.route.get_addresses().await.map_err(kernel("listing addresses"))?;
        let segment = |message: &nlink::netlink::messages::AddressMessage| {
            let name = names.get(&message.ifindex())?;
            let address = message.local().or(message.address())?;
            if address.is_loopback() || leave_out(name) {
                return None;
            }
            IpNet::new(*address, message.prefix_len()).ok().map(|range| range.trunc())
        };
        Ok(addresses.iter().filter_map(segment).collect())
    }

    /// The MTU of the link that has this address; without one, that of the default route's link, or 1500.
    pub async fn mtu_towards(&self, address: IpAddr) -> Result<u32, Error> {
        let addresses = self.route.get_addresses().await.map_err(kernel("listing addresses"))?;
        let has = addresses.iter().find(|m| m.local().or(m.address()) == Some(&address)).map(|m| m.ifindex());
        let index = match has {
            Some(index) => Some(index),
            None => {
                let routes =
                    self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
                routes.iter().find(|r| r.dst_len() == 0 && r.is_ipv4()).and_then(|r| r.oif())
            }
        };
        let Some(index) = index else { return Ok(1500) };
        let link = self.route.get_link_by_index(index).await.map_err(kernel("reading a link"))?;
        Ok(link.and_then(|link| link.mtu()).unwrap_or(1500))
    }

    /// Makes the device, unless it is there as it should be. Returns its index.
    pub async fn ensure_device(&self, device: &Device) -> Result<u32, Error> {
        let step = |what: &str| kernel(format!("{what} {}", device.name));
        let found =
            self.route.get_link_by_name(device.name.as_str()).await.map_err(step("looking for link"))?;
        if let Some(link) = found {
            if link.alias() == Some(device.alias().as_str()) {
                return Ok(link.ifindex());
            }
            self.remove_device(&device.name).await?;
        }
        let link = VxlanLink::new(&device.name, device.vni)
            .mtu(device.mtu)
            .address(device.mac)
            .port(device.port)
            .learning(false);
        let link = match device.local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local),
        };
        self.route.add_link(link).await.map_err(step("making link"))?;
        let made =
            self.route.get_link_by_name(device.name.as_str()).await.map_err(step("looking for link"))?;
        let index = made.map(|link| link.ifindex()).ok_or_else(|| Error::Kernel {
            step: format!("making link {}", device.name),
            why: "it is not there".into(),
        })?;
        self.route.set_link_up_by_index(index).await.map_err(step("setting up link"))?;
        self.route.set_link_alias_by_index(index, &device.alias()).await.map_err(step("naming link"))?;
        Ok(index)
    }

    /// Removes the device if it is there, and with it all that is on it.
    pub async fn remove_device(&self, name: &str) -> Result<(), Error> {
        self.route.del_link_if_exists(name).await.map(drop).map_err(kernel(format!("removing link {name}")))
    }

    /// Our routes into `ranges`; those over `device` are through the tunnel.
    pub async fn routes(&self, ranges: &[IpNet], device: Option<u32>) -> Result<BTreeMap<IpNet, Hop>, Error> {
        let routes = self.route.get_routes_for_table(MAIN_TABLE).await.map_err(kernel("listing routes"))?;
        let ours = routes.iter().filter(|r| r.protocol() == PROTOCOL).filter_map(|route| {
            let range = IpNet::new(*route.destination()?, route.dst_len()).ok()?;
            let gateway = *route.gateway()?;
            let tunnel = device.is_some() && route.oif() == device;
            let hop = if tunnel { Hop::Tunnel(gateway) } else { Hop::Direct(gateway) };
            ranges.iter().any(|all| all.contains(&range)).then_some((range, hop))
        });
        Ok(ours.collect())
    }

    /// All that is there.
    pub async fn state(&self, ranges: &[IpNet], device: Option<u32>) -> Result<State, Error> {
        let mut state = State { device: device.is_some(), ..State::default() };
        state.routes = self.routes(ranges, device).await?;
        let Some(device) = device else { return Ok(state) };
        let neighbours = self.route.get_neighbors().await.map_err(kernel("listing neighbours"))?;
        for neighbour in neighbours.iter().filter(|n| n.ifindex() == device && n.is_permanent()) {
            let mac = neighbour.lladdr().and_then(|bytes| Mac::try_from(bytes).ok());
            if let (Some(address), Some(mac)) = (neighbour.destination(), mac) {
                state.neighbours.insert(*address, mac);
            }
        }
        let entries =
            self.route.get_fdb_by_index(device).await.map_err(kernel("listing forwarding entries"))?;
        state.forwarding = entries.iter().filter_map(|e| Some((e.mac(), e.dst()?))).collect();
        Ok(state)
    }

    /// Makes a route, or changes the one that is there. `source` is where packets of this machine itself come from.
    pub async fn set_route(
        &self,
        range: IpNet,
        hop: Hop,
        device: Option<u32>,
        source: Option<IpAddr>,
    ) -> Result<(), Error> {
        let step = kernel(format!("routing {range}"));
        let (via, device) = match hop {
            Hop::Direct(via) => (via, None),
            Hop::Tunnel(via) => (via, device),
        };
        match (range, via) {
            (IpNet::V4(range), IpAddr::V4(via)) => {
                let mut route = v4(range.network(), range.prefix_len(), via);
                if let Some(device) = device {
                    route = route.dev_index(device).onlink();
                }
                if let Some(IpAddr::V4(source)) = source {
                    route = route.prefsrc(source);
                }
                self.route.replace_route(route).await.map_err(step)
            }
            (IpNet::V6(range), IpAddr::V6(via)) => {
                let mut route = v6(range.network(), range.prefix_len(), via);
                if let Some(device) = device {
                    route = route.dev_index(device).onlink();
                }
                self.route.replace_route(route).await.map_err(step)
            }
            _ => Err(Error::Kernel {
                step: format!("routing {range}"),
                why: format!("{via} is of the other family"),
            }),
        }
    }

    /// Removes a route, if it is there.
    pub async fn drop_route(&self, range: IpNet, hop: Hop, device: Option<u32>) -> Result<(), Error> {
        let step = kernel(format!("removing the route to {range}"));
        let (via, device) = match hop {
            Hop::Direct(via) => (via, None),
            Hop::Tunnel(via) => (via, device),
        };
        let done = match (range, via) {
            (IpNet::V4(range), IpAddr::V4(via)) => {
                let route = v4(range.network(), range.prefix_len(), via);
                let route = device.map_or(route.clone(), |device| route.dev_index(device).onlink());
                self.route.del_route_if_exists(route).await
            }
            (IpNet::V6(range), IpAddr::V6(via)) => {
                let route = v6(range.network(), range.prefix_len(), via);
                let route = device.map_or(route.clone(), |device| route.dev_index(device).onlink());
                self.route.del_route_if_exists(route).await
            }
            _ => Ok(false),
        };
        done.map(drop).map_err(step)
    }

    pub async fn set_neighbour(&self, device: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let neighbour = Neighbor::with_index(device, address).lladdr(mac).permanent();
        self.route
            .replace_neighbor(neighbour)
            .await
            .map_err(kernel(format!("naming the neighbour {address}")))
    }

    pub async fn drop_neighbour(&self, device: u32, address: IpAddr) -> Result<(), Error> {
        let neighbour = Neighbor::with_index(device, address);
        let done = self.route.del_neighbor_if_exists(neighbour).await;
        done.map(drop).map_err(kernel(format!("removing the neighbour {address}")))
    }

    pub async fn set_forwarding(&self, device: u32, mac: Mac, to: IpAddr) -> Result<(), Error> {
        let entry = FdbEntryBuilder::new(mac).ifindex(device).dst(to).permanent().self_();
        self.route.replace_fdb(entry).await.map_err(kernel(format!("forwarding to {to}")))
    }

    pub async fn drop_forwarding(&self, device: u32, mac: Mac, to: IpAddr) -> Result<(), Error> {
        let entry = FdbEntryBuilder::new(mac).ifindex(device).dst(to).self_();
        match self.route.del_fdb_entry(entry).await {
            Err(error) if !error.is_not_found() => Err(kernel(format!("forwarding to {to} no more"))(error)),
            _ => Ok(()),
        }
    }
}

fn v4(range: Ipv4Addr, bits: u8, via: Ipv4Addr) -> Ipv4Route {
    Ipv4Route::from_addr(range, bits).gateway(via).protocol(PROTOCOL)
}

fn v6(range: Ipv6Addr, bits: u8, via: Ipv6Addr) -> Ipv6Route {
    Ipv6Route::from_addr(range, bits).gateway(via).protocol(PROTOCOL)
}
