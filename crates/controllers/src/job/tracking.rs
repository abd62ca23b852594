//! Counting pods that ended, exactly once: their uids are noted in the status, their finalizers are taken off, then they are added
//! to the counters. After a crash between any two of these the rest is done by the next reconciliation.

use super::{FINALIZER, Indexes, pod::index_of};
use crate::{Cluster, Error, pod_control, pods};
use k8s_openapi::api::{
    batch::v1::{Job, UncountedTerminatedPods},
    core::v1::Pod,
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_client::found;
use serde_json::json;
use std::{collections::HashSet, sync::Arc};

/// Whether a pod waits to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|f| f == FINALIZER)
}

/// How a pod that runs no more is counted: `Some(true)` as a success, `Some(false)` as a failure.
fn verdict(job: &Job, pod: &Pod) -> Option<bool> {
    match pods::phase(pod) {
        "Succeeded" => Some(true),
        "Failed" => Some(false),
        // Deleted by somebody: replaced at once, unless the Job wants to see it stopped first.
        _ if pods::is_terminating(pod) => {
            let policy = job.spec.as_ref().and_then(|s| s.pod_replacement_policy.as_deref());
            (policy != Some("Failed")).then_some(false)
        }
        _ => None,
    }
}

/// Counts all pods that have ended; returns the Job with its new counters. They belong to the pods as they were seen here: what
/// follows must look at no newer ones, or a pod that ended meanwhile would be neither active nor counted.
pub(super) async fn count(
    cluster: &Cluster,
    mut job: Job,
    mine: &[Arc<Pod>],
    indexed: bool,
) -> Result<Job, Error> {
    let mut uncounted =
        job.status.as_ref().and_then(|s| s.uncounted_terminated_pods.clone()).unwrap_or_default();
    let mut completed =
        Indexes::parse(job.status.as_ref().and_then(|s| s.completed_indexes.as_deref()).unwrap_or_default());
    let mut noted = false;
    for pod in mine.iter().filter(|p| is_tracked(p)) {
        let Some(succeeded) = verdict(&job, pod) else { continue };
        if indexed && succeeded {
            // Indexes are a set: counting one twice does no harm.
            let index =
                index_of(pod).filter(|i| *i < job.spec.as_ref().and_then(|s| s.completions).unwrap_or(0));
            noted |= index.is_some_and(|i| completed.insert(i));
            continue;
        }
        let list = if succeeded { &mut uncounted.succeeded } else { &mut uncounted.failed };
        let list = list.get_or_insert_default();
        let uid = pod.uid().unwrap_or_default();
        if !list.contains(&uid) {
            list.push(uid);
            noted = true;
        }
    }
    let status = job.status.get_or_insert_default();
    status.uncounted_terminated_pods = some(uncounted.clone());
    if indexed {
        status.completed_indexes = Some(completed.to_string()).filter(|s| !s.is_empty());
        status.succeeded =
            i32::try_from(completed.len()).ok().filter(|n| *n > 0 || status.succeeded.is_some());
    }
    if noted {
        cluster.write_status(&cluster.jobs, &job).await?;
        // The next write needs the version that this one made.
        if let Some(written) = cluster.jobs.get(&job.namespace().unwrap_or_default(), &job.name_any()) {
            job.metadata.resource_version.clone_from(&written.metadata.resource_version);
        }
    }

    let noted_uids: HashSet<String> =
        [&uncounted.succeeded, &uncounted.failed].into_iter().flatten().flatten().cloned().collect();
    let done: Vec<Arc<Pod>> = mine
        .iter()
        .filter(|p| is_tracked(p))
        .filter(|p| {
            noted_uids.contains(&p.uid().unwrap_or_default()) || (indexed && pods::phase(p) == "Succeeded")
        })
        .cloned()
        .collect();
    release(cluster, &done).await?;

    // Now that no finalizer holds them, they count.
    let status = job.status.get_or_insert_default();
    let counted = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len) as i32;
    let (succeeded, failed) = (counted(&uncounted.succeeded), counted(&uncounted.failed));
    if succeeded > 0 {
        status.succeeded = Some(status.succeeded.unwrap_or(0) + succeeded);
    }
    if failed > 0 {
        status.failed = Some(status.failed.unwrap_or(0) + failed);
    }
    status.uncounted_terminated_pods = None;
    Ok(job)
}

fn some(uncounted: UncountedTerminatedPods) -> Option<UncountedTerminatedPods> {
    let empty = |l: &Option<Vec<String>>| l.as_ref().is_none_or(Vec::is_empty);
    (!empty(&uncounted.succeeded) || !empty(&uncounted.failed)).then_some(uncounted)
}

/// Takes the finalizer off pods.
pub(super) async fn release(cluster: &Cluster, pods: &[Arc<Pod>]) -> Result<(), Error> {
    take_off(cluster, pods, |_| None).await
}

/// The same only if they are still as they were seen: one that has ended meanwhile must be counted first.
pub(super) async fn release_as_seen(cluster: &Cluster, pods: &[Arc<Pod>]) -> Result<(), Error> {
    take_off(cluster, pods, |pod| pod.resource_version()).await
}

async fn take_off(
    cluster: &Cluster,
    pods: &[Arc<Pod>],
    version: fn(&Pod) -> Option<String>,
) -> Result<(), Error> {
    let releases: Vec<_> = pods
        .iter()
        .filter(|p| is_tracked(p))
        .map(|pod| async move {
            let api = cluster.api::<Pod>(&pod.namespace().unwrap_or_default());
            let mut metadata = json!({"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]});
            if let Some(version) = version(pod) {
                metadata["resourceVersion"] = version.into();
            }
            let patch = Patch::Strategic(json!({"metadata": metadata}));
            let written = found(api.patch(&pod.name_any(), &PatchParams::default(), &patch).await)
                .map_err(Error::at("taking the finalizer off a pod"))?;
            match written {
                // With its last finalizer, a pod whose time has run out is gone.
                Some(pod) => cluster.pods.observe(pod),
                None => cluster.pods.forget(pod),
            }
            Ok(())
        })
        .collect();
    pod_control::all(releases).await
}
