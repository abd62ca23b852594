//! The network of one node as its agent sees it: links pods, applies services, and takes all of it away again. It decides
//! nothing about addresses or rules itself and speaks no netlink.

use crate::{
    Error, NetworkConfig, PodAddress, PodLink, ServicePort,
    addresses::{Addresses, Lease, forget},
    announce::Announcer,
    family::Family,
    firewall::Firewall,
    layout::{Layout, Side, check_instance, node_link_name},
    mesh::Mesh,
    netlink::{Links, PodEnds, PolicyTable, Table},
    overlay::Overlays,
    sysctl,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Mutex;

/// This node's pod network. All methods may be called from several tasks at once.
pub struct Network {
    layout: Layout,
    state_dir: PathBuf,
    mtu: u32,
    links: Links,
    addresses: Arc<Addresses>,
    firewall: Mutex<Firewall>,
    announcer: Mutex<Announcer>,
    /// One lock for each pod that is being attached or detached.
    busy: parking_lot::Mutex<HashMap<String, Arc<Mutex<()>>>>,
}

impl Network {
    /// Makes (or takes over) the node's link, its addresses and the firewall table, and reads the remembered addresses. Service
    /// rules that are in force stay in force until the first `apply_services`.
    ///
    /// # Errors
    /// [`Error::Config`] if a range does not fit or overlaps a route of this machine; kernel and disk errors.
    pub async fn open(config: NetworkConfig) -> Result<Self, Error> {
        let layout = Layout::new(&config)?;
        let links = Links::open()?;
        links.check_routes(&layout).await?;
        let addresses = Addresses::open(&layout, &config.state_dir)?;
        sysctl::enable_forwarding(&layout, &config.state_dir)?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => links.uplink_mtu().await?,
        };
        links.ensure_node_link(&layout).await?;
        let firewall = Firewall::open(&layout).await?;
        let network = Self {
            layout,
            state_dir: config.state_dir,
            mtu,
            links,
            addresses: Arc::new(addresses),
            firewall: Mutex::new(firewall),
            announcer: Mutex::default(),
            busy: parking_lot::Mutex::default(),
        };
        network.apply_host_ports().await?;
        Ok(network)
    }

    /// Gives a pod its addresses, its `eth0` and its host ports. Calling it again for the same id changes nothing and returns
    /// the same addresses.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::HostPortTaken`], kernel and disk errors. Nothing is kept of a failed attempt.
    pub async fn attach(&self, link: PodLink) -> Result<PodAddress, Error> {
        self.alone(&link.id, async {
            let lease = self.give(&link).await?;
            let host_link = self.layout.host_link(&lease.addresses);
            let done = PodAddress { addresses: lease.addresses.clone(), host_link: host_link.clone() };
            if lease.linked && self.links.exists(&host_link).await? {
                return Ok(done);
            }
            let linked = self.link(&link, &lease, &host_link).await;
            if linked.is_err() {
                if let Err(error) = self.release(&link.id).await {
                    tracing::warn!(%error, pod = link.id, "what is left of a failed link stays until the next start");
                }
                linked?;
            }
            self.addresses.set_linked(&link.id)?;
            Ok(done)
        })
        .await
    }

    /// Takes a pod's link, host ports and address away. A pod that is not attached is no error.
    ///
    /// # Errors
    /// Kernel and disk errors.
    pub async fn detach(&self, id: &str) -> Result<(), Error> {
        self.alone(id, self.release(id)).await
    }

    /// Detaches every pod that is not in `ids`: what is left of sandboxes that vanished while the agent was down.
    ///
    /// # Errors
    /// Kernel and disk errors.
    pub async fn retain(&self, ids: &[String]) -> Result<(), Error> {
        let ids: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let leases = self.addresses.all();
        for id in leases.keys().filter(|id| !ids.contains(id.as_str())) {
            self.detach(id).await?;
        }
        let known: HashSet<String> =
            self.addresses.all().values().map(|lease| self.layout.host_link(&lease.addresses)).collect();
        for link in self.links.pod_links(&self.layout.instance).await? {
            if !known.contains(&link) {
                self.links.remove(&link).await?;
            }
        }
        Ok(())
    }

    /// Makes the kernel's service rules those of `services` (all of them, not a change), in one atomic step.
    ///
    /// # Errors
    /// Kernel errors; then the rules are as they were.
    pub async fn apply_services(&self, services: Vec<ServicePort>) -> Result<(), Error> {
        self.firewall.lock().await.set_services(&self.links, &services).await
    }

    /// Answers for these load balancer addresses on the links of this machine, and for no others, until this is dropped: their
    /// packets come here. What has no Service behind it is unreachable, not this machine's.
    ///
    /// # Errors
    /// Kernel errors; an address that no link leads to is a warning.
    pub async fn announce(&self, addresses: BTreeSet<IpAddr>) -> Result<(), Error> {
        let mut announcer = self.announcer.lock().await;
        if addresses.is_empty() && announcer.is_idle() {
            return Ok(());
        }
        let uplinks = self.links.uplinks(&self.layout, &addresses).await?;
        self.links.divert(&self.layout, &addresses).await?;
        announcer.set(&uplinks)
    }

    /// The pods' gateways, one a family, the primary first: this node as pods see it.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.layout.sides.iter().map(Side::gateway).collect()
    }

    /// Removes all that this network made, and its memory of it.
    ///
    /// # Errors
    /// The first failed step; the others are tried all the same.
    pub async fn teardown(&self) -> Result<(), Error> {
        Self::remove_all(&self.layout.instance, &self.state_dir).await
    }

    /// Removes links, rules and remembered addresses of an instance, whether or not a server runs or ever ran cleanly.
    ///
    /// # Errors
    /// The first failed step; the others are tried all the same.
    pub async fn remove_all(instance: &str, state_dir: &Path) -> Result<(), Error> {
        check_instance(instance)?;
        let links = Links::open()?;
        let mut outcomes = vec![PolicyTable::remove(instance).await];
        for family in Family::ALL {
            outcomes.push(Table::remove(instance, family).await);
        }
        match links.pod_links(instance).await {
            Ok(names) => {
                for name in names {
                    outcomes.push(links.remove(&name).await);
                }
            }
            Err(error) => outcomes.push(Err(error)),
        }
        outcomes.push(Overlays::remove_all(instance).await);
        outcomes.push(Mesh::remove_all(instance, state_dir).await);
        outcomes.push(links.remove(&node_link_name(instance)).await);
        let others = links.any_node_link().await.unwrap_or(true);
        outcomes.push(sysctl::restore_forwarding(state_dir, others));
        outcomes.push(forget(state_dir));
        outcomes.into_iter().collect()
    }

    async fn give(&self, link: &PodLink) -> Result<Lease, Error> {
        let (addresses, id, host_ports) = (self.addresses.clone(), link.id.clone(), link.host_ports.clone());
        on_disk(move || addresses.give(&id, &host_ports)).await
    }

    async fn link(&self, link: &PodLink, lease: &Lease, host_link: &str) -> Result<(), Error> {
        // A half-made link of an earlier attempt, or one whose namespace is another now.
        self.links.remove(host_link).await?;
        let ends = PodEnds {
            host_link,
            netns: &link.netns,
            addresses: &lease.addresses,
            layout: &self.layout,
            mtu: self.mtu,
        };
        self.links.link_pod(ends).await?;
        if !lease.host_ports.is_empty() {
            self.apply_host_ports().await?;
        }
        Ok(())
    }

    async fn release(&self, id: &str) -> Result<(), Error> {
        let Some(lease) = self.addresses.get(id) else { return Ok(()) };
        self.links.remove(&self.layout.host_link(&lease.addresses)).await?;
        let (addresses, id) = (self.addresses.clone(), id.to_owned());
        on_disk(move || addresses.free(&id)).await?;
        if !lease.host_ports.is_empty() {
            self.apply_host_ports().await?;
        }
        Ok(())
    }

    async fn apply_host_ports(&self) -> Result<(), Error> {
        let mut firewall = self.firewall.lock().await;
        let pods: Vec<_> = self
            .addresses
            .all()
            .into_values()
            .filter(|lease| !lease.host_ports.is_empty())
            .flat_map(|lease| {
                lease.addresses.into_iter().map(move |address| (address, lease.host_ports.clone()))
            })
            .collect();
        firewall.set_host_ports(&self.links, &pods).await
    }

    /// Runs `work` while nothing else works on the pod `id`.
    async fn alone<T>(&self, id: &str, work: impl Future<Output = T>) -> T {
        let lock = self.busy.lock().entry(id.to_owned()).or_default().clone();
        let held = lock.lock().await;
        let done = work.await;
        drop(held);
        let mut busy = self.busy.lock();
        // One count is ours, one the table's: nobody else waits.
        if Arc::strong_count(&lock) == 2 {
            busy.remove(id);
        }
        done
    }
}

/// Runs something that waits for the disk where it holds up no other task.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Error::Io { step: "waiting for the disk".into(), source: std::io::Error::other(error) })
    })
}
