//! Nodes that fall silent: the Lease expires, the node is marked and tainted, and pods that do not tolerate that are evicted
//! after their time (Kubernetes documentation, "Nodes", "Node heartbeats", and "Taint-based Evictions"). Pods of nodes that no
//! longer exist are not its affair: `pod_garbage`.

use crate::{Cluster, Error, pod_control, pods};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Pod, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use orlop_api::taint;
use orlop_client::{EventType, Key, Queue, found, run_workers};
use serde_json::json;
use std::{sync::Arc, time::Duration};

const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taints that follow from conditions: condition, the status that taints, taint.
const PRESSURES: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// How long a node may be silent before it counts as gone, unless it is said.
pub(crate) const GRACE: Duration = Duration::from_secs(40);
/// A node whose Lease is longer than that promises less; this much is believed.
const LONGEST_LEASE: Duration = Duration::from_secs(300);
/// How soon a node is looked at again at the earliest.
const LOOK: SignedDuration = SignedDuration::from_millis(250);

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_node = queue.clone();
    cluster.nodes.on_change(move |old, new| {
        if let Some(node) = new.or(old) {
            on_node.add(Key::new("", node.name_any()));
        }
    });
    let on_pod = queue.clone();
    cluster.pods.on_change(move |old, new| {
        let node = |p: Option<&Arc<Pod>>| p.and_then(|p| p.spec.as_ref()?.node_name.clone());
        // Only where a pod newly came to a node: its tolerations may be running out already.
        if let (None, Some(name)) = (node(old), node(new)) {
            on_pod.add(Key::new("", name));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        // Silence is judged by when a lease was seen to change, not by the clocks of the nodes.
        let seen = Arc::new(parking_lot::Mutex::new(
            std::collections::HashMap::<String, (String, Timestamp)>::new(),
        ));
        let reconcile = |key: Key| reconcile(&cluster, &queue, &seen, key);
        run_workers("nodelifecycle", queue.clone(), 4, reconcile).await;
    })
}

type Seen = parking_lot::Mutex<std::collections::HashMap<String, (String, Timestamp)>>;

async fn reconcile(cluster: &Cluster, queue: &Queue, seen: &Seen, key: Key) -> Result<(), Error> {
    let Some(node) = cluster.nodes.get("", &key.name) else {
        seen.lock().remove(&key.name);
        return Ok(());
    };
    let now = cluster.now();
    let silent_for = silence(cluster, seen, &node, now);
    let grace = grace(cluster, &key.name);
    let node = if silent_for >= grace { mark_unknown(cluster, &node, now).await? } else { node };
    if condition(&node, "Ready").is_some_and(|c| c.status == "Unknown") {
        mark_pods_unready(cluster, &key.name, now).await?;
    }
    let node = keep_taints(cluster, &node, now).await?;
    let next_eviction = evict(cluster, &node, now).await?;
    let next_check = if silent_for < grace { (grace - silent_for).max(LOOK) } else { grace / 8 };
    let wait = next_eviction.map_or(next_check, |e| e.min(next_check));
    queue.add_after(key, wait.unsigned_abs());
    Ok(())
}

/// How long the node may be silent: as configured, but never less than it says itself how long its Lease lasts. A node that was
/// started with another configuration is not taken for dead between two heartbeats.
fn grace(cluster: &Cluster, node: &str) -> SignedDuration {
    let lease = cluster.leases.get(LEASES, node);
    let promised =
        lease.and_then(|l| l.spec.as_ref()?.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    let promised = Duration::from_secs(promised.unwrap_or(0)).min(LONGEST_LEASE);
    SignedDuration::try_from(cluster.node_grace.max(promised)).unwrap_or(SignedDuration::MAX)
}

/// How long nothing has been heard of the node.
fn silence(cluster: &Cluster, seen: &Seen, node: &Node, now: Timestamp) -> SignedDuration {
    let lease =
        cluster.leases.get(LEASES, &node.name_any()).and_then(|l| l.metadata.resource_version.clone());
    // A node without a lease yet shows its life by its own heartbeats.
    let ready =
        condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0.to_string());
    let sign = format!("{}/{}", lease.unwrap_or_default(), ready.unwrap_or_default());
    let mut seen = seen.lock();
    let entry = seen.entry(node.name_any()).or_insert_with(|| (sign.clone(), now));
    if entry.0 != sign {
        *entry = (sign, now);
    }
    now.duration_since(entry.1)
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_)
}

/// Nothing is known of a silent node any more: not whether it is ready, nor of its pods.
async fn mark_unknown(cluster: &Cluster, node: &Arc<Node>, now: Timestamp) -> Result<Arc<Node>, Error> {
    if condition(node, "Ready").is_some_and(|c| c.status == "Unknown") {
        return Ok(node.clone());
    }
    let mut changed = (**node).clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let unknown = NodeCondition {
            type_: type_.into(),
            status: "Unknown".into(),
            reason: Some("NodeStatusUnknown".into()),
            message: Some("Kubelet stopped posting node status.".into()),
            last_heartbeat_time: conditions
                .iter()
                .find(|c| c.type_ == type_)
                .and_then(|c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        conditions.retain(|c| c.type_ != type_);
        conditions.push(unknown);
    }
    let api = Api::<Node>::all(cluster.client.clone());
    let written = api
        .replace_status(&node.name_any(), &PostParams::default(), &changed)
        .await
        .map_err(Error::at("marking a silent node"))?;
    cluster.nodes.observe(written.clone());
    cluster.recorder.event(
        &**node,
        EventType::Normal,
        "NodeNotReady",
        format!("Node {} status is now: NodeNotReady", node.name_any()),
    );
    Ok(Arc::new(written))
}

/// Pods of a node that is silent take no traffic any more.
async fn mark_pods_unready(cluster: &Cluster, node: &str, now: Timestamp) -> Result<(), Error> {
    let ready = cluster.pods.all().into_iter().filter(|p| is_on(p, node) && pods::is_ready(p));
    let work = ready.map(|pod| async move {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": Time(now)},
        ]}});
        patch_status(cluster, &pod, patch).await
    });
    pod_control::all(work.collect()).await
}

async fn patch_status(cluster: &Cluster, pod: &Pod, patch: serde_json::Value) -> Result<(), Error> {
    let api = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    let params = PatchParams::default();
    let written = found(api.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch)).await)
        .map_err(Error::at("writing a pod's condition"))?;
    written.into_iter().for_each(|pod| cluster.pods.observe(pod));
    Ok(())
}

/// The taints that follow from the node's state.
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    let ready = condition(node, "Ready").map(|c| c.status.as_str());
    let reason = match ready {
        Some("True") => None,
        Some("False") | None => Some(NOT_READY),
        Some(_) => Some(UNREACHABLE),
    };
    if let Some(key) = reason {
        taints.push((key, "NoSchedule"));
        taints.push((key, "NoExecute"));
    }
    for (type_, status, key) in PRESSURES {
        if condition(node, type_).is_some_and(|c| c.status == status) {
            taints.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        taints.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    taints
}

fn is_managed(t: &Taint) -> bool {
    let key = t.key.as_str();
    [NOT_READY, UNREACHABLE, "node.kubernetes.io/unschedulable"].contains(&key)
        || PRESSURES.iter().any(|p| p.2 == key)
}

async fn keep_taints(cluster: &Cluster, node: &Arc<Node>, now: Timestamp) -> Result<Arc<Node>, Error> {
    let old = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    let wanted = wanted_taints(node);
    let mut taints: Vec<Taint> = old
        .iter()
        .filter(|t| !is_managed(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == key && t.effect == effect) {
            let since = (effect == "NoExecute").then_some(Time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), time_added: since, value: None });
        }
    }
    // From when pods' tolerations run, also for taints that somebody else put on without saying.
    for taint in taints.iter_mut().filter(|t| t.effect == "NoExecute") {
        taint.time_added.get_or_insert(Time(now));
    }
    if taints == old {
        return Ok(node.clone());
    }
    // The whole list is written, so it must be the one that was read.
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    let api = Api::<Node>::all(cluster.client.clone());
    let written = api
        .patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(Error::at("tainting a node"))?;
    cluster.nodes.observe(written.clone());
    Ok(Arc::new(written))
}

fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
}

/// When a pod must leave a node with these taints: `None` never, zero or less now.
fn leaves_in(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<SignedDuration> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    // A pod that came later than the taint has its full time.
    let came = pods::condition(pod, "PodScheduled").filter(|c| c.status == "True");
    let came =
        came.and_then(|c| c.last_transition_time.as_ref()).or(pod.metadata.creation_timestamp.as_ref());
    let hard = taints.iter().filter(|t| t.effect == "NoExecute");
    hard.filter_map(|t| {
        let since = t.time_added.as_ref().map_or(now, |t| t.0);
        let since = came.map_or(since, |c| since.max(c.0));
        let matching = tolerations.iter().filter(|toleration| taint::tolerates(toleration, t));
        // The shortest limit counts; a toleration without one never ends.
        let seconds: Vec<Option<i64>> = matching.map(|toleration| toleration.toleration_seconds).collect();
        if seconds.is_empty() {
            return Some(SignedDuration::ZERO);
        }
        let limit = seconds.into_iter().flatten().min()?;
        Some(SignedDuration::from_secs(limit.max(0)) - now.duration_since(since))
    })
    .min()
}

/// Deletes the pods whose time on a tainted node has run out; returns when the next one's does.
async fn evict(cluster: &Cluster, node: &Node, now: Timestamp) -> Result<Option<SignedDuration>, Error> {
    let taints = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
    if !taints.iter().any(|t| t.effect == "NoExecute") {
        return Ok(None);
    }
    let mut next: Option<SignedDuration> = None;
    let here =
        cluster.pods.all().into_iter().filter(|p| is_on(p, &node.name_any()) && !pods::is_terminating(p));
    for pod in here {
        match leaves_in(&pod, &taints, now) {
            None => {}
            Some(left) if left <= SignedDuration::ZERO => {
                cluster.recorder.event(
                    &*pod,
                    EventType::Normal,
                    "TaintManagerEviction",
                    format!(
                        "Marking for deletion Pod {}/{}",
                        pod.namespace().unwrap_or_default(),
                        pod.name_any()
                    ),
                );
                let why = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [
                    {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                     "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)},
                ]}});
                patch_status(cluster, &pod, why).await?;
                delete(cluster, &pod).await?;
            }
            Some(left) => next = Some(next.map_or(left, |n| n.min(left))),
        }
    }
    Ok(next)
}

async fn delete(cluster: &Cluster, pod: &Pod) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    let api = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    found(api.delete(&pod.name_any(), &params).await).map_err(Error::at("evicting a pod"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, Toleration};

    fn pod(tolerations: Vec<Toleration>) -> Pod {
        Pod { spec: Some(PodSpec { tolerations: Some(tolerations), ..PodSpec::default() }), ..Pod::default() }
    }

    fn toleration(seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(UNREACHABLE.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn a_pod_leaves_when_its_toleration_runs_out() {
        let at = |s| Timestamp::from_second(s).expect("a time");
        let taints = [Taint {
            key: UNREACHABLE.into(),
            effect: "NoExecute".into(),
            time_added: Some(Time(at(100))),
            value: None,
        }];
        let left = |tolerations| leaves_in(&pod(tolerations), &taints, at(150)).map(|d| d.as_secs());
        assert_eq!(left(vec![]), Some(0));
        assert_eq!(left(vec![toleration(Some(300))]), Some(250));
        assert_eq!(left(vec![toleration(Some(300)), toleration(Some(10))]), Some(-40));
        assert_eq!(left(vec![toleration(None)]), None);
        let mut late = pod(vec![toleration(Some(300))]);
        late.metadata.creation_timestamp = Some(Time(at(140)));
        assert_eq!(leaves_in(&late, &taints, at(150)).map(|d| d.as_secs()), Some(290));
    }
}
