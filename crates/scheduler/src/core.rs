//! The decision: filters, then scores, over one snapshot. Pure: the same snapshot and pod give the same answer.

use crate::{
    filter::FILTERS,
    score::SCORES,
    snapshot::{PodInfo, Snapshot},
};
use std::collections::BTreeMap;

/// What was decided for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this node.
    Node(String),
    /// It fits nowhere now.
    Unschedulable {
        /// For people, in kube-scheduler's words.
        message: String,
        /// How many nodes each filter refused first.
        refused: BTreeMap<&'static str, usize>,
    },
}

/// Chooses the node with the best score among those that pass all filters. `turn` breaks ties, so that equals share the load.
pub fn decide(pod: &PodInfo, snapshot: &Snapshot, turn: usize) -> Decision {
    let mut best: Option<i64> = None;
    let mut equals: Vec<&str> = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut nodes = 0;
    for node in snapshot.nodes() {
        nodes += 1;
        let refusal =
            FILTERS.iter().find_map(|(name, filter)| filter(pod, node).err().map(|why| (*name, why)));
        if let Some((name, why)) = refusal {
            *reasons.entry(why).or_default() += 1;
            *refused.entry(name).or_default() += 1;
            continue;
        }
        let score: i64 = SCORES.iter().map(|(_, score, weight)| score(pod, node) * weight).sum();
        match best {
            Some(b) if score < b => {}
            Some(b) if score == b => equals.push(&node.name),
            _ => {
                best = Some(score);
                equals = vec![&node.name];
            }
        }
    }
    if equals.is_empty() {
        let list: Vec<String> = reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
        let message = match list.as_slice() {
            [] => "no nodes available to schedule pods".to_string(),
            list => format!("0/{nodes} nodes are available: {}.", list.join(", ")),
        };
        return Decision::Unschedulable { message, refused };
    }
    Decision::Node(equals[turn % equals.len()].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{
        api::core::v1::{Container, Node, NodeSpec, NodeStatus, Pod, PodSpec, ResourceRequirements, Taint},
        apimachinery::pkg::api::resource::Quantity,
    };
    use std::sync::Arc;

    fn list(cpu: &str, memory: &str) -> BTreeMap<String, Quantity> {
        [("cpu", cpu), ("memory", memory), ("pods", "3")].map(|(k, v)| (k.into(), Quantity(v.into()))).into()
    }

    fn node(name: &str, cpu: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.status = Some(NodeStatus { allocatable: Some(list(cpu, "1Gi")), ..NodeStatus::default() });
        node
    }

    fn pod(name: &str, cpu: &str) -> PodInfo {
        let mut requests = list(cpu, "1Mi");
        requests.remove("pods");
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.spec = Some(PodSpec {
            containers: vec![Container {
                resources: Some(ResourceRequirements {
                    requests: Some(requests),
                    ..ResourceRequirements::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        });
        PodInfo::new(Arc::new(pod))
    }

    fn cluster(nodes: &[Node]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        nodes.iter().for_each(|n| snapshot.set_node(n));
        snapshot
    }

    fn refusal(decision: Decision) -> String {
        match decision {
            Decision::Unschedulable { message, .. } => message,
            Decision::Node(node) => panic!("placed on {node}"),
        }
    }

    #[test]
    fn the_emptier_node_is_chosen_until_it_is_as_full() {
        let mut snapshot = cluster(&[node("a", "1"), node("b", "2")]);
        let mut counts = BTreeMap::new();
        for i in 0..3 {
            let pod = pod(&format!("p{i}"), "500m");
            let Decision::Node(to) = decide(&pod, &snapshot, i) else { panic!("it fits") };
            snapshot.place(&to, pod);
            *counts.entry(to).or_insert(0) += 1;
        }
        assert_eq!(counts, [("a".into(), 1), ("b".into(), 2)].into());
    }

    #[test]
    fn what_does_not_fit_says_how_many_nodes_lack_what() {
        let mut snapshot = cluster(&[node("a", "1"), node("b", "1")]);
        let message = refusal(decide(&pod("big", "2"), &snapshot, 0));
        assert_eq!(message, "0/2 nodes are available: 2 Insufficient cpu.");
        for i in 0..3 {
            snapshot.place("a", pod(&format!("p{i}"), "1m"));
        }
        let message = refusal(decide(&pod("more", "2"), &snapshot, 0));
        assert_eq!(message, "0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods.");
        assert_eq!(
            refusal(decide(&pod("x", "1"), &Snapshot::default(), 0)),
            "no nodes available to schedule pods"
        );
    }

    #[test]
    fn a_tainted_or_cordoned_node_is_left_alone() {
        let mut tainted = node("a", "4");
        let taint = Taint {
            key: "gpu".into(),
            effect: "NoSchedule".into(),
            value: Some("yes".into()),
            ..Taint::default()
        };
        tainted.spec = Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() });
        let mut cordoned = node("b", "4");
        cordoned.spec = Some(NodeSpec { unschedulable: Some(true), ..NodeSpec::default() });
        let message = refusal(decide(&pod("p", "1"), &cluster(&[tainted, cordoned]), 0));
        assert_eq!(
            message,
            "0/2 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable."
        );
    }

    #[test]
    fn what_a_removed_pod_took_is_free_again() {
        let mut snapshot = cluster(&[node("a", "1")]);
        snapshot.place("a", pod("p", "1"));
        assert!(matches!(decide(&pod("q", "1"), &snapshot, 0), Decision::Unschedulable { .. }));
        assert!(snapshot.remove_pod("p"));
        assert_eq!(decide(&pod("q", "1"), &snapshot, 0), Decision::Node("a".into()));
    }
}
