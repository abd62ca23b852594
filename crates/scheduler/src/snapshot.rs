//! The cluster as the scheduler knows it: nodes, the pods on them, and what is derived from both. Kept up to date by difference; a
//! decision ([`crate::decision`]) changes nothing of it but what it remembers to be quicker the next time.

use crate::{
    counters::{Counters, LabelsId},
    matcher::{Constraint, Labels, Namespaces},
    nodes::{NodeId, Nodes},
    plugin::Plugin,
    profile::Profile,
    shape::{Ownership, Resources, Shape, Shapes, priority_of, spec_of},
    view::{Component, Facts, Role, Source, View},
    workloads::Workloads,
};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// A pod on a node.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its node.
    pub node: NodeId,
    pub(crate) shape: Arc<Shape>,
    pub(crate) labels: LabelsId,
    pub(crate) deleting: bool,
}

impl Placed {
    /// Its priority.
    pub fn priority(&self) -> i32 {
        priority_of(&self.pod)
    }
}

/// What tells one view from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    profile: usize,
    shape: u32,
    spread: Option<Arc<str>>,
    /// Which of the pod's own terms and constraints mean the pod itself.
    own: u64,
    owned: Arc<[usize]>,
}

#[derive(Debug)]
struct Kept {
    view: View,
    counters: Vec<usize>,
}

/// See the module.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) resources: Resources,
    shapes: Shapes,
    pub(crate) nodes: Nodes,
    pub(crate) counters: Counters,
    /// What pods belong together.
    pub workloads: Workloads,
    namespaces: Namespaces,
    placed: HashMap<String, Placed>,
    /// The uids of the pods of each node.
    residents: Vec<Vec<String>>,
    /// Pods that wait for others to leave a node, by uid.
    pub(crate) nominated: BTreeMap<String, Placed>,
    views: HashMap<ViewKey, Kept>,
    profiles: Vec<Arc<Profile>>,
    seed: u64,
    turns: Vec<u64>,
    uses: u64,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(vec![Profile::default()], 0)
    }
}

/// No two pods differ by where they run if the numbers that pick among equals are the same.
fn mix(seed: u64, turn: u64) -> u64 {
    let mut x = seed.wrapping_add(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

impl Snapshot {
    /// An empty cluster. Among nodes that are equally good the seed decides.
    pub fn new(profiles: Vec<Profile>, seed: u64) -> Self {
        let turns = vec![0; profiles.len()];
        Self {
            resources: Resources::default(),
            shapes: Shapes::default(),
            nodes: Nodes::default(),
            counters: Counters::default(),
            workloads: Workloads::default(),
            namespaces: Namespaces::new(),
            placed: HashMap::new(),
            residents: Vec::new(),
            nominated: BTreeMap::new(),
            views: HashMap::new(),
            profiles: profiles.into_iter().map(Arc::new).collect(),
            seed,
            turns,
            uses: 0,
        }
    }

    /// The profile of a pod by its `schedulerName`; `None` if it is somebody else's.
    pub fn profile_of(&self, pod: &Pod) -> Option<usize> {
        let name = spec_of(pod).scheduler_name.as_deref().unwrap_or(crate::profile::DEFAULT_NAME);
        self.profiles.iter().position(|p| p.name == name)
    }

    /// A profile.
    pub fn profile(&self, profile: usize) -> &Arc<Profile> {
        &self.profiles[profile]
    }

    /// The nodes.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Takes in a new or changed node.
    pub fn set_node(&mut self, node: &Arc<Node>) {
        self.nodes.set(node, &mut self.resources);
        self.residents.resize(self.nodes.slots(), Vec::new());
    }

    /// Takes out a node; pods that are still bound to it are remembered in case it returns.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.nodes.find(name) else { return };
        let has_pods = self.residents.get(id as usize).is_some_and(|r| !r.is_empty());
        self.nodes.remove(name, has_pods);
    }

    /// Takes in the labels of a namespace; `None` if it is gone.
    pub fn set_namespace(&mut self, name: &str, namespace: Option<&Namespace>) {
        let old = self.namespaces.remove(name);
        let new = namespace.map(|n| n.labels().clone());
        if let Some(labels) = &new {
            self.namespaces.insert(name.to_string(), labels.clone());
        }
        if old != new && self.counters.looks_at_namespaces() {
            self.count_anew();
        }
    }

    /// What terms mean changed: everything derived is made again.
    fn count_anew(&mut self) {
        self.views.clear();
        self.counters = Counters::default();
        let mut placed = std::mem::take(&mut self.placed);
        for pod in placed.values_mut() {
            pod.labels = self.counters.labels(&pod.shape.namespace, pod.pod.labels(), &self.namespaces);
            self.counters.count(pod.node, pod.labels, pod.deleting, &pod.shape, 1);
        }
        self.placed = placed;
        for pod in self.nominated.values_mut() {
            pod.labels = self.counters.labels(&pod.shape.namespace, pod.pod.labels(), &self.namespaces);
            self.counters.owned_of(&pod.shape);
        }
    }

    /// How many terms of pods (affinity, anti-affinity) are remembered; some of them of pods that are gone.
    pub fn terms(&self) -> usize {
        self.counters.terms()
    }

    /// Forgets terms of pods that are gone, now and then.
    fn forget_terms(&mut self) {
        if !self.counters.may_forget() {
            return;
        }
        let there = self.placed.values().chain(self.nominated.values());
        let shapes: HashSet<u32> = there.map(|p| p.shape.id).collect();
        let gone = self.counters.forget(&shapes);
        let old: Vec<ViewKey> =
            self.views.keys().filter(|k| k.owned.iter().any(|id| gone.contains(id))).cloned().collect();
        self.drop_views(old);
    }

    /// The shape of a pod.
    pub(crate) fn shape_of(&mut self, pod: &Arc<Pod>) -> Arc<Shape> {
        self.shapes.of(pod, &mut self.resources)
    }

    pub(crate) fn as_placed(&mut self, pod: &Arc<Pod>, node: NodeId) -> Placed {
        let shape = self.shapes.of(pod, &mut self.resources);
        let labels = self.counters.labels(&shape.namespace, pod.labels(), &self.namespaces);
        Placed { pod: pod.clone(), node, shape, labels, deleting: pod.metadata.deletion_timestamp.is_some() }
    }

    /// Puts a pod on a node, or replaces what is known of it.
    pub fn place(&mut self, name: &str, pod: &Arc<Pod>) {
        let node = self.nodes.slot(name);
        let mut new = self.as_placed(pod, node);
        let uid = uid_of(pod);
        if let Some(old) = self.placed.get_mut(&uid) {
            let same = old.node == node
                && old.shape.id == new.shape.id
                && old.labels == new.labels
                && old.deleting == new.deleting;
            if same {
                old.pod = pod.clone();
                return;
            }
        }
        self.remove_pod(&uid);
        self.nominated.remove(&uid);
        // With its last pod a node that is gone gave its slot back.
        let node = self.nodes.slot(name);
        new.node = node;
        self.residents.resize(self.nodes.slots(), Vec::new());
        self.nodes.count(node, &new.shape, 1);
        self.counters.count(node, new.labels, new.deleting, &new.shape, 1);
        self.residents[node as usize].push(uid.clone());
        self.placed.insert(uid, new);
    }

    /// Takes a pod off its node; says whether it was on one.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(old) = self.placed.remove(uid) else { return false };
        self.nodes.count(old.node, &old.shape, -1);
        self.counters.count(old.node, old.labels, old.deleting, &old.shape, -1);
        let residents = &mut self.residents[old.node as usize];
        if let Some(at) = residents.iter().position(|r| r == uid) {
            residents.swap_remove(at);
        }
        if residents.is_empty() && self.nodes.object(old.node).is_none() {
            self.nodes.release(old.node);
        }
        self.forget_terms();
        true
    }

    /// A pod that is on a node.
    pub fn placed(&self, uid: &str) -> Option<&Placed> {
        self.placed.get(uid)
    }

    /// How many pods are on nodes.
    pub fn pods(&self) -> usize {
        self.placed.len()
    }

    /// The pods of a node, in no order.
    pub fn residents(&self, node: NodeId) -> impl Iterator<Item = &Placed> {
        let uids = self.residents.get(node as usize).into_iter().flatten();
        uids.filter_map(|uid| self.placed.get(uid))
    }

    /// Remembers that a pod is to come to a node when others have left it; `None` if no more.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: Option<&str>) {
        let uid = uid_of(pod);
        match node.and_then(|n| self.nodes.find(n)) {
            Some(node) => {
                let pod = self.as_placed(pod, node);
                self.counters.owned_of(&pod.shape);
                self.nominated.insert(uid, pod);
            }
            None => {
                self.nominated.remove(&uid);
            }
        }
    }

    /// Whether a pod is to come to a node when others have left it.
    pub fn nomination(&self, uid: &str) -> Option<&Placed> {
        self.nominated.get(uid)
    }

    /// Pods of lower priority that are to come to a node.
    pub fn nominated_below(&self, node: NodeId, priority: i32) -> Vec<Arc<Pod>> {
        let there = self.nominated.values().filter(|p| p.node == node && p.priority() < priority);
        there.map(|p| p.pod.clone()).collect()
    }

    /// Where among equals to begin: one after the other, or anywhere.
    pub(crate) fn pivot(&mut self, profile: usize) -> NodeId {
        let slots = self.nodes.slots().max(1) as u64;
        let turn = self.turns[profile];
        if self.profiles[profile].strategy.in_turn() {
            return (turn % slots) as NodeId;
        }
        self.turns[profile] = turn.wrapping_add(1);
        (mix(self.seed ^ profile as u64, turn) % slots) as NodeId
    }

    /// Notes that a node had its turn.
    pub(crate) fn had_turn(&mut self, profile: usize, node: NodeId) {
        if self.profiles[profile].strategy.in_turn() {
            self.turns[profile] = u64::from(node) + 1;
        }
    }

    /// The view that a pod of a shape has, up to date.
    pub(crate) fn view(&mut self, profile: usize, pod: &Placed, shape: &Arc<Shape>) -> ViewKey {
        self.forget_terms();
        let rules = self.profiles[profile].clone();
        let interpod =
            rules.filters.has(Plugin::InterPodAffinity) || rules.weight(Plugin::InterPodAffinity) != 0;
        let owned = if interpod {
            self.counters.owned_of(shape);
            self.counters.owned_meaning(pod.labels, &self.namespaces)
        } else {
            Arc::default()
        };
        let spreads = rules.weight(Plugin::PodTopologySpread) != 0
            || rules.default_constraints.iter().any(|constraint| constraint.hard);
        let spread =
            if shape.spread.is_empty() && spreads { self.workloads.selector(&pod.pod) } else { None };
        let labels = pod.pod.labels();
        let itself = |p: &crate::matcher::PodSelector| p.matches(&shape.namespace, labels, &self.namespaces);
        let mut own = u64::from(!shape.near.is_empty() && shape.near.iter().all(|t| itself(&t.pods)));
        for (at, constraint) in shape.spread.iter().enumerate() {
            let meant = constraint.pods.as_ref().is_some_and(|p| itself(p));
            own |= u64::from(meant) << (1 + at.min(62));
        }
        let text = spread.as_ref().map(|s| s.text().clone());
        let key = ViewKey { profile, shape: shape.id, spread: text, own, owned };
        self.uses += 1;
        if !self.views.contains_key(&key) {
            self.make_room();
            let (components, soft_needs, counters) =
                self.components(&rules, shape, spread.as_ref(), &key, labels);
            let view =
                View::new(shape.clone(), components, own & 1 == 1, soft_needs, &rules, &mut self.resources);
            self.views.insert(key.clone(), Kept { view, counters });
        }
        let facts = Facts {
            nodes: &self.nodes,
            counters: &self.counters,
            profile: &rules,
            resources: &self.resources,
        };
        if let Some(kept) = self.views.get_mut(&key) {
            kept.view.last_used = self.uses;
            kept.view.catch_up(facts);
        }
        key
    }

    /// A view with what it is derived from.
    pub(crate) fn seen(&self, key: &ViewKey) -> Option<(&View, Facts<'_>)> {
        let facts = Facts {
            nodes: &self.nodes,
            counters: &self.counters,
            profile: &self.profiles[key.profile],
            resources: &self.resources,
        };
        self.views.get(key).map(|kept| (&kept.view, facts))
    }

    /// Forgets the views that were not used for longest.
    fn make_room(&mut self) {
        let most = (2_000_000 / self.nodes.slots().max(1)).clamp(8, 256);
        if self.views.len() < most {
            return;
        }
        let mut ages: Vec<u64> = self.views.values().map(|k| k.view.last_used).collect();
        ages.sort_unstable();
        let limit = ages[ages.len() / 4];
        let old: Vec<ViewKey> =
            self.views.iter().filter(|(_, k)| k.view.last_used <= limit).map(|(k, _)| k.clone()).collect();
        self.drop_views(old);
    }

    fn drop_views(&mut self, keys: Vec<ViewKey>) {
        for key in keys {
            if let Some(kept) = self.views.remove(&key) {
                kept.counters.into_iter().for_each(|c| self.counters.release(c));
            }
        }
    }

    /// The numbers of pods that matter to a shape.
    fn components(
        &mut self,
        rules: &Profile,
        shape: &Shape,
        spread: Option<&Arc<crate::matcher::PodSelector>>,
        key: &ViewKey,
        labels: &Labels,
    ) -> (Vec<Component>, Vec<usize>, Vec<usize>) {
        let mut made = Components { snapshot: self, all: Vec::new(), counters: Vec::new() };
        let soft_needs = made.spread(rules, shape, spread, labels);
        if rules.filters.has(Plugin::InterPodAffinity) {
            made.required(shape, &key.owned);
        }
        if rules.weight(Plugin::InterPodAffinity) != 0 {
            made.preferred(rules, shape, &key.owned);
        }
        (made.all, soft_needs, made.counters)
    }
}

/// Makes the components of a view.
struct Components<'a> {
    snapshot: &'a mut Snapshot,
    all: Vec<Component>,
    counters: Vec<usize>,
}

impl Components<'_> {
    fn counter(&mut self, pods: &[Arc<crate::matcher::PodSelector>], living: bool) -> Source {
        let id = self.snapshot.counters.counter(pods, living, &self.snapshot.namespaces);
        self.counters.push(id);
        Source::Counter(id)
    }

    fn add(&mut self, role: Role, key: usize, sources: Vec<(Source, i64)>) {
        let known = self.all.iter_mut().find(|c| c.role == role && c.key == key);
        match known.filter(|_| matches!(role, Role::Apart | Role::KeptApart | Role::Likes | Role::Near)) {
            // The sum over one domain is all that matters; of affinity it is the same pods anyway.
            Some(component) if role != Role::Near => component.sources.extend(sources),
            Some(_) => {}
            None => self.all.push(Component {
                role,
                key,
                sources,
                honor_affinity: false,
                honor_taints: false,
                needs: Vec::new(),
            }),
        }
    }

    /// Topology spread: the pod's own, or the profile's where it has none and something selects the pod. Answers which keys a
    /// node must have to be compared.
    fn spread(
        &mut self,
        rules: &Profile,
        shape: &Shape,
        workload: Option<&Arc<crate::matcher::PodSelector>>,
        labels: &Labels,
    ) -> Vec<usize> {
        let defaulted = shape.spread.is_empty();
        let constraints: Vec<Constraint> = if !defaulted {
            shape.spread.clone()
        } else if let Some(pods) = workload {
            let with = |c: &Constraint| Constraint { pods: Some(pods.clone()), ..c.clone() };
            rules.default_constraints.iter().map(with).collect()
        } else {
            Vec::new()
        };
        let mut soft_needs = Vec::new();
        for hard in [true, false] {
            let on = if hard {
                rules.filters.has(Plugin::PodTopologySpread)
            } else {
                rules.weight(Plugin::PodTopologySpread) != 0
            };
            let group: Vec<_> = constraints.iter().filter(|c| on && c.hard == hard).collect();
            let keys: Vec<usize> = group.iter().map(|c| self.snapshot.nodes.key(&c.topology_key)).collect();
            let needs = if hard || !defaulted || !rules.system_defaulted { keys.clone() } else { Vec::new() };
            if !hard {
                soft_needs.clone_from(&needs);
            }
            for (constraint, key) in group.into_iter().zip(keys) {
                let Some(pods) = &constraint.pods else { continue };
                let source = self.counter(std::slice::from_ref(pods), true);
                let itself = pods.matches(&shape.namespace, labels, &self.snapshot.namespaces);
                let role = if hard {
                    let (max_skew, min_domains) = (constraint.max_skew, constraint.min_domains);
                    Role::SpreadHard { max_skew, min_domains, own: i64::from(itself) }
                } else {
                    let of_nodes = constraint.topology_key == "kubernetes.io/hostname";
                    Role::SpreadSoft { max_skew: constraint.max_skew, of_nodes }
                };
                self.all.push(Component {
                    role,
                    key,
                    sources: vec![(source, 1)],
                    honor_affinity: constraint.honor_affinity,
                    honor_taints: constraint.honor_taints,
                    needs: needs.clone(),
                });
            }
        }
        soft_needs
    }

    fn required(&mut self, shape: &Shape, owned: &[usize]) {
        if !shape.near.is_empty() {
            // Only pods that all terms mean count, for each of the terms.
            let pods: Vec<_> = shape.near.iter().map(|t| t.pods.clone()).collect();
            let source = self.counter(&pods, false);
            for term in &shape.near {
                let key = self.snapshot.nodes.key(&term.topology_key);
                self.add(Role::Near, key, vec![(source, 1)]);
            }
        }
        for term in &shape.apart {
            let source = self.counter(std::slice::from_ref(&term.pods), false);
            let key = self.snapshot.nodes.key(&term.topology_key);
            self.add(Role::Apart, key, vec![(source, 1)]);
        }
        for id in owned {
            let Some(term) = self.snapshot.counters.owned(*id) else { continue };
            if term.ownership == Ownership::RequiresApart {
                let key = self.snapshot.nodes.key(&term.term.topology_key.clone());
                self.add(Role::KeptApart, key, vec![(Source::Owners(*id), 1)]);
            }
        }
    }

    fn preferred(&mut self, rules: &Profile, shape: &Shape, owned: &[usize]) {
        for (weight, term) in &shape.prefers {
            let source = self.counter(std::slice::from_ref(&term.pods), false);
            let key = self.snapshot.nodes.key(&term.topology_key);
            self.add(Role::Likes, key, vec![(source, *weight)]);
        }
        if rules.ignore_preferred_terms_of_existing_pods && shape.prefers.is_empty() {
            return;
        }
        for id in owned {
            let Some(term) = self.snapshot.counters.owned(*id) else { continue };
            let weight = match term.ownership {
                Ownership::RequiresNear => rules.hard_pod_affinity_weight,
                Ownership::Prefers(weight) => weight,
                Ownership::RequiresApart => 0,
            };
            if weight != 0 {
                let key = self.snapshot.nodes.key(&term.term.topology_key.clone());
                self.add(Role::Likes, key, vec![(Source::Owners(*id), weight)]);
            }
        }
    }
}

impl Snapshot {
    /// The shape of a pod without the nodes that it names one by one: so that the pods of a DaemonSet share their work.
    pub(crate) fn unpinned(&mut self, pod: &Placed) -> Arc<Shape> {
        let shares = match &pod.shape.pins {
            Some(pins) => pins.len() <= 1 && pod.shape.spread.is_empty(),
            None => false,
        };
        if !shares {
            return pod.shape.clone();
        }
        let mut bare = Pod::default();
        bare.metadata.namespace = pod.pod.metadata.namespace.clone();
        bare.metadata.labels = pod.pod.metadata.labels.clone();
        let mut spec = spec_of(&pod.pod).clone();
        if let Some(affinity) = spec.affinity.as_mut().and_then(|a| a.node_affinity.as_mut()) {
            affinity.required_during_scheduling_ignored_during_execution = None;
        }
        bare.spec = Some(spec);
        self.shapes.of(&Arc::new(bare), &mut self.resources)
    }
}
