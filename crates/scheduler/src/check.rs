//! Whether a pod would fit one node if some pods had left it and others had come: what preemption and nominations ask. It goes
//! through the same filters as a decision, with the difference that these pods make.

use crate::{
    decision::{SumsOf, crowding},
    nodes::{NONE, NodeId},
    plugin::{Plugin, Refusal},
    shape::Resource,
    snapshot::Placed,
    view::{Component, Facts, Source, View, ports_refusal, taken_port},
};

/// Why a pod would not fit a node without some of its pods and with some more; `None` if it would.
pub(crate) fn check(
    view: &View,
    facts: Facts<'_>,
    node: NodeId,
    without: &[&Placed],
    with: &[&Placed],
) -> Option<Refusal> {
    let filters = facts.profile.filters;
    let shape = &view.shape;
    if filters.has(Plugin::NodePorts) && !shape.ports.is_empty() {
        let mut taken = facts.nodes.ports(node).to_vec();
        for port in without.iter().flat_map(|p| &p.shape.ports) {
            if let Some(at) = taken.iter().position(|t| t == port) {
                taken.swap_remove(at);
            }
        }
        let added = with.iter().flat_map(|p| &p.shape.ports);
        if taken_port(shape, taken.iter().chain(added)) {
            return Some(ports_refusal());
        }
    }
    if filters.has(Plugin::NodeResourcesFit) {
        let added = |resource: Resource| {
            let sum = |pods: &[&Placed]| pods.iter().map(|p| p.shape.request(resource)).sum::<i64>();
            sum(with) - sum(without)
        };
        let pods = with.len() as i64 - without.len() as i64;
        if let Some(refusal) = view.misfit(node, facts, pods, &added) {
            return Some(refusal);
        }
    }
    let deltas: Vec<i64> = view
        .components
        .iter()
        .map(|c| {
            let sum = |pods: &[&Placed]| pods.iter().map(|p| weight_of(c, p, facts)).sum::<i64>();
            sum(with) - sum(without)
        })
        .collect();
    let counts = |c: usize| view.counts(node, c);
    let seen = |c: usize| {
        let domain = facts.nodes.domain(view.components[c].key, node);
        if domain == NONE {
            return None;
        }
        // A node that does not count adds nothing to its domain, whatever is on it.
        Some(view.sums[c].get(domain) + if counts(c) { deltas[c] } else { 0 })
    };
    let sums = |c: usize| {
        let domain = facts.nodes.domain(view.components[c].key, node);
        let delta = if counts(c) { deltas[c] } else { 0 };
        SumsOf { total: view.sums[c].total + delta, least: view.sums[c].least(Some((domain, delta))) }
    };
    crowding(view, seen, sums)
}

/// How much one pod counts for a component.
fn weight_of(component: &Component, pod: &Placed, facts: Facts<'_>) -> i64 {
    let each = component.sources.iter().map(|(source, weight)| match source {
        Source::Counter(id) => weight * i64::from(facts.counters.counts(*id, pod.labels, pod.deleting)),
        Source::Owners(id) => {
            let owned = facts.counters.known_owned_of(&pod.shape);
            weight * owned.iter().filter(|o| *o == id).count() as i64
        }
    });
    each.sum()
}
