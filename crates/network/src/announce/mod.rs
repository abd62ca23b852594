//! Answers for load balancer addresses on the links of this machine, so that their packets come here: ARP and neighbour
//! discovery by sockets of our own. No address is put on a link: the machine itself does not listen there, and when this process
//! ends, in whatever way, nothing is left and nobody is answered any more, so that another node can take over.

mod frames;
mod socket;

use crate::Error;
use frames::{Mac, answer, gratuitous, solicited_node};
use parking_lot::Mutex;
use socket::{Groups, Packets};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinHandle;

/// How often neighbours are told that an address has come here, and how long in between: frames get lost.
const TIMES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// The link on which an address is answered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uplink {
    /// Its number.
    pub index: u32,
    /// Its link-layer address.
    pub mac: Mac,
}

/// What is answered for at present.
#[derive(Default)]
pub(crate) struct Announcer {
    links: BTreeMap<Uplink, Responder>,
    settled: bool,
}

impl Announcer {
    /// Answers for these addresses and no others. Neighbours are told of new ones.
    ///
    /// # Errors
    /// The kernel gives no socket; what was answered for before still is, apart from what is not wanted any more.
    pub fn set(&mut self, wanted: &BTreeMap<IpAddr, Uplink>) -> Result<(), Error> {
        let mut by_link: BTreeMap<Uplink, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, link) in wanted {
            by_link.entry(*link).or_default().insert(*address);
        }
        self.links.retain(|link, _| by_link.contains_key(link));
        for (link, addresses) in by_link {
            match self.links.get_mut(&link) {
                Some(responder) => responder.set(addresses)?,
                None => {
                    self.links.insert(link, Responder::start(link, addresses)?);
                }
            }
        }
        self.settled = true;
        Ok(())
    }

    /// Whether nothing is answered for, and nothing can be left of an earlier process.
    pub fn is_idle(&self) -> bool {
        self.settled && self.links.is_empty()
    }
}

/// Answers on one link.
struct Responder {
    link: Uplink,
    addresses: Arc<Mutex<BTreeSet<IpAddr>>>,
    packets: Arc<Packets>,
    groups: Groups,
    tasks: Vec<JoinHandle<()>>,
}

impl Responder {
    fn start(link: Uplink, addresses: BTreeSet<IpAddr>) -> Result<Self, Error> {
        let packets = Arc::new(Packets::open(link.index)?);
        let mut responder = Self {
            link,
            addresses: Arc::default(),
            packets: packets.clone(),
            groups: Groups::open(link.index)?,
            tasks: Vec::new(),
        };
        let ours = responder.addresses.clone();
        responder.tasks.push(tokio::spawn(async move {
            let mut frame = [0; 128];
            loop {
                match packets.receive(&mut frame).await {
                    Ok(length) => {
                        let frame = frame.get(..length).unwrap_or_default();
                        let reply = answer(frame, link.mac, |address| ours.lock().contains(&address));
                        if let Some(reply) = reply {
                            packets.send(&reply);
                        }
                    }
                    Err(error) => {
                        // The link is down or gone; it may come back.
                        tracing::debug!(%error, link = link.index, "no questions can be heard");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }));
        responder.set(addresses)?;
        Ok(responder)
    }

    fn set(&mut self, wanted: BTreeSet<IpAddr>) -> Result<(), Error> {
        let before = self.addresses.lock().clone();
        // Two addresses may have one group.
        let groups = |addresses: &BTreeSet<IpAddr>| -> BTreeSet<Ipv6Addr> {
            let v6 = addresses.iter().filter_map(|address| match address {
                IpAddr::V6(address) => Some(solicited_node(*address)),
                IpAddr::V4(_) => None,
            });
            v6.collect()
        };
        let (groups_before, groups_wanted) = (groups(&before), groups(&wanted));
        for group in groups_before.difference(&groups_wanted) {
            self.groups.leave(*group);
        }
        for group in groups_wanted.difference(&groups_before) {
            self.groups.join(*group)?;
        }
        let new: Vec<IpAddr> = wanted.difference(&before).copied().collect();
        *self.addresses.lock() = wanted;
        self.tasks.retain(|task| !task.is_finished());
        if !new.is_empty() {
            let (packets, mac, ours) = (self.packets.clone(), self.link.mac, self.addresses.clone());
            self.tasks.push(tokio::spawn(async move {
                for _ in 0..TIMES {
                    for address in &new {
                        if ours.lock().contains(address) {
                            packets.send(&gratuitous(*address, mac));
                        }
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }));
        }
        Ok(())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
