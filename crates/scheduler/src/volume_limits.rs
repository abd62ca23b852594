//! NodeVolumeLimits: how many volumes a CSI driver can attach to each node (CSINode), and what of that a pod would need. Pure; it
//! attaches nothing.

use crate::{
    plugin::{Plugin, Refusal},
    snapshot::Placed,
};
use k8s_openapi::api::storage::v1::{CSINode, VolumeAttachment};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A volume as its driver knows it. Several claims may mean the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachable {
    pub driver: String,
    pub handle: Handle,
}

/// What tells volumes of a driver from each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handle {
    /// The driver's own word for it.
    Made(String),
    /// The claim, by namespace and name, that one is to be made for.
    Due(String, String),
}

/// What nodes can have attached, and what the attacher says that they have.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    most: HashMap<String, BTreeMap<String, i64>>,
    attachments: HashMap<String, (String, String)>,
    /// The volumes of attachments by node, with the number of attachments of each.
    attached: HashMap<String, BTreeMap<String, usize>>,
}

impl Limits {
    /// Takes in what a node's drivers can attach; `None` if nobody says so any more.
    pub(crate) fn set_node(&mut self, name: &str, node: Option<&CSINode>) {
        let most: BTreeMap<String, i64> = (node.iter().flat_map(|n| &n.spec.drivers))
            .filter_map(|d| Some((d.name.clone(), i64::from(d.allocatable.as_ref()?.count?))))
            .collect();
        if most.is_empty() {
            self.most.remove(name);
        } else {
            self.most.insert(name.to_string(), most);
        }
    }

    /// Takes in that a volume is, or is to be, attached to a node; `None` if no more.
    pub(crate) fn set_attachment(&mut self, name: &str, attachment: Option<&VolumeAttachment>) {
        let new = attachment
            .and_then(|a| Some((a.spec.node_name.clone(), a.spec.source.persistent_volume_name.clone()?)));
        if let Some((node, volume)) = self.attachments.remove(name)
            && let Some(of_node) = self.attached.get_mut(&node)
        {
            if let Some(n) = of_node.get_mut(&volume) {
                *n -= 1;
                if *n == 0 {
                    of_node.remove(&volume);
                }
            }
            if of_node.is_empty() {
                self.attached.remove(&node);
            }
        }
        if let Some((node, volume)) = new {
            let of_node = self.attached.entry(node.clone()).or_default();
            *of_node.entry(volume.clone()).or_default() += 1;
            self.attachments.insert(name.to_string(), (node, volume));
        }
    }

    /// Whether any node says what it can attach with one of these drivers.
    pub(crate) fn matter_to(&self, wanted: &BTreeSet<Attachable>) -> bool {
        let says = |most: &BTreeMap<String, i64>| wanted.iter().any(|a| most.contains_key(&a.driver));
        self.most.values().any(says)
    }

    /// The most that a driver can attach to a node, where that is said.
    pub(crate) fn most(&self, node: &str, driver: &str) -> Option<i64> {
        self.most.get(node)?.get(driver).copied()
    }

    /// The volumes, by name, that attachments of a node name.
    pub(crate) fn attached(&self, node: &str) -> impl Iterator<Item = &String> {
        self.attached.get(node).into_iter().flat_map(BTreeMap::keys)
    }
}

/// The volumes of one driver that a pod would bring to a node which has no room for them while all of its pods are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd {
    most: i64,
    wanted: i64,
    /// Of each other volume there: the uids of the pods that use it; nobody where it is attached without a pod.
    held: Vec<Vec<String>>,
}

impl Crowd {
    /// What does not fit of the volumes that a pod wants on a node with others; by volume those are held by pods with these uids.
    pub(crate) fn all(
        limits: &Limits,
        node: &str,
        wanted: &BTreeSet<Attachable>,
        held: &BTreeMap<Attachable, Vec<String>>,
    ) -> Vec<Self> {
        let mut drivers: BTreeMap<&str, i64> = BTreeMap::new();
        for volume in wanted {
            *drivers.entry(&volume.driver).or_default() += 1;
        }
        let mut crowds = Vec::new();
        for (driver, count) in drivers {
            let Some(most) = limits.most(node, driver) else { continue };
            let there = held.iter().filter(|(a, _)| a.driver == driver);
            let (shared, others): (Vec<_>, Vec<_>) = there.partition(|(a, _)| wanted.contains(a));
            // A pod that brings nothing new fits, however crowded it is.
            if shared.len() as i64 == count || count + others.len() as i64 <= most {
                continue;
            }
            let held = others.into_iter().map(|(_, users)| users.clone()).collect();
            crowds.push(Self { most, wanted: count, held });
        }
        crowds
    }

    /// Whether there is no room even if some pods leave.
    pub(crate) fn is_too_much(&self, without: &[&Placed]) -> bool {
        let leaves =
            |uid: &String| without.iter().any(|p| p.pod.metadata.uid.as_deref() == Some(uid.as_str()));
        let stays = |users: &&Vec<String>| users.is_empty() || !users.iter().all(leaves);
        self.wanted + self.held.iter().filter(stays).count() as i64 > self.most
    }
}

/// What is said of such a node.
pub(crate) fn refusal() -> Refusal {
    Refusal::now(Plugin::NodeVolumeLimits, "node(s) exceed max volume count")
}
