//! This node as the API sees it: labels, what it has, how it is. Built from facts that are handed in.

use crate::{
    NodeConfig,
    capacity::{Capacity, Pressure},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
        NodeStatus, NodeSystemInfo,
    },
    apimachinery::pkg::{
        api::resource::Quantity as TypedQuantity,
        apis::meta::v1::{ObjectMeta, Time},
    },
};
use orlop_api::{local_volume::FOLDER_ANNOTATION, quantity::Quantity};
use orlop_runtime::Image;
use std::{collections::BTreeMap, fs};

/// Most images that a node tells of.
const MOST_IMAGES: usize = 50;

/// The version of Kubernetes that this agent behaves like.
pub(crate) const KUBELET_VERSION: &str = "v1.36.0+orlop";

/// `amd64`, `arm64`: Go's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The labels that every node has, and its own.
pub(crate) fn labels(config: &NodeConfig) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ]
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .into();
    all.extend(config.labels.clone());
    all
}

/// The annotations that every node has: where it keeps volumes that are directories.
fn annotations(config: &NodeConfig) -> BTreeMap<String, String> {
    [(FOLDER_ANNOTATION.to_string(), config.volumes_dir.display().to_string())].into()
}

/// The Node to create.
pub(crate) fn node(config: &NodeConfig) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// Facts about the machine that do not change while the agent runs.
pub(crate) fn system_info() -> NodeSystemInfo {
    let line = |path: &str| fs::read_to_string(path).map(|t| t.trim().to_string()).unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: concat!("orlop://", env!("CARGO_PKG_VERSION")).into(),
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: line("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: name.map_or_else(|| "Linux".into(), |n| n.trim_matches('"').into()),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
        ..NodeSystemInfo::default()
    }
}

/// How the node is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Health {
    pub pressure: Pressure,
    /// Why it cannot run pods, if it cannot.
    pub unready: Option<String>,
}

/// Extended resources that somebody else wrote into the capacity. They stay there and are offered, as the kubelet does.
fn of_others(capacity: &Capacity, before: &NodeStatus) -> BTreeMap<String, TypedQuantity> {
    let theirs = |name: &str| name.contains('/') && !capacity.total.contains_key(name);
    let all = before.capacity.iter().flatten().filter(|(name, _)| theirs(name));
    all.map(|(name, amount)| (name.clone(), amount.clone())).collect()
}

/// Extended resources that are offered but are in the capacity no more.
pub(crate) fn withdrawn(status: &NodeStatus) -> Vec<&str> {
    let has = |name: &str| status.capacity.as_ref().is_some_and(|all| all.contains_key(name));
    let offered = status.allocatable.iter().flatten().map(|(name, _)| name.as_str());
    offered.filter(|name| name.contains('/') && !has(name)).collect()
}

/// Whether the cluster has given the node up: it writes that nothing is known of it. The node itself never says that.
pub(crate) fn is_given_up(status: &NodeStatus) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown")
}

/// Whether what is offered is not what others wrote into the capacity.
pub(crate) fn offers_something_else(capacity: &Capacity, status: &NodeStatus) -> bool {
    let offered = |name: &String| status.allocatable.as_ref().and_then(|all| all.get(name));
    !withdrawn(status).is_empty()
        || of_others(capacity, status).iter().any(|(name, amount)| offered(name) != Some(amount))
}

fn typed(amounts: &BTreeMap<String, Quantity>) -> BTreeMap<String, TypedQuantity> {
    amounts.iter().map(|(name, amount)| (name.clone(), TypedQuantity::from(*amount))).collect()
}

/// The status of the node. `before` is what the API has: transition times come from it.
pub(crate) fn status(
    config: &NodeConfig,
    capacity: &Capacity,
    health: &Health,
    images: &[Image],
    before: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let others = of_others(capacity, before);
    let with_others = |ours| Some(typed(ours).into_iter().chain(others.clone()).collect());
    NodeStatus {
        addresses: Some(
            config
                .node_ips()
                .into_iter()
                .map(|address| NodeAddress { type_: "InternalIP".into(), address: address.to_string() })
                .chain([NodeAddress { type_: "Hostname".into(), address: config.name.clone() }])
                .collect(),
        ),
        capacity: with_others(&capacity.total),
        allocatable: with_others(&capacity.allocatable),
        conditions: Some(conditions(health, before, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.kubelet_port.into() }),
        }),
        images: Some(known_images(images)),
        node_info: Some(system_info()),
        ..NodeStatus::default()
    }
}

fn known_images(images: &[Image]) -> Vec<ContainerImage> {
    let mut all: Vec<&Image> = images.iter().collect();
    all.sort_by_key(|i| (std::cmp::Reverse(i.size), i.id.clone()));
    let named = |i: &&Image| ContainerImage {
        names: Some(i.digests.iter().chain(&i.tags).cloned().collect()),
        size_bytes: i64::try_from(i.size).ok(),
    };
    all.iter().take(MOST_IMAGES).map(named).collect()
}

fn conditions(health: &Health, before: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let Pressure { memory, disk, pids } = health.pressure;
    let pressures = [
        (
            "MemoryPressure",
            memory,
            ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"],
            ["kubelet has insufficient memory available", "kubelet has sufficient memory available"],
        ),
        (
            "DiskPressure",
            disk,
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            ["kubelet has disk pressure", "kubelet has no disk pressure"],
        ),
        (
            "PIDPressure",
            pids,
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            ["kubelet has insufficient PID available", "kubelet has sufficient PID available"],
        ),
    ];
    let mut all: Vec<NodeCondition> = pressures
        .into_iter()
        .map(|(name, holds, reasons, messages)| {
            let i = usize::from(!holds);
            condition(name, holds, reasons[i], messages[i], before, now)
        })
        .collect();
    all.push(match &health.unready {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status", before, now),
        Some(why) => condition("Ready", false, "KubeletNotReady", why, before, now),
    });
    all
}

fn condition(
    name: &str,
    holds: bool,
    reason: &str,
    message: &str,
    before: &NodeStatus,
    now: Timestamp,
) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let old = before.conditions.iter().flatten().find(|c| c.type_ == name && c.status == status);
    NodeCondition {
        type_: name.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: old.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn find<'a>(status: &'a NodeStatus, name: &str) -> &'a NodeCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == name).expect("a condition")
    }

    #[test]
    fn conditions_keep_their_transition_time_until_they_change() {
        let config = NodeConfig::new("n1", std::env::temp_dir(), [192, 0, 2, 1].into());
        let capacity = Capacity::read(&config);
        let none = NodeStatus::default();
        let first = status(&config, &capacity, &Health::default(), &[], &none, at(100));
        let sick = Health {
            pressure: Pressure { disk: true, ..Pressure::default() },
            unready: Some("runtime is down".into()),
        };
        let second = status(&config, &capacity, &sick, &[], &first, at(200));
        assert_eq!(find(&first, "Ready").status, "True");
        assert_eq!(find(&second, "Ready").message.as_deref(), Some("runtime is down"));
        assert_eq!(find(&second, "Ready").last_transition_time, Some(Time(at(200))));
        assert_eq!(find(&second, "DiskPressure").reason.as_deref(), Some("KubeletHasDiskPressure"));
        assert_eq!(find(&second, "MemoryPressure").last_transition_time, Some(Time(at(100))));
        assert_eq!(find(&second, "MemoryPressure").last_heartbeat_time, Some(Time(at(200))));
    }

    #[test]
    fn what_others_say_the_node_has_is_offered_until_they_take_it_back() {
        let config = NodeConfig::new("n1", std::env::temp_dir(), [192, 0, 2, 1].into());
        let capacity = Capacity::read(&config);
        let report = |before: &NodeStatus| status(&config, &capacity, &Health::default(), &[], before, at(1));
        let mut seen = report(&NodeStatus::default());
        assert!(!offers_something_else(&capacity, &seen));
        let own = seen.capacity.clone().expect("a capacity");
        let gpus = TypedQuantity("4".into());
        seen.capacity.get_or_insert_default().insert("example.com/gpu".into(), gpus.clone());
        seen.capacity.get_or_insert_default().insert("cpu".into(), TypedQuantity("1k".into()));
        assert!(offers_something_else(&capacity, &seen));
        let mut seen = report(&seen);
        assert_eq!(seen.allocatable.as_ref().and_then(|all| all.get("example.com/gpu")), Some(&gpus));
        assert_eq!(seen.capacity.as_ref().and_then(|all| all.get("cpu")), own.get("cpu"));
        assert!(!offers_something_else(&capacity, &seen));
        seen.capacity = Some(own);
        assert_eq!(withdrawn(&seen), ["example.com/gpu"]);
        assert!(offers_something_else(&capacity, &seen));
    }

    #[test]
    fn own_labels_win_over_the_usual_ones() {
        let mut config = NodeConfig::new("n1", "/nowhere", [192, 0, 2, 1].into());
        config.labels.insert("kubernetes.io/hostname".into(), "other".into());
        let labels = labels(&config);
        assert_eq!(labels.get("kubernetes.io/hostname").map(String::as_str), Some("other"));
        assert_eq!(labels.get("kubernetes.io/os").map(String::as_str), Some("linux"));
    }
}
