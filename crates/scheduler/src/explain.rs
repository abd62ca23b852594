//! Why a pod is where it is, or nowhere: which filter refuses how many nodes, the smallest change that would let the pod in, and, where
//! it fits, the best nodes with their scores. Pure; a reader of the API feeds it.

use crate::{
    decision::{Candidate, Case, Diagnosis, Vetoes},
    nodes::NodeId,
    plugin::{Plugin, Reason},
    shape::{CPU, MEMORY, STORAGE, spec_of},
    snapshot::Snapshot,
    view::{Facts, Role, View},
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use orlop_api::{node_affinity, quantity::Quantity, taint};
use std::{collections::HashMap, sync::Arc};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Explanation {
    /// Nodes that the pod fits, the best first.
    pub candidates: Vec<Candidate>,
    /// What stands against the others.
    pub diagnosis: Diagnosis,
    /// The node that is nearest to taking it, if none does, with all that would have to change.
    pub nearest: Option<(String, Vec<String>)>,
}

impl Snapshot {
    /// Explains a pod. One that is on a node is looked at as if it were not.
    pub fn explanation(&mut self, pod: &Arc<Pod>, profile: usize, vetoes: Vetoes) -> Explanation {
        let uid = pod.uid().unwrap_or_default();
        let placed = self.placed(&uid).map(|p| self.nodes.name(p.node).to_string());
        self.remove_pod(&uid);
        let (candidates, diagnosis) = self.explain(pod, profile, vetoes.clone());
        let nearest = match &diagnosis.before {
            None if candidates.is_empty() => self.nearest(pod, profile, vetoes.nodes),
            _ => None,
        };
        if let Some(node) = placed {
            self.place(&node, pod);
        }
        Explanation { candidates, diagnosis, nearest }
    }

    fn nearest(
        &mut self,
        pod: &Arc<Pod>,
        profile: usize,
        vetoes: HashMap<NodeId, crate::plugin::Refusal>,
    ) -> Option<(String, Vec<String>)> {
        let case = self.case(pod, profile, vetoes);
        let (view, facts) = self.seen(&case.key)?;
        let all = facts.nodes.by_name().map(|node| (node, self.obstacles(&case, view, facts, node)));
        let (node, obstacles) = all.min_by(|(_, a), (_, b)| {
            let size = |all: &[Obstacle]| (all.len(), all.iter().map(|o| o.size).sum::<f64>());
            let ((few, small), (other_few, other_small)) = (size(a), size(b));
            few.cmp(&other_few).then(small.total_cmp(&other_small))
        })?;
        Some((facts.nodes.name(node).to_string(), obstacles.into_iter().map(|o| o.change).collect()))
    }

    /// All that keeps a pod off a node, not only the first.
    fn obstacles(&self, case: &Case, view: &View, facts: Facts<'_>, node: NodeId) -> Vec<Obstacle> {
        let Some(object) = facts.nodes.object(node) else { return Vec::new() };
        let (pod, shape) = (&case.pod.pod, &case.pod.shape);
        let filters = facts.profile.filters;
        let name = facts.nodes.name(node);
        let mut all = Vec::new();
        let mut add = |change: String, size: f64| all.push(Obstacle { change, size });
        let cordoned = object.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        if filters.has(Plugin::NodeUnschedulable) && cordoned {
            add(format!("uncordon {name}"), 1.0);
        }
        if filters.has(Plugin::TaintToleration) {
            let (_, taints) = facts.nodes.taints(node);
            for one in taints {
                if taint::blocks_scheduling(std::slice::from_ref(one), shape.tolerations()).is_some() {
                    let value = one.value.as_deref().map(|v| format!("={v}")).unwrap_or_default();
                    add(format!("tolerate the taint {}{value}:{}", one.key, one.effect), 1.0);
                }
            }
        }
        if filters.has(Plugin::NodeAffinity) {
            let spec = spec_of(pod);
            let labels = object.labels();
            let missing: Vec<String> = (spec.node_selector.iter().flatten())
                .filter(|(k, v)| labels.get(*k) != Some(*v))
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            if !missing.is_empty() {
                add(format!("label {name} with {}", missing.join(",")), 1.0);
            } else if !node_affinity::allows(spec, name, labels) {
                add(format!("let the pod's node affinity allow {name}"), 1.0);
            }
        }
        if filters.has(Plugin::NodePorts) {
            for port in &shape.ports {
                if facts.nodes.ports(node).iter().any(|taken| taken.collides(port)) {
                    add(format!("free the host port {}/{} of {name}", port.port, port.protocol), 1.0);
                }
            }
        }
        if filters.has(Plugin::NodeResourcesFit) {
            self.shortages(view, facts, node, &mut add);
        }
        if let Some(refusal) = case.vetoes.get(&node).filter(|r| r.plugin != Plugin::NodeAffinity) {
            for reason in &refusal.reasons {
                add(format!("resolve what {} says of {name}: {reason}", refusal.plugin.name()), 2.0);
            }
        }
        self.crowd(view, facts, node, &mut add);
        all
    }

    fn shortages(&self, view: &View, facts: Facts<'_>, node: NodeId, add: &mut dyn FnMut(String, f64)) {
        let Some(refusal) = view.misfit(node, facts, 0, &|_| 0) else { return };
        let (at, name) = (node as usize, facts.nodes.name(node));
        if refusal.reasons.iter().any(|r| matches!(r, Reason::Words(_))) {
            add(format!("let {name} take one pod more, or move one away"), 0.5);
        }
        for (resource, asked) in &view.shape.requests {
            let (offered, taken) =
                facts.nodes.column(*resource).map_or((0, 0), |c| (c.offered[at], c.taken[at]));
            let short = asked - (offered - taken);
            let resource_name = self.resources.name(*resource);
            if short > 0 && refusal.reasons.contains(&Reason::Insufficient(resource_name.to_string())) {
                let amount = match *resource {
                    CPU => Quantity::from_milli(short).to_string(),
                    MEMORY | STORAGE => Quantity::from_bytes(short).to_string(),
                    _ => short.to_string(),
                };
                let change = format!("ask for {amount} less {resource_name}, or free that much on {name}");
                add(change, short as f64 / (*asked).max(1) as f64);
            }
        }
    }

    fn crowd(&self, view: &View, facts: Facts<'_>, node: NodeId, add: &mut dyn FnMut(String, f64)) {
        let name = facts.nodes.name(node);
        for (c, component) in view.components.iter().enumerate() {
            let key = facts.nodes.key_name(component.key);
            let domain = facts.nodes.domain(component.key, node);
            let there = domain != crate::nodes::NONE;
            let here = view.sums[c].get(domain);
            match component.role {
                Role::SpreadHard { .. } | Role::Near if !there => {
                    add(format!("label {name} with {key}"), 1.0)
                }
                Role::SpreadHard { max_skew, min_domains, own } => {
                    let few = view.sums[c].domains < min_domains;
                    let least = if few { 0 } else { view.sums[c].least(None) };
                    let skew = here + own - least;
                    if skew > max_skew {
                        add(
                            format!("allow a maxSkew of {skew} over {key}, not {max_skew}"),
                            (skew - max_skew) as f64,
                        );
                    }
                }
                Role::Near if here == 0 && !(view.near_itself && view.sums[c].total == 0) => {
                    add(format!("have a pod that the pod affinity means in the same {key}"), 1.0);
                }
                Role::Apart if there && here > 0 => {
                    add(
                        format!("move {here} pods that the pod's anti-affinity means out of the same {key}"),
                        here as f64,
                    );
                }
                Role::KeptApart if there && here > 0 => {
                    add(
                        format!("move {here} pods whose anti-affinity means this pod out of the same {key}"),
                        here as f64,
                    );
                }
                _ => {}
            }
        }
    }
}

/// One thing that is in the way.
struct Obstacle {
    /// What would have to change.
    change: String,
    /// How much of a change that is beside others.
    size: f64,
}
