//! EndpointSlices, and the older Endpoints, of Services with a selector: which pods answer, at which ports, and whether they are
//! ready (Kubernetes documentation, "EndpointSlices"). What a slice should say is computed purely from a Service and its pods.

mod slices;
mod subsets;

use crate::{Cluster, Error};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use orlop_api::endpoint_notes::EndpointNote;
use orlop_client::{Key, Queue, run_workers};
use std::{collections::BTreeMap, sync::Arc};

const WORKERS: usize = 8;

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let queue = Queue::default();
    let on_service = queue.clone();
    cluster.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            on_service.add(Key::of(&**service));
        }
    });
    // A slice or Endpoints object that somebody else changed is put right again.
    let on_slice = queue.clone();
    cluster.endpoint_slices.on_change(move |old, new| {
        if let Some(slice) = new.or(old)
            && slice.labels().get(slices::MANAGED_BY).is_some_and(|m| m == slices::MANAGER)
            && let Some(service) = slice.labels().get(slices::SERVICE)
        {
            on_slice.add(Key::new(slice.namespace().unwrap_or_default(), service));
        }
    });
    let on_endpoints = queue.clone();
    cluster.endpoints.on_change(move |old, new| {
        if let Some(endpoints) = new.or(old) {
            on_endpoints.add(Key::of(&**endpoints));
        }
    });
    let (on_pod, services) = (queue.clone(), cluster.services.clone());
    cluster.pods.on_change(move |old, new| {
        let Some(pod) = new.or(old) else { return };
        if let (Some(old), Some(new)) = (old, new)
            && !matters(old, new)
        {
            return;
        }
        for service in services.in_namespace(&pod.namespace().unwrap_or_default()) {
            if [old, new].into_iter().flatten().any(|p| selects(&service, p.labels())) {
                on_pod.add(Key::of(&*service));
            }
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let reconcile = |key| reconcile(&cluster, key);
        run_workers("endpoints", queue.clone(), WORKERS, reconcile).await;
    })
}

/// Whether a change of a pod can change what a slice says.
fn matters(old: &Pod, new: &Pod) -> bool {
    fn view(p: &Pod) -> impl PartialEq + '_ {
        (
            &p.metadata.labels,
            p.annotations().get(orlop_api::balancer::WEIGHT),
            p.metadata.deletion_timestamp.is_some(),
            p.status.as_ref().map(|s| (&s.pod_ips, &s.phase)),
            p.spec.as_ref().map(|s| (&s.node_name, &s.hostname, &s.subdomain)),
            EndpointNote::of(p.annotations()),
            crate::pods::is_ready(p),
        )
    }
    view(old) != view(new)
}

fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(k, v)| labels.get(k) == Some(v)))
}

async fn reconcile(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let service = cluster.services.get(&key.namespace, &key.name);
    let service = service.filter(|s| s.metadata.deletion_timestamp.is_none());
    let Some(service) = service else {
        return slices::remove(cluster, &key).await;
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.selector.is_none_or(|s| s.is_empty()) || spec.type_.as_deref() == Some("ExternalName") {
        // Somebody else looks after its endpoints.
        return Ok(());
    }
    let pods: Vec<Arc<Pod>> = cluster
        .pods
        .in_namespace(&key.namespace)
        .into_iter()
        .filter(|p| selects(&service, p.labels()) && !crate::pods::is_finished(p))
        .collect();
    slices::write(cluster, &service, &pods).await?;
    subsets::write(cluster, &service, &pods).await
}
