//! Lets go of claims and volumes that are being deleted once nothing uses them: the other half of the admission plugin
//! StorageObjectInUseProtection.

use crate::{Cluster, Error};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use orlop_client::{Key, Queue, found, run_workers};
use serde_json::{Value, json};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// Registers with the caches; the future does the work.
pub(crate) fn start(cluster: &Cluster) -> BoxFuture<'static, ()> {
    let (claim_queue, volume_queue) = (Queue::default(), Queue::default());
    let (claims, volumes) = (&cluster.persistent_volume_claims, &cluster.persistent_volumes);
    let on_claim = claim_queue.clone();
    claims.on_change(move |_, new| {
        if let Some(claim) = new.filter(|c| c.metadata.deletion_timestamp.is_some()) {
            on_claim.add(Key::of(&**claim));
        }
    });
    let (on_pod, known) = (claim_queue.clone(), claims.clone());
    cluster.pods.on_change(move |old, new| {
        // A pod that is gone or has ended may have been the last one.
        let Some(pod) = old.filter(|_| new.is_none_or(|p| has_ended(p))) else { return };
        let namespace = pod.namespace().unwrap_or_default();
        for claim in claims_of(pod) {
            if known.get(&namespace, &claim).is_some_and(|c| c.metadata.deletion_timestamp.is_some()) {
                on_pod.add(Key::new(namespace.clone(), claim));
            }
        }
    });
    let on_volume = volume_queue.clone();
    volumes.on_change(move |_, new| {
        if let Some(volume) = new.filter(|v| v.metadata.deletion_timestamp.is_some()) {
            on_volume.add(Key::of(&**volume));
        }
    });
    let cluster = cluster.clone();
    Box::pin(async move {
        let (of_claims, of_volumes) =
            (|key: Key| release_claim(&cluster, key), |key: Key| release_volume(&cluster, key));
        tokio::join!(
            run_workers("pvc-protection", claim_queue.clone(), 1, of_claims),
            run_workers("pv-protection", volume_queue.clone(), 1, of_volumes),
        );
    })
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The claims that a pod uses.
pub(crate) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(claim.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
            _ => None,
        })
        .collect()
}

/// Whether the pod keeps the claim: a pod without a node will not start with a claim that is being deleted.
fn uses(pod: &Pod, claim: &str) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_some_and(|n| !n.is_empty()));
    placed && !has_ended(pod) && claims_of(pod).iter().any(|c| c == claim)
}

/// The patch that takes a finalizer away, if it is there.
fn without(finalizers: &[String], finalizer: &str, version: Option<&str>) -> Option<Value> {
    if !finalizers.iter().any(|f| f == finalizer) {
        return None;
    }
    let rest: Vec<&String> = finalizers.iter().filter(|f| *f != finalizer).collect();
    Some(json!({"metadata": {"finalizers": rest, "resourceVersion": version}}))
}

async fn release_claim(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let api = cluster.api::<PersistentVolumeClaim>(&key.namespace);
    let Some(claim) = found(api.get(&key.name).await).map_err(Error::at("reading a claim"))? else {
        return Ok(());
    };
    let patch = without(claim.finalizers(), CLAIM, claim.metadata.resource_version.as_deref());
    let Some(patch) = patch.filter(|_| claim.metadata.deletion_timestamp.is_some()) else { return Ok(()) };
    // The server is asked, for a cache may not know the newest pod.
    let pods = cluster
        .api::<Pod>(&key.namespace)
        .list(&ListParams::default())
        .await
        .map_err(Error::at("listing the pods that may use a claim"))?;
    if pods.iter().any(|pod| uses(pod, &key.name)) {
        return Ok(());
    }
    found(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .map_err(Error::at("letting go of a claim"))?;
    Ok(())
}

async fn release_volume(cluster: &Cluster, key: Key) -> Result<(), Error> {
    let api = Api::<PersistentVolume>::all(cluster.client.clone());
    let Some(volume) = found(api.get(&key.name).await).map_err(Error::at("reading a volume"))? else {
        return Ok(());
    };
    let bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let patch = without(volume.finalizers(), VOLUME, volume.metadata.resource_version.as_deref());
    let Some(patch) = patch.filter(|_| !bound && volume.metadata.deletion_timestamp.is_some()) else {
        return Ok(());
    };
    found(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)
        .map_err(Error::at("letting go of a volume"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}}))
            .unwrap()
    }

    #[test]
    fn a_placed_pod_that_has_not_ended_keeps_its_claims() {
        let spec = |node: &str| {
            json!({"nodeName": node, "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "b", "ephemeral": {}}]})
        };
        assert!(uses(&pod(spec("n"), "Running"), "data") && uses(&pod(spec("n"), "Pending"), "p-b"));
        assert!(!uses(&pod(spec("n"), "Succeeded"), "data") && !uses(&pod(spec(""), "Pending"), "data"));
    }

    #[test]
    fn the_finalizer_goes_and_others_stay() {
        let all = ["x".to_string(), CLAIM.to_string()];
        assert_eq!(
            without(&all, CLAIM, Some("7")).unwrap(),
            json!({"metadata": {"finalizers": ["x"], "resourceVersion": "7"}})
        );
        assert!(without(&all[..1], CLAIM, None).is_none());
    }
}
