//! How many placed pods of each node a term means, and how many have a term of their own: kept up to date with every pod that comes
//! or goes, so that no decision looks at pods one by one.

use crate::{
    matcher::{Labels, Namespaces, PodSelector, Term},
    nodes::NodeId,
    shape::{Ownership, Shape},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// A set of labels in a namespace, by its number.
pub type LabelsId = u32;

/// Pods of one namespace with the same labels.
#[derive(Debug)]
struct LabelSet {
    namespace: String,
    labels: Arc<Labels>,
    /// Pods on each node, and how many of them are being deleted.
    on: HashMap<NodeId, (i32, i32)>,
    /// The counters that count them.
    counters: Vec<usize>,
    /// How many owned terms, in the order in which they came, were asked whether they mean them, and those that do.
    owned: (usize, Arc<[usize]>),
}

/// What a counter counts: pods that all of the selectors mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counted {
    texts: Vec<Arc<str>>,
    /// Leaves out pods that are being deleted.
    living: bool,
}

#[derive(Debug)]
struct Counter {
    what: Counted,
    selectors: Vec<Arc<PodSelector>>,
    per_node: Vec<i32>,
    users: usize,
}

/// A term that placed pods have.
#[derive(Debug)]
pub struct OwnedTerm {
    /// What it is to them.
    pub ownership: Ownership,
    /// The term.
    pub term: Term,
    on: HashMap<NodeId, i32>,
}

/// What tells one owned term from another.
type OwnedKey = (Ownership, Arc<str>, String);

/// See the module.
#[derive(Debug, Default)]
pub struct Counters {
    sets: Vec<Option<LabelSet>>,
    set_ids: HashMap<String, HashMap<Arc<Labels>, LabelsId>>,
    free_sets: Vec<LabelsId>,
    idle_sets: usize,
    counters: Vec<Option<Counter>>,
    counter_ids: HashMap<Counted, usize>,
    owned: Vec<Option<OwnedTerm>>,
    owned_ids: HashMap<OwnedKey, usize>,
    /// Their numbers in the order in which they came.
    owned_order: Vec<usize>,
    free_owned: Vec<usize>,
    of_shape: HashMap<u32, Arc<[usize]>>,
    forget_at: usize,
}

/// Fewer terms and shapes than this are not worth forgetting.
const FEW: usize = 1024;

impl Counters {
    /// The number of a pod's labels.
    pub fn labels(&mut self, namespace: &str, labels: &Labels, spaces: &Namespaces) -> LabelsId {
        if let Some(id) = self.set_ids.get(namespace).and_then(|of| of.get(labels)) {
            return *id;
        }
        if self.idle_sets > 1024 + self.sets.len() / 2 {
            self.sweep();
        }
        let labels = Arc::new(labels.clone());
        let mut counters = Vec::new();
        for (id, counter) in self.counters.iter().enumerate() {
            if counter.as_ref().is_some_and(|c| means(&c.selectors, namespace, &labels, spaces)) {
                counters.push(id);
            }
        }
        let set = LabelSet {
            namespace: namespace.into(),
            labels: labels.clone(),
            on: HashMap::new(),
            counters,
            owned: (0, Arc::default()),
        };
        let id = match self.free_sets.pop() {
            Some(id) => {
                self.sets[id as usize] = Some(set);
                id
            }
            None => {
                self.sets.push(Some(set));
                self.sets.len() as LabelsId - 1
            }
        };
        self.idle_sets += 1;
        self.set_ids.entry(namespace.to_string()).or_default().insert(labels, id);
        id
    }

    /// Forgets labels that no placed pod has.
    fn sweep(&mut self) {
        for id in 0..self.sets.len() {
            if let Some(set) = self.sets[id].take_if(|s| s.on.is_empty()) {
                self.free_sets.push(id as LabelsId);
                if let Some(of) = self.set_ids.get_mut(&set.namespace) {
                    of.remove(&set.labels);
                }
            }
        }
        self.set_ids.retain(|_, of| !of.is_empty());
        self.idle_sets = 0;
    }

    /// Counts a pod in or, with -1, out.
    pub fn count(&mut self, node: NodeId, labels: LabelsId, deleting: bool, shape: &Shape, sign: i32) {
        let Some(Some(set)) = self.sets.get_mut(labels as usize) else { return };
        let was_idle = set.on.is_empty();
        let (all, dying) = set.on.entry(node).or_default();
        *all += sign;
        *dying += if deleting { sign } else { 0 };
        if *all == 0 {
            set.on.remove(&node);
        }
        match (was_idle, set.on.is_empty()) {
            (true, false) => self.idle_sets = self.idle_sets.saturating_sub(1),
            (false, true) => self.idle_sets += 1,
            _ => {}
        }
        for id in &set.counters {
            if let Some(Some(counter)) = self.counters.get_mut(*id)
                && !(deleting && counter.what.living)
            {
                add(&mut counter.per_node, node, sign);
            }
        }
        if shape.apart.is_empty() && shape.near.is_empty() && shape.prefers.is_empty() {
            return;
        }
        for id in self.owned_of(shape).iter() {
            let Some(Some(OwnedTerm { on, .. })) = self.owned.get_mut(*id) else { continue };
            let count = on.entry(node).or_default();
            *count += sign;
            if *count == 0 {
                on.remove(&node);
            }
        }
    }

    /// The numbers of a shape's own terms.
    pub fn owned_of(&mut self, shape: &Shape) -> Arc<[usize]> {
        if let Some(known) = self.of_shape.get(&shape.id) {
            return known.clone();
        }
        if shape.owned().next().is_none() {
            return Arc::default();
        }
        let mut ids = Vec::new();
        for (ownership, term) in shape.owned() {
            let key = (ownership, term.pods.text().clone(), term.topology_key.clone());
            let id = *self.owned_ids.entry(key).or_insert_with(|| {
                let id = self.free_owned.pop().unwrap_or(self.owned.len());
                if id == self.owned.len() {
                    self.owned.push(None);
                }
                self.owned[id] = Some(OwnedTerm { ownership, term: term.clone(), on: HashMap::new() });
                self.owned_order.push(id);
                id
            });
            ids.push(id);
        }
        let ids: Arc<[usize]> = ids.into();
        self.of_shape.insert(shape.id, ids.clone());
        ids
    }

    /// The numbers of the terms of a shape that pods were counted with.
    pub fn known_owned_of(&self, shape: &Shape) -> &[usize] {
        self.of_shape.get(&shape.id).map_or(&[], |ids| ids)
    }

    /// The owned terms that mean a pod with these labels.
    pub fn owned_meaning(&mut self, labels: LabelsId, spaces: &Namespaces) -> Arc<[usize]> {
        let Some(Some(set)) = self.sets.get_mut(labels as usize) else { return Arc::default() };
        let (asked, known) = &set.owned;
        if *asked < self.owned_order.len() {
            let meant = |id: &usize| {
                let term = self.owned[*id].as_ref();
                term.is_some_and(|t| t.term.pods.matches(&set.namespace, &set.labels, spaces))
            };
            let more: Vec<usize> = self.owned_order[*asked..].iter().copied().filter(meant).collect();
            let all =
                if more.is_empty() { known.clone() } else { known.iter().copied().chain(more).collect() };
            set.owned = (self.owned_order.len(), all);
        }
        set.owned.1.clone()
    }

    /// A term that placed pods have.
    pub fn owned(&self, id: usize) -> Option<&OwnedTerm> {
        self.owned.get(id)?.as_ref()
    }

    /// How many pods of a node have a term.
    pub fn owners(&self, id: usize, node: NodeId) -> i64 {
        self.owned(id).and_then(|t| t.on.get(&node)).map_or(0, |n| i64::from(*n))
    }

    /// How many terms of pods are known.
    pub fn terms(&self) -> usize {
        self.owned_ids.len()
    }

    /// Whether so many terms came that some may be forgotten.
    pub(crate) fn may_forget(&self) -> bool {
        self.owned_ids.len() + self.of_shape.len() > self.forget_at.max(FEW)
    }

    /// Forgets the terms that no pod of these shapes has; answers which. Their numbers may come to mean others.
    pub(crate) fn forget(&mut self, shapes: &HashSet<u32>) -> HashSet<usize> {
        self.of_shape.retain(|shape, _| shapes.contains(shape));
        let kept: HashSet<usize> = self.of_shape.values().flat_map(|ids| ids.iter().copied()).collect();
        let mut gone = HashSet::new();
        self.owned_ids.retain(|_, id| {
            let keep = kept.contains(id);
            if !keep {
                self.owned[*id] = None;
                gone.insert(*id);
            }
            keep
        });
        if !gone.is_empty() {
            self.owned_order.retain(|id| kept.contains(id));
            self.free_owned.extend(&gone);
            self.sets.iter_mut().flatten().for_each(|set| set.owned = (0, Arc::default()));
        }
        self.forget_at = 2 * (self.owned_ids.len() + self.of_shape.len());
        gone
    }

    /// A counter of the pods that all of the selectors mean; give it back with [`Counters::release`].
    pub fn counter(&mut self, selectors: &[Arc<PodSelector>], living: bool, spaces: &Namespaces) -> usize {
        let what = Counted { texts: selectors.iter().map(|s| s.text().clone()).collect(), living };
        if let Some(id) = self.counter_ids.get(&what).copied() {
            if let Some(Some(counter)) = self.counters.get_mut(id) {
                counter.users += 1;
            }
            return id;
        }
        let free = self.counters.iter().position(Option::is_none);
        let id = free.unwrap_or(self.counters.len());
        if free.is_none() {
            self.counters.push(None);
        }
        let mut per_node = Vec::new();
        let only = selectors.iter().find_map(|s| s.only_namespace());
        let ids: Vec<LabelsId> = match only {
            Some(namespace) => {
                self.set_ids.get(namespace).into_iter().flat_map(|of| of.values().copied()).collect()
            }
            None => (0..self.sets.len() as LabelsId).collect(),
        };
        for set in ids {
            let Some(Some(set)) = self.sets.get_mut(set as usize) else { continue };
            if means(selectors, &set.namespace, &set.labels, spaces) {
                set.counters.push(id);
                for (node, (all, dying)) in &set.on {
                    add(&mut per_node, *node, if living { all - dying } else { *all });
                }
            }
        }
        let counter = Counter { what: what.clone(), selectors: selectors.to_vec(), per_node, users: 1 };
        self.counters[id] = Some(counter);
        self.counter_ids.insert(what, id);
        id
    }

    /// Gives back a counter.
    pub fn release(&mut self, id: usize) {
        let Some(Some(counter)) = self.counters.get_mut(id) else { return };
        counter.users -= 1;
        if counter.users > 0 {
            return;
        }
        self.counter_ids.remove(&counter.what);
        self.counters[id] = None;
        for set in self.sets.iter_mut().flatten() {
            set.counters.retain(|c| *c != id);
        }
    }

    /// How many pods of a node a counter counts.
    pub fn counted(&self, id: usize, node: NodeId) -> i64 {
        let Some(Some(counter)) = self.counters.get(id) else { return 0 };
        counter.per_node.get(node as usize).map_or(0, |n| i64::from(*n))
    }

    /// Whether a counter counts a pod with these labels.
    pub fn counts(&self, id: usize, labels: LabelsId, deleting: bool) -> bool {
        let living = self.counters.get(id).and_then(Option::as_ref).is_some_and(|c| c.what.living);
        let set = self.sets.get(labels as usize).and_then(Option::as_ref);
        set.is_some_and(|s| s.counters.contains(&id)) && !(living && deleting)
    }

    /// Whether anything depends on the labels of namespaces.
    pub fn looks_at_namespaces(&self) -> bool {
        let counters = self.counters.iter().flatten();
        counters.flat_map(|c| &c.selectors).any(|s| s.looks_at_namespaces())
            || self.owned.iter().flatten().any(|t| t.term.pods.looks_at_namespaces())
    }
}

fn means(selectors: &[Arc<PodSelector>], namespace: &str, labels: &Labels, spaces: &Namespaces) -> bool {
    selectors.iter().all(|s| s.matches(namespace, labels, spaces))
}

fn add(per_node: &mut Vec<i32>, node: NodeId, by: i32) {
    if per_node.len() <= node as usize {
        per_node.resize(node as usize + 1, 0);
    }
    per_node[node as usize] += by;
}
