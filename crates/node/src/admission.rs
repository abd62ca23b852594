//! Whether this node can take a pod that was bound to it: the last check, against races of schedulers and pods that named their
//! node themselves. Pure; reasons and messages are the kubelet's.

use crate::{pod::PodExt, worker::host_ports};
use k8s_openapi::api::core::v1::Pod;
use orlop_api::{
    pod_resources::{Resources, requests},
    quantity::Quantity,
};
use orlop_network::HostPort;
use std::{collections::BTreeMap, sync::Arc};

/// Why a pod is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self { reason: reason.into(), message: format!("Pod was rejected: {message}") }
    }
}

impl Rejection {
    /// The node is short of something.
    pub fn of_pressure(why: String) -> Self {
        Self::new("Evicted", why)
    }
}

/// Checks a pod against the node and the pods that it has taken already.
pub(crate) fn admit(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
    node_labels: &BTreeMap<String, String>,
) -> Result<(), Rejection> {
    fits(pod, others, allocatable)?;
    if !selected(pod, node_labels) {
        let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(Rejection::new("NodeAffinity", message));
    }
    let taken: Vec<HostPort> = others.iter().flat_map(|p| host_ports(p)).collect();
    if host_ports(pod).iter().any(|port| taken.iter().any(|other| clash(port, other))) {
        let message =
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::new("NodePorts", message));
    }
    Ok(())
}

fn fits(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, Quantity>) -> Result<(), Rejection> {
    let mut used = Resources::default();
    for other in others {
        used.add(&requests(other.spec_ref()));
    }
    let mut wanted = requests(pod.spec_ref());
    let one = Quantity::from_units(1);
    wanted.0.insert("pods".into(), one);
    used.0.insert("pods".into(), one.times(i64::try_from(others.len()).unwrap_or(i64::MAX)));
    // What others say that the node has (extended resources) is for the scheduler alone to count.
    let ours = |name: &str| !name.contains('/') || allocatable.contains_key(name);
    for (name, amount) in wanted.0.iter().filter(|(name, amount)| !amount.is_zero() && ours(name)) {
        let capacity = allocatable.get(name).copied().unwrap_or_default();
        if used.get(name) + *amount > capacity {
            let number = |q: Quantity| if name == "cpu" { q.milli_value() } else { q.value() };
            return Err(Rejection::new(
                format!("OutOf{name}"),
                format_args!(
                    "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                    number(*amount),
                    number(used.get(name)),
                    number(capacity)
                ),
            ));
        }
    }
    Ok(())
}

/// `nodeSelector`. Affinity expressions are the scheduler's: they are checked where a pod is bound.
fn selected(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    pod.spec_ref().node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

fn clash(one: &HostPort, other: &HostPort) -> bool {
    let on_all = |port: &HostPort| port.host_ip.is_none_or(|ip| ip.is_unspecified());
    let everywhere = on_all(one) || on_all(other);
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && (everywhere || one.host_ip == other.host_ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn cpu(amount: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
    }

    fn port(port: i32, ip: &str, protocol: &str) -> Value {
        json!({"containers": [{"name": "c", "ports":
            [{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]})
    }

    fn run(pod_spec: Value, others: &[Value]) -> Result<(), String> {
        let others: Vec<Arc<Pod>> = others.iter().map(|s| Arc::new(pod(s.clone()))).collect();
        let allocatable =
            [("cpu", Quantity::from_units(2)), ("pods", Quantity::from_units(2)), ("memory", Quantity::ZERO)]
                .map(|(k, v)| (k.to_string(), v))
                .into();
        let labels = [("disk".to_string(), "ssd".to_string())].into();
        admit(&pod(pod_spec), &others, &allocatable, &labels)
            .map_err(|r| format!("{}: {}", r.reason, r.message))
    }

    #[test]
    fn a_pod_that_does_not_fit_is_turned_away_with_the_numbers() {
        assert_eq!(run(cpu("1500m"), &[cpu("500m")]), Ok(()));
        assert_eq!(
            run(cpu("1501m"), &[cpu("500m")]),
            Err("OutOfcpu: Pod was rejected: Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000".into())
        );
        let third = run(cpu("1m"), &[cpu("1m"), cpu("1m")]).expect_err("full");
        assert!(third.starts_with("OutOfpods: Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"), "{third}");
    }

    #[test]
    fn what_others_say_the_node_has_is_not_counted_here() {
        let gpu = json!({"containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "9"}}}]});
        assert_eq!(run(gpu, &[]), Ok(()));
    }

    #[test]
    fn host_ports_of_two_pods_may_not_meet() {
        let taken = "NodePorts: Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        for (one, other, clash) in [
            (port(80, "", "TCP"), port(80, "", "TCP"), true),
            (port(80, "", "TCP"), port(81, "", "TCP"), false),
            (port(80, "", "TCP"), port(80, "", "UDP"), false),
            (port(80, "1.1.1.1", "TCP"), port(80, "2.2.2.2", "TCP"), false),
            (port(80, "1.1.1.1", "TCP"), port(80, "0.0.0.0", "TCP"), true),
        ] {
            let expected = if clash { Err(taken.to_string()) } else { Ok(()) };
            assert_eq!(run(one.clone(), std::slice::from_ref(&other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_pod_that_wants_another_node_is_turned_away() {
        let on = |disk: &str| json!({"containers": [], "nodeSelector": {"disk": disk}});
        assert_eq!(run(on("ssd"), &[]), Ok(()));
        assert!(run(on("hdd"), &[]).expect_err("wrong node").starts_with("NodeAffinity: "));
    }
}
