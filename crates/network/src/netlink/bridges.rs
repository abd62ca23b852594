//! Bridges of networks that people make, their VXLANs, and the links of their members.

use super::kernel;
use crate::{
    Error,
    overlay::{Bridge, NewMember, State, Tunnel, is_ours, mark},
};
use nlink::{
    Connection, Route,
    netlink::{
        addr::{Ipv4Address, Ipv6Address},
        fdb::FdbEntryBuilder,
        link::{BridgeLink, LinkCreateExt, VethLink, VxlanLink},
    },
};
use std::{collections::BTreeSet, fs::File, net::IpAddr, os::fd::AsFd};

/// Links of the network namespace in which this was made.
pub(crate) struct Bridges {
    route: Connection<Route>,
}

impl Bridges {
    /// Opens a netlink socket.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { route: Connection::<Route>::new().map_err(kernel("opening a netlink socket"))? })
    }

    /// All that is there of an instance.
    pub async fn state(&self, instance: &str) -> Result<State, Error> {
        let mut state = State::default();
        for link in self.route.get_links().await.map_err(kernel("listing links"))? {
            let Some(name) = link.name().filter(|name| is_ours(instance, name)) else { continue };
            if name.starts_with('x') {
                let step = kernel(format!("listing what {name} forwards"));
                let entries = self.route.get_fdb_by_index(link.ifindex()).await.map_err(step)?;
                let forwarding = entries.iter().filter_map(|entry| Some((entry.mac(), entry.dst()?)));
                state.forwarding.insert(name.to_string(), forwarding.collect());
            }
            state.links.insert(name.to_string(), link.alias().map(str::to_string));
        }
        Ok(state)
    }

    /// Removes a link if it is there, and with it its other end.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        self.route.del_link_if_exists(name).await.map(drop).map_err(kernel(format!("removing link {name}")))
    }

    async fn index_of(&self, name: &str) -> Result<Option<u32>, Error> {
        let link =
            self.route.get_link_by_name(name).await.map_err(kernel(format!("looking for link {name}")))?;
        Ok(link.map(|link| link.ifindex()))
    }

    /// Makes the bridge unless it is there, and gives it its addresses and no others.
    pub async fn ensure_bridge(&self, bridge: &Bridge) -> Result<(), Error> {
        let name = bridge.name.as_str();
        let step = |what: &str| kernel(format!("{what} {name}"));
        let index = match self.index_of(name).await? {
            Some(index) => index,
            None => {
                let link = BridgeLink::new(name).mtu(bridge.mtu).address(bridge.mac);
                self.route.add_link(link).await.map_err(step("making bridge"))?;
                self.index_of(name).await?.ok_or_else(|| vanished(name))?
            }
        };
        self.route.set_link_up_by_index(index).await.map_err(step("setting up bridge"))?;
        let messages =
            self.route.get_addresses_by_index(index).await.map_err(step("listing the addresses of"))?;
        let there: BTreeSet<(IpAddr, u8)> = messages
            .iter()
            .filter_map(|m| Some((*m.local().or(m.address())?, m.prefix_len())))
            // The kernel gives links addresses of its own that are of the link alone.
            .filter(|(address, _)| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
            .collect();
        for (address, bits) in there.difference(&bridge.addresses) {
            let taken = self.route.del_address_by_index(index, *address, *bits).await;
            taken.map_err(step("taking an address from"))?;
        }
        for (address, bits) in bridge.addresses.difference(&there) {
            self.address(&self.route, index, *address, *bits).await.map_err(step("giving an address to"))?;
        }
        Ok(())
    }

    async fn address(
        &self,
        route: &Connection<Route>,
        index: u32,
        address: IpAddr,
        bits: u8,
    ) -> nlink::Result<()> {
        match address {
            IpAddr::V4(address) => route.replace_address(Ipv4Address::with_index(index, address, bits)).await,
            // Nobody else has it: the server gave it.
            IpAddr::V6(address) => {
                route.replace_address(Ipv6Address::with_index(index, address, bits).nodad()).await
            }
        }
    }

    /// Makes the VXLAN unless it is there, and changes what it forwards.
    pub async fn ensure_tunnel(&self, tunnel: &Tunnel) -> Result<(), Error> {
        let name = tunnel.name.as_str();
        let step = |what: &str| kernel(format!("{what} {name}"));
        if tunnel.is_new {
            let link = VxlanLink::new(name, tunnel.id).mtu(tunnel.mtu).port(tunnel.port).learning(false);
            let link = match tunnel.local {
                IpAddr::V4(local) => link.local(local),
                IpAddr::V6(local) => link.local6(local),
            };
            let made = self.route.add_link(link.master(tunnel.bridge.as_str()).up()).await;
            made.map_err(step("making VXLAN"))?;
        }
        let index = self.index_of(name).await?.ok_or_else(|| vanished(name))?;
        for (mac, node) in &tunnel.remove {
            let entry = FdbEntryBuilder::new(*mac).ifindex(index).dst(*node).self_();
            match self.route.del_fdb_entry(entry).await {
                Err(error) if !error.is_not_found() => {
                    return Err(step("changing what is forwarded by")(error));
                }
                _ => {}
            }
        }
        for (mac, node) in &tunnel.add {
            let entry = FdbEntryBuilder::new(*mac).ifindex(index).dst(*node).permanent().self_();
            // One address of many nodes is the one that stands for everybody.
            let done = match mac {
                [0, 0, 0, 0, 0, 0] => self.route.append_fdb(entry).await,
                _ => self.route.replace_fdb(entry).await,
            };
            done.map_err(step("changing what is forwarded by"))?;
        }
        if tunnel.is_new {
            let marked = self.route.set_link_alias(name, &tunnel.mark).await;
            marked.map_err(step("marking VXLAN"))?;
        }
        Ok(())
    }

    /// Makes a member's pair of links. The end on the host is marked when all is done.
    pub async fn add_member(&self, member: &NewMember) -> Result<(), Error> {
        let at = |what: &str| format!("{what} ({} in {})", member.interface, member.netns.display());
        let netns = File::open(&member.netns)
            .map_err(|source| Error::Io { step: format!("opening {}", member.netns.display()), source })?;
        // It goes straight into the pod, under its name: there is no moment in which it is somewhere else.
        let pair = VethLink::new(&member.host_link, &member.interface)
            .mtu(member.mtu)
            .peer_address(member.mac)
            .peer_netns_fd(&netns);
        let made = self.route.add_link(pair.master(member.bridge.as_str()).up()).await;
        made.map_err(kernel(at("making a member's links")))?;
        let inside =
            Connection::<Route>::new_in(netns.as_fd()).map_err(kernel(at("entering the pod's namespace")))?;
        let found = inside.get_link_by_name(member.interface.as_str()).await;
        let found = found.map_err(kernel(at("finding the pod's link")))?;
        let index = found.map(|link| link.ifindex()).ok_or_else(|| vanished(&member.interface))?;
        for (address, bits) in &member.addresses {
            let given = self.address(&inside, index, *address, *bits).await;
            given.map_err(kernel(at("giving the pod an address")))?;
        }
        inside.set_link_up_by_index(index).await.map_err(kernel(at("setting up the pod's link")))?;
        let marked = self.route.set_link_alias(member.host_link.as_str(), &mark(&member.id)).await;
        marked.map_err(kernel(at("marking a member's link")))
    }
}

fn vanished(name: &str) -> Error {
    Error::Kernel { step: format!("making link {name}"), why: "it is not there".into() }
}
