//! The decision: filters, then scores, over one snapshot. The same snapshot, pod and seed give the same answer.

use crate::{
    nodes::{NONE, NodeId},
    plugin::{Plugin, Plugins, Reason, Refusal},
    shape::spec_of,
    snapshot::{Placed, Snapshot, ViewKey},
    strategy::MAX,
    view::{Bucket, Facts, HEAD, Role, View},
    volume_limits::Crowd,
};
use k8s_openapi::api::core::v1::Pod;
use orlop_api::node_affinity;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

/// What was decided for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Node {
        /// Its name.
        name: String,
        /// How many nodes it fits.
        feasible: usize,
    },
    /// It fits nowhere now.
    Unschedulable(Diagnosis),
}

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// What the filters say, with the number of nodes they say it of.
    pub refusals: BTreeMap<Refusal, usize>,
    /// Nodes that were not looked at since a plugin knew before that it could not be these.
    pub skipped: Option<(Plugin, usize)>,
    /// What a plugin has against the pod on any node.
    pub before: Option<(Plugin, String)>,
    /// What preemption says, if it cannot help.
    pub after: String,
}

impl Diagnosis {
    /// The plugins that stand in the way.
    pub fn plugins(&self) -> Plugins {
        let all = self.refusals.keys().map(|r| r.plugin);
        let more = self.skipped.map(|(p, _)| p).into_iter().chain(self.before.as_ref().map(|(p, _)| *p));
        all.chain(more).fold(Plugins::default(), Plugins::with)
    }

    /// Whether the pods that are there could be in the way.
    pub fn may_be_resolved(&self) -> bool {
        self.refusals.keys().any(|r| !r.unresolvable)
    }
}

/// `COUNT REASON, …`, as kube-scheduler sorts them.
pub(crate) fn histogram(reasons: impl IntoIterator<Item = (Reason, usize)>) -> String {
    let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
    for (reason, count) in reasons {
        *counts.entry(reason).or_default() += count;
    }
    let mut list: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    list.sort();
    list.join(", ")
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        if let Some((_, words)) = &self.before {
            write!(f, " {words}.")?;
        } else {
            let all = self.refusals.iter();
            let each = all.flat_map(|(r, n)| r.reasons.iter().map(move |reason| (reason.clone(), *n)));
            let mut list = histogram(each);
            if let Some((plugin, count)) = self.skipped {
                let words = format!("{count} node(s) didn't satisfy plugin(s) [{}]", plugin.name());
                let mut parts: Vec<&str> = list.split(", ").filter(|p| !p.is_empty()).collect();
                parts.push(&words);
                parts.sort_unstable();
                list = parts.join(", ");
            }
            if !list.is_empty() {
                write!(f, " {list}.")?;
            }
        }
        if self.after.is_empty() { Ok(()) } else { write!(f, " {}", self.after) }
    }
}

/// What plugins have against nodes that look at more than nodes and pods (volumes).
#[derive(Clone, Debug, Default)]
pub struct Vetoes {
    /// Against the pod, wherever it goes.
    pub before: Option<(Plugin, String)>,
    /// Against single nodes.
    pub nodes: HashMap<NodeId, Refusal>,
    /// Of those the nodes that would have room for the pod's volumes if others left.
    pub crowds: HashMap<NodeId, Vec<Crowd>>,
}

/// A node that a pod fits, with what each plugin thinks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// The sum that decides.
    pub score: i64,
    /// Scores by plugin, weighted. Those of resources and images are one sum.
    pub parts: Vec<(Plugin, i64)>,
}

/// Buckets that passed all filters, with their scores.
struct Scored {
    bucket: u32,
    score: i64,
    parts: [i64; PARTS],
}

const PARTS: usize = 5;
const PART_NAMES: [Plugin; PARTS] = [
    Plugin::NodeResourcesFit,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
];

/// A pod as it is seen in one decision.
pub(crate) struct Case {
    pub pod: Placed,
    pub key: ViewKey,
    /// The only nodes to look at.
    pub only: Option<Vec<NodeId>>,
    pub vetoes: HashMap<NodeId, Refusal>,
}

impl Snapshot {
    /// Decides where a pod goes.
    pub fn decide(&mut self, pod: &Arc<Pod>, profile: usize, vetoes: Vetoes) -> Decision {
        let nodes = self.nodes.existing();
        if vetoes.before.is_some() || nodes == 0 {
            return Decision::Unschedulable(Diagnosis {
                nodes,
                before: vetoes.before,
                ..Diagnosis::default()
            });
        }
        let case = self.case(pod, profile, vetoes.nodes);
        let pivot = self.pivot(profile);
        let decided = self.seen(&case.key).map(|(view, facts)| decide(view, facts, &case, pivot));
        match decided {
            Some(Ok((node, feasible))) => {
                self.had_turn(profile, node);
                Decision::Node { name: self.nodes.name(node).to_string(), feasible }
            }
            Some(Err(diagnosis)) => Decision::Unschedulable(diagnosis),
            None => Decision::Unschedulable(Diagnosis { nodes, ..Diagnosis::default() }),
        }
    }

    /// The nodes that a pod fits, the best first, and what stands against the others.
    pub fn explain(&mut self, pod: &Arc<Pod>, profile: usize, vetoes: Vetoes) -> (Vec<Candidate>, Diagnosis) {
        let nodes = self.nodes.existing();
        let case = self.case(pod, profile, vetoes.nodes);
        let Some((view, facts)) = self.seen(&case.key) else { return Default::default() };
        let (feasible, mut diagnosis) = filter(view, facts, &case);
        diagnosis.nodes = nodes;
        diagnosis.before = vetoes.before;
        let mut all = Vec::new();
        for scored in score(view, facts, &feasible) {
            let bucket = &view.buckets[scored.bucket as usize];
            for node in bucket.nodes.iter().filter(|n| case.allows(**n)) {
                let parts = PART_NAMES.into_iter().zip(scored.parts).collect();
                all.push(Candidate { node: facts.nodes.name(*node).into(), score: scored.score, parts });
            }
        }
        all.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.node.cmp(&b.node)));
        (all, diagnosis)
    }

    /// Prepares what a decision about a pod looks at.
    pub(crate) fn case(&mut self, pod: &Arc<Pod>, profile: usize, vetoes: HashMap<NodeId, Refusal>) -> Case {
        let pod = self.as_placed(pod, NONE);
        let shape = self.unpinned(&pod);
        let key = self.view(profile, &pod, &shape);
        let pins =
            pod.shape.pins.as_ref().filter(|_| self.profile(profile).filters.has(Plugin::NodeAffinity));
        let only = pins.map(|pins| pins.iter().filter_map(|n| self.nodes.find(n)).collect::<Vec<_>>());
        let mut case = Case { pod, key, only, vetoes };
        self.heed_pins(&mut case);
        self.heed_nominations(&mut case);
        case
    }

    /// Nodes that are named one by one must match the rest of their terms too.
    fn heed_pins(&self, case: &mut Case) {
        for node in case.only.iter().flatten() {
            let Some(object) = self.nodes.object(*node) else { continue };
            let labels = kube::ResourceExt::labels(&**object);
            if !node_affinity::allows(spec_of(&case.pod.pod), self.nodes.name(*node), labels) {
                let words = "node(s) didn't match Pod's node affinity/selector";
                case.vetoes.insert(*node, Refusal::always(Plugin::NodeAffinity, words));
            }
        }
    }

    /// A node must also do when the pods that are to come to it and are no less important have come.
    fn heed_nominations(&self, case: &mut Case) {
        if self.nominated.is_empty() {
            return;
        }
        let uid = &case.pod.pod.metadata.uid;
        let before_us = |p: &&Placed| p.priority() >= case.pod.priority() && p.pod.metadata.uid != *uid;
        let mut by_node: BTreeMap<NodeId, Vec<&Placed>> = BTreeMap::new();
        for other in self.nominated.values().filter(before_us) {
            by_node.entry(other.node).or_default().push(other);
        }
        let Some((view, facts)) = self.seen(&case.key) else { return };
        for (node, others) in by_node {
            let bucket = view.bucket_of(node);
            if bucket == NONE || case.vetoes.contains_key(&node) {
                continue;
            }
            if view.refusal(&view.buckets[bucket as usize]).is_none()
                && let Some(refusal) = crate::check::check(view, facts, node, &[], &others)
            {
                case.vetoes.insert(node, refusal);
            }
        }
    }
}

impl Case {
    fn allows(&self, node: NodeId) -> bool {
        !self.vetoes.contains_key(&node) && self.only.as_ref().is_none_or(|o| o.contains(&node))
    }
}

fn decide(view: &View, facts: Facts<'_>, case: &Case, pivot: NodeId) -> Result<(NodeId, usize), Diagnosis> {
    let (feasible, diagnosis) = filter(view, facts, case);
    let count: usize = feasible.iter().map(|(_, n)| n).sum();
    let best = match feasible.as_slice() {
        [] => return Err(diagnosis),
        [(only, _)] => vec![*only],
        _ => {
            let all = score(view, facts, &feasible);
            let most = all.iter().map(|s| s.score).max().unwrap_or(0);
            all.into_iter().filter(|s| s.score == most).map(|s| s.bucket).collect()
        }
    };
    // Of those that are equally good the first from the pivot on, and then from the start.
    let from = |range: (NodeId, NodeId)| {
        let first = best.iter().filter_map(|b| {
            let nodes = &view.buckets[*b as usize].nodes;
            nodes.range(range.0..range.1).copied().find(|n| case.allows(*n))
        });
        first.min()
    };
    match from((pivot, NONE)).or_else(|| from((0, pivot))) {
        Some(node) => Ok((node, count)),
        None => Err(diagnosis),
    }
}

/// Buckets of nodes that pass all filters, with how many of their nodes do, and what stands against the others.
fn filter(view: &View, facts: Facts<'_>, case: &Case) -> (Vec<(u32, usize)>, Diagnosis) {
    let mut diagnosis = Diagnosis { nodes: facts.nodes.existing(), ..Diagnosis::default() };
    let mut feasible = Vec::new();
    let mut take = |id: u32, of: &Bucket, count: usize, diagnosis: &mut Diagnosis| {
        let refusal = match view.refusal(of) {
            Some(refusal) => refusal.clone(),
            None => match crowded(view, &of.key) {
                Some(refusal) => refusal,
                None => {
                    feasible.push((id, count));
                    return;
                }
            },
        };
        *diagnosis.refusals.entry(refusal).or_default() += count;
    };
    if let Some(only) = &case.only {
        let skipped = diagnosis.nodes - only.len();
        diagnosis.skipped = (skipped > 0).then_some((Plugin::NodeAffinity, skipped));
        for node in only {
            let id = view.bucket_of(*node);
            if id == NONE {
                continue;
            }
            let bucket = &view.buckets[id as usize];
            match case.vetoes.get(node).filter(|_| view.refusal(bucket).is_none()) {
                Some(refusal) => *diagnosis.refusals.entry(refusal.clone()).or_default() += 1,
                None => take(id, bucket, 1, &mut diagnosis),
            }
        }
        feasible.sort_unstable();
        feasible.dedup_by(|a, b| {
            let same = a.0 == b.0;
            b.1 += if same { a.1 } else { 0 };
            same
        });
        return (feasible, diagnosis);
    }
    let mut vetoed: HashMap<u32, usize> = HashMap::new();
    for (node, refusal) in &case.vetoes {
        let id = view.bucket_of(*node);
        if id != NONE && view.refusal(&view.buckets[id as usize]).is_none() {
            *vetoed.entry(id).or_default() += 1;
            *diagnosis.refusals.entry(refusal.clone()).or_default() += 1;
        }
    }
    for (id, bucket) in (0..).zip(&view.buckets) {
        let left_out = if vetoed.is_empty() { 0 } else { vetoed.get(&id).copied().unwrap_or(0) };
        let count = bucket.nodes.len() - left_out;
        if count > 0 {
            take(id, bucket, count, &mut diagnosis);
        }
    }
    (feasible, diagnosis)
}

/// What the pods in the domains of a bucket's nodes have against the pod.
pub(crate) fn crowded(view: &View, key: &[i64]) -> Option<Refusal> {
    let seen = |c: usize| view.seen(key, c);
    let sums = |c: usize| SumsOf { total: view.sums[c].total, least: view.sums[c].least(None) };
    crowding(view, seen, sums)
}

/// What a check of pods in domains looks at besides their own sum.
pub(crate) struct SumsOf {
    pub total: i64,
    pub least: i64,
}

/// The filters that look at pods in domains: topology spread, then pod affinity. `seen` is the sum of a component where the pod
/// would be, `None` outside of any domain.
pub(crate) fn crowding(
    view: &View,
    seen: impl Fn(usize) -> Option<i64>,
    sums: impl Fn(usize) -> SumsOf,
) -> Option<Refusal> {
    let spread = Plugin::PodTopologySpread;
    let affinity = Plugin::InterPodAffinity;
    let (mut all_near, mut none_anywhere) = (true, true);
    for (c, component) in view.components.iter().enumerate() {
        match component.role {
            Role::SpreadHard { max_skew, min_domains, own } => {
                let Some(here) = seen(c) else {
                    let words =
                        "node(s) didn't match pod topology spread constraints (missing required label)";
                    return Some(Refusal::always(spread, words));
                };
                let least = if view.sums[c].domains < min_domains { 0 } else { sums(c).least };
                if here + own - least > max_skew {
                    return Some(Refusal::now(
                        spread,
                        "node(s) didn't match pod topology spread constraints",
                    ));
                }
            }
            Role::Near => {
                let words = "node(s) didn't match pod affinity rules";
                let Some(here) = seen(c) else { return Some(Refusal::always(affinity, words)) };
                all_near &= here > 0;
                none_anywhere &= sums(c).total <= 0;
            }
            _ => {}
        }
    }
    // The first of a series starts it anywhere.
    let starts = none_anywhere && view.near_itself;
    if !(all_near || starts) {
        return Some(Refusal::always(affinity, "node(s) didn't match pod affinity rules"));
    }
    for (c, component) in view.components.iter().enumerate() {
        let words = match component.role {
            Role::Apart => "node(s) didn't match pod anti-affinity rules",
            Role::KeptApart => "node(s) didn't satisfy existing pods anti-affinity rules",
            _ => continue,
        };
        if seen(c).is_some_and(|here| here > 0) {
            return Some(Refusal::now(affinity, words));
        }
    }
    None
}

/// Scores as kube-scheduler computes and normalizes them over all nodes that passed.
fn score(view: &View, facts: Facts<'_>, feasible: &[(u32, usize)]) -> Vec<Scored> {
    let weight = |plugin| facts.profile.weight(plugin);
    let key = |bucket: u32| &view.buckets[bucket as usize].key;
    let most = |at: usize| feasible.iter().map(|(b, _)| key(*b)[at]).max().unwrap_or(0);
    let (most_taints, most_liked) = (most(1), most(2));
    let mut all: Vec<Scored> = feasible
        .iter()
        .map(|(bucket, _)| {
            let key = key(*bucket);
            let taints = if most_taints == 0 { MAX } else { MAX - MAX * key[1] / most_taints };
            let liked = if most_liked == 0 { key[2] } else { MAX * key[2] / most_liked };
            let parts = [
                key[0],
                taints * weight(Plugin::TaintToleration),
                liked * weight(Plugin::NodeAffinity),
                0,
                0,
            ];
            Scored { bucket: *bucket, score: 0, parts }
        })
        .collect();
    if weight(Plugin::PodTopologySpread) != 0 {
        spread_scores(view, feasible, &mut all, weight(Plugin::PodTopologySpread));
    }
    if weight(Plugin::InterPodAffinity) != 0 {
        liked_scores(view, &mut all, weight(Plugin::InterPodAffinity));
    }
    for scored in &mut all {
        scored.score = scored.parts.iter().sum();
    }
    all
}

/// Soft topology spread: fewer pods are better, and few domains weigh no less than many.
fn spread_scores(view: &View, feasible: &[(u32, usize)], all: &mut [Scored], weight: i64) {
    let soft: Vec<(usize, i64, bool)> = (view.components.iter().enumerate())
        .filter_map(|(c, component)| match component.role {
            Role::SpreadSoft { max_skew, of_nodes } => Some((c, max_skew, of_nodes)),
            _ => None,
        })
        .collect();
    if soft.is_empty() {
        return;
    }
    let key = |bucket: u32| &view.buckets[bucket as usize].key;
    let ignored = |bucket: u32| key(bucket)[3] != 0;
    let weights: Vec<f64> = soft
        .iter()
        .map(|(c, _, of_nodes)| {
            let counted = feasible.iter().filter(|(b, _)| !ignored(*b));
            let size = if *of_nodes {
                counted.map(|(_, n)| n).sum::<usize>()
            } else {
                let mut domains: Vec<Option<u32>> = Vec::new();
                let mut single = 0;
                for (bucket, nodes) in counted {
                    let key = key(*bucket);
                    match (view.shared_domain(key, *c), view.seen(key, *c)) {
                        (None, Some(_)) => single += nodes,
                        (domain, _) => domains.push(domain),
                    }
                }
                domains.sort_unstable();
                domains.dedup();
                domains.len() + single
            };
            ((size + 2) as f64).ln()
        })
        .collect();
    let raw: Vec<i64> = all
        .iter()
        .map(|scored| {
            let key = key(scored.bucket);
            let each = soft.iter().zip(&weights).filter_map(|((c, max_skew, _), weight)| {
                view.seen(key, *c).map(|count| count as f64 * weight + (max_skew - 1) as f64)
            });
            each.sum::<f64>().round() as i64
        })
        .collect();
    let counted = || all.iter().zip(&raw).filter(|(s, _)| !ignored(s.bucket)).map(|(_, raw)| *raw);
    let (least, most) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
    for (scored, raw) in all.iter_mut().zip(raw) {
        let normalized = if ignored(scored.bucket) {
            0
        } else if most == 0 {
            MAX
        } else {
            MAX * (most + least - raw) / most
        };
        scored.parts[3] = normalized * weight;
    }
}

/// Preferred pod affinity and anti-affinity, of the pod and of those that are there.
fn liked_scores(view: &View, all: &mut [Scored], weight: i64) {
    let likes = |c: &usize| view.components[*c].role == Role::Likes;
    let likes: Vec<usize> = (0..view.components.len()).filter(likes).collect();
    if likes.is_empty() {
        return;
    }
    let key = |bucket: u32| &view.buckets[bucket as usize].key;
    let raw: Vec<i64> =
        all.iter().map(|s| likes.iter().filter_map(|c| view.seen(key(s.bucket), *c)).sum()).collect();
    let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
    if most == least {
        return;
    }
    for (scored, raw) in all.iter_mut().zip(raw) {
        let share = (raw - least) as f64 / (most - least) as f64;
        scored.parts[4] = (MAX as f64 * share) as i64 * weight;
    }
}

const _: () = assert!(HEAD == 4, "the numbers above are places in the head of a key");
