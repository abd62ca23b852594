//! The cluster as pods of one shape see it: nodes that are alike to them are in one bucket. A decision looks at buckets, not at
//! nodes; what changes of a node moves that node alone. Everything here is derived from nodes and counters and can be made anew.

use crate::{
    counters::Counters,
    nodes::{NONE, NodeId, Nodes},
    plugin::{Plugin, Reason, Refusal},
    profile::Profile,
    shape::{CPU, MEMORY, Resource, Resources, Shape},
    strategy::{Use, balance},
};
use k8s_openapi::api::core::v1::Taint;
use orlop_api::{node_affinity, taint};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What a view is derived from.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub nodes: &'a Nodes,
    pub counters: &'a Counters,
    pub profile: &'a Profile,
    pub resources: &'a Resources,
}

/// Where numbers of pods come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Pods that something means.
    Counter(usize),
    /// Pods that have a term.
    Owners(usize),
}

/// What a number of pods in a domain means for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A hard topology spread constraint; `own` is 1 if the pod counts itself.
    SpreadHard { max_skew: i64, min_domains: i64, own: i64 },
    /// A soft one; of nodes themselves or of larger domains.
    SpreadSoft { max_skew: i64, of_nodes: bool },
    /// Required pod affinity.
    Near,
    /// Required pod anti-affinity.
    Apart,
    /// Required anti-affinity of those that are there.
    KeptApart,
    /// Preferences, the pod's and of those that are there.
    Likes,
}

/// Numbers of pods by domain that matter to the pod.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub role: Role,
    pub key: usize,
    pub sources: Vec<(Source, i64)>,
    pub honor_affinity: bool,
    pub honor_taints: bool,
    /// Keys that a node must have to count.
    pub needs: Vec<usize>,
}

/// Sums of a component.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Of each domain.
    pub of: Vec<i64>,
    /// How many nodes of each domain count.
    nodes: Vec<u32>,
    /// How many domains have each sum; only for hard spread.
    histogram: BTreeMap<i64, u32>,
    /// Domains with a node that counts.
    pub domains: i64,
    pub total: i64,
    hard: bool,
}

impl Sums {
    fn leave(&mut self, value: i64) {
        if self.hard
            && let Some(n) = self.histogram.get_mut(&value)
        {
            *n -= 1;
            if *n == 0 {
                self.histogram.remove(&value);
            }
        }
    }

    /// Lets a node of a domain count with an amount, or, with -1, no more.
    fn add(&mut self, domain: u32, amount: i64, nodes: i32) {
        let at = domain as usize;
        if self.of.len() <= at {
            self.of.resize(at + 1, 0);
            self.nodes.resize(at + 1, 0);
        }
        if self.nodes[at] > 0 {
            self.leave(self.of[at]);
        } else {
            self.domains += 1;
        }
        self.of[at] += amount;
        self.total += amount;
        self.nodes[at] = self.nodes[at].saturating_add_signed(nodes);
        if self.nodes[at] == 0 {
            self.domains -= 1;
        } else if self.hard {
            *self.histogram.entry(self.of[at]).or_default() += 1;
        }
    }

    pub(crate) fn get(&self, domain: u32) -> i64 {
        self.of.get(domain as usize).copied().unwrap_or(0)
    }

    /// The smallest sum, if the sum of one domain were another.
    pub(crate) fn least(&self, changed: Option<(u32, i64)>) -> i64 {
        let changed = changed.filter(|(d, _)| self.nodes.get(*d as usize).is_some_and(|n| *n > 0));
        let Some((domain, delta)) = changed.filter(|(_, delta)| *delta != 0) else {
            return self.histogram.keys().next().copied().unwrap_or(0);
        };
        let now = self.get(domain);
        let mut others = self.histogram.iter().filter(|(sum, n)| **sum != now || **n > 1);
        let least = others.next().map(|(sum, _)| *sum);
        least.map_or(now + delta, |l| l.min(now + delta))
    }
}

/// What of a node does not change with its pods.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed {
    /// 1 + the refusal, or 0.
    refusal: u32,
    allowed: bool,
    tolerated: bool,
    taints: i64,
    affinity: i64,
    images: i64,
}

/// Nodes that are alike.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub key: Box<[i64]>,
    pub nodes: BTreeSet<NodeId>,
}

/// Numbers at the head of the key of a bucket of nodes that are not refused; those of the components follow.
pub(crate) const HEAD: usize = 4;
const MISSING: i64 = i64::MIN;

/// See the module.
#[derive(Debug)]
pub(crate) struct View {
    pub shape: Arc<Shape>,
    pub components: Vec<Component>,
    pub sums: Vec<Sums>,
    /// Whether the pod itself is one of those that it wants near.
    pub near_itself: bool,
    /// Whether soft spread wants nodes to have all keys.
    pub soft_needs: Vec<usize>,
    fixed: Vec<Fixed>,
    /// By node and component: where it counts, and with how much.
    counts: Vec<(u32, i64)>,
    bucket_of: Vec<u32>,
    pub buckets: Vec<Bucket>,
    index: HashMap<Box<[i64]>, u32>,
    free: Vec<u32>,
    pub refusals: Vec<Refusal>,
    strategy_resources: Vec<(Resource, i64)>,
    balanced_resources: Vec<(Resource, i64)>,
    checked: Vec<(Resource, i64)>,
    position: u64,
    images: u64,
    pub last_used: u64,
    scratch: Vec<i64>,
    uses: Vec<Use>,
}

impl View {
    /// A view that knows no node yet.
    pub(crate) fn new(
        shape: Arc<Shape>,
        components: Vec<Component>,
        near_itself: bool,
        soft_needs: Vec<usize>,
        profile: &Profile,
        resources: &mut Resources,
    ) -> Self {
        let asked = |list: &[(String, i64)], resources: &mut Resources| {
            let all = list.iter().map(|(name, weight)| (resources.id(name), *weight));
            // An extended resource counts only for who asks for it.
            all.filter(|(r, _)| *r <= 2 || shape.request(*r) > 0).collect::<Vec<_>>()
        };
        let strategy_resources = asked(&profile.strategy_resources, resources);
        let mut balanced_resources = asked(&profile.balanced_resources, resources);
        if balanced_resources.iter().all(|(r, _)| shape.request(*r) == 0) {
            balanced_resources.clear();
        }
        let checked = shape.requests.iter().filter(|(r, _)| *r <= 2 || !profile.ignores(resources.name(*r)));
        let sums = components.iter().map(|c| {
            let hard = matches!(c.role, Role::SpreadHard { .. });
            Sums { hard, ..Sums::default() }
        });
        Self {
            checked: checked.copied().collect(),
            sums: sums.collect(),
            components,
            near_itself,
            soft_needs,
            fixed: Vec::new(),
            counts: Vec::new(),
            bucket_of: Vec::new(),
            buckets: Vec::new(),
            index: HashMap::new(),
            free: Vec::new(),
            refusals: Vec::new(),
            strategy_resources,
            balanced_resources,
            position: 0,
            images: u64::MAX,
            last_used: 0,
            scratch: Vec::new(),
            uses: Vec::new(),
            shape,
        }
    }

    /// Takes in what changed since it was last looked at.
    pub(crate) fn catch_up(&mut self, facts: Facts<'_>) {
        let slots = facts.nodes.slots();
        let width = self.components.len();
        self.fixed.resize(slots, Fixed::default());
        self.counts.resize(slots * width, (NONE, 0));
        self.bucket_of.resize(slots, NONE);
        let images = facts.nodes.image_stamp(&self.shape.images);
        // A node's place may depend on the sums of its domain: all are counted before any is placed.
        match facts.nodes.since(self.position).filter(|c| c.len() < slots.max(64) && images == self.images) {
            Some([]) => {}
            Some([one]) => {
                self.recount(one.node, one.itself, facts);
                self.rekey(one.node, facts);
            }
            Some(changes) => {
                let mut changes = changes.to_vec();
                changes.sort_unstable_by_key(|c| (c.node, !c.itself));
                changes.dedup_by_key(|c| c.node);
                changes.iter().for_each(|c| self.recount(c.node, c.itself, facts));
                changes.iter().for_each(|c| self.rekey(c.node, facts));
            }
            None => {
                (0..slots).for_each(|id| self.recount(id as NodeId, true, facts));
                (0..slots).for_each(|id| self.rekey(id as NodeId, facts));
            }
        }
        self.images = images;
        self.position = facts.nodes.now();
    }

    /// The bucket of a node; [`NONE`] if it does not exist.
    pub(crate) fn bucket_of(&self, node: NodeId) -> u32 {
        self.bucket_of.get(node as usize).copied().unwrap_or(NONE)
    }

    /// Why nodes of a bucket are refused for what they are and hold.
    pub(crate) fn refusal(&self, bucket: &Bucket) -> Option<&Refusal> {
        match bucket.key.first() {
            Some(n) if bucket.key.len() == 1 => self.refusals.get((-1 - n) as usize),
            _ => None,
        }
    }

    /// Whether a node counts for a component.
    pub(crate) fn counts(&self, node: NodeId, c: usize) -> bool {
        self.counts[node as usize * self.components.len() + c].0 != NONE
    }

    /// Lets a node count in the sums as it is now.
    fn recount(&mut self, node: NodeId, itself: bool, facts: Facts<'_>) {
        let at = node as usize;
        let width = self.components.len();
        let exists = facts.nodes.object(node).is_some();
        if exists && itself {
            self.fixed[at] = self.look_at(node, facts);
        }
        for c in 0..width {
            let new = if exists { self.contribution(c, node, facts) } else { (NONE, 0) };
            let old = std::mem::replace(&mut self.counts[at * width + c], new);
            if old == new {
                continue;
            }
            if old.0 != NONE {
                self.sums[c].add(old.0, -old.1, -1);
            }
            if new.0 != NONE {
                self.sums[c].add(new.0, new.1, 1);
            }
        }
    }

    /// Puts a node among those that are like it now.
    fn rekey(&mut self, node: NodeId, facts: Facts<'_>) {
        let mut key = std::mem::take(&mut self.scratch);
        key.clear();
        if facts.nodes.object(node).is_some() {
            self.key_of(node, facts, &mut key);
        }
        self.move_to(node, &key);
        self.scratch = key;
    }

    /// In which domain a node counts for a component, and with how much.
    fn contribution(&self, c: usize, node: NodeId, facts: Facts<'_>) -> (u32, i64) {
        let component = &self.components[c];
        let fixed = &self.fixed[node as usize];
        let left_out = (component.honor_affinity && !fixed.allowed)
            || (component.honor_taints && !fixed.tolerated)
            || component.needs.iter().any(|k| facts.nodes.domain(*k, node) == NONE);
        if left_out {
            return (NONE, 0);
        }
        (facts.nodes.domain(component.key, node), local(component, node, facts))
    }

    /// What of a node does not change with its pods.
    fn look_at(&mut self, node: NodeId, facts: Facts<'_>) -> Fixed {
        let Some(object) = facts.nodes.object(node) else { return Fixed::default() };
        let (shape, profile) = (self.shape.clone(), facts.profile);
        let (_, taints) = facts.nodes.taints(node);
        let name = facts.nodes.name(node);
        let labels = kube::ResourceExt::labels(&**object);
        let added = profile.added_affinity.as_ref();
        let added_required =
            added.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let added_allows = added_required.is_none_or(|r| {
            r.node_selector_terms.iter().any(|t| node_affinity::term_matches(t, name, labels))
        });
        // Where nodes are named one by one, they are looked at one by one.
        let allowed = match &shape.pins {
            Some(_) => selector_allows(&shape, labels),
            None => node_affinity::allows(shape.spec(), name, labels),
        };
        let unschedulable = object.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        let tolerated = facts.nodes.tolerated(node, &shape);
        let on = |plugin| profile.filters.has(plugin);
        let refusal = if on(Plugin::NodeUnschedulable) && unschedulable && !tolerates_cordon(&shape) {
            Some(Refusal::always(Plugin::NodeUnschedulable, "node(s) were unschedulable"))
        } else if on(Plugin::TaintToleration) && !tolerated {
            Some(Refusal::always(Plugin::TaintToleration, "node(s) had untolerated taint(s)"))
        } else if on(Plugin::NodeAffinity) && !added_allows {
            let words = "node(s) didn't match scheduler-enforced node affinity";
            Some(Refusal::always(Plugin::NodeAffinity, words))
        } else if on(Plugin::NodeAffinity) && !allowed {
            Some(Refusal::always(Plugin::NodeAffinity, "node(s) didn't match Pod's node affinity/selector"))
        } else {
            None
        };
        let soft = taints.iter().filter(|t| t.effect == "PreferNoSchedule");
        let may = shape
            .tolerations()
            .iter()
            .filter(|t| matches!(t.effect.as_deref().unwrap_or_default(), "" | "PreferNoSchedule"));
        let may: Vec<_> = may.collect();
        let disliked = soft.filter(|taint| !may.iter().any(|t| taint::tolerates(t, taint))).count();
        let added_preferred =
            added.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
        let preferred = shape.preferred_nodes().iter().chain(added_preferred.unwrap_or_default());
        let liked = preferred.filter(|p| {
            let term = &p.preference;
            let empty = term.match_expressions.as_ref().is_none_or(Vec::is_empty)
                && term.match_fields.as_ref().is_none_or(Vec::is_empty);
            p.weight != 0 && !empty && node_affinity::term_matches(term, name, labels)
        });
        Fixed {
            refusal: refusal.map_or(0, |r| self.refusal_id(r) + 1),
            allowed: allowed && pinned_here(&shape, name, labels),
            tolerated,
            taints: disliked as i64,
            affinity: liked.map(|p| i64::from(p.weight)).sum(),
            images: if profile.weight(Plugin::ImageLocality) == 0 {
                0
            } else {
                image_score(node, &shape, facts)
            },
        }
    }

    fn refusal_id(&mut self, refusal: Refusal) -> u32 {
        let known = self.refusals.iter().position(|r| *r == refusal);
        known.unwrap_or_else(|| {
            self.refusals.push(refusal);
            self.refusals.len() - 1
        }) as u32
    }

    /// What tells the node from others, to pods of this shape.
    fn key_of(&mut self, node: NodeId, facts: Facts<'_>, key: &mut Vec<i64>) {
        let fixed = self.fixed[node as usize];
        let refused = match fixed.refusal {
            0 => self.full(node, facts).map(|r| self.refusal_id(r)),
            n => Some(n - 1),
        };
        if let Some(refused) = refused {
            key.push(-1 - i64::from(refused));
            return;
        }
        let ignored = self.soft_needs.iter().any(|k| facts.nodes.domain(*k, node) == NONE);
        key.extend([self.base(node, facts), fixed.taints, fixed.affinity, i64::from(ignored)]);
        for (c, component) in self.components.iter().enumerate() {
            let domain = facts.nodes.domain(component.key, node);
            let of_nodes = matches!(component.role, Role::SpreadSoft { of_nodes: true, .. });
            key.push(if domain == NONE {
                MISSING
            } else if of_nodes {
                (local(component, node, facts) << 1) | 1
            } else if facts.nodes.domain_size(component.key, domain) == 1 {
                (self.sums[c].get(domain) << 1) | 1
            } else {
                i64::from(domain) << 1
            });
        }
    }

    /// The sum that a bucket's nodes see of a component; `None` if they are in no domain.
    pub(crate) fn seen(&self, key: &[i64], c: usize) -> Option<i64> {
        match key.get(HEAD + c).copied()? {
            MISSING => None,
            local if local & 1 == 1 => Some(local >> 1),
            domain => Some(self.sums[c].get((domain >> 1) as u32)),
        }
    }

    /// The domain of a bucket's nodes where there are several in it.
    pub(crate) fn shared_domain(&self, key: &[i64], c: usize) -> Option<u32> {
        let part = key.get(HEAD + c).copied().filter(|p| *p != MISSING && p & 1 == 0)?;
        Some((part >> 1) as u32)
    }

    fn full(&self, node: NodeId, facts: Facts<'_>) -> Option<Refusal> {
        let profile = facts.profile;
        if profile.filters.has(Plugin::NodePorts)
            && !self.shape.ports.is_empty()
            && taken_port(&self.shape, facts.nodes.ports(node).iter())
        {
            return Some(ports_refusal());
        }
        profile.filters.has(Plugin::NodeResourcesFit).then(|| self.misfit(node, facts, 0, &|_| 0))?
    }

    /// What does not suffice on a node, with pods and amounts added to what is taken.
    pub(crate) fn misfit(
        &self,
        node: NodeId,
        facts: Facts<'_>,
        pods: i64,
        added: &dyn Fn(Resource) -> i64,
    ) -> Option<Refusal> {
        let at = node as usize;
        let mut reasons = Vec::new();
        let mut unresolvable = false;
        let count = &facts.nodes.pods;
        if count.taken[at] + pods + 1 > count.offered[at] {
            reasons.push(Reason::Words("Too many pods"));
        }
        for (resource, asked) in &self.checked {
            let (offered, taken) =
                facts.nodes.column(*resource).map_or((0, 0), |c| (c.offered[at], c.taken[at]));
            if *asked > offered - taken - added(*resource) {
                reasons.push(Reason::Insufficient(facts.resources.name(*resource).to_string()));
                unresolvable |= *asked > offered;
            }
        }
        let plugin = Plugin::NodeResourcesFit;
        (!reasons.is_empty()).then_some(Refusal { plugin, reasons, unresolvable })
    }

    /// The scores that need no comparison with other nodes, by weight.
    fn base(&mut self, node: NodeId, facts: Facts<'_>) -> i64 {
        let profile = facts.profile;
        let (fit, even) = (
            profile.weight(Plugin::NodeResourcesFit),
            profile.weight(Plugin::NodeResourcesBalancedAllocation),
        );
        let mut total = self.fixed[node as usize].images * profile.weight(Plugin::ImageLocality);
        if fit != 0 {
            let assumes = profile.strategy.assumes_requests();
            self.fill_uses(node, facts, assumes, true);
            total += fit * profile.strategy.score(&self.uses);
        }
        if even != 0 && !self.balanced_resources.is_empty() {
            self.fill_uses(node, facts, false, false);
            total += even * balance(&self.uses);
        }
        total
    }

    fn fill_uses(&mut self, node: NodeId, facts: Facts<'_>, assumes: bool, strategy: bool) {
        let at = node as usize;
        let list = if strategy { &self.strategy_resources } else { &self.balanced_resources };
        self.uses.clear();
        for (resource, weight) in list {
            let Some(column) = facts.nodes.column(*resource) else { continue };
            let offered = column.offered[at];
            if offered <= 0 {
                continue;
            }
            let requested = match *resource {
                CPU | MEMORY if assumes => {
                    let i = *resource as usize;
                    facts.nodes.counted[i][at] + self.shape.counted[i]
                }
                resource => column.taken[at] + self.shape.request(resource),
            };
            self.uses.push(Use { requested, offered, weight: *weight });
        }
    }

    fn move_to(&mut self, node: NodeId, key: &[i64]) {
        let old = self.bucket_of[node as usize];
        if old != NONE {
            let bucket = &mut self.buckets[old as usize];
            if *bucket.key == *key {
                return;
            }
            bucket.nodes.remove(&node);
            if bucket.nodes.is_empty() {
                let key = std::mem::take(&mut bucket.key);
                self.index.remove(&key);
                self.free.push(old);
            }
        }
        if key.is_empty() {
            self.bucket_of[node as usize] = NONE;
            return;
        }
        let id = match self.index.get(key) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or(self.buckets.len() as u32);
                if id as usize == self.buckets.len() {
                    self.buckets.push(Bucket::default());
                }
                self.buckets[id as usize].key = key.into();
                self.index.insert(key.into(), id);
                id
            }
        };
        self.buckets[id as usize].nodes.insert(node);
        self.bucket_of[node as usize] = id;
    }
}

/// How much a node itself counts for a component.
pub(crate) fn local(component: &Component, node: NodeId, facts: Facts<'_>) -> i64 {
    let each = component.sources.iter().map(|(source, weight)| {
        weight
            * match source {
                Source::Counter(id) => facts.counters.counted(*id, node),
                Source::Owners(id) => facts.counters.owners(*id, node),
            }
    });
    each.sum()
}

/// Whether some port that a pod wants is taken.
pub(crate) fn taken_port<'a>(shape: &Shape, taken: impl Iterator<Item = &'a crate::shape::HostPort>) -> bool {
    let mut taken = taken;
    taken.any(|t| shape.ports.iter().any(|p| p.collides(t)))
}

/// What is said where a port is taken.
pub(crate) fn ports_refusal() -> Refusal {
    Refusal::now(Plugin::NodePorts, "node(s) didn't have free ports for the requested pod ports")
}

fn selector_allows(shape: &Shape, labels: &BTreeMap<String, String>) -> bool {
    let mut selector = shape.spec().node_selector.iter().flatten();
    selector.all(|(k, v)| labels.get(k) == Some(v))
}

/// Where nodes are named one by one: whether this is one of them.
fn pinned_here(shape: &Shape, name: &str, labels: &BTreeMap<String, String>) -> bool {
    shape.pins.is_none() || node_affinity::allows(shape.spec(), name, labels)
}

fn tolerates_cordon(shape: &Shape) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    shape.tolerations().iter().any(|t| taint::tolerates(t, &cordon))
}

/// How much of what the pod's containers need is on the node already, from 0 to 100.
fn image_score(node: NodeId, shape: &Shape, facts: Facts<'_>) -> i64 {
    const LEAST: i64 = 23 << 20;
    const MOST: i64 = 1000 << 20;
    let sum: i64 = shape.images.iter().map(|i| facts.nodes.scaled_image(node, i)).sum();
    let most = MOST * shape.containers.max(1) as i64;
    100 * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
}
