//! Scores: how good a node is among those that passed the filters. Each is a pure function from 0 to 100; the sum, weighted,
//! decides. The weights are kube-scheduler's defaults.

use crate::snapshot::{NodeInfo, PodInfo};
use orlop_api::{node_affinity, taint};

/// A score of a node for a pod: 0 to [`MAX`].
pub type Score = fn(&PodInfo, &NodeInfo) -> i64;

/// The best score.
pub const MAX: i64 = 100;

/// All scores with their names in the scheduling framework and their weights.
pub const SCORES: [(&str, Score, i64); 4] = [
    ("NodeResourcesFit", least_allocated, 1),
    ("TaintToleration", preferred_taints, 3),
    ("NodeAffinity", preferred_affinity, 2),
    ("PodTopologySpread", spread, 2),
];

/// Free share of processor and memory, after the pod.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let free = |asked: i64, offered: i64, taken: i64| {
        if offered <= 0 { 0 } else { ((offered - taken - asked).max(0) * MAX) / offered }
    };
    let (cpu, memory) = pod.weight();
    let offered = &node.allocatable;
    (free(cpu, offered.milli_cpu, node.weight.0) + free(memory, offered.memory, node.weight.1)) / 2
}

/// Fewer untolerated taints of effect PreferNoSchedule are better.
fn preferred_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
    let soft = soft.filter(|t| !tolerations.iter().any(|toleration| taint::tolerates(toleration, t)));
    (MAX - 25 * soft.count() as i64).max(0)
}

/// The weights of the preferred node affinity terms that match, as a share of all.
fn preferred_affinity(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let preferred = preferred.unwrap_or_default();
    let all: i64 = preferred.iter().map(|p| i64::from(p.weight)).sum();
    let matching =
        preferred.iter().filter(|p| node_affinity::term_matches(&p.preference, &node.name, &node.labels));
    let matched: i64 = matching.map(|p| i64::from(p.weight)).sum();
    if all == 0 { 0 } else { matched * MAX / all }
}

/// Fewer pods of the same controller on the node are better.
fn spread(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let Some(mine) = &pod.controller else { return MAX };
    let beside = node.of_controller.get(mine).copied().unwrap_or(0) as i64;
    MAX / (1 + beside)
}
