//! The provisioner of others: it makes a volume for each claim that waits for one which no controller here makes, as the CSI drivers of
//! a real cluster do. It binds nothing, and takes nothing away.

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use orlop_api::local_volume::PROVISIONER;
use orlop_client::{Informer, api_reason};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const AGAIN: Duration = Duration::from_secs(1);

/// Makes volumes until dropped.
pub(crate) async fn run(client: Client) {
    let (claims, classes) =
        (Arc::<Informer<PersistentVolumeClaim>>::default(), Arc::<Informer<StorageClass>>::default());
    let changed = Arc::new(Notify::new());
    let (of_claims, of_classes) = (changed.clone(), changed.clone());
    claims.on_change(move |_, _| of_claims.notify_one());
    classes.on_change(move |_, _| of_classes.notify_one());
    let work = async {
        claims.synced().await;
        classes.synced().await;
        let volumes = Api::<PersistentVolume>::all(client.clone());
        loop {
            let mut all = claims.all();
            all.sort_by_key(|c| (c.namespace(), c.name_any()));
            let mut failed = false;
            for claim in all {
                let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.clone());
                let class = class.and_then(|name| classes.get("", &name));
                let Some(volume) = class.and_then(|class| volume_for(&claim, &class)) else { continue };
                let made = volumes.create(&PostParams::default(), &volume).await;
                failed |= made.is_err_and(|e| api_reason(&e) != Some("AlreadyExists"));
            }
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
        }
    };
    tokio::join!(
        claims.clone().run(Api::all(client.clone())),
        classes.clone().run(Api::all(client.clone())),
        Box::pin(work)
    );
}

/// The volume that a claim waits for; `None` if it waits for none of ours, or not yet.
fn volume_for(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let driver = claim.annotations().get(ASKED).filter(|asked| *asked != PROVISIONER)?;
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    let has_one = spec.volume_name.as_deref().is_some_and(|name| !name.is_empty());
    if has_one
        || claim.metadata.deletion_timestamp.is_some()
        || (waits && !claim.annotations().contains_key(SELECTED_NODE))
    {
        return None;
    }
    let name = format!("pvc-{}", claim.uid()?);
    let requested = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    let volume = json!({
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": driver}},
        "spec": {
            "capacity": {"storage": requested}, "accessModes": spec.access_modes, "volumeMode": spec.volume_mode,
            "storageClassName": class.name_any(), "mountOptions": class.mount_options,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                "name": claim.name_any(), "uid": claim.uid()},
            "csi": {"driver": driver, "volumeHandle": name},
        },
    });
    serde_json::from_value(volume).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_made_for_who_asks_others_for_one_and_has_a_node_if_that_matters() {
        let class = |mode: &str| -> StorageClass {
            let class = json!({"metadata": {"name": "fast"}, "provisioner": "csi.example.com", "volumeBindingMode": mode});
            serde_json::from_value(class).expect("a class")
        };
        let claim = |annotations: &[(&str, &str)], volume: &str| -> PersistentVolumeClaim {
            let annotations: std::collections::BTreeMap<_, _> = annotations.iter().copied().collect();
            let claim = json!({"metadata": {"name": "c", "namespace": "a", "uid": "1", "annotations": annotations},
                "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}}}});
            serde_json::from_value(claim).expect("a claim")
        };
        let asks = (ASKED, "csi.example.com");
        let made = volume_for(&claim(&[asks], ""), &class("Immediate")).expect("a volume");
        let spec = made.spec.expect("a spec");
        assert_eq!(spec.csi.map(|c| (c.driver, c.volume_handle)), Some((asks.1.into(), "pvc-1".into())));
        assert_eq!(spec.claim_ref.and_then(|r| r.uid).as_deref(), Some("1"));
        let late = class("WaitForFirstConsumer");
        assert!(volume_for(&claim(&[asks, (SELECTED_NODE, "n")], ""), &late).is_some());
        for (annotations, volume) in [(vec![], ""), (vec![asks], "there"), (vec![(ASKED, PROVISIONER)], "")] {
            assert!(volume_for(&claim(&annotations, volume), &class("Immediate")).is_none());
        }
        assert!(volume_for(&claim(&[asks], ""), &late).is_none(), "nobody knows where yet");
    }
}
