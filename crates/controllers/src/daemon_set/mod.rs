//! DaemonSet: one pod on every node that it fits (Kubernetes documentation, "DaemonSet"), with rolling updates and a history of
//! ControllerRevisions for rollback.

mod history;
mod placement;
mod plan;
mod status;

use crate::{Cluster, Error, endings::Endings, ownership, pod_control, pods};
use futures::future::BoxFuture;
use jiff::SignedDuration;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};
use kube::ResourceExt;
use orlop_client::{EventType, Key, Queue, run_workers};
use plan::{Plan, View};
use std::sync::Arc;

const WORKERS: usize = 4;
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
/// The longest that a pod that ended waits for its successor.
const LAST_PAUSE: SignedDuration = SignedDuration::from_mins(15);

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    ownership::follow(&queue, &cluster.daemon_sets, &cluster.pods, |set, labels| {
        set.spec.as_ref().is_some_and(|s| ownership::selects(&s.selector, labels))
    });
    let (on_node, sets) = (queue.clone(), cluster.daemon_sets.clone());
    cluster.nodes.on_change(move |old, new| {
        let view = |n: &Arc<Node>| (n.metadata.labels.clone(), n.spec.clone());
        if old.map(view) != new.map(view) {
            sets.all().iter().for_each(|s| on_node.add(Key::of(&**s)));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let endings = Endings::up_to(LAST_PAUSE);
        let reconcile = |key| reconcile(&cluster, &queue, &endings, key);
        run_workers("daemonset", queue.clone(), WORKERS, reconcile).await;
    })
}

async fn reconcile(cluster: &Cluster, queue: &Queue, endings: &Endings, key: Key) -> Result<(), Error> {
    let Some(set) = cluster.daemon_sets.get(&key.namespace, &key.name) else { return Ok(()) };
    let Some(spec) = &set.spec else { return Ok(()) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let now = cluster.now();
    let uid = set.uid().unwrap_or_default();
    let hash = history::keep(cluster, &set).await?;
    let mine = ownership::claim(cluster, &*set, &spec.selector, &cluster.pods, None).await?;
    let nodes = cluster.nodes.all();
    let pause = |node: &str| endings.pause(&uid, node, now);
    let view = View { set: &set, hash: &hash, nodes: &nodes, mine: &mine, pause: &pause, now };
    let plan = plan::plan(&view);
    let look_again = plan.look_again;
    for (node, _) in &plan.ended {
        endings.note(&uid, node, now);
    }
    let outcome = execute(cluster, &set, &hash, plan).await;
    let written = status::write(cluster, &set, &hash, &nodes, now).await;
    if let Some(wait) = look_again {
        queue.add_after(key, wait);
    }
    outcome.and(written)
}

async fn execute(cluster: &Cluster, set: &DaemonSet, hash: &str, plan: Plan) -> Result<(), Error> {
    let mut doomed = plan.delete;
    for (node, pod) in plan.ended {
        let (what, reason, event_type) = match pods::phase(&pod) {
            "Succeeded" => ("succeeded", "SucceededDaemonPod", EventType::Normal),
            _ => ("failed", "FailedDaemonPod", EventType::Warning),
        };
        let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
        let then = if what == "failed" { "kill" } else { "delete" };
        let message = format!("Found {what} daemon pod {name} on node {node}, will try to {then} it");
        cluster.recorder.event(set, event_type, reason, message);
        doomed.push(pod);
    }
    let deleted = pod_control::delete(cluster, set, &doomed).await;
    let pods: Vec<_> = plan.create.iter().map(|node| placement::pod_for(set, hash, node)).collect();
    let made = pod_control::create(cluster, set, pods).await;
    deleted.and(made.failure.map_or(Ok(()), Err))
}
