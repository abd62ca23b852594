//! Which pods are given up when there are too many. It deletes nothing.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

/// Which pods go first when there are too many: those that lose least (Kubernetes documentation, "ReplicaSet", "Scaling a
/// ReplicaSet").
pub(super) fn surplus_pods(active: &[Arc<Pod>], surplus: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let mut beside: HashMap<String, usize> = HashMap::new();
    for pod in active {
        *beside.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let node = node(pod);
        let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
        let cost: i32 = cost.and_then(|c| c.parse().ok()).unwrap_or(0);
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        let ready_since =
            pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
        let ready = pods::is_ready(pod);
        // Ages are compared in orders of magnitude, as Kubernetes does, so that a young pod has no claim for a second's sake.
        let age = |t: Option<Timestamp>| {
            let seconds = t.map_or(0, |t| now.duration_since(t).as_secs()).max(0);
            64 - (seconds as u64).leading_zeros()
        };
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (
            !node.is_empty(),
            match pods::phase(pod) {
                "Pending" => 0,
                "Running" => 2,
                _ => 1,
            },
            ready,
            cost,
            Reverse(beside.get(&node).copied().unwrap_or(0)),
            if ready { age(ready_since) } else { 0 },
            Reverse(restarts),
            age(created),
            pod.uid(),
        )
    });
    ranked.truncate(surplus);
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};

    fn pod(name: &str, node: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.spec = Some(PodSpec {
            node_name: Some(node.into()).filter(|n: &String| !n.is_empty()),
            ..PodSpec::default()
        });
        pod.status = Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        });
        Arc::new(pod)
    }

    fn first_to_go(pods: &[Arc<Pod>]) -> String {
        surplus_pods(pods, 1, Timestamp::UNIX_EPOCH)[0].name_any()
    }

    #[test]
    fn the_pod_that_loses_least_goes_first() {
        let running = pod("running", "n1", "Running", true);
        let unready = pod("unready", "n2", "Running", false);
        let pending = pod("pending", "n3", "Pending", false);
        let unassigned = pod("unassigned", "", "Pending", false);
        assert_eq!(first_to_go(&[running.clone(), unready.clone()]), "unready");
        assert_eq!(first_to_go(&[unready.clone(), pending.clone()]), "pending");
        assert_eq!(first_to_go(&[pending.clone(), unassigned.clone()]), "unassigned");
        let crowded = [
            pod("a", "n1", "Running", true),
            pod("b", "n1", "Running", true),
            pod("c", "n2", "Running", true),
        ];
        assert_ne!(first_to_go(&crowded), "c", "the node with more of them gives one up");
    }

    #[test]
    fn a_low_deletion_cost_goes_before_a_high_one() {
        let mut dear = (*pod("dear", "n1", "Running", true)).clone();
        dear.metadata.annotations =
            Some([("controller.kubernetes.io/pod-deletion-cost".into(), "10".into())].into());
        assert_eq!(first_to_go(&[Arc::new(dear), pod("cheap", "n2", "Running", true)]), "cheap");
    }
}
