//! Job: pods that run to completion (Kubernetes documentation, "Jobs"). Each pod carries a finalizer until it has been counted, so
//! that none is lost or counted twice, whatever is killed in between.

mod decide;
mod indexes;
mod orphans;
mod pod;
mod policy;
mod retries;
mod tracking;

use crate::{Cluster, Error, ownership, pod_control, pods};
use decide::{Verdict, conclude, condition, is_finished, verdict, wanted};
use futures::future::BoxFuture;
use indexes::Indexes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};
use orlop_client::{Key, Queue, found, run_workers};
use std::sync::Arc;

const WORKERS: usize = 5;
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Most pods made or deleted in one go; the next go follows at once.
const BURST: usize = 500;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, &cluster.jobs, &cluster.pods, |job, labels| {
        let selector = job.spec.as_ref().and_then(|s| s.selector.as_ref());
        selector.is_some_and(|s| ownership::selects(s, labels))
    });
    let orphans = orphans::start(cluster);
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        tokio::join!(run_workers("job", queue.clone(), WORKERS, reconcile), orphans);
    })
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(job) = cluster.jobs.get(&key.namespace, &key.name) else { return Ok(()) };
    let Some(spec) = &job.spec else { return Ok(()) };
    // Jobs that another controller looks after.
    if spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
        return Ok(());
    }
    let now = cluster.now();
    let Some(selector) = &spec.selector else { return Ok(()) };
    let mine = ownership::claim(cluster, &*job, selector, &cluster.pods, Some(FINALIZER)).await?;
    if is_finished(&job) || job.metadata.deletion_timestamp.is_some() {
        tracking::release(cluster, &mine).await?;
        return expire(cluster, queue, &job, key, now).await;
    }
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let job = tracking::count(cluster, (*job).clone(), &mine, indexed).await?;
    let outcome = advance(cluster, &job, &mine, now).await;
    let mut changed = job.clone();
    changed.status = Some(outcome.status);
    // `count` may have changed more than the status that is in the cache.
    let cached = cluster.jobs.get(&key.namespace, &key.name);
    if cached.is_none_or(|c| c.status != changed.status) {
        cluster.write_status(&cluster.jobs, &changed).await?;
    }
    // Told only now, so that a write that has to be repeated tells nothing twice.
    for (event_type, reason, message) in outcome.events {
        cluster.recorder.event(&job, event_type, reason, message);
    }
    if let Some(wait) = outcome.look_again {
        queue.add_after(key, wait.max(SignedDuration::from_millis(1)).unsigned_abs());
    }
    outcome.failure.map_or(Ok(()), Err)
}

/// Deletes a finished Job whose `ttlSecondsAfterFinished` has passed.
async fn expire(cluster: &Cluster, queue: &Queue, job: &Job, key: Key, now: Timestamp) -> Result<(), Error> {
    let ttl = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
    let (Some(ttl), None) = (ttl, &job.metadata.deletion_timestamp) else { return Ok(()) };
    let end = condition(job, "Complete").or_else(|| condition(job, "Failed"));
    let Some(end) = end.and_then(|c| c.last_transition_time.as_ref()) else { return Ok(()) };
    let left = SignedDuration::from_secs(ttl.into()) - now.duration_since(end.0);
    if left > SignedDuration::ZERO {
        queue.add_after(key, left.unsigned_abs());
        return Ok(());
    }
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: job.uid(), resource_version: job.resource_version() }),
        ..DeleteParams::foreground()
    };
    found(cluster.api::<Job>(&key.namespace).delete(&key.name, &params).await)
        .map_err(Error::at("deleting an expired Job"))?;
    Ok(())
}

struct Outcome {
    status: JobStatus,
    events: Vec<(orlop_client::EventType, &'static str, String)>,
    look_again: Option<SignedDuration>,
    failure: Option<Error>,
}

/// One step of a Job that is not finished: its pods are all counted that have ended.
async fn advance(cluster: &Cluster, job: &Job, mine: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let spec = job.spec.clone().unwrap_or_default();
    let mut status = job.status.clone().unwrap_or_default();
    let suspended = spec.suspend.unwrap_or(false);
    let mut look_again = None;
    if status.start_time.is_none() && !suspended {
        status.start_time = Some(Time(now));
    }
    let mut active: Vec<Arc<Pod>> = mine.iter().filter(|p| pods::is_active(p)).cloned().collect();
    let verdict = Verdict::decided(job).or_else(|| verdict(&spec, &status, &active, now));

    let failure;
    if verdict.as_ref().is_some_and(|v| v.succeeded) {
        // What is left over has not failed.
        failure = give_up(cluster, job, &active).await.err();
        if failure.is_none() {
            active.clear();
        }
    } else if verdict.is_some() {
        // They keep their finalizer: each is still counted.
        failure = pod_control::delete(cluster, job, &active).await.err();
        if failure.is_none() {
            active.clear();
        }
    } else {
        let mut misplaced = Vec::new();
        if spec.completion_mode.as_deref() == Some("Indexed") && !suspended {
            misplaced = pod::misplaced(spec.completions.unwrap_or(0), &active);
            active.retain(|p| !misplaced.iter().any(|m| m.metadata.uid == p.metadata.uid));
        }
        let (wanted, pause) =
            if suspended { (0, None) } else { wanted(&spec, &status, active.len(), mine, now) };
        look_again = pause;
        if active.len() > wanted {
            // Pods that are not ready are given up first.
            active.sort_by_key(|p| (pods::is_ready(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0)));
            misplaced.extend(active.drain(..active.len() - wanted).take(BURST));
            failure = give_up(cluster, job, &misplaced).await.err();
        } else {
            let given_up = give_up(cluster, job, &misplaced).await;
            let missing = (wanted - active.len()).min(BURST);
            let next = pod::next(job, &status, &active, mine, missing, now);
            look_again = [look_again, next.look_again].into_iter().flatten().min();
            let made = pod_control::create(cluster, job, next.pods).await;
            active.extend(made.pods);
            failure = made.failure.or(given_up.err());
        }
    }
    if let Some(deadline) = spec.active_deadline_seconds.filter(|_| verdict.is_none() && !suspended) {
        let started = status.start_time.as_ref().map_or(now, |t| t.0);
        let left = SignedDuration::from_secs(deadline) - now.duration_since(started);
        look_again = Some(look_again.map_or(left, |l: SignedDuration| l.min(left)));
    }

    let stopping = |p: &&Arc<Pod>| pods::is_terminating(p) && !pods::is_finished(p);
    let left =
        mine.iter().filter_map(|p| cluster.pods.get(&p.namespace().unwrap_or_default(), &p.name_any()));
    let left: Vec<Arc<Pod>> = left.collect();
    let terminating = left.iter().filter(stopping).count() as i32;
    status.active = Some(active.len() as i32).filter(|n| *n > 0);
    status.ready = Some(active.iter().filter(|p| pods::is_ready(p)).count() as i32);
    status.terminating = Some(terminating);
    let quiet = active.is_empty() && terminating == 0 && left.iter().all(|p| !tracking::is_tracked(p));
    let events = conclude(job, &mut status, verdict, quiet, now);
    Outcome { status, events, look_again, failure }
}

/// Deletes pods that are not needed any more. They count neither as successes nor as failures.
async fn give_up(cluster: &Cluster, job: &Job, doomed: &[Arc<Pod>]) -> Result<(), Error> {
    tracking::release_as_seen(cluster, doomed).await?;
    pod_control::delete(cluster, job, doomed).await
}
