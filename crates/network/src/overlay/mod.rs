//! Networks that people make, beside the pods' own: on each node that has members a bridge of its own, a VXLAN to the nodes that have
//! others, and a pair of links for each member, which comes and goes while the pod runs. It is told what should be and makes the kernel
//! agree; what is there is read off the kernel, so a restart in the middle goes on where it was.
//!
//! What belongs to an instance: the links `bINSTANCEXXXXXX` (bridges), `xINSTANCEXXXXXX` (VXLANs), `mINSTANCEXXXXXX` (members'
//! ends on the host), and the nftables table `orlop-INSTANCE-nets`, which keeps isolated networks apart from all else.

mod plan;

pub(crate) use plan::{Bridge, NewMember, State, Tunnel, bridge_name, is_ours, mark};

use crate::{
    Error,
    layout::check_instance,
    netlink::{Bridges, FenceTable},
};
use ipnet::IpNet;
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};
use tokio::sync::Mutex;

/// A network as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Its number on the wire, 1 to 16777215 (RFC 7348, section 5).
    pub id: u32,
    /// Its ranges, one a family, with the nodes' own address in each.
    pub subnets: Vec<(IpNet, IpAddr)>,
    /// Whether the nodes have an address there and lead on from it.
    pub open: bool,
    /// The pods of this node that are connected.
    pub members: Vec<Member>,
    /// The pods of other nodes that are.
    pub remotes: Vec<Remote>,
}

/// A connected pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Unique, and never used again: another one for each network namespace.
    pub id: String,
    /// The hardware address of its interface.
    pub mac: [u8; 6],
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// Name of the interface in the pod.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A connected pod of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// The hardware address of its interface.
    pub mac: [u8; 6],
    /// Its node.
    pub node: IpAddr,
}

/// What is known of this node.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// Tells apart several Orlops on one machine.
    pub instance: String,
    /// Where VXLAN packets of this node come from.
    pub node_address: IpAddr,
    /// The UDP port of VXLANs (4789: RFC 7348, section 5).
    pub port: u16,
    /// MTU of the links: that between nodes without what a VXLAN takes of each packet.
    pub mtu: u32,
}

/// A hardware address of our own making (IEEE 802, "locally administered"), the same wherever and whenever it is asked for: who met
/// a member before finds it again when its pod's namespace is made anew.
#[must_use]
pub fn member_mac(name: &str) -> [u8; 6] {
    plan::mac(name)
}

/// The name of the interface that leads to a network: the network's own, where the kernel takes it.
#[must_use]
pub fn interface_name(network: &str) -> String {
    plan::interface_name(network)
}

/// All networks of this node.
pub struct Overlays {
    config: OverlayConfig,
    bridges: Bridges,
    fence: Mutex<FenceTable>,
}

impl Overlays {
    /// Opens sockets; changes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for an instance that names no links; [`Error::Kernel`].
    pub fn open(config: OverlayConfig) -> Result<Self, Error> {
        check_instance(&config.instance)?;
        let fence = Mutex::new(FenceTable::open(&config.instance)?);
        Ok(Self { bridges: Bridges::open()?, fence, config })
    }

    /// Makes the kernel agree with `wanted`. What became of members that could not be connected, here or to other nodes, stands in the
    /// answer, by id; all else is done nevertheless.
    ///
    /// # Errors
    /// [`Error::Kernel`] where the state cannot be read, networks cannot be kept apart, or something that is over cannot be removed.
    pub async fn apply(&self, wanted: &[Overlay]) -> Result<BTreeMap<String, Error>, Error> {
        let mut fence = self.fence.lock().await;
        let state = self.bridges.state(&self.config.instance).await?;
        // Before anything can send.
        fence.set(&self.config.instance, wanted).await?;
        let planned = plan::plan(&self.config, wanted, &state);
        for link in &planned.remove {
            self.bridges.remove(link).await?;
        }
        let mut failed = BTreeMap::new();
        for bridge in &planned.bridges {
            if let Err(error) = self.bridges.ensure_bridge(bridge).await {
                self.fail(&bridge.name, &error, wanted, &mut failed);
            }
        }
        for tunnel in &planned.tunnels {
            if let Err(error) = self.bridges.ensure_tunnel(tunnel).await {
                self.fail(&tunnel.bridge, &error, wanted, &mut failed);
            }
        }
        for member in &planned.members {
            if let Err(error) = self.bridges.add_member(member).await {
                failed.insert(member.id.clone(), error);
                if let Err(error) = self.bridges.remove(&member.host_link).await {
                    tracing::warn!(%error, link = member.host_link, "what is left of a failed link stays for now");
                }
            }
        }
        Ok(failed)
    }

    /// What a network's members share could not be made: all of them lack it.
    fn fail(&self, bridge: &str, error: &Error, wanted: &[Overlay], failed: &mut BTreeMap<String, Error>) {
        let of = wanted.iter().filter(|overlay| bridge_name(&self.config.instance, overlay.id) == bridge);
        for member in of.flat_map(|overlay| &overlay.members) {
            let (step, why) = match error {
                Error::Kernel { step, why } => (step.clone(), why.clone()),
                other => ("making the network".to_string(), other.to_string()),
            };
            failed.insert(member.id.clone(), Error::Kernel { step, why });
        }
    }

    /// Removes all that an instance made.
    ///
    /// # Errors
    /// [`Error::Kernel`] for the first thing that could not be removed; all others are.
    pub async fn remove_all(instance: &str) -> Result<(), Error> {
        check_instance(instance)?;
        let bridges = Bridges::open()?;
        let state = bridges.state(instance).await?;
        let mut outcome = FenceTable::remove(instance).await;
        for link in state.links() {
            let removed = bridges.remove(link).await;
            outcome = outcome.and(removed);
        }
        outcome
    }
}
