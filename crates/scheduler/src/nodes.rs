//! The nodes in dense arrays, one slot each: what they offer and what is taken of it, their taints, topology domains and images. Kept
//! up to date by difference; a log says which slots changed, so that what is derived from them need not be made anew.

use crate::shape::{HostPort, Resource, Resources, Shape, with_tag};
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use orlop_api::{pod_resources, taint};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A node by its slot.
pub type NodeId = u32;
/// No domain, no node.
pub const NONE: u32 = u32::MAX;

/// One amount of every node.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// What they offer.
    pub offered: Vec<i64>,
    /// What their pods ask for.
    pub taken: Vec<i64>,
}

impl Column {
    fn grow(&mut self, slots: usize) {
        self.offered.resize(slots, 0);
        self.taken.resize(slots, 0);
    }
}

/// A label of nodes by which they are near each other.
#[derive(Clone, Debug)]
struct TopologyKey {
    name: String,
    /// The domain of each node.
    of: Vec<u32>,
    ids: HashMap<String, u32>,
    /// How many nodes each domain has.
    size: Vec<u32>,
}

/// What changed of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The slot.
    pub node: NodeId,
    /// Whether the node itself changed, not only its pods.
    pub itself: bool,
}

/// An image that nodes have.
#[derive(Clone, Debug, Default)]
struct Image {
    sizes: HashMap<NodeId, i64>,
    version: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Nodes {
    ids: BTreeMap<String, NodeId>,
    names: Vec<String>,
    objects: Vec<Option<Arc<Node>>>,
    /// Slots whose node is gone and that hold no pod.
    free: Vec<NodeId>,
    existing: usize,
    columns: Vec<Column>,
    /// Numbers of pods.
    pub pods: Column,
    /// Processor and memory by which nodes are compared.
    pub counted: [Vec<i64>; 2],
    taint_sets: Vec<Vec<Taint>>,
    taints: Vec<u32>,
    /// The ports that their pods take.
    ports: Vec<Vec<HostPort>>,
    keys: Vec<TopologyKey>,
    images: HashMap<String, Image>,
    log: Vec<Change>,
    log_start: u64,
}

impl Nodes {
    /// The slot of a node, or of one whose pods are known before it is.
    pub fn slot(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.free.pop().unwrap_or(self.objects.len() as NodeId);
        if id as usize == self.objects.len() {
            let slots = self.objects.len() + 1;
            self.objects.push(None);
            self.names.push(String::new());
            self.columns.iter_mut().for_each(|c| c.grow(slots));
            self.pods.grow(slots);
            self.counted.iter_mut().for_each(|c| c.push(0));
            self.taints.push(0);
            self.ports.push(Vec::new());
            self.keys.iter_mut().for_each(|k| k.of.push(NONE));
        }
        if self.taint_sets.is_empty() {
            self.taint_sets.push(Vec::new());
        }
        self.ids.insert(name.to_string(), id);
        self.names[id as usize] = name.to_string();
        id
    }

    /// How many slots there are, used or not.
    pub fn slots(&self) -> usize {
        self.objects.len()
    }

    /// How many nodes exist.
    pub fn existing(&self) -> usize {
        self.existing
    }

    /// The node of a slot, if it exists.
    pub fn object(&self, id: NodeId) -> Option<&Arc<Node>> {
        self.objects.get(id as usize)?.as_ref()
    }

    /// The name of a node.
    pub fn name(&self, id: NodeId) -> &str {
        self.names.get(id as usize).map_or("", String::as_str)
    }

    /// The slot of a node that exists.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.ids.get(name).copied().filter(|id| self.object(*id).is_some())
    }

    /// Slots of nodes that exist, by name.
    pub fn by_name(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.ids.values().copied().filter(|id| self.object(*id).is_some())
    }

    /// What they offer of a resource, and what is taken.
    pub fn column(&self, resource: Resource) -> Option<&Column> {
        self.columns.get(resource as usize)
    }

    fn column_mut(&mut self, resource: Resource) -> &mut Column {
        let slots = self.objects.len();
        while self.columns.len() <= resource as usize {
            let mut column = Column::default();
            column.grow(slots);
            self.columns.push(column);
        }
        &mut self.columns[resource as usize]
    }

    /// Takes in a new or changed node.
    pub fn set(&mut self, node: &Arc<Node>, resources: &mut Resources) {
        let id = self.slot(&node.name_any());
        let at = id as usize;
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let list = pod_resources::Resources::of(list);
        self.columns.iter_mut().for_each(|c| c.offered[at] = 0);
        for (resource, amount) in resources.amounts(&list) {
            self.column_mut(resource).offered[at] = amount;
        }
        self.pods.offered[at] = list.get("pods").value();
        let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        self.taints[at] = self.taint_set(taints);
        for key in 0..self.keys.len() {
            let value = node.labels().get(&self.keys[key].name).cloned();
            self.set_domain(key, id, value.as_deref());
        }
        self.set_images(id, Some(node));
        if self.objects[at].replace(node.clone()).is_none() {
            self.existing += 1;
        }
        self.changed(id, true);
    }

    /// Takes out a node; says whether its slot is still needed by `pods` of it.
    pub fn remove(&mut self, name: &str, has_pods: bool) {
        let Some(id) = self.ids.get(name).copied() else { return };
        if self.objects[id as usize].take().is_some() {
            self.existing -= 1;
        }
        self.columns.iter_mut().for_each(|c| c.offered[id as usize] = 0);
        self.pods.offered[id as usize] = 0;
        for key in 0..self.keys.len() {
            self.set_domain(key, id, None);
        }
        self.set_images(id, None);
        self.changed(id, true);
        if !has_pods {
            self.release(id);
        }
    }

    /// Gives back the slot of a node that is gone, with its last pod.
    pub fn release(&mut self, id: NodeId) {
        if self.object(id).is_none() && self.ids.remove(self.name(id).to_string().as_str()).is_some() {
            self.free.push(id);
        }
    }

    /// Counts a pod in or, with -1, out.
    pub fn count(&mut self, id: NodeId, shape: &Shape, sign: i64) {
        let at = id as usize;
        for (resource, amount) in &shape.requests {
            self.column_mut(*resource).taken[at] += sign * amount;
        }
        self.pods.taken[at] += sign;
        for (all, mine) in self.counted.iter_mut().zip(shape.counted) {
            all[at] += sign * mine;
        }
        for port in &shape.ports {
            if sign > 0 {
                self.ports[at].push(port.clone());
            } else if let Some(i) = self.ports[at].iter().position(|p| p == port) {
                self.ports[at].swap_remove(i);
            }
        }
        self.changed(id, false);
    }

    /// The ports that are taken on a node.
    pub fn ports(&self, id: NodeId) -> &[HostPort] {
        &self.ports[id as usize]
    }

    fn taint_set(&mut self, mut taints: Vec<Taint>) -> u32 {
        taints.iter_mut().for_each(|t| t.time_added = None);
        let known = self.taint_sets.iter().position(|s| *s == taints);
        known.unwrap_or_else(|| {
            self.taint_sets.push(taints);
            self.taint_sets.len() - 1
        }) as u32
    }

    /// The number of a node's set of taints, and the set.
    pub fn taints(&self, id: NodeId) -> (u32, &[Taint]) {
        let set = self.taints[id as usize];
        (set, &self.taint_sets[set as usize])
    }

    /// Whether a pod may come to a node in spite of its taints.
    pub fn tolerated(&self, id: NodeId, shape: &Shape) -> bool {
        let (_, taints) = self.taints(id);
        taints.is_empty() || taint::blocks_scheduling(taints, shape.tolerations()).is_none()
    }

    /// The number of a topology key.
    pub fn key(&mut self, name: &str) -> usize {
        if let Some(key) = self.keys.iter().position(|k| k.name == name) {
            return key;
        }
        let of = vec![NONE; self.objects.len()];
        self.keys.push(TopologyKey { name: name.into(), of, ids: HashMap::new(), size: Vec::new() });
        let key = self.keys.len() - 1;
        for id in 0..self.objects.len() {
            let value = self.objects[id].as_ref().and_then(|n| n.labels().get(name).cloned());
            self.set_domain(key, id as NodeId, value.as_deref());
        }
        key
    }

    /// The label of a key's number.
    pub fn key_name(&self, key: usize) -> &str {
        &self.keys[key].name
    }

    /// The domain of a node under a key, or [`NONE`].
    pub fn domain(&self, key: usize, id: NodeId) -> u32 {
        self.keys[key].of[id as usize]
    }

    /// How many nodes a domain has.
    pub fn domain_size(&self, key: usize, domain: u32) -> u32 {
        self.keys[key].size.get(domain as usize).copied().unwrap_or(0)
    }

    /// How many domains of a key were ever seen.
    pub fn domains(&self, key: usize) -> usize {
        self.keys[key].size.len()
    }

    fn set_domain(&mut self, key: usize, id: NodeId, value: Option<&str>) {
        let topology = &mut self.keys[key];
        let old = topology.of[id as usize];
        let new = match value {
            None => NONE,
            Some(value) => match topology.ids.get(value) {
                Some(domain) => *domain,
                None => {
                    let domain = topology.size.len() as u32;
                    topology.ids.insert(value.to_string(), domain);
                    topology.size.push(0);
                    domain
                }
            },
        };
        if old == new {
            return;
        }
        topology.of[id as usize] = new;
        // A domain of one node is looked at otherwise than one of many: whoever stays behind or was there before changes too.
        let mut others = Vec::new();
        if old != NONE {
            topology.size[old as usize] -= 1;
            if topology.size[old as usize] == 1 {
                others.push(old);
            }
        }
        if new != NONE {
            topology.size[new as usize] += 1;
            if topology.size[new as usize] == 2 {
                others.push(new);
            }
        }
        for domain in others {
            let of = &self.keys[key].of;
            let met = (0..of.len()).filter(|i| of[*i] == domain && *i != id as usize);
            for node in met.collect::<Vec<_>>() {
                self.changed(node as NodeId, true);
            }
        }
    }

    fn set_images(&mut self, id: NodeId, node: Option<&Arc<Node>>) {
        let before = self.objects[id as usize].clone();
        let list = |node: Option<&Arc<Node>>| -> Vec<(String, i64)> {
            let images = node.and_then(|n| n.status.as_ref()).and_then(|s| s.images.as_ref());
            let each = images.into_iter().flatten();
            each.flat_map(|i| {
                let size = i.size_bytes.unwrap_or(0);
                i.names.iter().flatten().map(move |n| (with_tag(n), size))
            })
            .collect()
        };
        let (old, new) = (list(before.as_ref()), list(node));
        if old == new {
            return;
        }
        for (name, _) in old {
            if let Some(image) = self.images.get_mut(&name) {
                image.sizes.remove(&id);
                image.version += 1;
            }
        }
        for (name, size) in new {
            let image = self.images.entry(name).or_default();
            image.sizes.insert(id, size);
            image.version += 1;
        }
    }

    /// The size of an image on a node, scaled by how many of the nodes have it: a widely spread image pulls less to few nodes.
    pub fn scaled_image(&self, id: NodeId, image: &str) -> i64 {
        let Some(image) = self.images.get(image) else { return 0 };
        let Some(size) = image.sizes.get(&id) else { return 0 };
        let spread = image.sizes.len() as f64 / self.existing.max(1) as f64;
        (*size as f64 * spread) as i64
    }

    /// Changes with anything that [`Nodes::scaled_image`] says of these images.
    pub fn image_stamp(&self, images: &[String]) -> u64 {
        if self.images.is_empty() {
            return 0;
        }
        let seen = images.iter().filter_map(|i| self.images.get(i));
        let versions: u64 = seen.map(|i| i.version).sum();
        if versions == 0 { 0 } else { versions.wrapping_mul(1 << 24) ^ self.existing as u64 }
    }

    fn changed(&mut self, node: NodeId, itself: bool) {
        if self.log.len() > 4096 + 4 * self.objects.len() {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.log_start += half as u64;
        }
        self.log.push(Change { node, itself });
    }

    /// Notes that the pods of a node changed in a way that is not counted here.
    pub fn touch(&mut self, node: NodeId) {
        self.changed(node, false);
    }

    /// Where the log ends now.
    pub fn now(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// What changed since then; `None` if that is no longer known.
    pub fn since(&self, then: u64) -> Option<&[Change]> {
        let from = then.checked_sub(self.log_start)?;
        self.log.get(from as usize..)
    }
}
