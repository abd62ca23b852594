//! The way from this node's pods to those of other nodes: a route for each other node's range, directly where both are on one
//! segment, through a VXLAN elsewhere. It is told all nodes and makes the kernel's routes those that follow from them; it never
//! asks anybody, so a node that is cut off keeps what it knows.
//!
//! What belongs to an instance: the device `vx-INSTANCE` with its neighbours and forwarding entries, and routes of protocol 79 into
//! the cluster's ranges, which are noted on disk before the first route is made.

mod memory;
mod plan;

pub(crate) use plan::{Hop, Mac, State, Step};

use crate::{
    Error,
    layout::{check_instance, is_pod_link, node_link_name},
    netlink::{Device, Paths},
};
use ipnet::IpNet;
use plan::Here;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};
use tokio::sync::Mutex;

/// Bytes that a VXLAN takes of each packet, by the family of the addresses that carry it.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Routes: all nodes are on one segment. Flannel calls it `host-gw`.
    Direct,
    /// A VXLAN between all nodes.
    Vxlan,
    /// Routes to nodes on the same segment, the VXLAN to all others.
    Auto,
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "direct" | "host-gw" => Ok(Self::Direct),
            "vxlan" => Ok(Self::Vxlan),
            "auto" => Ok(Self::Auto),
            other => Err(format!("{other:?} is none of direct (or host-gw), vxlan, auto")),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
            Self::Auto => "auto",
        })
    }
}

/// What is the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshSettings {
    /// How packets get from node to node.
    pub backend: Backend,
    /// Number of the VXLAN.
    pub vni: u32,
    /// UDP port of the VXLAN.
    pub port: u16,
}

/// What is known of this node.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// As in [`crate::NetworkConfig`].
    pub instance: String,
    /// Name of this node.
    pub node: String,
    /// Address by which other nodes reach it.
    pub address: IpAddr,
    /// Its own pod ranges.
    pub ranges: Vec<IpNet>,
    /// The cluster's pod ranges.
    pub cluster_ranges: Vec<IpNet>,
    /// What is the same on all nodes.
    pub settings: MeshSettings,
    /// Where it is noted what may have been made.
    pub state_dir: PathBuf,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Addresses by which it is reached.
    pub addresses: Vec<IpAddr>,
    /// Its pod ranges.
    pub ranges: Vec<IpNet>,
}

/// See the module.
pub struct Mesh {
    config: MeshConfig,
    paths: Paths,
    pod_mtu: u32,
    tunnel_mtu: u32,
    applied: Mutex<Applied>,
}

#[derive(Default)]
struct Applied {
    /// Peers that cannot be reached, and why, as it was last said.
    left_out: Vec<(String, String)>,
    /// Whether what an older configuration left was removed.
    clean: bool,
}

impl Mesh {
    /// Notes what will be made, and removes routes of an earlier life into what is this node's own range now. Routes to other
    /// nodes stay until the first [`Mesh::apply`].
    ///
    /// # Errors
    /// Kernel and disk errors.
    pub async fn open(config: MeshConfig) -> Result<Self, Error> {
        check_instance(&config.instance)?;
        let paths = Paths::open()?;
        let noted = memory::read(&config.state_dir)?;
        memory::write(&config.state_dir, &memory::union(&noted, &config.cluster_ranges))?;
        for (range, hop) in paths.routes(&noted, None).await? {
            if config.ranges.iter().any(|own| own.contains(&range) || range.contains(own)) {
                paths.drop_route(range, hop, None).await?;
            }
        }
        let mtu = paths.mtu_towards(config.address).await?;
        let overhead = if config.address.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let tunnel_mtu = mtu.saturating_sub(overhead).max(1280.min(mtu));
        let pod_mtu = if config.settings.backend == Backend::Direct { mtu } else { tunnel_mtu };
        Ok(Self { config, paths, pod_mtu, tunnel_mtu, applied: Mutex::default() })
    }

    /// The MTU of what goes from node to node through a VXLAN, whether or not pods' packets do.
    #[must_use]
    pub fn tunnel_mtu(&self) -> u32 {
        self.tunnel_mtu
    }

    /// The MTU that fits every way from pod to pod.
    #[must_use]
    pub fn pod_mtu(&self) -> u32 {
        self.pod_mtu
    }

    /// The name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.config.node
    }

    /// Makes the kernel's routes, neighbours and forwarding entries those that follow from `peers`: all nodes, this one may be
    /// among them. Calling it again changes nothing.
    ///
    /// # Errors
    /// The first failed step; the others are tried all the same.
    pub async fn apply(&self, peers: &[Peer]) -> Result<(), Error> {
        let mut applied = self.applied.lock().await;
        let config = &self.config;
        let segments = self.paths.segments(|link| self.is_own(link)).await?;
        let here = Here {
            node: &config.node,
            address: config.address,
            ranges: &config.ranges,
            cluster: &config.cluster_ranges,
            backend: config.settings.backend,
            segments: &segments,
        };
        let (want, left_out) = plan::desired(&here, peers);
        if applied.left_out != left_out {
            for (node, why) in &left_out {
                tracing::warn!(node, why, "pods of this node cannot be reached");
            }
            applied.left_out = left_out;
        }
        let name = device_name(&config.instance);
        let device = if want.device {
            Some(self.paths.ensure_device(&self.device()).await?)
        } else {
            self.paths.remove_device(&name).await?;
            None
        };
        let noted = memory::read(&config.state_dir)?;
        let ranges = memory::union(&noted, &config.cluster_ranges);
        let have = self.paths.state(&ranges, device).await?;
        let mut outcome = Ok(());
        for step in plan::steps(&have, &want) {
            tracing::debug!(?step, "changing the way to other nodes");
            let done = self.take(step, device).await;
            outcome = outcome.and(done);
        }
        outcome?;
        if !applied.clean {
            memory::write(&config.state_dir, &config.cluster_ranges)?;
            applied.clean = true;
        }
        Ok(())
    }

    async fn take(&self, step: Step, device: Option<u32>) -> Result<(), Error> {
        let paths = &self.paths;
        match (step, device) {
            (Step::SetRoute(range, hop), device) => {
                let own = self
                    .config
                    .ranges
                    .iter()
                    .find(|own| matches!((own, &range), (IpNet::V4(_), IpNet::V4(_))));
                paths.set_route(range, hop, device, own.map(plan::tunnel_address)).await
            }
            (Step::DropRoute(range, hop), device) => paths.drop_route(range, hop, device).await,
            (Step::SetNeighbour(address, mac), Some(device)) => {
                paths.set_neighbour(device, address, mac).await
            }
            (Step::SetForwarding(mac, to), Some(device)) => paths.set_forwarding(device, mac, to).await,
            (Step::DropNeighbour(address), Some(device)) => paths.drop_neighbour(device, address).await,
            (Step::DropForwarding(mac, to), Some(device)) => paths.drop_forwarding(device, mac, to).await,
            // They went with the device.
            (_, None) => Ok(()),
        }
    }

    fn device(&self) -> Device {
        let config = &self.config;
        Device {
            name: device_name(&config.instance),
            vni: config.settings.vni,
            port: config.settings.port,
            local: config.address,
            mac: plan::tunnel_mac(&config.ranges),
            mtu: self.pod_mtu,
        }
    }

    fn is_own(&self, link: &str) -> bool {
        let instance = &self.config.instance;
        link == node_link_name(instance) || link == device_name(instance) || is_pod_link(instance, link)
    }

    /// Removes what an instance made, whether or not anything of it runs.
    ///
    /// # Errors
    /// Kernel and disk errors.
    pub async fn remove_all(instance: &str, state_dir: &Path) -> Result<(), Error> {
        check_instance(instance)?;
        let paths = Paths::open()?;
        for (range, hop) in paths.routes(&memory::read(state_dir)?, None).await? {
            paths.drop_route(range, hop, None).await?;
        }
        paths.remove_device(&device_name(instance)).await?;
        memory::forget(state_dir)
    }
}

/// The VXLAN's device.
fn device_name(instance: &str) -> String {
    format!("vx-{instance}")
}
