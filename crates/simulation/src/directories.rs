//! The directories of a simulated node that are persistent volumes: they exist on paper, so all there is to do is to let go of a volume
//! that was deleted, once no claim has it, as the real agent does when it has removed the directory.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use orlop_api::local_volume::{FINALIZER, NODE_LABEL};
use orlop_client::{Informer, Source, found};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::Notify;

/// Held by the control plane while a claim has the volume.
const PROTECTION: &str = "kubernetes.io/pv-protection";
const AGAIN: Duration = Duration::from_secs(1);

/// Lets go of the deleted volumes of a node until dropped.
pub(crate) async fn run(client: Client, node: &str) {
    let volumes = Arc::<Informer<PersistentVolume>>::default();
    let changed = Arc::new(Notify::new());
    let tell = changed.clone();
    volumes.on_change(move |_, _| tell.notify_one());
    let api = Api::<PersistentVolume>::all(client.clone());
    let mine = Source::of(&api).labels(format!("{NODE_LABEL}={node}"));
    let work = async {
        volumes.synced().await;
        loop {
            let mut over: Vec<_> = volumes.all().into_iter().filter(|v| is_over(v)).collect();
            over.sort_by_key(|v| v.name_any());
            let mut failed = false;
            for volume in over {
                let rest: Vec<&String> = volume.finalizers().iter().filter(|f| *f != FINALIZER).collect();
                let metadata =
                    json!({"finalizers": rest, "resourceVersion": volume.metadata.resource_version});
                let patch = Patch::Merge(json!({"metadata": metadata}));
                match found(api.patch(&volume.name_any(), &PatchParams::default(), &patch).await) {
                    Ok(Some(held)) if !held.finalizers().is_empty() => volumes.observe(held),
                    Ok(_) => volumes.forget(&volume),
                    Err(error) => {
                        tracing::debug!(%error, volume = %volume.name_any(), "letting go of a volume");
                        failed = true;
                    }
                }
            }
            tokio::select! {
                biased;
                () = changed.notified() => {}
                () = tokio::time::sleep(AGAIN), if failed => {}
            }
        }
    };
    tokio::join!(volumes.clone().run_selected(client.clone(), mine), Box::pin(work));
}

fn is_over(volume: &PersistentVolume) -> bool {
    let has = |finalizer: &str| volume.finalizers().iter().any(|f| f == finalizer);
    volume.metadata.deletion_timestamp.is_some() && has(FINALIZER) && !has(PROTECTION)
}
