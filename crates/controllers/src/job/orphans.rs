//! Pods whose Job is gone: nobody will count them any more, so the finalizer that holds them for counting is taken off.

use super::tracking::{is_tracked, release};
use crate::{Cluster, Error, ownership};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use orlop_client::{Key, Queue, run_workers};

const WORKERS: usize = 2;

/// Registers with the caches; the future does the work.
pub(super) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_pod = queue.clone();
    cluster.pods.on_change(move |_, new| {
        // Only what is being deleted, or has nobody, can be held by the finalizer alone.
        let held = |p: &Pod| p.metadata.deletion_timestamp.is_some() || ownership::controller_of(p).is_none();
        if let Some(pod) = new.filter(|p| is_tracked(p) && held(p)) {
            on_pod.add(Key::of(&**pod));
        }
    });
    let (on_job, pods) = (queue.clone(), cluster.pods.clone());
    cluster.jobs.on_change(move |old, new| {
        if let (Some(job), None) = (old, new) {
            let left = pods.owned_by(&job.uid().unwrap_or_default());
            left.iter().filter(|p| is_tracked(p)).for_each(|p| on_job.add(Key::of(&**p)));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, key);
        run_workers("job orphans", queue.clone(), WORKERS, reconcile).await;
    })
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let Some(pod) = cluster.pods.get(&key.namespace, &key.name) else { return Ok(()) };
    if has_job(cluster, &pod) { Ok(()) } else { release(cluster, &[pod]).await }
}

fn has_job(cluster: &Cluster, pod: &Pod) -> bool {
    let namespace = pod.namespace().unwrap_or_default();
    match ownership::controller_of(pod) {
        Some(owner) if owner.kind == "Job" => cluster
            .jobs
            .get(&namespace, &owner.name)
            .is_some_and(|j| j.metadata.uid.as_ref() == Some(&owner.uid)),
        Some(_) => false,
        None => cluster.jobs.in_namespace(&namespace).iter().any(|job| {
            let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
            job.metadata.deletion_timestamp.is_none()
                && selector.is_some_and(|s| ownership::selects(s, pod.labels()))
        }),
    }
}
