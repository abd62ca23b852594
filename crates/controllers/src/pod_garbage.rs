//! Pods that nobody will end any more: terminating ones that never had a node or whose node was taken out of service, those of
//! nodes that have been gone for a while (one that comes back in time finds its pods), and the oldest of very many that have ended (Kubernetes documentation, "Pod Lifecycle", "Garbage
//! collection of Pods"). A pod that is removed by force is said to have failed first, so that its owner can count it.

use crate::{Cluster, Error, pod_control, pods};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use orlop_client::{Key, Queue, found, run_workers};
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};

const WORKERS: usize = 2;
/// Why a pod goes whose node went.
const NODE_GONE: &str = "PodGC: node no longer exists";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long a node must have been gone before its pods go, as in Kubernetes: it may have been registered anew meanwhile.
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// How often it is looked whether the time is over: somebody may put the clock right meanwhile.
const CHECK: Duration = Duration::from_secs(5);
/// How many pods that have ended may be kept.
const ENDED: usize = 12_500;
/// How often they are counted.
const EVERY: Duration = Duration::from_secs(20);

/// Since when nodes have been gone.
type Gone = Mutex<HashMap<String, Timestamp>>;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let (queue, orphans, gone) = (Queue::default(), Queue::default(), Arc::<Gone>::default());
    let (on_pod, of_pod, nodes) = (queue.clone(), orphans.clone(), cluster.nodes.clone());
    cluster.pods.on_change(move |old, new| {
        let Some(pod) = new else { return };
        if pods::is_terminating(pod) {
            on_pod.add(Key::of(&**pod));
        }
        let node = node_of(pod);
        if !node.is_empty() && old.is_none_or(|old| node_of(old) != node) && nodes.get("", node).is_none() {
            of_pod.add(Key::new("", node));
        }
    });
    let (on_node, pods) = (queue.clone(), cluster.pods.clone());
    let (of_node, again) = (orphans.clone(), gone.clone());
    cluster.nodes.on_change(move |old, new| {
        match (old, new) {
            (None, Some(node)) => drop(again.lock().remove(&node.name_any())),
            (Some(node), None) => of_node.add(Key::new("", node.name_any())),
            _ => {}
        }
        let is_out = |n: Option<&Arc<Node>>| n.is_some_and(|n| is_out_of_service(n));
        let Some(node) = new.filter(|_| is_out(new) && !is_out(old)) else { return };
        let name = node.name_any();
        let there = pods.all().into_iter().filter(|p| node_of(p) == name && pods::is_terminating(p));
        there.for_each(|p| on_node.add(Key::of(&*p)));
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, key);
        let orphaned = |key: Key| remove_orphans(&cluster, &orphans, &gone, key.name);
        tokio::join!(
            run_workers("podgc", queue.clone(), WORKERS, reconcile),
            run_workers("podgc-orphans", orphans.clone(), WORKERS, orphaned),
            keep_few(&cluster),
        );
    })
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// Whether somebody has said that the node is off, and it is not ready.
fn is_out_of_service(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    !ready && taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(pod) = cluster.pods.get(&key.namespace, &key.name) else { return Ok(()) };
    // With no time left it is held by a finalizer, which is somebody's to take off.
    let held = pod.metadata.deletion_grace_period_seconds == Some(0) && pods::is_finished(&pod);
    if !pods::is_terminating(&pod) || held {
        return Ok(());
    }
    let name = node_of(&pod);
    match cluster.nodes.get("", name) {
        _ if name.is_empty() => remove(cluster, &pod, None).await,
        Some(node) if is_out_of_service(&node) => remove(cluster, &pod, None).await,
        // Those of nodes that are gone have a queue of their own.
        Some(_) | None => Ok(()),
    }
}

/// Removes the pods of a node that has been gone for long enough.
async fn remove_orphans(cluster: &Cluster, queue: &Queue, gone: &Gone, name: String) -> Result<(), Error> {
    if cluster.nodes.get("", &name).is_some() {
        return Ok(());
    }
    let now = cluster.now();
    let since = *gone.lock().entry(name.clone()).or_insert(now);
    let left = QUARANTINE - now.duration_since(since);
    if left.is_positive() {
        queue.add_after(Key::new("", name), left.unsigned_abs().min(CHECK));
        return Ok(());
    }
    let pods: Vec<_> = cluster.pods.all().into_iter().filter(|p| node_of(p) == name).collect();
    if !pods.is_empty() && is_gone(cluster, &name).await? {
        for pod in pods {
            remove(cluster, &pod, Some(NODE_GONE)).await?;
        }
    }
    gone.lock().remove(&name);
    Ok(())
}

/// Whether there is no node of that name: the cache may lag behind one that was just made.
async fn is_gone(cluster: &Cluster, node: &str) -> Result<bool, Error> {
    let api = Api::<Node>::all(cluster.client.clone());
    let there = found(api.get_metadata(node).await).map_err(Error::at("looking for a node"))?;
    Ok(there.is_none())
}

/// Says that a pod has failed, and why if that is given, and deletes it at once.
async fn remove(cluster: &Cluster, pod: &Arc<Pod>, why: Option<&str>) -> Result<(), Error> {
    let api = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if !pods::is_finished(pod) {
        let mut status = json!({"phase": "Failed"});
        if let Some(message) = why {
            status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByPodGC", "message": message, "lastTransitionTime": Time(cluster.now())}]);
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let written = found(api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await)
            .map_err(Error::at("saying that a pod has failed"))?;
        match written {
            Some(pod) => cluster.pods.observe(pod),
            None => {
                cluster.pods.forget(pod);
                return Ok(());
            }
        }
    }
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    found(api.delete(&name, &params).await).map_err(Error::at("deleting a pod that nobody ends"))?;
    Ok(())
}

async fn keep_few(cluster: &Cluster) {
    let mut tick = tokio::time::interval(EVERY);
    loop {
        tick.tick().await;
        let surplus = surplus(cluster.pods.all(), ENDED);
        let work = surplus.iter().map(|pod| remove(cluster, pod, None)).collect();
        if let Err(error) = pod_control::all(work).await {
            tracing::debug!(%error, "will count the pods that have ended again");
        }
    }
}

/// Those that go of the pods that have ended: evicted ones first, then the oldest.
fn surplus(all: Vec<Arc<Pod>>, most: usize) -> Vec<Arc<Pod>> {
    let mut ended: Vec<_> = all.into_iter().filter(|p| pods::is_finished(p)).collect();
    let surplus = ended.len().saturating_sub(most);
    ended.sort_by_cached_key(|pod| {
        let evicted = pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
        (!evicted, pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.name_any())
    });
    ended.truncate(surplus);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_pods_that_have_ended_the_evicted_and_the_oldest_go() {
        let pod = |name: &str, born: &str, phase: &str, reason: &str| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": name, "creationTimestamp": born},
                "status": {"phase": phase, "reason": reason}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let all = vec![
            pod("young", "2026-01-03T00:00:00Z", "Succeeded", ""),
            pod("old", "2026-01-01T00:00:00Z", "Failed", ""),
            pod("evicted", "2026-01-04T00:00:00Z", "Failed", "Evicted"),
            pod("runs", "2025-01-01T00:00:00Z", "Running", ""),
        ];
        let names = |most| surplus(all.clone(), most).iter().map(|p| p.name_any()).collect::<Vec<_>>();
        assert_eq!(names(1), ["evicted", "old"]);
        assert_eq!(names(2), ["evicted"]);
        assert!(names(3).is_empty());
    }
}
