//! As many pods as asked for: what ReplicaSet and ReplicationController do alike (Kubernetes documentation, "ReplicaSet" and
//! "ReplicationController"). How each of the two is read and written is in its own file.

mod replica_set;
mod replication_controller;
mod surplus;

use crate::{Cluster, Error, ownership, pod_control, pods};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, Time},
};
use kube::{Resource, ResourceExt, core::NamespaceResourceScope};
use orlop_client::{Informer, Key, Queue, run_workers};
use serde::{Serialize, de::DeserializeOwned};
use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

const WORKERS: usize = 8;
/// Most pods made or deleted in one go; the next go follows at once.
const BURST: usize = 500;

/// What is asked for.
struct Asked<'a> {
    replicas: i32,
    min_ready_seconds: i32,
    selector: Cow<'a, LabelSelector>,
    template: Option<&'a PodTemplateSpec>,
}

/// A kind whose objects have so many pods of one template.
trait Replicates:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What its workers are called in logs.
    const WORKERS_NAME: &'static str;

    /// The cache of its objects.
    fn cache(cluster: &Cluster) -> &Arc<Informer<Self>>;

    /// Whether its selector matches these labels.
    fn selects(&self, labels: &BTreeMap<String, String>) -> bool;

    /// What is asked for; `None` if there is no spec.
    fn asked(&self) -> Option<Asked<'_>>;

    /// Its status, in the terms of the ReplicaSet's.
    fn status(&self) -> ReplicaSetStatus;

    /// The status to be as given, as far as the kind has fields for it.
    fn set_status(&mut self, status: ReplicaSetStatus);
}

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let (sets, controllers) = (start_for::<ReplicaSet>(cluster), start_for::<ReplicationController>(cluster));
    Box::pin(async move {
        tokio::join!(sets, controllers);
    })
}

fn start_for<K: Replicates>(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, K::cache(cluster), &cluster.pods, K::selects);
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile::<K>(&cluster, &queue, key);
        run_workers(K::WORKERS_NAME, queue.clone(), WORKERS, reconcile).await;
    })
}

async fn reconcile<K: Replicates>(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(owner) = K::cache(cluster).get(&key.namespace, &key.name) else { return Ok(()) };
    let Some(asked) = owner.asked() else { return Ok(()) };
    let now = cluster.now();
    let all = ownership::claim(cluster, &*owner, &asked.selector, &cluster.pods, None).await?;
    let mut active: Vec<Arc<Pod>> = all.iter().filter(|p| pods::is_active(p)).cloned().collect();

    let mut failure = None;
    if owner.meta().deletion_timestamp.is_none() {
        let wanted = usize::try_from(asked.replicas).unwrap_or(0);
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            let template = asked.template.cloned().unwrap_or_default();
            let reference = ownership::controller_reference(&*owner);
            let pod = pods::from_template(&template, &key.name, &key.namespace, reference);
            let made = pod_control::create(cluster, &*owner, std::iter::repeat_n(pod, missing)).await;
            active.extend(made.pods);
            failure = made.failure;
        } else if active.len() > wanted {
            let doomed = surplus::surplus_pods(&active, (active.len() - wanted).min(BURST), now);
            failure = pod_control::delete(cluster, &*owner, &doomed).await.err();
            if failure.is_none() {
                active.retain(|p| !doomed.iter().any(|d| d.uid() == p.uid()));
            }
        }
    }

    let old = owner.status();
    let status = observed(&asked, &old, &all, &active, failure.as_ref(), now);
    let status = ReplicaSetStatus { observed_generation: owner.meta().generation, ..status };
    let mut changed = (*owner).clone();
    changed.set_status(status);
    // Compared as the kind would keep it.
    let written = if changed.status() == normalized(old) {
        Ok(())
    } else {
        cluster.write_status(K::cache(cluster), &changed).await
    };
    if let Some(wait) = until_next_available(&asked, &active, now) {
        queue.add_after(key, wait);
    }
    failure.map_or(written, Err)
}

/// When to look again for pods that are ready but not yet available.
fn until_next_available(asked: &Asked<'_>, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let waits = active.iter().filter_map(|p| pods::until_available(p, asked.min_ready_seconds, now));
    waits.filter(|w| !w.is_zero()).min().map(|w| w.unsigned_abs())
}

/// What is there, as the status tells it.
fn observed(
    asked: &Asked<'_>,
    old: &ReplicaSetStatus,
    all: &[Arc<Pod>],
    active: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template_labels = asked.template.and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let is_labeled = |p: &Pod| {
        template_labels.into_iter().flatten().all(|(key, value)| p.labels().get(key) == Some(value))
    };
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| test(p)).count() as i32;
    let is_available =
        |p: &Pod| pods::until_available(p, asked.min_ready_seconds, now).is_some_and(|left| left.is_zero());
    let is_going = |p: &&Arc<Pod>| pods::is_terminating(p) && !pods::is_finished(p);

    let mut conditions = old.conditions.clone().unwrap_or_default();
    let had = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(error) if !had => {
            let too_few = active.len() < usize::try_from(asked.replicas).unwrap_or(0);
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(error.message()),
                last_transition_time: Some(Time(now)),
            });
        }
        None if had => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        _ => {}
    }
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(count(&is_labeled)),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&is_available)),
        terminating_replicas: Some(all.iter().filter(is_going).count() as i32),
        observed_generation: None,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    }
}

/// A status as we would write it: absent numbers are zero.
fn normalized(mut status: ReplicaSetStatus) -> ReplicaSetStatus {
    for field in [
        &mut status.fully_labeled_replicas,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.terminating_replicas,
    ] {
        field.get_or_insert(0);
    }
    status
}
