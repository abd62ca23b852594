//! ReplicaSet: as many pods as asked for (Kubernetes documentation, "ReplicaSet").

use crate::{Cluster, Error, ownership, pod_control, pods};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use orlop_client::{Key, Queue, run_workers};
use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

const WORKERS: usize = 8;
/// Most pods made or deleted in one go; the next go follows at once.
const BURST: usize = 500;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, &cluster.replica_sets, &cluster.pods, |s| s.spec.as_ref().map(|s| &s.selector));
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        run_workers("replicaset", queue.clone(), WORKERS, reconcile).await;
    })
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(set) = cluster.replica_sets.get(&key.namespace, &key.name) else { return Ok(()) };
    let Some(spec) = &set.spec else { return Ok(()) };
    let now = cluster.now();
    let all = ownership::claim(cluster, &*set, &spec.selector, &cluster.pods, None).await?;
    let mut active: Vec<Arc<Pod>> = all.iter().filter(|p| pods::is_active(p)).cloned().collect();

    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            let template = spec.template.clone().unwrap_or_default();
            let owner = ownership::controller_reference(&*set);
            let pod = pods::from_template(&template, &key.name, &key.namespace, owner);
            let made = pod_control::create(cluster, &*set, std::iter::repeat_n(pod, missing)).await;
            active.extend(made.pods);
            failure = made.failure;
        } else if active.len() > wanted {
            let doomed = surplus_pods(&active, (active.len() - wanted).min(BURST), now);
            failure = pod_control::delete(cluster, &*set, &doomed).await.err();
            if failure.is_none() {
                active.retain(|p| !doomed.iter().any(|d| d.uid() == p.uid()));
            }
        }
    }

    let written = write_status(cluster, &set, &all, &active, failure.as_ref(), now).await;
    if let Some(wait) = until_next_available(spec, &active, now) {
        queue.add_after(key, wait);
    }
    failure.map_or(written, Err)
}

/// When to look again for pods that are ready but not yet available.
fn until_next_available(spec: &ReplicaSetSpec, active: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let waits = active.iter().filter_map(|p| pods::until_available(p, min_ready, now));
    waits.filter(|w| !w.is_zero()).min().map(|w| w.unsigned_abs())
}

/// Which pods go first when there are too many: those that lose least (Kubernetes documentation, "ReplicaSet", "Scaling a
/// ReplicaSet").
fn surplus_pods(active: &[Arc<Pod>], surplus: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let mut beside: HashMap<String, usize> = HashMap::new();
    for pod in active {
        *beside.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> = active.to_vec();
    ranked.sort_by_cached_key(|pod| {
        let node = node(pod);
        let cost = pod.annotations().get("controller.kubernetes.io/pod-deletion-cost");
        let cost: i32 = cost.and_then(|c| c.parse().ok()).unwrap_or(0);
        let restarts: i32 = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0);
        let ready_since =
            pods::condition(pod, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
        let ready = pods::is_ready(pod);
        // Ages are compared in orders of magnitude, as Kubernetes does, so that a young pod has no claim for a second's sake.
        let age = |t: Option<Timestamp>| {
            let seconds = t.map_or(0, |t| now.duration_since(t).as_secs()).max(0);
            64 - (seconds as u64).leading_zeros()
        };
        let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (
            !node.is_empty(),
            match pods::phase(pod) {
                "Pending" => 0,
                "Running" => 2,
                _ => 1,
            },
            ready,
            cost,
            Reverse(beside.get(&node).copied().unwrap_or(0)),
            if ready { age(ready_since) } else { 0 },
            Reverse(restarts),
            age(created),
            pod.uid(),
        )
    });
    ranked.truncate(surplus);
    ranked
}

/// Writes what is observed, if it changed.
async fn write_status(
    cluster: &Cluster,
    set: &ReplicaSet,
    all: &[Arc<Pod>],
    active: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(spec) = &set.spec else { return Ok(()) };
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels =
        spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
    let template_labels = template_labels.unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|p| test(p)).count() as i32;
    let until: Vec<_> = active.iter().filter_map(|p| pods::until_available(p, min_ready, now)).collect();
    let old = set.status.clone().unwrap_or_default();

    let mut conditions = old.conditions.clone().unwrap_or_default();
    let had = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(error) if !had => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(
                if active.len() < spec.replicas.unwrap_or(1) as usize {
                    "FailedCreate"
                } else {
                    "FailedDelete"
                }
                .into(),
            ),
            message: Some(error.message()),
            last_transition_time: Some(Time(now)),
        }),
        None if had => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        _ => {}
    }

    let terminating = all.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count() as i32;
    let status = ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: Some(count(&|p| {
            template_labels
                .iter()
                .all(|(k, v)| p.metadata.labels.as_ref().is_some_and(|l| l.get(k) == Some(v)))
        })),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(until.iter().filter(|d| d.is_zero()).count() as i32),
        terminating_replicas: Some(terminating),
        observed_generation: set.metadata.generation,
        conditions: Some(conditions).filter(|c| !c.is_empty()),
    };
    if status != normalized(old) {
        let mut changed = set.clone();
        changed.status = Some(status);
        cluster.write_status(&cluster.replica_sets, &changed).await?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};

    fn pod(name: &str, node: &str, phase: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.uid = Some(name.into());
        pod.spec = Some(PodSpec {
            node_name: Some(node.into()).filter(|n: &String| !n.is_empty()),
            ..PodSpec::default()
        });
        pod.status = Some(PodStatus {
            phase: Some(phase.into()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        });
        Arc::new(pod)
    }

    fn first_to_go(pods: &[Arc<Pod>]) -> String {
        surplus_pods(pods, 1, Timestamp::UNIX_EPOCH)[0].name_any()
    }

    #[test]
    fn the_pod_that_loses_least_goes_first() {
        let running = pod("running", "n1", "Running", true);
        let unready = pod("unready", "n2", "Running", false);
        let pending = pod("pending", "n3", "Pending", false);
        let unassigned = pod("unassigned", "", "Pending", false);
        assert_eq!(first_to_go(&[running.clone(), unready.clone()]), "unready");
        assert_eq!(first_to_go(&[unready.clone(), pending.clone()]), "pending");
        assert_eq!(first_to_go(&[pending.clone(), unassigned.clone()]), "unassigned");
        let crowded = [
            pod("a", "n1", "Running", true),
            pod("b", "n1", "Running", true),
            pod("c", "n2", "Running", true),
        ];
        assert_ne!(first_to_go(&crowded), "c", "the node with more of them gives one up");
    }

    #[test]
    fn a_low_deletion_cost_goes_before_a_high_one() {
        let mut dear = (*pod("dear", "n1", "Running", true)).clone();
        dear.metadata.annotations =
            Some([("controller.kubernetes.io/pod-deletion-cost".into(), "10".into())].into());
        assert_eq!(first_to_go(&[Arc::new(dear), pod("cheap", "n2", "Running", true)]), "cheap");
    }
}
