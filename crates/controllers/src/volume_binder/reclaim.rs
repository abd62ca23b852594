//! What becomes of a volume that nobody has any more: kept, deleted, or (as of old) emptied, which is refused.

use super::{Binder, decide::policy};
use crate::Error;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};
use orlop_api::local_volume::{FINALIZER, NODE_LABEL, PROVISIONED_BY, PROVISIONER};
use orlop_client::{EventType, found};

impl Binder {
    /// Carries out the policy of a volume whose claim is gone.
    pub(super) async fn release(&self, volume: PersistentVolume) -> Result<(), Error> {
        let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
        let volume = match phase {
            // Why it failed stays to be seen.
            Some("Released" | "Failed") => volume,
            _ => self.volume_phase(volume, "Released", None).await?,
        };
        let provisioner = volume.annotations().get(PROVISIONED_BY).map(String::as_str);
        match (policy(&volume), provisioner) {
            ("Delete", Some(PROVISIONER)) => self.delete(&volume).await,
            // Its own provisioner sees to it.
            ("Delete", Some(other)) if !other.starts_with("kubernetes.io/") => Ok(()),
            ("Delete", _) => {
                let why = "error getting deleter volume plugin for volume: no volume plugin matched";
                self.fail(volume, "VolumeFailedDelete", why).await
            }
            ("Recycle", _) => {
                self.fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!").await
            }
            _ => Ok(()),
        }
    }

    async fn fail(
        &self,
        volume: PersistentVolume,
        reason: &'static str,
        message: &'static str,
    ) -> Result<(), Error> {
        if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Failed") {
            return Ok(());
        }
        let volume = self.volume_phase(volume, "Failed", Some((reason, message))).await?;
        self.cluster.recorder.event(&volume, EventType::Warning, reason, message);
        Ok(())
    }

    /// Deletes a local volume. Its finalizer holds it until its node has removed the directory.
    async fn delete(&self, volume: &PersistentVolume) -> Result<(), Error> {
        if volume.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: volume.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        found(self.volumes_api().delete(&volume.name_any(), &params).await)
            .map_err(Error::at("deleting a volume"))?;
        Ok(())
    }

    /// Lets go of a deleted volume whose node is in the cluster no more: nobody else could.
    pub(super) async fn let_go_of_lost(&self, mut volume: PersistentVolume) -> Result<(), Error> {
        if volume.metadata.deletion_timestamp.is_none() || !volume.finalizers().iter().any(|f| f == FINALIZER)
        {
            return Ok(());
        }
        let node = volume.labels().get(NODE_LABEL).cloned().unwrap_or_default();
        if self.cluster.nodes.get("", &node).is_some() {
            return Ok(());
        }
        tracing::warn!(volume = volume.name_any(), node, "the node of a deleted local volume is gone");
        volume.finalizers_mut().retain(|f| f != FINALIZER);
        found(
            self.volumes_api().replace(&volume.name_any(), &kube::api::PostParams::default(), &volume).await,
        )
        .map_err(Error::at("letting go of a volume"))?;
        Ok(())
    }
}
