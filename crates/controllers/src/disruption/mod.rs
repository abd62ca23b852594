//! PodDisruptionBudget: counts the pods that a budget covers and says how many may be evicted (Kubernetes documentation,
//! "Disruptions"). The Eviction API charges it; nothing is evicted here.

mod budget;
mod stale;

use crate::{Cluster, Error, ownership, scale};
use budget::{asks_for_scale, evicted, failed, healthy, status, wanted};
use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;
use orlop_api::selector::Selector;
use orlop_client::{EventType, Key, Queue, api_reason, run_workers};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

const WORKERS: usize = 2;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_budget = queue.clone();
    cluster.disruption_budgets.on_change(move |_, new| {
        if let Some(budget) = new {
            on_budget.add(Key::of(&**budget));
        }
    });
    let (on_pod, budgets) = (queue.clone(), cluster.disruption_budgets.clone());
    cluster.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            for budget in budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
                if covers(&budget, pod) {
                    on_pod.add(Key::of(&*budget));
                }
            }
        }
    });
    let stale = stale::start(cluster);
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, &queue, key);
        tokio::join!(run_workers("disruption", queue.clone(), WORKERS, reconcile), stale);
    })
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let Some(selector) = budget.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    Selector::of(Some(selector)).is_ok_and(|s| s.matches(pod.labels()))
}

async fn reconcile(cluster: &Cluster, queue: &Queue, key: Key) -> Result<(), Error> {
    let Some(budget) = cluster.disruption_budgets.get(&key.namespace, &key.name) else { return Ok(()) };
    let now = cluster.now();
    let tell =
        |event_type, reason, message: &str| cluster.recorder.event(&*budget, event_type, reason, message);
    let mut pods = cluster.pods.in_namespace(&key.namespace);
    pods.retain(|p| covers(&budget, p));
    if pods.is_empty() {
        tell(EventType::Normal, "NoPods", "No matching pods found");
    }
    let scale = if asks_for_scale(&budget) { expected(cluster, &budget, &pods).await } else { Ok(0) };
    let scale = match scale {
        Ok(scale) => scale,
        Err(error) => {
            let why = error.message();
            let message = format!("Failed to calculate the number of expected pods: {why}");
            tell(EventType::Warning, "CalculateExpectedPodCountFailed", &message);
            write(cluster, &budget, failed(&budget, &why, now)).await?;
            return Err(error);
        }
    };
    let evicted = evicted(&budget, &pods, now);
    for pod in &evicted.stuck {
        let message =
            format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", key.namespace, key.name);
        cluster.recorder.event(&**pod, EventType::Warning, "NotDeleted", message);
    }
    let numbers = wanted(&budget, pods.len(), scale);
    let healthy = healthy(&pods, &evicted.going);
    write(cluster, &budget, status(&budget, numbers, healthy, evicted.going, now)).await?;
    if let Some(wait) = evicted.look_again {
        queue.add_after(key, wait.unsigned_abs() + std::time::Duration::from_secs(1));
    }
    Ok(())
}

async fn write(
    cluster: &Cluster,
    budget: &PodDisruptionBudget,
    status: PodDisruptionBudgetStatus,
) -> Result<(), Error> {
    let mut old = budget.status.clone().unwrap_or_default();
    old.disrupted_pods = old.disrupted_pods.filter(|p| !p.is_empty());
    if old == status && budget.status.is_some() {
        return Ok(());
    }
    let mut changed = budget.clone();
    changed.status = Some(status);
    // With its resourceVersion: an eviction that was charged meanwhile is not to be lost.
    cluster.write_status(&cluster.disruption_budgets, &changed).await
}

/// How many pods the owners of these pods ask for.
async fn expected(cluster: &Cluster, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, Error> {
    let namespace = budget.namespace().unwrap_or_default();
    let mut counted = HashSet::new();
    let mut scales = BTreeMap::new();
    let mut unmanaged = false;
    for pod in pods {
        let Some(owner) = ownership::controller_of(&**pod) else {
            unmanaged = true;
            continue;
        };
        if !counted.insert(owner.uid.clone()) {
            continue;
        }
        let Some((uid, scale)) = scale_of(cluster, &namespace, owner).await? else {
            return Err(Error::Object(format!("found no controllers for pod {:?}", pod.name_any())));
        };
        scales.insert(uid, scale);
    }
    if unmanaged {
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let selector = Selector::of(selector).map(|s| s.to_string()).unwrap_or_default();
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the \
             status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these \
             pods please set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        cluster.recorder.event(budget, EventType::Warning, "UnmanagedPods", message);
    }
    Ok(scales.into_values().fold(0, i32::saturating_add))
}

/// The uid of the topmost known owner and how many pods it asks for.
async fn scale_of(
    cluster: &Cluster,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<Option<(String, i32)>, Error> {
    let known = |uid: Option<String>, replicas: Option<i32>| {
        (uid.as_ref() == Some(&owner.uid)).then(|| (owner.uid.clone(), replicas.unwrap_or(1)))
    };
    let (name, group) = (owner.name.as_str(), owner.api_version.split_once('/').map_or("", |(g, _)| g));
    match (group, owner.kind.as_str()) {
        ("", "ReplicationController") => {
            let found = cluster.replication_controllers.get(namespace, name);
            Ok(found.and_then(|o| known(o.uid(), o.spec.as_ref().and_then(|s| s.replicas))))
        }
        ("apps", "StatefulSet") => {
            let found = cluster.stateful_sets.get(namespace, name);
            Ok(found.and_then(|o| known(o.uid(), o.spec.as_ref().and_then(|s| s.replicas))))
        }
        ("apps", "ReplicaSet") => {
            let found = cluster.replica_sets.get(namespace, name);
            let Some(set) = found.filter(|s| s.uid().as_ref() == Some(&owner.uid)) else { return Ok(None) };
            let above = ownership::controller_of(&*set).filter(|o| o.kind == "Deployment");
            let Some(above) = above else {
                return Ok(known(set.uid(), set.spec.as_ref().and_then(|s| s.replicas)));
            };
            let deployment = cluster.deployments.get(namespace, &above.name);
            let deployment = deployment.filter(|d| d.uid().as_ref() == Some(&above.uid));
            let replicas = |d: &Arc<_>| -> i32 {
                let d: &k8s_openapi::api::apps::v1::Deployment = d;
                d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
            };
            Ok(deployment.map(|d| (above.uid.clone(), replicas(&d))))
        }
        _ => scale_of_any(cluster, namespace, owner).await,
    }
}

/// The same for whatever other kind, if it can be scaled.
async fn scale_of_any(
    cluster: &Cluster,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<Option<(String, i32)>, Error> {
    let kind = scale::find(cluster, namespace, &owner.api_version, &owner.kind)
        .await
        .map_err(|e| Error::Object(e.to_string()))?;
    match kind.get(&owner.name).await {
        Ok(Some(scale)) => {
            let same = scale.metadata.uid.as_ref() == Some(&owner.uid);
            let replicas = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
            Ok(same.then(|| (owner.uid.clone(), replicas)))
        }
        Ok(None) if kind.exists(&owner.name).await? => {
            Err(Error::Object(format!("{} does not implement the scale subresource", kind.resource())))
        }
        Ok(None) => Ok(None),
        Err(error) if api_reason(&error) == Some("MethodNotAllowed") => {
            Err(Error::Object(format!("{} does not implement the scale subresource", kind.resource())))
        }
        Err(error) => Err(Error::at("reading the scale of an owner")(error)),
    }
}
