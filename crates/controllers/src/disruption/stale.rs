//! Takes back what was said of a pod that was to be evicted and then was not: its DisruptionTarget condition, after two minutes.

use super::budget::PATIENCE;
use crate::{Cluster, Error, pods};
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_client::{Key, Queue, found, run_workers};
use serde_json::json;

const CONDITION: &str = "DisruptionTarget";

/// Registers with the caches; the future does the work.
pub(super) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_pod = queue.clone();
    cluster.pods.on_change(move |_, new| {
        if let Some(pod) = new.filter(|p| since(p).is_some()) {
            on_pod.add(Key::of(&**pod));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        run_workers("stale disruption", queue.clone(), 1, reconcile).await;
    })
}

/// Since when a pod that lives is said to be disrupted by somebody other than its node, which may take as long as it likes.
fn since(pod: &Pod) -> Option<Timestamp> {
    if pods::is_terminating(pod) || pods::is_finished(pod) {
        return None;
    }
    let condition = pods::condition(pod, CONDITION).filter(|c| c.status == "True")?;
    if condition.reason.as_deref() == Some("TerminationByKubelet") {
        return None;
    }
    condition.last_transition_time.as_ref().map(|t| t.0)
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(pod) = cluster.pods.get(&key.namespace, &key.name) else { return Ok(()) };
    let (Some(since), now) = (since(&pod), cluster.now()) else { return Ok(()) };
    let left = PATIENCE - now.duration_since(since);
    if left > SignedDuration::ZERO {
        queue.add_after(key, left.unsigned_abs());
        return Ok(());
    }
    let patch = json!({
        "metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version()},
        "status": {"conditions": [{"type": CONDITION, "status": "False", "lastTransitionTime": Time(now)}]},
    });
    let api = cluster.api::<Pod>(&key.namespace);
    let written = found(api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await)
        .map_err(Error::at("taking back a pod's condition"))?;
    written.into_iter().for_each(|pod| cluster.pods.observe(pod));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(reason: &str, phase: &str) -> Pod {
        serde_json::from_value(
            json!({"status": {"phase": phase, "conditions": [{"type": CONDITION, "status": "True",
            "reason": reason, "lastTransitionTime": "1970-01-01T00:00:00Z"}]}}),
        )
        .unwrap()
    }

    #[test]
    fn only_what_others_said_of_a_pod_that_lives_can_be_stale() {
        assert!(since(&pod("EvictionByEvictionAPI", "Running")).is_some());
        assert!(since(&pod("TerminationByKubelet", "Running")).is_none());
        assert!(since(&pod("EvictionByEvictionAPI", "Failed")).is_none());
        assert!(since(&Pod::default()).is_none());
    }
}
