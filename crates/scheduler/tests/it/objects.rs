//! Short ways to write nodes, pods and clusters.

use k8s_openapi::api::core::v1::{Node, Pod};
use orlop_scheduler::{
    decision::{Decision, Vetoes},
    snapshot::Snapshot,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// `{"a": …}` with the fields of another laid over it, deep.
pub fn merge(mut base: Value, more: Value) -> Value {
    fn lay(base: &mut Value, more: Value) {
        match (base, more) {
            (Value::Object(base), Value::Object(more)) => {
                for (key, value) in more {
                    lay(base.entry(key).or_insert(Value::Null), value);
                }
            }
            (base, more) => *base = more,
        }
    }
    lay(&mut base, more);
    base
}

pub fn node(name: &str, more: Value) -> Arc<Node> {
    let node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    Arc::new(serde_json::from_value(merge(node, more)).unwrap())
}

pub fn pod(name: &str, more: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    Arc::new(serde_json::from_value(merge(pod, more)).unwrap())
}

/// A pod that asks for processor.
pub fn asks(name: &str, cpu: &str) -> Arc<Pod> {
    pod(
        name,
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]}}),
    )
}

pub fn cluster(nodes: &[Arc<Node>]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.iter().for_each(|n| snapshot.set_node(n));
    snapshot
}

pub fn decide(snapshot: &mut Snapshot, pod: &Arc<Pod>) -> Result<String, String> {
    match snapshot.decide(pod, 0, Vetoes::default()) {
        Decision::Node { name, .. } => Ok(name),
        Decision::Unschedulable(diagnosis) => Err(diagnosis.to_string()),
    }
}

/// Decides and, where the pod fits, places it.
pub fn place(snapshot: &mut Snapshot, pod: &Arc<Pod>) -> Result<String, String> {
    let node = decide(snapshot, pod)?;
    snapshot.place(&node, pod);
    Ok(node)
}

/// The nodes that a pod fits, by name.
pub fn fits(snapshot: &mut Snapshot, pod: &Arc<Pod>) -> Vec<String> {
    let (candidates, _) = snapshot.explain(pod, 0, Vetoes::default());
    let mut names: Vec<String> = candidates.into_iter().map(|c| c.node).collect();
    names.sort();
    names
}
