//! Filters: whether a pod can run on a node at all. Each is a pure function that answers with the reason in the words that
//! kube-scheduler uses, so that what people know how to read stays the same.

use crate::snapshot::{NodeInfo, PodInfo};
use k8s_openapi::api::core::v1::Taint;
use orlop_api::{node_affinity, taint};
use std::collections::BTreeMap;

/// A filter: `Err` says why not.
pub type Filter = fn(&PodInfo, &NodeInfo) -> Result<(), String>;

/// All filters with their names in the scheduling framework, the cheapest first.
pub const FILTERS: [(&str, Filter); 6] = [
    ("NodeUnschedulable", unschedulable),
    ("NodeName", node_name),
    ("TaintToleration", taints),
    ("NodeAffinity", node_affinity_allows),
    ("NodePorts", ports),
    ("NodeResourcesFit", fit),
];

/// `spec.unschedulable` (a cordoned node) keeps pods away that do not tolerate it.
fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    if node.unschedulable && taint::blocks_scheduling(&[cordon], tolerations).is_some() {
        return Err("node(s) were unschedulable".into());
    }
    Ok(())
}

/// `spec.nodeName` asked for beforehand.
fn node_name(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    match &pod.spec().node_name {
        Some(name) if *name != node.name => Err("node(s) didn't match the requested node name".into()),
        _ => Ok(()),
    }
}

/// Taints of effect NoSchedule and NoExecute.
fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    let tolerations = pod.spec().tolerations.as_deref().unwrap_or_default();
    match taint::blocks_scheduling(&node.taints, tolerations) {
        Some(t) => {
            let value = t.value.as_deref().unwrap_or_default();
            Err(format!("node(s) had untolerated taint {{{}: {value}}}", t.key))
        }
        None => Ok(()),
    }
}

/// `spec.nodeSelector` and required node affinity.
fn node_affinity_allows(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    if node_affinity::allows(pod.spec(), &node.name, &node.labels) {
        Ok(())
    } else {
        Err("node(s) didn't match Pod's node affinity/selector".into())
    }
}

/// Host ports that other pods have taken.
fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    let taken = |wanted| node.pods.values().flat_map(|p| &p.host_ports).any(|p| p.collides(wanted));
    if !pod.host_ports.is_empty() && pod.host_ports.iter().any(taken) {
        return Err("node(s) didn't have free ports for the requested pod ports".into());
    }
    Ok(())
}

/// Processor, memory, storage, extended resources and the number of pods.
fn fit(pod: &PodInfo, node: &NodeInfo) -> Result<(), String> {
    if node.pods.len() as i64 + 1 > node.allowed_pods {
        return Err("Too many pods".into());
    }
    let (asked, offered, taken) = (&pod.requests, &node.allocatable, &node.requested);
    let short = |name: &str, asked: i64, offered: i64, taken: i64| {
        if asked > 0 && asked > offered - taken { Err(format!("Insufficient {name}")) } else { Ok(()) }
    };
    short("cpu", asked.milli_cpu, offered.milli_cpu, taken.milli_cpu)?;
    short("memory", asked.memory, offered.memory, taken.memory)?;
    short("ephemeral-storage", asked.ephemeral_storage, offered.ephemeral_storage, taken.ephemeral_storage)?;
    for (name, amount) in &asked.extended {
        let of = |r: &BTreeMap<String, i64>| r.get(name).copied().unwrap_or(0);
        short(name, *amount, of(&offered.extended), of(&taken.extended))?;
    }
    Ok(())
}
