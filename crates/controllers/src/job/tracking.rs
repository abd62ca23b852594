//! Counting pods that ended, exactly once: their uids are noted in the status, their finalizers are taken off, then they are added
//! to the counters. After a crash between any two of these the rest is done by the next reconciliation.

use super::{
    FINALIZER, Indexes,
    decide::Verdict,
    pod::index_of,
    policy::{self, Consequence},
    retries,
};
use crate::{Cluster, Error, pod_control, pods};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobSpec, UncountedTerminatedPods},
    core::v1::Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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

/// How a pod that runs no more counts: `Some(true)` as a success, `Some(false)` as a failure.
pub(super) fn verdict(job: &Job, pod: &Pod) -> Option<bool> {
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
    let spec = job.spec.clone().unwrap_or_default();
    let completions = spec.completions.unwrap_or(0);
    // A Job may have been made smaller since.
    let read = |text: Option<&String>| {
        Indexes::parse(text.map(String::as_str).unwrap_or_default()).below(completions)
    };
    let mut completed = read(job.status.as_ref().and_then(|s| s.completed_indexes.as_ref()));
    let mut failed_indexes = read(job.status.as_ref().and_then(|s| s.failed_indexes.as_ref()));
    // The condition of a failure that ends the Job must be written before its pod may go.
    let mut noted = note_end(&mut job, &spec, mine, cluster.now());
    for pod in mine.iter().filter(|p| is_tracked(p)) {
        if verdict(&job, pod) != Some(true) {
            continue;
        }
        if indexed {
            // Indexes are a set: counting one twice does no harm.
            let index = index_of(pod).filter(|i| *i < completions);
            noted |= index.is_some_and(|i| completed.insert(i));
            continue;
        }
        let list = uncounted.succeeded.get_or_insert_default();
        let uid = pod.uid().unwrap_or_default();
        if !list.contains(&uid) {
            list.push(uid);
            noted = true;
        }
    }
    // Those whose successors are still to come carry their index's count of failures.
    let ends = Verdict::decided(&job).is_some();
    let held = retries::to_replace(&spec, mine, &completed, |pod| !ends && verdict(&job, pod) == Some(false));
    let is_held = |pod: &Pod| held.values().any(|h| h.metadata.uid == pod.metadata.uid);
    let mut ignored = HashSet::new();
    for pod in mine.iter().filter(|p| is_tracked(p) && verdict(&job, p) == Some(false) && !is_held(p)) {
        let index = index_of(pod).filter(|i| *i < completions && !completed.contains(*i));
        if let Some(index) = index.filter(|_| retries::fails_index(&spec, pod)) {
            noted |= failed_indexes.insert(index);
        }
        let uid = pod.uid().unwrap_or_default();
        if policy::consequence(&spec, pod) == Consequence::Ignored {
            ignored.insert(uid);
            continue;
        }
        let list = uncounted.failed.get_or_insert_default();
        if !list.contains(&uid) {
            list.push(uid);
            noted = true;
        }
    }
    let status = job.status.get_or_insert_default();
    status.uncounted_terminated_pods = some(uncounted.clone());
    if spec.backoff_limit_per_index.is_some() {
        status.failed_indexes = Some(failed_indexes.to_string());
    }
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
            let uid = p.uid().unwrap_or_default();
            noted_uids.contains(&uid) || ignored.contains(&uid) || (indexed && pods::phase(p) == "Succeeded")
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

/// Puts down that a pod's failure ends the Job; says whether that is new.
fn note_end(job: &mut Job, spec: &JobSpec, mine: &[Arc<Pod>], now: Timestamp) -> bool {
    if spec.pod_failure_policy.is_none() || Verdict::decided(job).is_some() {
        return false;
    }
    let failed = mine.iter().filter(|p| is_tracked(p) && verdict(job, p) == Some(false));
    let end = failed.into_iter().find_map(|pod| match policy::consequence(spec, pod) {
        Consequence::FailsJob(message) => Some(message),
        _ => None,
    });
    let Some(message) = end else { return false };
    let Verdict { reason, message, .. } = Verdict::of_policy(message);
    job.status.get_or_insert_default().conditions.get_or_insert_default().push(JobCondition {
        type_: "FailureTarget".into(),
        status: "True".into(),
        reason: Some(reason),
        message: Some(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
    true
}

fn some(uncounted: UncountedTerminatedPods) -> Option<UncountedTerminatedPods> {
    let empty = |l: &Option<Vec<String>>| l.as_ref().is_none_or(Vec::is_empty);
    (!empty(&uncounted.succeeded) || !empty(&uncounted.failed)).then_some(uncounted)
}

/// Whether this can only be the last state of a pod that is gone.
fn is_over(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    meta.deletion_timestamp.is_some()
        && meta.deletion_grace_period_seconds == Some(0)
        && pod.finalizers().is_empty()
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
                // With its last finalizer, a pod whose time has run out is gone: a cache that waited for the watch to say so would
                // have it counted once more.
                Some(pod) if is_over(&pod) => cluster.pods.forget(&pod),
                Some(pod) => cluster.pods.observe(pod),
                None => cluster.pods.forget(pod),
            }
            Ok(())
        })
        .collect();
    pod_control::all(releases).await
}
