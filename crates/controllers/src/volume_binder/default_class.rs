//! The StorageClass `local`, made once for a cluster that has no class, so that claims that name none get a volume. Whoever
//! deletes it is heeded: a mark on the namespace `kube-system` says that it was made.

use crate::{Cluster, Error};
use k8s_openapi::api::{core::v1::Namespace, storage::v1::StorageClass};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use orlop_api::local_volume::PROVISIONER;
use orlop_client::{api_reason, found};
use serde_json::json;
use std::time::Duration;

const SYSTEM: &str = "kube-system";
/// On the namespace: the class was made, or there was another.
const MARK: &str = "orlop.dev/default-storage-class";
const AGAIN: Duration = Duration::from_millis(500);

/// Makes the class unless that was done before.
pub(super) async fn make(cluster: &Cluster) {
    loop {
        match try_to_make(cluster).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the default StorageClass was not made; will try again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Says whether it is done.
async fn try_to_make(cluster: &Cluster) -> Result<bool, Error> {
    let namespaces = Api::<Namespace>::all(cluster.client.clone());
    let system = found(namespaces.get(SYSTEM).await).map_err(Error::at("reading a namespace"))?;
    let Some(system) = system else { return Ok(false) };
    if system.annotations().contains_key(MARK) {
        return Ok(true);
    }
    let classes = Api::<StorageClass>::all(cluster.client.clone());
    let there = classes
        .list_metadata(&ListParams::default().limit(1))
        .await
        .map_err(Error::at("listing storage classes"))?;
    if there.items.is_empty() {
        match classes.create(&PostParams::default(), &class()?).await {
            Err(error) if api_reason(&error) != Some("AlreadyExists") => {
                return Err(Error::at("making the default StorageClass")(error));
            }
            _ => {}
        }
    }
    let mark = json!({"metadata": {"annotations": {MARK: "made"}}});
    namespaces
        .patch(SYSTEM, &PatchParams::default(), &Patch::Merge(mark))
        .await
        .map_err(Error::at("marking a namespace"))?;
    Ok(true)
}

fn class() -> Result<StorageClass, Error> {
    serde_json::from_value(json!({
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    }))
    .map_err(|e| Error::Object(e.to_string()))
}
