//! DefaultPreemption: which pods of lower priority leave which node so that a pod fits. Pure; who deletes them is the loop. Budgets
//! are respected where that is possible, and no pod is chosen whose leaving is not needed.

use crate::{
    check::check,
    decision::{Case, Vetoes, crowded, histogram},
    nodes::NodeId,
    plugin::{Plugin, Reason, Refusal},
    shape::spec_of,
    snapshot::{Placed, Snapshot},
    view::{Facts, View},
    volume_limits::{self, Crowd},
};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use orlop_api::selector::Selector;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";

/// The pods that leave, and where.
#[derive(Clone, Debug)]
pub struct Victims {
    /// The node.
    pub node: String,
    /// The most important first.
    pub pods: Vec<Arc<Pod>>,
    /// How many of them a budget would keep.
    pub violations: usize,
}

/// What of a PodDisruptionBudget matters here.
#[derive(Clone, Debug)]
pub struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i64,
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// Reads a budget. One that selects everything in this way selects nothing, as in kube-scheduler.
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let spec = budget.spec.as_ref()?;
        let selector = Selector::of(spec.selector.as_ref()).ok().filter(|s| !s.is_everything())?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        Some(Self {
            namespace: budget.namespace().unwrap_or_default(),
            selector,
            allowed: status.and_then(|s| s.disruptions_allowed).map_or(0, i64::from),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }
}

/// Whether the scheduler sent a pod away for another.
fn leaves_for_another(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_some()
        && conditions.into_iter().flatten().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

fn started(pod: &Pod) -> Option<Timestamp> {
    pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0)
}

/// The more important first: higher priority, then the older. One that never started began now.
fn importance(pod: &Placed) -> (Reverse<i32>, Timestamp, Option<&String>) {
    (Reverse(pod.priority()), started(&pod.pod).unwrap_or(Timestamp::MAX), pod.pod.metadata.uid.as_ref())
}

impl Snapshot {
    /// The pods that would have to leave, and where; or why that is no help, in kube-scheduler's words.
    ///
    /// # Errors
    /// Where no pods can be found whose leaving lets the pod in.
    pub fn preempt(
        &mut self,
        pod: &Arc<Pod>,
        profile: usize,
        vetoes: Vetoes,
        budgets: &[Budget],
    ) -> Result<Victims, String> {
        let total = self.nodes.existing();
        if spec_of(pod).preemption_policy.as_deref() == Some("Never") {
            return Err("not eligible due to preemptionPolicy=Never.".into());
        }
        if vetoes.before.is_some() {
            return Err(failure(total, Vec::new()));
        }
        // What volumes stand against stays in the way whoever leaves, but for those that crowd others out.
        let crowds = vetoes.crowds;
        let fixed: BTreeSet<NodeId> =
            vetoes.nodes.keys().filter(|n| !crowds.contains_key(n)).copied().collect();
        let case = self.case(pod, profile, vetoes.nodes);
        let offset = self.pivot(profile);
        let rules = self.profile(profile).clone();
        let Some((view, facts)) = self.seen(&case.key) else { return Err(failure(total, Vec::new())) };
        let search = Search { snapshot: self, view, facts, case: &case, budgets, crowds: &crowds };
        let told = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
        let nominated = self.nomination(pod.metadata.uid.as_deref().unwrap_or_default()).map(|p| p.node);
        if let Some(node) = nominated.or_else(|| told.and_then(|n| self.nodes.find(n)))
            && search.may_be_resolved(node, &fixed)
            && self.residents(node).any(|p| p.priority() < case.pod.priority() && leaves_for_another(&p.pod))
        {
            return Err("not eligible due to a terminating pod on the nominated node.".into());
        }
        let mut nodes: Vec<NodeId> =
            (0..facts.nodes.slots() as NodeId).filter(|n| search.may_be_resolved(*n, &fixed)).collect();
        let wanted = (nodes.len() as i64 * rules.min_candidate_nodes_percentage / 100)
            .max(rules.min_candidate_nodes_absolute)
            .min(nodes.len() as i64) as usize;
        let first = nodes.partition_point(|n| *n < offset);
        nodes.rotate_left(first);
        let mut found: Vec<(NodeId, Vec<&Placed>, usize)> = Vec::new();
        let mut failed = Vec::new();
        for node in nodes {
            match search.victims(node) {
                Ok((victims, violations)) => {
                    found.push((node, victims, violations));
                    if found.len() >= wanted && found.iter().any(|(_, _, v)| *v == 0) {
                        break;
                    }
                }
                Err(reasons) => failed.push(reasons),
            }
        }
        let best = found.into_iter().min_by_key(|(_, victims, violations)| {
            let highest = victims.first().map_or(i32::MIN, |v| v.priority());
            let sum: i64 = victims.iter().map(|v| i64::from(v.priority()) + (1 << 31)).sum();
            let of_highest = victims.iter().filter(|v| v.priority() == highest);
            let earliest = of_highest.map(|v| started(&v.pod).unwrap_or(Timestamp::MAX)).min();
            (*violations, highest, sum, victims.len(), Reverse(earliest))
        });
        match best {
            Some((node, victims, violations)) => Ok(Victims {
                node: facts.nodes.name(node).to_string(),
                pods: victims.into_iter().map(|v| v.pod.clone()).collect(),
                violations,
            }),
            None => Err(failure(total, failed)),
        }
    }
}

fn failure(total: usize, failed: Vec<Vec<Reason>>) -> String {
    let rest = total - failed.len().min(total);
    let mut all: Vec<(Reason, usize)> = failed.into_iter().flatten().map(|r| (r, 1)).collect();
    if rest > 0 {
        all.push((Reason::Words(NO_HELP), rest));
    }
    format!("0/{total} nodes are available: {}.", histogram(all))
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    view: &'a View,
    facts: Facts<'a>,
    case: &'a Case,
    budgets: &'a [Budget],
    crowds: &'a HashMap<NodeId, Vec<Crowd>>,
}

impl<'a> Search<'a> {
    /// Whether pods that are there are what stands in the way on a node.
    fn may_be_resolved(&self, node: NodeId, fixed: &BTreeSet<NodeId>) -> bool {
        let bucket = self.view.bucket_of(node);
        let Some(bucket) = self.view.buckets.get(bucket as usize) else { return false };
        if fixed.contains(&node) || self.case.only.as_ref().is_some_and(|o| !o.contains(&node)) {
            return false;
        }
        let unresolvable = |r: &Refusal| r.unresolvable;
        let refused = self.view.refusal(bucket).is_some_and(unresolvable)
            || self.case.vetoes.get(&node).is_some_and(unresolvable);
        if refused || self.view.refusal(bucket).is_some() {
            return !refused;
        }
        !crowded(self.view, &bucket.key).as_ref().is_some_and(unresolvable)
    }

    /// The fewest pods of a node that have to leave it, the most important first, with how many of them a budget would keep.
    fn victims(&self, node: NodeId) -> Result<(Vec<&'a Placed>, usize), Vec<Reason>> {
        let mut below: Vec<&Placed> =
            self.snapshot.residents(node).filter(|p| p.priority() < self.case.pod.priority()).collect();
        if below.is_empty() {
            return Err(vec![Reason::Words(NO_VICTIMS)]);
        }
        if let Some(refusal) = self.refuses(node, &below) {
            return Err(refusal.reasons);
        }
        below.sort_by(|a, b| importance(a).cmp(&importance(b)));
        let (kept, free) = self.by_budgets(&below);
        let mut leave = below.clone();
        let mut violations = 0;
        for (pods, is_kept) in [(kept, true), (free, false)] {
            for pod in pods {
                // Those that may stay, stay.
                let without: Vec<&Placed> =
                    leave.iter().copied().filter(|p| !std::ptr::eq(*p, pod)).collect();
                if self.refuses(node, &without).is_some() {
                    violations += usize::from(is_kept);
                } else {
                    leave = without;
                }
            }
        }
        Ok((leave, violations))
    }

    /// What stands against the pod on a node without some of its pods: both with those that are to come there, and without.
    fn refuses(&self, node: NodeId, without: &[&Placed]) -> Option<Refusal> {
        let me = &self.case.pod;
        if self.crowds.get(&node).into_iter().flatten().any(|c| c.is_too_much(without)) {
            return Some(volume_limits::refusal());
        }
        let to_come: Vec<&Placed> = self
            .snapshot
            .nominated
            .values()
            .filter(|p| p.node == node && p.priority() >= me.priority())
            .filter(|p| p.pod.metadata.uid != me.pod.metadata.uid)
            .collect();
        let refusal = check(self.view, self.facts, node, without, &[]);
        if refusal.is_some() || to_come.is_empty() {
            return refusal;
        }
        check(self.view, self.facts, node, without, &to_come)
    }

    /// Pods that budgets would keep, and the others.
    fn by_budgets(&self, pods: &[&'a Placed]) -> (Vec<&'a Placed>, Vec<&'a Placed>) {
        let mut allowed: Vec<i64> = self.budgets.iter().map(|b| b.allowed).collect();
        pods.iter().partition(|pod| {
            let (name, labels) = (pod.pod.name_any(), pod.pod.labels());
            let mut kept = false;
            for (budget, left) in self.budgets.iter().zip(&mut allowed) {
                let meant = budget.namespace == pod.shape.namespace
                    && !labels.is_empty()
                    && budget.selector.matches(labels)
                    && !budget.disrupted.contains(&name);
                if meant {
                    *left -= 1;
                    kept |= *left < 0;
                }
            }
            kept
        })
    }
}

/// Whether preemption runs for pods of a profile.
pub(crate) fn is_on(snapshot: &Snapshot, profile: usize) -> bool {
    snapshot.profile(profile).post_filters.has(Plugin::DefaultPreemption)
}
