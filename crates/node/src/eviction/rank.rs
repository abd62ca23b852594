//! Which pod goes first when the node is short of something: those that use more than they asked for, then the less important ones,
//! then those that use most beyond what they asked for (Kubernetes documentation, "Pod selection for kubelet eviction"). Pure.

use crate::pod::PodExt;
use k8s_openapi::api::core::v1::Pod;
use orlop_api::{pod_resources::requests, quantity::Quantity};
use std::{collections::BTreeMap, sync::Arc};

/// Pods from here on keep the cluster itself going.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// What a pod uses of what is short.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    pub pod: Arc<Pod>,
    /// In bytes, or processes.
    pub total: u64,
    /// By container.
    pub containers: BTreeMap<String, u64>,
}

/// Whether a pod is never evicted.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let mirror =
        pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("kubernetes.io/config.mirror"));
    mirror || pod.spec_ref().priority.is_some_and(|p| p >= SYSTEM_CRITICAL)
}

/// Puts those that go first at the beginning; leaves out those that never go.
pub(crate) fn rank(mut pods: Vec<Usage>, resource: &str) -> Vec<Usage> {
    let beyond = |usage: &Usage| {
        let asked = u64::try_from(requests(usage.pod.spec_ref()).get(resource).value()).unwrap_or(0);
        i128::from(usage.total) - i128::from(asked)
    };
    pods.retain(|u| !is_critical(&u.pod) && !u.pod.ended() && !u.pod.deleting());
    pods.sort_by_key(|usage| {
        let beyond = beyond(usage);
        let exceeds = beyond > 0 && resource != "pids";
        (!exceeds, usage.pod.spec_ref().priority.unwrap_or(0), -beyond, PodExt::uid(&*usage.pod).to_string())
    });
    pods
}

/// What the pod's status and event say.
pub(crate) fn message(usage: &Usage, resource: &str, threshold: u64, available: u64) -> String {
    let print = |n: u64| {
        let amount = i64::try_from(n).unwrap_or(i64::MAX);
        if resource == "pids" || resource == "inodes" {
            Quantity::from_units(amount)
        } else {
            Quantity::from_bytes(amount)
        }
    };
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        print(threshold),
        available_text(available, resource)
    );
    for container in &usage.pod.spec_ref().containers {
        let Some(used) = usage.containers.get(&container.name) else { continue };
        let asked =
            container.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get(resource));
        let asked = asked.map(Quantity::of).unwrap_or_default();
        if i128::from(*used) > i128::from(asked.value()) {
            message.push_str(&format!(
                "Container {} was using {}, request is {asked}, has larger consumption of {resource}. ",
                container.name,
                available_text(*used, resource)
            ));
        }
    }
    message
}

/// Bytes in whole kibibytes, as the kubelet shows what it has measured.
fn available_text(n: u64, resource: &str) -> String {
    if resource == "pids" || resource == "inodes" { n.to_string() } else { format!("{}Ki", n >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usage(name: &str, priority: i32, request: &str, used_mi: u64) -> Usage {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority, "containers": [
            {"name": "main", "resources": {"requests": {"memory": request}}}]}, "status": {"phase": "Running"}});
        let total = used_mi << 20;
        Usage {
            pod: Arc::new(serde_json::from_value(pod).expect("a pod")),
            total,
            containers: [("main".to_string(), total)].into(),
        }
    }

    #[test]
    fn who_uses_more_than_asked_for_goes_first_then_the_less_important_then_the_greediest() {
        let pods = vec![
            usage("modest", 0, "100Mi", 50),
            usage("important", 10, "10Mi", 90),
            usage("greedy", 0, "10Mi", 80),
            usage("less-greedy", 0, "70Mi", 80),
            usage("system", SYSTEM_CRITICAL, "1Mi", 900),
        ];
        let order: Vec<String> = rank(pods, "memory").iter().map(|u| u.pod.name().to_string()).collect();
        assert_eq!(order, ["greedy", "less-greedy", "important", "modest"]);
    }

    #[test]
    fn the_message_names_the_threshold_and_who_used_more() {
        assert_eq!(
            message(&usage("p", 0, "10Mi", 80), "memory", 100 << 20, 50 << 20),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. Container main was using 81920Ki, request is 10Mi, has larger consumption of memory. "
        );
    }
}
